"""Caches that follow the store: a value is read again when the store has changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa
import streamlit as st
from numpy.typing import NDArray

import heads
from dashboard.launch import STORE_VARIABLE, TRUST_VARIABLE
from dashboard.page_data import classes, coloring, home, item_rows, labeling, runnable, wording
from dashboard.page_data import overview as overview_data
from dashboard.page_data.coloring import Coloring
from dashboard.url_state import recall
from featurestore.maps.projection import project
from featurestore.storage.files import matching as matching_files
from featurestore.store.dataset import DataSet
from featurestore.store.store import Store, open_store
from featurestore.store.view import View
from featurestore.store.view_index import Index
from heads import Assessment, Comparison, Curve, FittedHead, Issues

UNLIKENESS = "unlikeness"  # a color of the map
Owner = TypeVar("Owner", Store, DataSet, View)
P = ParamSpec("P")
R = TypeVar("R")


def follows(
    stamp: Callable[[Owner], object],
    *,
    max_entries: int,
    spinner: str | bool = False,
    copies: bool = False,
) -> Callable[[Callable[Concatenate[Owner, P], R]], Callable[Concatenate[Owner, P], R]]:
    """Cache a function of a store, data set or view until its stamp changes.

    The stamp is taken before Streamlit's cache is asked, so that an error of a store that cannot
    be read reaches the page as it is (Streamlit wraps those of its ``hash_funcs``).

    Parameters
    ----------
    stamp : callable
        Gets the first argument; returns its location and version, as Streamlit can hash them.
        The other arguments are part of the key, too.
    max_entries : int
        The oldest entry goes when there are more.
    spinner : str or bool
        What the page says meanwhile.
    copies : bool
        Give each caller a copy (``st.cache_data``), not the same object.
    """
    keep = st.cache_data if copies else st.cache_resource

    def decorated(read: Callable[Concatenate[Owner, P], R]) -> Callable[Concatenate[Owner, P], R]:
        # Streamlit does not hash arguments whose name begins with _.
        def cached(stamped: object, args: object, kwargs: object, _read: Callable[[], R]) -> R:
            return _read()

        cached.__qualname__ = read.__qualname__  # Streamlit keeps one cache for each
        kept = keep(max_entries=max_entries, show_spinner=spinner)(cached)

        @wraps(read)
        def followed(owner: Owner, /, *args: P.args, **kwargs: P.kwargs) -> R:
            found: R = kept(stamp(owner), args, kwargs, lambda: read(owner, *args, **kwargs))
            return found

        return followed

    return decorated


# -- stamps --------------------------------------------------------------------------------


def _store_stamp(store: Store) -> object:
    return str(store.path), overview_data.stamp(store)


def _path(dataset: DataSet) -> object:
    return str(dataset.path)


def _items_stamp(dataset: DataSet) -> object:
    """Return the digest of the items: a data set made anew under one name has another."""
    items = dataset.folder.items
    return str(dataset.path), items.digest(items.version())


def _erasures(dataset: DataSet) -> object:
    return str(dataset.path), dataset.folder.n_erasures


def _runs_stamp(kind: str) -> Callable[[DataSet], object]:
    """Return a stamp of the run cards of a kind: their names, which no two share."""

    def stamp(dataset: DataSet) -> object:
        names = [path.name for path in matching_files(dataset.path / "runs", f"*-{kind}.json")]
        return _erasures(dataset), names

    return stamp


def _views_and_comparisons(dataset: DataSet) -> object:
    return _runs_stamp("compare")(dataset), [view.slug for view in dataset.views()]


def _whole(dataset: DataSet) -> object:
    runs = [_runs_stamp(kind)(dataset) for kind in ("compare", "transfer", "quality")]
    failures = dataset.folder.failures
    views, has_heads = [view.slug for view in dataset.views()], (dataset.path / "heads").is_dir()
    planned = [str(one) for one in dataset.unfinished()]
    failed = failures.digest(failures.version())
    return _items_stamp(dataset), runs, views, has_heads, failed, planned


def _encoder(view: View) -> object:
    return str(view.dataset.path), view.slug, view.fingerprint, view.trust is True


def _vectors(view: View) -> object:
    return str(view.dataset.path), view.slug, view.state


def _vectors_and_labels(view: View) -> object:
    return _vectors(view), view.dataset.folder.items.version()


def _vectors_and_erasures(view: View) -> object:
    return _vectors(view), view.dataset.folder.n_erasures


# -- the store, and what is costly to read of it ----------------------------------------------


def store() -> Store:
    """Open the store that the dashboard was started on."""
    path = os.environ.get(STORE_VARIABLE, "featurestore-data")
    return open_store(path, trust=os.environ.get(TRUST_VARIABLE) == "1")


def dataset() -> DataSet:
    """Return the data set that was chosen in the sidebar."""
    opened = store()
    return opened.dataset(recall("dataset") or opened.datasets()[0])


@follows(_store_stamp, max_entries=8, spinner="Reading the store…", copies=True)
def overview(store: Store) -> list[wording.Row]:
    """Return `page_data.overview`."""
    return overview_data.overview(store)


@follows(_whole, max_entries=64, spinner="Reading the store…")
def summary(dataset: DataSet) -> home.Summary:
    """Return `home.summary`."""
    return home.summary(dataset)


@follows(_views_and_comparisons, max_entries=16)
def default_spec(dataset: DataSet) -> str | None:
    """Return `runnable.default_spec`."""
    return runnable.default_spec(dataset)


@follows(_items_stamp, max_entries=8, spinner="Reading the items…")
def items(dataset: DataSet) -> pa.Table:
    """Return `item_rows.browse`."""
    return item_rows.browse(dataset)


@follows(_items_stamp, max_entries=4)
def known_ids(dataset: DataSet) -> frozenset[str]:
    """Return the ids of the items that are there now."""
    return frozenset(items(dataset).column("item_id").to_pylist())


@follows(_items_stamp, max_entries=8, spinner="Reading the items…")
def item_columns(dataset: DataSet, names: Sequence[str]) -> pa.Table:
    """Return some columns of the items, with their ids."""
    return dataset.items(["item_id", *names])


@follows(_vectors, max_entries=4, spinner="Reading the items…")
def view_items(view: View) -> pa.Table:
    """Return `View.items`."""
    return view.items()


@follows(_vectors, max_entries=32, copies=True)
def matching(view: View, where: str) -> NDArray[np.bool_]:
    """Mark the view's items that fulfill an SQL condition, (n_items,)."""
    return view.matching(where)


