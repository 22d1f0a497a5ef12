"""Does pretraining help: stored verdicts, their evidence, and what to do."""

import streamlit as st

from dashboard import caches, jobs, url_state, widgets
from dashboard.page_data import transfer as shown
from dashboard.page_data import wording
from featurestore.terms.specs import encoder_label
from heads.advice.next_step import after_assessment

dataset = caches.dataset()
jobs.offer(dataset, "transfer", is_first=not caches.assessments(dataset))
found = widgets.choose_run(
    dataset, caches.assessments(dataset), "Assessment", key="assessment",
    show=shown.assessment_title,
    none="No verdict on this data set yet. Ask for one with the button above, or type:",
    words=("transfer", dataset.name, "--rank"),
)  # fmt: skip
digits = "%.1f" if shown.scale_of(found) == 100 else "%.3f"
for verdict in found.verdicts:
    st.markdown(f"#### {wording.plain(encoder_label(verdict.encoder))}: {verdict.kind}")
    st.markdown(wording.plain(shown.verdict_sentence(found, verdict.encoder)))
    for line in found.advice[verdict.encoder]:
        st.markdown(f"- {wording.plain(line)}")
st.plotly_chart(
    shown.verdict_figure(found),
    alt=f"Difference of each encoder to {found.verdicts[0].reference}, with its 95 % interval",
)
number = st.column_config.NumberColumn
st.dataframe(
    shown.verdict_rows(found),
    hide_index=True,
    column_config={
        **{
            name: number(format=digits)
            for name in ("encoder's", "reference", "difference", "low", "high", shown.WOULD_SHOW)
        },
        "items needed": number(
            format="localized", help="To settle a difference of the margin in 80 % of cases"
        ),
    },
)
st.caption(f"Intervals: {wording.plain(found.estimand)}.")

more = shown.more_sentences(found)
if more:
    st.subheader("Further evidence")
    for line in more:
        st.markdown(f"- {wording.plain(line)}")

encoders = [one.encoder for one in found.verdicts if found.slices.get(one.encoder)]
if encoders:
    st.subheader("Class by class, or value by value")
    encoder = url_state.select("Encoder", encoders, key="of", show=encoder_label)
    st.dataframe(
        shown.slice_rows(found, encoder),
        hide_index=True,
        column_config={
            **{name: number(format="%+.3g") for name in ("difference", "low", "high")},
            "found": st.column_config.CheckboxColumn(
                help="After Benjamini-Hochberg over all rows, at 5 %"
            ),
        },
    )
    st.caption("These are many comparisons of the same items: treat them as hints.")

depths = shown.depth_figure(found)
if depths is not None:
    st.subheader("Layers by depth")
    st.plotly_chart(depths, alt="What a head reaches on each layer of a network")
if found.ranking:
    st.subheader("Scores without training")
    score = url_state.select(
        "Score", list(found.ranking[0].scores), key="score", default="ridge_loo"
    )
    against = shown.score_figure(found, score)
    if against is not None:
        st.plotly_chart(against, alt=f"{score} of each encoder against its trained head")
    st.dataframe(shown.ranking_rows(found), hide_index=True)
    if found.agreement:
        taus = ", ".join(f"{name} {tau:+.2f}" for name, tau in found.agreement.items())
        st.caption(wording.plain(f"Kendall's τ with the heads: {taus}."))
for note in found.notes:
    st.caption(wording.plain(note))
widgets.say_next(after_assessment(found, dataset))
