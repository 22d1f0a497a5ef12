"""Where each data set stands and what to do next; classes and failures of the chosen one."""

import streamlit as st

from dashboard import caches, jobs, url_state
from dashboard.page_data import classes, home, item_rows, overview, runnable, wording
from dashboard.page_data import jobs as known

store = caches.store()
names = store.datasets()


def open_page(name: str, page: str) -> None:
    """Turn to a data set, and to a page of it."""
    if url_state.recall("dataset") != name:
        for key in url_state.CLEARED:
            url_state.remember(key, None)
    url_state.remember("dataset", name)
    st.session_state["page to open"] = page


def draw_card(name: str) -> None:
    """Draw where a data set stands, some of its items, and what to do next."""
    one = store.dataset(name)
    found = caches.summary(one)
    about, beside = st.columns([7, 2], vertical_alignment="center")
    with about:
        st.markdown(f"#### {wording.plain(name)}")
        st.caption(wording.plain(found.facts()))
        for line in found.planned:
            st.markdown(wording.plain(line[:1].upper() + line[1:]))
        rows = item_rows.rows_of(caches.items(one), found.shown)
        st.html(home.strip_html(caches.cards(one, rows)))
        if found.best:
            word = f" · pretraining: **{found.verdict}**" if found.verdict else ""
            st.markdown(
                f"Best head: **{wording.plain(found.best)}**, {wording.plain(str(found.score))}"
                f"{word}"
            )
    with beside:
        st.button(
            "Explore", key=f"explore {name}", width="stretch",
            on_click=open_page, args=(name, "explore"),
        )  # fmt: skip
        step = found.step
        running = [job for job in known.jobs(str(store.path))
                   if job.is_running and job.request.dataset == name]  # fmt: skip
        if running:
            st.caption(wording.plain(f"Running: {runnable.title(running[0])}"))
        elif step.command:
            jobs.start_button(
                one, step.command, step.title, key="next", encoder=caches.default_spec(one),
                minutes=runnable.RUNNABLE[step.command].minutes, width="stretch",
            )  # fmt: skip
        else:
            st.button(
                step.title, key=f"next {name}", type="primary", width="stretch",
                on_click=open_page, args=(name, step.page),
            )  # fmt: skip
        st.caption(step.why)


if page := st.session_state.pop("page to open", None):
    st.switch_page(f"screens/{page}.py")
for name in names:
    with st.container(border=True):
        draw_card(name)
dataset = caches.dataset()
items = caches.items(dataset)

st.subheader(wording.plain(dataset.name))
counts = classes.class_counts(items)
n_classes = len({row["label"] for row in counts} - {wording.NO_LABEL})
columns = st.columns(4)
columns[0].metric("Items", f"{len(items):,}", help=wording.plain(classes.split_sentence(items)))
columns[1].metric("Classes", f"{n_classes:,}")
columns[2].metric("Encoders", len(dataset.views()))
columns[3].metric("Failures", f"{len(dataset.failures()):,}")

st.markdown(f"**Class balance** · {wording.plain(classes.split_sentence(items))}")
if n_classes:
    st.plotly_chart(
        classes.class_figure(counts, classes.class_colors(items)),
        alt=f"Items of each class of {dataset.name}, by split",
    )
    if n_classes > classes.N_CLASSES_DRAWN:
        st.caption(f"The {classes.N_CLASSES_DRAWN} largest of {n_classes} classes.")
else:
    st.info("No labels yet. Embed it from class folders, or name the column that holds them:")
    url_state.show_command(store, "embed", "SOURCE", "--dataset", dataset.name, "--label", "COLUMN")

st.markdown("**Failures**")
failed = overview.failures(dataset)
if failed:
    st.dataframe(
        failed,
        hide_index=True,
        column_config={
            "when": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm", timezone="UTC")
        },
    )
    st.caption("Repair the files, or try them again:")
    url_state.show_command(
        store, "embed", "--dataset", dataset.name, "-e", "ENCODER", "--retry-failed"
    )
else:
    st.caption("None: every item could be read.")

with st.expander("All data sets and encoders", icon=":material/table:"):
    st.dataframe(
        caches.overview(store),
        hide_index=True,
        column_config={
            "items": st.column_config.NumberColumn(format="localized"),
            "embedded": st.column_config.NumberColumn(
                format="localized", help="Items with a vector of their present content"
            ),
            "failed": st.column_config.NumberColumn(help="Items that could not be read or encoded"),
            "to do": st.column_config.NumberColumn(help="Run `featurestore embed` again for these"),
            "dim": st.column_config.NumberColumn(help="Numbers in one vector"),
            "MB": st.column_config.NumberColumn(format="%.1f", help="Vectors on disk"),
            "snapshot": st.column_config.TextColumn(help="Versions of items and vectors"),
            "last run": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm", timezone="UTC"),
            "items/s": st.column_config.NumberColumn(
                format="%.0f", help="In the last run, loading the encoder included"
            ),
        },
    )
