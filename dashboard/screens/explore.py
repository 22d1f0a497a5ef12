"""A map of the items: colours, a lasso, a filter; what is chosen, and neighbours of a click."""

import numpy as np
import streamlit as st

from dashboard import explore_views as shown
from dashboard import panels, state, views
from dashboard.scatter import scatter
from featurestore.errors import BadQuery, FeatureStoreError
from featurestore.projection import is_projected

MAPS = {"pca": "PCA (at once)", "umap": "UMAP (neighbours stay together)"}
NO_HEAD, ALL = "none", "all items"
HEAD_COLUMNS = ("outcome", "predicted", "confidence")

dataset = state.dataset()
boxes = st.columns([3, 2, 2, 2])
with boxes[0]:
    view = panels.choose_encoder(dataset)
items = state.view_items(view)
cards = {card["head_id"]: card for card in state.heads_of(view)}
with boxes[1]:
    method = state.select("Map", list(MAPS), key="map", show=lambda one: MAPS[one])
with boxes[2]:
    head = state.select(
        "Head",
        [NO_HEAD, *cards],
        key="head",
        show=lambda one: one if one == NO_HEAD else views.head_title(cards[one]),
    )
extra = None
if head != NO_HEAD:
    extra = shown.predicted(items.column("item_id"), state.predictions(dataset, head))
by_head = [name for name in HEAD_COLUMNS if extra is not None and name in extra.column_names]
with boxes[3]:
    columns = [*by_head, *shown.columns_to_color(items)]
    label = views.class_column(dataset)
    column = state.select("Colour", columns, key="color", default=label or columns[0])

names = {one.name: one for one in state.slices(dataset)}
left, right = st.columns([3, 1])
where = state.text(
    left, "Filter (SQL over the items)", key="where", placeholder="split = 'test' and label = 'cat'"
)
with right:
    part = state.select("Slice", [ALL, *names], key="slice")
chosen = np.ones(len(items), bool)
try:
    if where:
        chosen &= state.matching(view, where)
except BadQuery as error:
    state.show(error)
    known = ", ".join(f"`{name}`" for name in items.column_names)
    st.caption(f"Columns: {known}")
if part != ALL:
    chosen &= np.isin(items.column("item_id").to_numpy(), list(names[part].item_ids))

if method == "umap" and not is_projected(view, "umap"):
    method = panels.wait_for_map(view)
rows = shown.sampled(np.flatnonzero(chosen))
lasso_text = state.recall("lasso")
outline = shown.parse_outline(lasso_text) if lasso_text else None
selected = state.recall("item")
ids = items.column("item_id")
at = np.flatnonzero(ids.take(rows).to_numpy() == selected)  # where it is drawn, if it is


def lassoed(corners: list[list[float]]) -> None:
    """Keep what was drawn around."""
    state.remember("lasso", shown.outline_text(corners) if len(corners) > 2 else None)
    state.remember("item", None)


def clicked(point: int) -> None:
    """Keep a clicked point's item."""
    state.remember("item", ids[int(rows[point])].as_py())


def cleared() -> None:
    """Forget outline and item."""
    state.remember("lasso", None)
    state.remember("item", None)


if not len(rows):
    st.info("No item fulfils the filter.")
    st.stop()
try:
    xy = state.map_of(view, method)
except FeatureStoreError as error:
    state.show(error)
    st.stop()
source = items if extra is None or column not in by_head else extra
palette = {
    "outcome": shown.outcome_palette(),
    "predicted": views.class_colors(state.items(dataset)),
    label: views.class_colors(state.items(dataset)),
}.get(column)
found = shown.coloring(source.column(column).take(rows), palette)
drawn, beside = st.columns([3, 2], gap="large")
with drawn:
    scatter(
        shown.point_data(
            xy[rows],
            found,
            name=f"Map of {len(rows):,} items of {dataset.name}, coloured by {column}",
            key=f"{view.state} {method} {where} {part}",
            colour_key=f"{column} {head}",
            lasso=outline,
            item=int(at[0]) if len(at) else None,
        ),
        key="map",
        on_lasso=lassoed,
        on_click=clicked,
        on_clear=cleared,
    )
    if len(rows) < chosen.sum():
        st.caption(f"A sample of {len(rows):,} of {chosen.sum():,} items, drawn evenly.")
    st.caption(
        "Scroll to zoom, drag to move; choose Lasso or Box to select, click a point for its "
        "neighbours. Places come from the vectors alone, not from labels."
    )
with beside:
    if outline is not None:
        chosen[chosen] = shown.inside(xy[chosen], outline)
    picked = ids.filter(chosen).to_pylist()
    what = "selected" if outline is not None else "on the map"
    st.markdown(f"**{len(picked):,} items {what}**")
    st.caption(views.plain(shown.label_breakdown(state.labels(dataset, picked))))
    panels.selection_actions(
        view,
        picked,
        origin={"page": "explore", "encoder": str(view.spec), "where": where, "lasso": lasso_text},
        extra=extra,
    )
    if selected is not None:
        panels.neighbours(view, selected)
        st.button("Back to the selection", on_click=state.remember, args=("item", None))
    elif picked:
        panels.item_pages(dataset, picked, name="Items", key="items")
    else:
        st.info("No item within the outline: draw around some points.")
