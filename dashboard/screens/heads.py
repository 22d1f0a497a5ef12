"""The leaderboard: stored comparisons of heads × encoders, with their intervals."""

import streamlit as st

from dashboard import caches, jobs, start_runs, widgets
from dashboard.page_data import leaderboard, wording
from heads.advice.next_step import after_comparison

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
st.dataframe(
    leaderboard.leaderboard(run),
    hide_index=True,
    column_config={
        "value": st.column_config.NumberColumn(unit.capitalize(), format=digits),
        "low": st.column_config.NumberColumn("From", format=digits),
        "high": st.column_config.NumberColumn("To", format=digits),
        "as good": st.column_config.CheckboxColumn(
            "As good",
            help="Too close to the best row for these items to tell which is better",
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
for note in run.notes:
    st.caption(wording.plain(note))
widgets.say_next(after_comparison(run, dataset))
