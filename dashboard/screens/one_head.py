"""One trained head: its metrics, class by class, what it confuses, how far to trust it."""

import streamlit as st

import heads
from dashboard import caches, url_state, widgets
from dashboard.page_data import head_details as shown
from dashboard.page_data import leaderboard, wording
from featurestore.terms.specs import encoder_label

dataset = caches.dataset()
cards = {card["head_id"]: card for card in heads.list_heads(dataset)}
if not cards:
    st.info("No head of this data set yet. Train one:")
    url_state.show_command(dataset.store, "train", dataset.name, "--head", "logistic")
    st.stop()

chosen = url_state.select(
    "Head", list(cards), key="head", show=lambda one: leaderboard.head_title(cards[one])
)
card = cards[chosen]
st.markdown(
    wording.plain(
        f"{card['head']} on {encoder_label(card['encoder'])}, label '{card['label']}'. "
        f"Intervals are about {card['estimand']}."
    )
)
if card["chosen"]:
    settings = ", ".join(f"{name} {value}" for name, value in card["chosen"].items())
    st.caption(wording.plain(f"Chosen on training rows: {settings}."))
number = st.column_config.NumberColumn
if members := shown.member_rows(card):
    st.dataframe(
        members,
        hide_index=True,
        column_config={
            "weight": number(format="%.2f", help="Of all members together 1"),
            "without it": number(
                format="%+.3g", help="How much the loss of held-out training rows would grow"
            ),
        },
    )
st.dataframe(
    shown.metric_rows(card),
    hide_index=True,
    column_config={name: number(format="%.3g") for name in ("value", "from", "to", "as reviewed")},
)
for note in card["notes"]:
    st.caption(wording.plain(note))
if not shown.is_of_classes(card):
    st.stop()

predictions = caches.predictions(dataset, chosen)
tables, calibration = st.columns([3, 2], gap="large")
with tables:
    st.subheader("Class by class")
    st.dataframe(
        shown.class_rows(predictions),
        hide_index=True,
        column_config={
            name: number(format="%.1f") for name in ("recall", "from", "to", "precision", "F1")
        },
    )
    st.caption(
        "In percent, worst recall first. These are many comparisons of the same items: treat them "
        "as hints."
    )
with calibration:
    st.subheader("Can its confidence be trusted?")
    if "confidence" in predictions.column_names:
        st.plotly_chart(
            shown.reliability_figure(shown.reliability(predictions)),
            alt="Share of right answers over the confidence of the head",
        )
        st.caption("On the dotted line, 80 % confidence is right in 80 % of cases.")
    else:
        st.info("This head gives no probabilities.")

st.subheader("What it confuses")
classes, counts = shown.confusion(predictions)
st.caption("Rows: the label; columns: what the head said. Choose a cell to see its items.")
label, _, said = (url_state.recall("cell") or "").partition("\t")
wanted = [(classes.index(label), said)] if label in classes and said in classes else []
event = st.dataframe(
    shown.confusion_style(classes, counts),
    on_select="rerun",
    selection_mode="single-cell",
    selection_default={"selection": {"cells": wanted}},
    key=f"confusion of {chosen}",
)
cells = event.selection.cells
url_state.remember("cell", f"{classes[cells[0][0]]}\t{cells[0][1]}" if cells else None)
if cells:
    row, said = cells[0]
    known = caches.known_ids(dataset)
    named = shown.confused_ids(predictions, classes[row], said)
    ids = [one for one in named if one in known]
    st.markdown(f"**{len(ids):,} items of {wording.plain(classes[row])} taken for "
                f"{wording.plain(said)}**")  # fmt: skip
    if len(ids) < len(named):
        st.caption(f"{len(named) - len(ids):,} more are gone from the data set.")
    view = shown.view_of_head(dataset, card)
    if view is not None:
        widgets.offer_selection_actions(
            view,
            ids,
            origin={"page": "head", "head": chosen, "label": classes[row], "predicted": said},
        )
    widgets.draw_items_beside_neighbors(dataset, view, ids, key="confused")
