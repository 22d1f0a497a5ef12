"""Caches that follow the store's versions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import streamlit as st
from numpy.typing import NDArray

import heads
from dashboard.launch import STORE_VARIABLE
from dashboard.page_data import classes, explore, item_rows, wording
from dashboard.page_data.explore import Coloring
from dashboard.page_data.overview import overview as overview_rows
from dashboard.url_state import recall
from featurestore.curation.reviews import Review, read_reviews
from featurestore.curation.slices import Slice
from featurestore.curation.slices import slices as read_slices
from featurestore.maps.projection import project
from featurestore.store.dataset import DataSet
from featurestore.store.store import Store, open_store
from featurestore.store.view import Index, View
from heads import Assessment, Comparison, Curve, Issues

# -- the store, and what is costly to read ---------------------------------------------------


def store() -> Store:
    """Open the store that the dashboard was started on."""
    return open_store(os.environ.get(STORE_VARIABLE, "featurestore-data"))


def dataset() -> DataSet:
    """Return the data set that was chosen in the sidebar."""
    opened = store()
    return opened.dataset(recall("dataset") or opened.datasets()[0])


def overview(store: Store) -> list[wording.Row]:
    """Return `page_data.overview`, computed again when the store changed."""
    return _overview(str(store.path), wording.stamp(store), store)


@st.cache_data(max_entries=8, show_spinner="Reading the store…")
def _overview(path: str, stamp: Any, _store: Store) -> list[wording.Row]:
    return overview_rows(_store)


def items(dataset: DataSet) -> pa.Table:
    """Return `item_rows.browse`, read again when the items changed."""
    return _items(str(dataset.path), _digest(dataset), dataset)


def _digest(dataset: DataSet) -> str:
    """Return what tells one state of the items from another, made anew under one name or not."""
    return dataset.folder.items.digest(dataset.folder.items.version())


@st.cache_resource(max_entries=8, show_spinner="Reading the items…")
def _items(path: str, digest: str, _dataset: DataSet) -> pa.Table:
    return item_rows.browse(_dataset)


def view_items(view: View) -> pa.Table:
    """Return `View.items`, read again when items or vectors changed."""
    return _view_items(str(view.dataset.path), view.slug, view.state, view)


@st.cache_resource(max_entries=4, show_spinner="Reading the items…")
def _view_items(path: str, slug: str, state: str, _view: View) -> pa.Table:
    return _view.items()


def matching(view: View, where: str) -> NDArray[np.bool_]:
    """Mark the view's items that fulfil an SQL condition."""
    return _matching(str(view.dataset.path), view.slug, view.state, where, view)


@st.cache_data(max_entries=32, show_spinner=False)
def _matching(path: str, slug: str, state: str, where: str, _view: View) -> NDArray[np.bool_]:
    return _view.matching(where)


def map_of(view: View, method: str) -> NDArray[np.float32]:
    """Return the view's map, made or read once."""
    return _map_of(str(view.dataset.path), view.slug, view.state, method, view)


@st.cache_resource(max_entries=4, show_spinner="Drawing the map…")
def _map_of(path: str, slug: str, state: str, method: str, _view: View) -> NDArray[np.float32]:
    return project(_view, method)


def colorings(view: View, column: str, head: str | None) -> Coloring:
    """Return the colours of all items of a view by a column, or by what a head said."""
    where = str(view.dataset.path)
    return _colorings(where, view.slug, view.state, column, head, _erased(view.dataset), view)


@st.cache_resource(max_entries=16, show_spinner="Colouring…")
def _colorings(
    path: str, slug: str, state: str, column: str, head: str | None, n: int, _view: View
) -> Coloring:
    found = view_items(_view)
    if head is not None:
        card = next(one for one in all_heads(_view.dataset) if one["head_id"] == head)
        said = predictions(_view.dataset, head)
        return explore.head_coloring(found, said, card, column)
    return explore.item_coloring(found, column)


def _erased(dataset: DataSet) -> int:
    return dataset.folder.n_erasures


def slices(dataset: DataSet) -> list[Slice]:
    """Return the named slices of a data set."""
    return read_slices(dataset.folder)


def heads_of(view: View) -> list[dict[str, Any]]:
    """Return the cards of the heads that were trained on a view's classes, newest first."""
    return [
        card
        for card in all_heads(view.dataset)
        if card["fingerprint"] == view.fingerprint and is_of_classes(card)
    ]


def all_heads(dataset: DataSet) -> list[dict[str, Any]]:
    """Return the cards of all registered heads, newest first."""
    return heads.list_heads(dataset)


def is_of_classes(card: Mapping[str, Any]) -> bool:
    """Whether a head predicts one class an item; cards of 0.1 knew nothing else."""
    return bool(card.get("task", "multiclass") == "multiclass")


def view_of_head(dataset: DataSet, card: Mapping[str, Any]) -> View | None:
    """Return the view that a head reads, or any; None where there is none."""
    found = dataset.views()
    own = [view for view in found if view.fingerprint == card["fingerprint"]]
    return next(iter([*own, *found]), None)


