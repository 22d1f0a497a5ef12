"""A map of the items: colors, a lasso, a filter; what is chosen, and neighbors of a click."""

import numpy as np
import streamlit as st

from dashboard import caches, jobs, url_state, widgets
from dashboard.page_data import (
    classes,
    coloring,
    head_details,
    home,
    leaderboard,
    selection,
    wording,
)
from dashboard.page_data import explore as shown
from dashboard.scatter import scatter
from featurestore.curation.slices import slices as read_slices
from featurestore.errors import BadQuery, FeatureStoreError
from featurestore.maps.projection import is_projected

MAPS = {"pca": "PCA, at once", "umap": "UMAP"}
SHARES = {"half": [1, 1], "map": [5, 2], "gallery": [2, 5]}  # of the width
WIDE = {"half": "map and gallery", "map": "a wide map", "gallery": "a wide gallery"}
NO_HEAD, ALL = "none", "all items"
BY_HEAD = "head: "

dataset = caches.dataset()
boxes = st.columns([3, 2, 2, 2, 2])
with boxes[0]:
    view = widgets.choose_encoder(dataset, clears=("lasso",))
items = caches.view_items(view)
if not len(items):
    st.info("No item has a vector by this encoder yet.")
    st.stop()
cards = {card["head_id"]: card for card in head_details.heads_of(view)}
with boxes[1]:
    method = url_state.select(
        "Map", list(MAPS), key="map", show=lambda one: MAPS[one], clears=("lasso",)
    )
with boxes[2]:
    head = url_state.select(
        "Head",
        [NO_HEAD, *cards],
        key="map_head",
        show=lambda one: one if one == NO_HEAD else leaderboard.head_title(cards[one]),
    )
extra = None
if head != NO_HEAD:
    extra = coloring.predicted(items.column("item_id"), caches.predictions(dataset, head))
label = classes.class_column(dataset)
columns = [BY_HEAD + name for name in ("outcome", "predicted", "confidence")
           if extra is not None and name in extra.column_names]  # fmt: skip
columns += [*coloring.columns_to_color(items), coloring.ONE_COLOR]
with boxes[3]:
    default = label if label in columns else columns[0]
    column = url_state.select("Color", columns, key="color", default=default)

with boxes[4]:
    share = url_state.select("Room for", list(WIDE), key="wide", show=lambda one: WIDE[one])

slices = {one.name: one for one in read_slices(dataset.folder)}
left, right = st.columns([3, 1])
with left:
    where = url_state.text(
        "Filter (SQL over the items)", key="where", placeholder="split = 'test' and label = 'cat'"
    )
with right:
    slice_name = url_state.select("Slice", [ALL, *slices], key="slice")
chosen = np.ones(len(items), bool)
try:
    if where:
        chosen &= caches.matching(view, where)
except BadQuery as error:
    url_state.show(error)
    st.caption(wording.plain(f"Columns: {', '.join(items.column_names)}"))
if slice_name != ALL:
    chosen &= shown.is_in(items.column("item_id"), slices[slice_name].item_ids)
rows = shown.sampled(np.flatnonzero(chosen))
if not len(rows):
    st.info("No item fulfills the filter.")
    st.stop()

if method == "umap" and not is_projected(view, "umap"):
    method = jobs.wait_for_map(view)
try:
    xy = caches.map_of(view, method)
except FeatureStoreError as error:
    url_state.show(error)
    st.stop()
outline = None
if lasso := url_state.kept("lasso"):
    try:
        drawn_on, outline = shown.parse_outline(lasso)
        outline = outline if drawn_on == method else None
    except BadQuery as error:
        url_state.show(error)
        url_state.remember("lasso", None)
selected = url_state.kept("item")
ids = items.column("item_id")
points = np.flatnonzero(ids.take(rows).to_numpy() == selected)  # of the selected item: 0 or 1


def lassoed(corners: list[list[float]]) -> None:
    """Keep the outline that was drawn."""
    url_state.remember("lasso", shown.outline_text(method, corners) if len(corners) > 2 else None)
    url_state.remember("item", None)


def clicked(point: int) -> None:
    """Keep a clicked point's item."""
    if point < len(rows):
        url_state.remember("item", ids[int(rows[point])].as_py())


def cleared() -> None:
    """Forget outline and item."""
    url_state.remember("lasso", None)
    url_state.remember("item", None)


is_heads = column.startswith(BY_HEAD)
point_colors = caches.colorings(view, column.removeprefix(BY_HEAD), head if is_heads else None)
key = f"{view.slug} {view.state} {method} {where} {slice_name}"
color_key = f"{column} {head}"
sent = st.session_state.get("map sent")
drawn, beside = st.columns(SHARES[share], gap="medium")
with drawn:
    scatter(
        shown.point_data(
            xy[rows],
            point_colors.take(rows),
            name=f"Map of {len(rows):,} items of {dataset.name}, colored by {column}",
            key=key,
            color_key=color_key,
            lasso=outline,
            item=int(points[0]) if len(points) else None,
            has_points=sent == (key, color_key),
        ),
        key="map",
        on_lasso=lassoed,
        on_click=clicked,
        on_clear=cleared,
        on_lost=lambda: st.session_state.pop("map sent", None),
    )
    st.session_state["map sent"] = (key, color_key)
    if len(rows) < chosen.sum():
        st.caption(f"A sample of {len(rows):,} of {chosen.sum():,} items, drawn evenly.")
    st.caption(
        "Scroll to zoom, drag to move; choose Lasso or Box to select, click a point (or reach "
        "it with arrow keys and Enter) for its neighbors. Positions come from the vectors alone, "
        "not from labels."
    )
    if method == "umap":
        st.caption("UMAP keeps neighbors together; distances between groups mean little.")
with beside:
    if outline is not None:
        chosen[chosen] = shown.inside(xy[chosen], outline)
    picked = ids.filter(chosen)
    what = "selected" if outline is not None else "on the map"
    st.markdown(f"**{len(picked):,} items {what}**")
    if label in items.column_names:
        st.caption(wording.plain(selection.label_breakdown(items.column(label).filter(chosen))))
    widgets.offer_selection_actions(
        view,
        picked,
        origin={"page": "explore", "encoder": str(view.spec), "where": where, "lasso": lasso},
        extra=extra,
    )
    if selected is not None:
        widgets.draw_neighbors(view, selected)
        st.button("Back to the selection", on_click=url_state.remember, args=("item", None))
    elif len(picked):
        mixture = picked
        if label in items.column_names:  # the classes take turns
            mixture = picked.take(home.mixed(items.column(label).filter(chosen)))
        widgets.draw_items(dataset, mixture, name="Items", key="items")
    else:
        st.info("No item within the outline: draw around some points.")
