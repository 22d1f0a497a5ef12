"""What several pages draw: choosers, an item with its neighbors, actions on a selection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import pyarrow as pa
import streamlit as st

from dashboard import caches, url_state
from dashboard.gallery import gallery
from dashboard.page_data import classes, item_rows, selection, wording
from featurestore.curation.slices import save_slice
from featurestore.errors import FeatureStoreError
from featurestore.store.dataset import DataSet
from featurestore.store.view import View
from featurestore.terms.specs import encoder_label
from heads import Assessment, Comparison, Curve, Issues
from heads.advice.next_step import NEXT

PAGE_ITEMS = 24
Run = TypeVar("Run", Comparison, Assessment, Curve, Issues)


def choose_item(item_id: str) -> None:
    """Keep a clicked item."""
    url_state.remember("item", item_id)


def choose_encoder(dataset: DataSet, *, clears: Sequence[str] = ()) -> View:
    """Let people choose among a data set's views; return it pinned to its present state.

    The default is the best encoder that is no baseline. Without views, say so and stop.
    """
    specs = [str(view.spec) for view in dataset.views()]
    if not specs:
        st.info("This data set has no vectors yet. Embed it:")
        url_state.show_command(dataset.store, "embed", "--dataset", dataset.name, "-e", "ENCODER")
        st.stop()
    chosen = url_state.select(
        "Encoder",
        specs,
        key="encoder",
        default=caches.default_spec(dataset),
        show=encoder_label,
        clears=clears,
    )
    return dataset.view(chosen).now()  # one state for all that the page reads of it


def choose_run(
    dataset: DataSet,
    stored: Sequence[Run],
    label: str,
    *,
    key: str,
    show: Callable[[Run], str],
    none: str,
    words: Sequence[str],
    clears: Sequence[str] = (),
) -> Run:
    """Let people choose among stored runs, newest first.

    Where there is none, say so (``none``), show the command that makes one (``words``), and stop.
    """
    runs = {str(run.card["created"]): run for run in stored}
    if not runs:
        st.info(none)
        url_state.show_command(dataset.store, *words)
        st.stop()
    chosen = url_state.select(
        label, list(runs), key=key, show=lambda created: show(runs[created]), clears=clears
    )
    return runs[chosen]


def say_next(lines: Sequence[str]) -> None:
    """Say what to take, and show the command to type (`heads.advice.next_step`)."""
    for line in lines:
        if line.startswith(NEXT):
            st.code(line.removeprefix(NEXT), language="sh")
        else:
            st.markdown(wording.plain(line))


def draw_item(dataset: DataSet, item_id: str, *, key: str) -> wording.Row:
    """Draw one item with its label and split; return its row.

    Each item has a card of its own: one that took another item's data was once seen to keep the
    old picture, on a busy machine, beside the new item's buttons.
    """
    [item] = item_rows.rows_of(caches.items(dataset), [item_id])
    card, about = st.columns([2, 3])
    with card:
        cards = caches.cards(dataset, [item])
        gallery(cards, name="Item", key=f"{key} {item_id}", on_click=choose_item)
    about.markdown(f"**{wording.plain(item_id)}**")
    about.caption(
        wording.plain(f"{item['label'] or wording.NO_LABEL} · {item['split'] or classes.NO_SPLIT}")
    )
    return item


def draw_neighbors(view: View, item_id: str, *, k: int = 10, key: str = "") -> None:
    """Draw an item and its nearest neighbors, or the error in their stead."""
    dataset = view.dataset
    try:
        item = draw_item(dataset, item_id, key=f"item card{key}")
        closest = item_rows.neighbors(caches.index(view), item_id, k=k)
        nearest = item_rows.rows_of(caches.items(dataset), [one for one, _ in closest])
        st.markdown(f"**Nearest by {wording.plain(view.spec.label)}** · cosine, 1 is closest")
        if said := item_rows.agreement(item["label"], [row["label"] for row in nearest]):
            st.caption(said)
        cards = caches.cards(dataset, nearest, [score for _, score in closest])
        gallery(cards, name="Neighbors", key=f"neighbors{key}", on_click=choose_item)
    except FeatureStoreError as error:
        url_state.show(error)


def draw_items(
    dataset: DataSet,
    ids: Sequence[str] | pa.ChunkedArray,
    *,
    name: str,
    key: str,
    selected: str | None = None,
) -> None:
    """Draw a page of items, with page numbers; a click chooses an item."""
    n_pages = max(1, -(-len(ids) // PAGE_ITEMS))
    grid = st.container()  # above the page numbers, which must be known to draw it
    page = _page_of(len(ids), n_pages, key)
    few = ids[(page - 1) * PAGE_ITEMS : page * PAGE_ITEMS]
    rows = item_rows.rows_of(caches.items(dataset), _plain_ids(few))
    with grid:
        gallery(
            caches.cards(dataset, rows), name=name, key=key, on_click=choose_item, selected=selected
        )


def _page_of(n_items: int, n_pages: int, key: str) -> int:
    """Draw page numbers; the address holds the page, as long as it is of so many items."""
    if n_pages < 2:
        return 1
    wanted, _, of = (url_state.recall("grid") or "").partition("/")
    is_known = of == str(n_items) and wanted.isdecimal() and 1 <= int(wanted) <= n_pages
    widget = f"page of {key}"
    st.session_state[widget] = int(wanted) if is_known else 1

    def turned() -> None:
        url_state.remember("grid", f"{st.session_state[widget]}/{n_items}")

    st.pagination(n_pages, key=widget, on_change=turned)
    return int(st.session_state[widget])


def draw_items_beside_neighbors(
    dataset: DataSet, view: View | None, ids: Sequence[str], *, key: str
) -> None:
    """Draw items, and beside them the neighbors of the one that is clicked."""
    selected = url_state.kept("item")
    grid, beside = st.columns(2, gap="large")
    with grid:
        if ids:
            draw_items(dataset, ids, name="Items", key=key, selected=selected)
        else:
            st.caption("None.")
    with beside:
        if selected is not None and view is not None:
            draw_neighbors(view, selected)
        elif ids:
            st.info("Click an item to see its nearest neighbors.")


def offer_selection_actions(
    view: View,
    ids: Sequence[str] | pa.ChunkedArray,
    *,
    origin: Mapping[str, object],
    extra: pa.Table | None = None,
    key: str = "",
) -> None:
    """Offer to download items, and to keep them as a slice."""
    if not len(ids):
        return
    name = f"{view.dataset.name}-selection"

    def make(kind: str) -> bytes:
        return selection.exported(view, _plain_ids(ids), kind, extra)

    with st.popover("Export or keep these items", icon=":material/save:", key=f"export {key}"):
        st.download_button(
            "Download CSV (what is known of each item)",
            partial(make, "csv"),
            file_name=f"{name}.csv",
            mime="text/csv",
            key=f"csv {key}",
            on_click="ignore",
        )
        st.download_button(
            "Download Parquet (with vectors)",
            partial(make, "parquet"),
            file_name=f"{name}.parquet",
            mime="application/vnd.apache.parquet",
            key=f"parquet {key}",
            on_click="ignore",
        )
        with st.form(f"slice form {key}", border=False):
            wanted = st.text_input(
                "Slice name", placeholder="dark-pictures", key=f"slice name {key}"
            )
            is_new = not st.checkbox("Replace a slice of that name", key=f"replace {key}")
            if st.form_submit_button(f"Keep {len(ids):,} items as a slice"):
                try:
                    made = save_slice(
                        view.dataset.folder,
                        wanted,
                        _plain_ids(ids),
                        origin=origin,
                        overwrite=not is_new,
                    )
                except FeatureStoreError as error:
                    url_state.show(error)
                else:
                    st.success(f"Slice {made.name}: {len(made.item_ids):,} items. Use it with")
                    url_state.show_command(
                        view.dataset.store, "compare", view.dataset.name, "--slice", made.name
                    )


def _plain_ids(ids: Sequence[str] | pa.ChunkedArray) -> list[str]:
    return ids.to_pylist() if isinstance(ids, pa.ChunkedArray) else list(ids)
