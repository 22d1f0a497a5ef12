"""Two rows of a comparison: the difference, where it lies, the items that only one gets right."""

import streamlit as st

from dashboard import caches, url_state, widgets
from dashboard.page_data import leaderboard, wording
from dashboard.page_data import two_rows as shown
from featurestore.curation.slices import slices as read_slices

CLASSES, SLICES = "class", "slice"

dataset = caches.dataset()
run = widgets.choose_run(
    dataset, caches.comparisons(dataset), "Comparison", key="run", show=leaderboard.run_title,
    none="No comparison of this data set yet. Make one:", words=("compare", dataset.name),
    clears=("first", "second"),
)  # fmt: skip
cells = shown.cells_of(run)
if len(cells) < 2:
    st.info("This comparison has one row: there is nothing to compare it with.")
    st.stop()
left, right = st.columns(2)
with left:
    first = url_state.select("First", list(cells), key="first", clears=("second",))
with right:
    second = url_state.select("Second", [one for one in cells if one != first], key="second")

sentence = run.difference(cells[first], cells[second], n_claims=run.n_claims).sentence()
st.markdown(f"#### {wording.plain(sentence)}.")
st.caption(
    f"The interval is wide enough to compare all {run.n_pairs} pairs of rows ({run.allowance})."
)
if leaderboard.is_outdated(dataset, run):
    st.warning("The data set has changed since this comparison was made.")

if run.classes:
    st.subheader("Where the difference lies")
    items = caches.item_columns(dataset, ("split", "group"))
    slices = {one.name: one.item_ids for one in read_slices(dataset.folder)}
    columns = [name for name in ("split", "group") if items.column(name).null_count < len(items)]
    by = url_state.select("By", [CLASSES, *columns, *([SLICES] if slices else [])], key="by")
    if by == CLASSES:
        parts = shown.parts_by_class(run)
    elif by == SLICES:
        parts = shown.parts_by_slice(run, slices)
    else:
        parts = shown.parts_by_value(run, items, by)
    number = st.column_config.NumberColumn
    st.dataframe(
        shown.part_rows(run, cells[first], cells[second], parts),
        hide_index=True,
        column_config={
            "part": by.capitalize(),
            **{
                name: number(name.capitalize() + " (%)", format="%.1f")
                for name in ("first right", "second right")
            },
            **{
                name: number(name.capitalize() + " (points)", format="%+.1f")
                for name in ("difference", "from", "to")
            },
        },
    )
    st.caption(
        "These are many comparisons of the same items: treat them as hints. The claim is above."
    )
    if len(parts) == shown.MOST_PARTS:
        st.caption(f"The {shown.MOST_PARTS} largest values.")

    st.subheader("Items that only one gets right")
    names = {"first": f"only {first}", "second": f"only {second}"}
    who = url_state.select("Right", list(names), key="who", show=lambda one: names[one])
    pair = (cells[first], cells[second]) if who == "first" else (cells[second], cells[first])
    known = caches.known_ids(dataset)
    ids = [one for one in shown.only_right(run, *pair) if one in known]
    st.markdown(f"**{len(ids):,} of {run.n_items:,} items**")
    view = shown.view_of_cell(dataset, pair[0][0], pair[1][0])
    if view is not None:
        origin = {"page": "compare", "run": run.card["created"], "right": pair[0], "wrong": pair[1]}
        widgets.offer_selection_actions(view, ids, origin=origin)
    widgets.draw_items_beside_neighbors(dataset, view, ids, key=f"only right {who}")