@follows(_vectors, max_entries=4, spinner="Drawing the map…")
def map_of(view: View, method: str) -> NDArray[np.float32]:
    """Return the view's map, (n_items, 2), made or read once."""
    return project(view, method)


@follows(_vectors, max_entries=4, spinner="Loading the vectors…")
def index(view: View) -> Index:
    """Return the view's index."""
    return view.index()


@follows(_vectors_and_erasures, max_entries=16, spinner="Coloring…")
def colorings(view: View, column: str, head: str | None) -> Coloring:
    """Return the colors of all items of a view by a column, or by what a head said."""
    table = view_items(view)
    if head is not None and column == UNLIKENESS:
        return coloring.coloring(pa.chunked_array([unlikeness(view, head)]))
    if head is None:
        return coloring.item_coloring(table, column)
    card = next(one for one in heads.list_heads(view.dataset) if one["head_id"] == head)
    return coloring.head_coloring(table, predictions(view.dataset, head), card, column)


@follows(_vectors_and_labels, max_entries=4, spinner="Reading the items…")
def label_base(view: View, label: str) -> labeling.Base:
    """Return `labeling.base_of`."""
    return labeling.base_of(view, label)


@follows(_encoder, max_entries=64, spinner="Asking the encoder…", copies=True)
def encode(view: View, content: str | bytes) -> NDArray[np.float32]:
    """Encode a query, words or a picture's bytes, with the view's encoder, (1, dim)."""
    return _loaded(view).encode([content], as_queries=True)


def encode_items(view: View, contents: Sequence[str | bytes]) -> NDArray[np.float32]:
    """Encode contents as items are, (n, dim), with an encoder that stays loaded."""
    return _loaded(view).encode(contents)


@follows(_encoder, max_entries=2)
def _loaded(view: View) -> View:
    """Return the same view each time: its encoder stays loaded."""
    return view


@follows(_erasures, max_entries=4, spinner="Loading the head…")
def head(dataset: DataSet, head_id: str) -> FittedHead:
    """Return a registered head."""
    return heads.load_head(dataset, head_id)


@follows(_vectors, max_entries=4, spinner="Looking how far out items lie…")
def unlikeness(view: View, head_id: str) -> NDArray[np.float64]:
    """Return the share of a head's training items that lie less far out, (n_items,)."""
    found = head(view.dataset, head_id).unlike_training(view.load().vectors)
    assert found is not None, "asked only of a head that can tell"
    return found.shares


@follows(_erasures, max_entries=8)
def predictions(dataset: DataSet, head_id: str) -> pa.Table:
    """Return what a registered head predicted of the items that it was tested on."""
    return heads.read_predictions(dataset, head_id)


def cards(
    dataset: DataSet, rows: Sequence[wording.Row], scores: Sequence[float] | None = None
) -> list[wording.Row]:
    """Return what the gallery draws of items, with their thumbnails."""
    palette = classes.class_colors(items(dataset))
    return [
        item_rows.card(
            row,
            _picture(dataset, row["item_id"], row["content_hash"]) if row["text"] is None else {},
            palette,
            None if scores is None else scores[i],
        )
        for i, row in enumerate(rows)
    ]


@follows(_path, max_entries=5000, copies=True)
def _picture(dataset: DataSet, item_id: str, content_hash: str) -> wording.Row:
    """Return an item's thumbnail; other content has another hash."""
    return item_rows.picture(dataset, item_id)


# -- runs ----------------------------------------------------------------------------------


@follows(_runs_stamp("compare"), max_entries=6)
def comparisons(dataset: DataSet) -> list[Comparison]:
    """Return the stored comparisons, newest first."""
    return heads.runs(dataset)


@follows(_runs_stamp("transfer"), max_entries=6)
def assessments(dataset: DataSet) -> list[Assessment]:
    """Return the stored assessments of transfer, newest first."""
    return heads.assessments(dataset)


@follows(_runs_stamp("curve"), max_entries=6)
def curves(dataset: DataSet) -> list[Curve]:
    """Return the stored learning curves, newest first."""
    return heads.curves(dataset)


@follows(_runs_stamp("quality"), max_entries=6)
def quality_reports(dataset: DataSet) -> list[Issues]:
    """Return the stored quality reports, newest first."""
    return heads.quality_reports(dataset)
