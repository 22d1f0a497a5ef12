"""A map of the items: colours, a lasso, a filter; what is chosen, and neighbours of a click."""

import numpy as np
import streamlit as st

from dashboard import explore_views as shown
from dashboard import panels, state, views
from dashboard.scatter import scatter
from featurestore.errors import BadQuery, FeatureStoreError
from featurestore.projection import is_projected

MAPS = {"pca": "PCA, at once", "umap": "UMAP"}
NO_HEAD, ALL = "none", "all items"
BY_HEAD = "head: "

dataset = state.dataset()
boxes = st.columns([3, 2, 2, 2])
with boxes[0]:
    view = panels.choose_encoder(dataset, clears=("lasso",))
items = state.view_items(view)
if not len(items):
    st.info("No item has a vector by this encoder yet.")
    st.stop()
cards = {card["head_id"]: card for card in state.heads_of(view)}
with boxes[1]:
    method = state.select(
        "Map", list(MAPS), key="map", show=lambda one: MAPS[one], clears=("lasso",)
    )
with boxes[2]:
    head = state.select(
        "Head",
        [NO_HEAD, *cards],
        key="map_head",
        show=lambda one: one if one == NO_HEAD else views.head_title(cards[one]),
    )
extra = None
if head != NO_HEAD:
    extra = shown.predicted(items.column("item_id"), state.predictions(dataset, head))
label = views.class_column(dataset)
columns = [BY_HEAD + name for name in ("outcome", "predicted", "confidence")
           if extra is not None and name in extra.column_names]  # fmt: skip
columns += [*shown.columns_to_color(items), shown.ONE_COLOUR]
with boxes[3]:
    default = label if label in columns else columns[0]
    column = state.select("Colour", columns, key="color", default=default)

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
    st.caption(views.plain(f"Columns: {', '.join(items.column_names)}"))
if part != ALL:
    chosen &= shown.is_in(items.column("item_id"), names[part].item_ids)
rows = shown.sampled(np.flatnonzero(chosen))
if not len(rows):
    st.info("No item fulfils the filter.")
    st.stop()

if method == "umap" and not is_projected(view, "umap"):
    method = panels.wait_for_map(view)
try:
    xy = state.map_of(view, method)
except FeatureStoreError as error:
    state.show(error)
    st.stop()
outline = None
if lasso := state.kept("lasso"):
    try:
        drawn_on, outline = shown.parse_outline(lasso)
        outline = outline if drawn_on == method else None
    except BadQuery as error:
        state.show(error)
        state.remember("lasso", None)
selected = state.kept("item")
ids = items.column("item_id")
at = np.flatnonzero(ids.take(rows).to_numpy() == selected)  # where it is drawn, if it is


def lassoed(corners: list[list[float]]) -> None:
    """Keep what was drawn around."""
    state.remember("lasso", shown.outline_text(method, corners) if len(corners) > 2 else None)
    state.remember("item", None)


def clicked(point: int) -> None:
    """Keep a clicked point's item."""
    if point < len(rows):
        state.remember("item", ids[int(rows[point])].as_py())


def cleared() -> None:
    """Forget outline and item."""
    state.remember("lasso", None)
    state.remember("item", None)


is_heads = column.startswith(BY_HEAD)
found = state.colorings(view, column.removeprefix(BY_HEAD), head if is_heads else None)
key = f"{view.slug} {view.state} {method} {where} {part}"
colour_key = f"{column} {head}"
sent = st.session_state.get("map sent")
drawn, beside = st.columns([3, 2], gap="large")
with drawn:
    scatter(
        shown.point_data(
            xy[rows],
            found.take(rows),
            name=f"Map of {len(rows):,} items of {dataset.name}, coloured by {column}",
            key=key,
            colour_key=colour_key,
            lasso=outline,
            item=int(at[0]) if len(at) else None,
            has_points=sent == (key, colour_key),
        ),
        key="map",
        on_lasso=lassoed,
        on_click=clicked,
        on_clear=cleared,
        on_lost=lambda: st.session_state.pop("map sent", None),
    )
    st.session_state["map sent"] = (key, colour_key)
    if len(rows) < chosen.sum():
        st.caption(f"A sample of {len(rows):,} of {chosen.sum():,} items, drawn evenly.")
    st.caption(
        "Scroll to zoom, drag to move; choose Lasso or Box to select, click a point (or reach "
        "it with arrow keys and Enter) for its neighbours. Places come from the vectors alone, "
        "not from labels."
    )
    if method == "umap":
        st.caption("UMAP keeps neighbours together; distances between groups mean little.")
with beside:
    if outline is not None:
        chosen[chosen] = shown.inside(xy[chosen], outline)
    picked = ids.filter(chosen)
    what = "selected" if outline is not None else "on the map"
    st.markdown(f"**{len(picked):,} items {what}**")
    if label in items.column_names:
        st.caption(views.plain(shown.label_breakdown(items.column(label).filter(chosen))))
    panels.selection_actions(
        view,
        picked,
        origin={"page": "explore", "encoder": str(view.spec), "where": where, "lasso": lasso},
        extra=extra,
    )
    if selected is not None:
        panels.neighbours(view, selected)
        st.button("Back to the selection", on_click=state.remember, args=("item", None))
    elif len(picked):
        panels.item_pages(dataset, picked, name="Items", key="items")
    else:
        st.info("No item within the outline: draw around some points.")
