"""Which data sets and encoders there are, what failed, how classes and splits are spread."""

import streamlit as st

from dashboard import caches, url_state
from dashboard.page_data import classes, overview, wording

store = caches.store()
dataset = caches.dataset()
items = caches.items(dataset)

st.subheader("Data sets and encoders")
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

steps = overview.next_steps(dataset)
if steps:
    st.markdown("**What to do next**")
    for what, words in steps:
        st.caption(f"{what}:")
        url_state.show_command(store, *words)

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