def view_of_cell(dataset: DataSet, *encoders: str) -> View | None:
    """Return the view of the first of some encoders that has one, or any; None without views."""
    found = {str(view.spec): view for view in dataset.views()}
    return next((found[one] for one in encoders if one in found), next(iter(found.values()), None))


def known_ids(dataset: DataSet) -> frozenset[str]:
    """Return the ids of the items that are there now."""
    return _known_ids(str(dataset.path), _digest(dataset), dataset)


@st.cache_resource(max_entries=4, show_spinner=False)
def _known_ids(path: str, digest: str, _dataset: DataSet) -> frozenset[str]:
    return frozenset(items(_dataset).column("item_id").to_pylist())


def item_columns(dataset: DataSet, names: Sequence[str]) -> pa.Table:
    """Return some columns of the items, with their ids, read again when the items changed."""
    return _item_columns(str(dataset.path), _digest(dataset), tuple(names), dataset)


@st.cache_resource(max_entries=8, show_spinner="Reading the items…")
def _item_columns(path: str, digest: str, names: tuple[str, ...], _dataset: DataSet) -> pa.Table:
    return _dataset.items(["item_id", *names])


def encode(view: View, content: str | bytes) -> NDArray[np.float32]:
    """Encode words or a picture's bytes with the view's encoder, which stays loaded."""
    raw = content.encode() if isinstance(content, str) else content
    return _encoded(view.fingerprint, hashlib.sha256(raw).hexdigest(), view, content)


@st.cache_data(max_entries=64, show_spinner="Asking the encoder…")
def _encoded(
    fingerprint: str, digest: str, _view: View, _content: str | bytes
) -> NDArray[np.float32]:
    loaded = _loaded(str(_view.dataset.path), _view.slug, fingerprint, _view)
    return loaded.encode([_content])


@st.cache_resource(max_entries=2, show_spinner=False)
def _loaded(path: str, slug: str, fingerprint: str, _view: View) -> View:
    return _view


def predictions(dataset: DataSet, head_id: str) -> pa.Table:
    """Return what a registered head predicted of the items that it was tested on."""
    return _predictions(str(dataset.path), head_id, dataset.folder.n_erasures)


@st.cache_resource(max_entries=8, show_spinner=False)
def _predictions(path: str, head_id: str, n_erasures: int) -> pa.Table:
    return heads.read_predictions(path, head_id)


def index(view: View) -> Index:
    """Return the view's index, built again when items or vectors changed."""
    return _index(str(view.dataset.path), view.slug, view.state, view)


@st.cache_resource(max_entries=4, show_spinner="Loading the vectors…")
def _index(path: str, slug: str, state: str, _view: View) -> Index:
    return _view.index()


def cards(
    dataset: DataSet, rows: Sequence[wording.Row], scores: Sequence[float] | None = None
) -> list[wording.Row]:
    """Return what the gallery draws of items, with their thumbnails."""
    palette = classes.class_colors(items(dataset))
    return [
        item_rows.card(
            row,
            _picture(str(dataset.path), row["item_id"], row["content_hash"], dataset)
            if row["text"] is None
            else {},
            palette,
            None if scores is None else scores[i],
        )
        for i, row in enumerate(rows)
    ]


@st.cache_data(max_entries=5000, show_spinner=False)
def _picture(path: str, item_id: str, content_hash: str, _dataset: DataSet) -> wording.Row:
    return item_rows.picture(_dataset, item_id)


def comparisons(dataset: DataSet) -> list[Comparison]:
    """Return the stored comparisons, newest first."""
    return _stored(dataset, "compare")


def assessments(dataset: DataSet) -> list[Assessment]:
    """Return the stored assessments of transfer, newest first."""
    return _stored(dataset, "transfer")


def curves(dataset: DataSet) -> list[Curve]:
    """Return the stored learning curves, newest first."""
    return _stored(dataset, "curve")


def quality_reports(dataset: DataSet) -> list[Issues]:
    """Return the stored quality reports, newest first."""
    return _stored(dataset, "quality")


def reviews(dataset: DataSet) -> list[Review]:
    """Return all decisions of reviewers, oldest first."""
    return read_reviews(dataset.folder)


_READERS: dict[str, Callable[[str], list[Any]]] = {
    "compare": heads.runs,
    "transfer": heads.assessments,
    "curve": heads.curves,
    "quality": heads.quality_reports,
}


def _stored(dataset: DataSet, kind: str) -> list[Any]:
    names = sorted(file.name for file in (dataset.path / "runs").glob(f"*-{kind}.json"))
    return _read_runs(str(dataset.path), kind, names)


@st.cache_resource(max_entries=24, show_spinner=False)
def _read_runs(path: str, kind: str, names: list[str]) -> list[Any]:
    """Read them again when one was added: its name is among the names."""
    return _READERS[kind](path)
