"""The leaderboard: stored comparisons of heads × encoders, with their intervals."""

import streamlit as st

from dashboard import caches, jobs, start_runs, url_state, widgets
from dashboard.page_data import leaderboard, wording
from featurestore.curation.run_notes import note_run, run_notes
from heads.advice.next_step import after_comparison


def choose_two(rows: list[wording.Row], created: str) -> None:
    """Turn two rows of a comparison into what the page Compare two shows."""
    for key, row in zip(("first", "second"), rows, strict=True):
        url_state.remember(key, f"{row['head']} on {row['encoder']}")
    url_state.remember("run", created)
    st.session_state["compare now"] = True


def offer_comparison(rows: list[wording.Row], created: str | None, *, key: str) -> None:
    """Offer to compare the ticked rows, where these are two of one run."""
    if len(rows) == 2 and created is not None:
        st.button(
            "Compare these two", key=key, type="primary", icon=":material/compare_arrows:",
            on_click=choose_two, args=(rows, created),
        )  # fmt: skip
    elif rows:
        said = "Tick one more row of the same run to compare the two."
        st.caption(said if len(rows) == 1 else "Two rows of one run can be compared.")


def note_this_run(created: str) -> None:
    """Say what was noted about a comparison, and let people change it."""
    last = notes.get(created)
    if last is not None:
        said = " · ".join([*(f"#{tag}" for tag in last.tags), *([last.note] if last.note else [])])
        st.markdown(wording.plain(said))
        st.caption(wording.plain(f"Noted by {last.who}, {last.when[:16].replace('T', ' ')} UTC"))
    with (
        st.popover("Tags and note", icon=":material/sell:"),
        st.form(f"note {created}", border=False),
    ):
        tags = st.text_input(
            "Tags, with commas between", ", ".join(last.tags) if last else "",
            placeholder="baseline, paper", key=f"tags {created}",
        )  # fmt: skip
        note = st.text_input("Note", last.note if last else "", key=f"note of {created}")
        if st.form_submit_button("Keep them with the run"):
            note_run(dataset.folder, created, tags=tags.split(","), note=note)
            st.rerun()


if st.session_state.pop("compare now", False):
    st.switch_page("screens/compare.py")
dataset = caches.dataset()
trains, compares = st.columns(2)
with compares:
    jobs.offer(dataset, "compare", is_first=not caches.comparisons(dataset))
with trains:
    start_runs.offer_training(dataset)
encoders = [word for view in dataset.views() for word in ("-e", str(view.spec))]
run = widgets.choose_run(
    dataset, caches.comparisons(dataset), "Comparison", key="run", show=leaderboard.run_title,
    none="No comparison of this data set yet. Make one with the button above, or type:",
    words=("compare", dataset.name, *encoders),
)  # fmt: skip
metric = run.metric.replace("_", " ").capitalize()
unit = leaderboard.metric_name(run)
digits = "%.1f" if run.is_share else "%.3f"
st.markdown(
    f"{metric} on {run.n_items:,} items"
    f"{f' of {len(run.classes):,} classes' if run.classes else ''}. "
    f"Each 95 % interval is about **{wording.plain(run.estimand)}**."
)
if leaderboard.is_outdated(dataset, run):
    st.warning("The data set has changed since this comparison was made.")
st.plotly_chart(
    leaderboard.interval_figure(run, leaderboard.encoder_colors(dataset, run)),
    alt=f"{metric} of each head with its 95 % interval",
)
notes = run_notes(dataset.folder)
note_this_run(str(run.card["created"]))
every = leaderboard.all_rows(caches.comparisons(dataset), run.label, run.metric, notes)
if said := leaderboard.better_before(every, run):
    st.info(wording.plain(said))
rows = leaderboard.leaderboard(run)
event = st.dataframe(
    rows,
    hide_index=True,
    on_select="rerun",
    selection_mode="multi-row",
    key=f"rows of {run.card['created']}",
    column_config={
        "value": st.column_config.NumberColumn(unit.capitalize(), format=digits),
        "low": st.column_config.NumberColumn("From", format=digits),
        "high": st.column_config.NumberColumn("To", format=digits),
        "standing": st.column_config.TextColumn(
            "Standing",
            help="As good: too close to the best row for these items to tell which is better. "
            "Take this: the cheapest of these",
        ),
        "as reviewed": st.column_config.NumberColumn(
            "As reviewed",
            format=digits,
            help="The same with the labels that reviewers gave test items",
        ),
        "without twins": st.column_config.NumberColumn(
            "Without twins",
            format=digits,
            help="Without test items that have a near-duplicate in the training split",
        ),
        "seconds": st.column_config.NumberColumn(
            "Fit (s)",
            format="%.2f",
            help="Median time of one fit, including the choice of settings",
        ),
    },
)
ticked = [rows[place] for place in event.selection.rows]
offer_comparison(ticked, str(run.card["created"]), key="compare ticked")
for note in run.notes:
    st.caption(wording.plain(note))
widgets.say_next(after_comparison(run, dataset))

runs = {row["run"] for row in every}
if len(runs) > 1:
    st.subheader(f"All {len(runs):,} runs")
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        words = url_state.text(
            "Filter: words of head, encoder, slice, tag or date", key="rows",
            placeholder="ridge mobilenet 2026-11",
        )  # fmt: skip
    found = leaderboard.holding(every, words)
    right.download_button(
        "Download CSV", leaderboard.csv_of(found), f"{dataset.name}-leaderboard.csv", "text/csv",
        on_click="ignore", icon=":material/download:",
    )  # fmt: skip
    over_all = st.dataframe(
        found,
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        key=f"all rows {words}",
        column_order=leaderboard.columns_of(found),
        column_config={
            "value": st.column_config.NumberColumn(unit.capitalize(), format=digits),
            "low": st.column_config.NumberColumn("From", format=digits),
            "high": st.column_config.NumberColumn("To", format=digits),
            "items": st.column_config.NumberColumn(format="localized", help="That were tested"),
            "when": st.column_config.TextColumn("When (UTC)"),
        },
    )
    chosen = [found[place] for place in over_all.selection.rows]
    one_run = {row["run"] for row in chosen}
    offer_comparison(chosen, one_run.pop() if len(one_run) == 1 else None, key="compare all")
    st.caption(
        "Scores of different runs are of different items or folds where the column says so: "
        "compare rows of one run."
    )
