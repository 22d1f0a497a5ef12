"""A map of the items: colors, a lasso, a filter; what is chosen, and neighbors of a click."""

from typing import TypeAlias

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from dashboard import caches, hover, jobs, url_state, widgets
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
from featurestore.store.view import View
from featurestore.terms.specs import encoder_label

Points: TypeAlias = NDArray[np.float32]  # (n, 2)
Rows: TypeAlias = NDArray[np.intp]
MAPS = {"pca": "PCA, at once", "umap": "UMAP"}
SHARES = {"half": [1, 1], "map": [5, 2], "gallery": [2, 5]}  # of the width
WIDE = {"half": "map and gallery", "map": "a wide map", "gallery": "a wide gallery"}
NO_HEAD, ALL = "none", "all items"
BY_HEAD = "head: "
ONE_MAP = "none"

dataset = caches.dataset()
boxes = st.columns([3, 2, 2, 2, 2, 2])
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
        clears=("only",),
        show=lambda one: one if one == NO_HEAD else leaderboard.head_title(cards[one]),
    )
extra = None
if head != NO_HEAD:
    extra = coloring.predicted(items.column("item_id"), caches.predictions(dataset, head))
label = classes.class_column(dataset)
columns = [BY_HEAD + name for name in ("outcome", "predicted", "confidence", "margin")
           if extra is not None and name in extra.column_names]  # fmt: skip
if head != NO_HEAD and head_details.tells_unlike(caches.head(dataset, head)):
    columns.append(BY_HEAD + caches.UNLIKENESS)
columns += [*coloring.columns_to_color(items), coloring.ONE_COLOR]
with boxes[3]:
    default = label if label in columns else columns[0]
    column = url_state.select("Color", columns, key="color", default=default, clears=("only",))

with boxes[4]:
    others = [str(one.spec) for one in dataset.views() if one.slug != view.slug]
    second = url_state.select(
        "Second map", [ONE_MAP, *others], key="second_map",
        show=lambda one: one if one == ONE_MAP else encoder_label(one), clears=("lasso",),
    )  # fmt: skip
share = "half"
if second == ONE_MAP:  # two maps take the whole width
    with boxes[5]:
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
n_shown = int(chosen.sum())
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
outline, drawn_on = None, method
if lasso := url_state.kept("lasso"):
    try:
        drawn_on, outline = shown.parse_outline(lasso)
    except BadQuery as error:
        url_state.show(error)
        url_state.remember("lasso", None)
selected = url_state.kept("item")
ids = items.column("item_id")
is_heads = column.startswith(BY_HEAD)
point_colors = caches.colorings(view, column.removeprefix(BY_HEAD), head if is_heads else None)
only = shown.parse_only(url_state.kept("only"), point_colors)


def draw(one: View, xy: Points, rows: Rows, own: Rows, drawing: str) -> None:
    """Draw a map of a view: of its points ``rows``, which are the first view's rows ``own``."""
    table = caches.view_items(one)
    place = np.flatnonzero(table.column("item_id").take(rows).to_numpy() == selected)
    is_here = drawing == drawn_on

    def lassoed(corners: list[list[float]]) -> None:
        text = shown.outline_text(drawing, corners) if len(corners) > 2 else None
        url_state.remember("lasso", text)
        url_state.remember("item", None)

    def clicked(point: int) -> None:
        if point < len(rows):
            url_state.remember("item", table.column("item_id")[int(rows[point])].as_py())

    def brushed(codes: list[int]) -> None:
        url_state.remember("only", ",".join(map(str, codes)) or None)
        url_state.remember("item", None)

    def cleared() -> None:
        for name in ("lasso", "item", "only"):
            url_state.remember(name, None)

    key = f"{one.slug} {one.state} {drawing} {where} {slice_name} {view.slug}"
    sent = (key, f"{column} {head}")
    scatter(
        shown.point_data(
            xy[rows],
            point_colors.take(own),
            name=f"Map of {len(rows):,} items of {dataset.name} by {one.spec.label}, "
            f"colored by {column}",
            key=key,
            color_key=sent[1],
            rows=rows,
            hover=hover.keep(one, table),
            chosen=shown.Chosen(
                lasso=outline if is_here else None,
                item=int(place[0]) if len(place) else None,
                only=only,
                among=None if is_here or outline is None else chosen[own],
            ),
            has_points=st.session_state.get(f"sent {drawing}") == sent,
        ),
        key=f"map {drawing}",
        on_lasso=lassoed,
        on_click=clicked,
        on_brush=brushed,
        on_clear=cleared,
        on_lost=lambda: st.session_state.pop(f"sent {drawing}", None),
    )
    st.session_state[f"sent {drawing}"] = sent


beside_view = None if second == ONE_MAP else dataset.view(second).now()
beside_name = f"{method} beside"
if beside_view is not None:
    is_there = method != "umap" or is_projected(beside_view, method)
    beside_xy = caches.map_of(beside_view, method if is_there else "pca")
    own, there = shown.places(ids, caches.view_items(beside_view).column("item_id"))
if outline is not None and drawn_on == method:
    chosen[chosen] = shown.inside(xy[chosen], outline)
elif outline is not None and beside_view is not None and drawn_on == beside_name:
    chosen[np.setdiff1d(np.arange(len(ids)), own)] = False
    chosen[own] &= shown.inside(beside_xy[there], outline)
else:
    outline = None  # of another map
if only:
    chosen &= np.isin(point_colors.codes, only)

if beside_view is None:
    drawn, beside = st.columns(SHARES[share], gap="medium")
else:
    drawn, right = st.columns(2, gap="medium")
    with right:
        st.markdown(f"**{wording.plain(beside_view.spec.label)}**")
        is_drawn = np.isin(own, rows)
        draw(beside_view, beside_xy, there[is_drawn], own[is_drawn], beside_name)
        if not is_there:
            st.caption("Its UMAP is not made yet: choose it as the encoder once; this is PCA.")
    beside = st.container()
with drawn:
    if beside_view is not None:
        st.markdown(f"**{wording.plain(view.spec.label)}**")
    draw(view, xy, rows, rows, method)
    if len(rows) < n_shown:
        st.caption(f"A sample of {len(rows):,} of {n_shown:,} items, drawn evenly.")
    st.caption(
        "Scroll to zoom, drag to move; choose Lasso or Box to select, click a point (or reach "
        "it with arrow keys and Enter) for its neighbors. Click a bar below the map, or drag over "
        "several, for these items alone. Positions come from the vectors alone, not from labels."
    )
    if method == "umap":
        st.caption("UMAP keeps neighbors together; distances between groups mean little.")
with beside:
    picked = ids.filter(chosen)
    what = "selected" if outline is not None or only else "on the map"
    st.markdown(f"**{len(picked):,} items {what}**")
    if label in items.column_names:
        st.caption(wording.plain(selection.label_breakdown(items.column(label).filter(chosen))))
    widgets.offer_selection_actions(
        view,
        picked,
        origin={
            "page": "explore",
            "encoder": str(view.spec),
            "where": where,
            "lasso": lasso,
            "only": only,
        },
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
        st.info("No item is within the selection: draw around some points, or clear it.")
