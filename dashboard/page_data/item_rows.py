"""Items as rows and cards: searched, browsed, seen beside their neighbors."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dashboard.page_data.classes import class_column
from dashboard.page_data.wording import NO_LABEL, Row
from featurestore.errors import FeatureStoreError, UnknownItem, nearest
from featurestore.store.dataset import DataSet
from featurestore.store.view_index import Index


def browse(dataset: DataSet) -> pa.Table:
    """Return what pages show of the items, sorted by id.

    Columns: item_id, content_hash, text, split and label, the class in words, all strings.
    """
    column = class_column(dataset)
    names = ["item_id", "content_hash", "text", "split"]
    table = dataset.items([*names, column] if column else names)
    label = table.column(column).cast(pa.string()) if column else pa.nulls(len(table), pa.string())
    return table.select(names).append_column("label", label).sort_by("item_id")


# -- neighbors ----------------------------------------------------------------------------


def rows_of(items: pa.Table, ids: Sequence[str]) -> list[Row]:
    """Return the rows of some items, in the order of the ids.

    Raises
    ------
    UnknownItem
        If there is no such item.
    """
    place = pc.index_in(pa.array(ids, pa.string()), value_set=items.column("item_id"))
    if place.null_count:
        missing = ids[place.is_null().to_pylist().index(True)]
        known = items.column("item_id").slice(0, 10_000).to_pylist()
        raise UnknownItem(f"there is no item {missing!r}: {nearest(missing, known)}")
    rows: list[Row] = items.take(place).to_pylist()
    return rows


def found(
    index: Index,
    query: NDArray[np.float32] | None,
    item_id: str | None,
    *,
    k: int,
    among: NDArray[np.bool_] | None = None,
) -> list[tuple[str, float]]:
    """Return the items closest to a query, (1, dim), or to an item, with their cosines."""
    if query is None:
        assert item_id is not None, "one of the two is asked for"
        result = index.neighbors(item_id, k=k, among=among)
    else:
        result = index.search(query, k=k, among=among)
    return list(zip(result.ids[0].tolist(), result.scores[0].tolist(), strict=True))


def scores_table(found: Sequence[tuple[str, float]]) -> pa.Table:
    """Return results as a table: item_id, rank, score."""
    ids, scores = [one for one, _ in found], [score for _, score in found]
    return pa.table({"item_id": ids, "rank": list(range(1, len(ids) + 1)), "score": scores})


def neighbors(index: Index, item_id: str, *, k: int) -> list[tuple[str, float]]:
    """Return the closest other items with their cosines, as pairs.

    The index is the caller's, so that it can be kept between clicks.

    Raises
    ------
    UnknownItem
        If the index holds no vector of the item.
    """
    return found(index, None, item_id, k=k)


def agreement(label: str | None, others: Sequence[str | None]) -> str | None:
    """Say how many neighbors share an item's label; None where it has none."""
    if label is None or not others:
        return None
    n_same = sum(other == label for other in others)
    return f"{n_same} of {len(others)} neighbors have the same label ({n_same / len(others):.0%})"


def card(row: Row, picture: Row, palette: Mapping[str, str], score: float | None = None) -> Row:
    """Return what the gallery draws of an item; the picture is that of `picture`."""
    label = row["label"] or NO_LABEL
    return {
        "id": row["item_id"],
        "text": row["text"],
        "label": label,
        "color": palette[label],
        "score": None if score is None else f"{score:.3f}",
        **picture,
    }


def picture(dataset: DataSet, item_id: str, *, size_px: int = 128) -> Row:
    """Return an image item's thumbnail as a data URI, or the reason why there is none."""
    try:
        content = dataset.thumbnail(item_id, size_px=size_px)
    except FeatureStoreError as error:  # gone, or bytes that are no picture
        return {"image": None, "reason": str(error)}
    return {"image": f"data:image/jpeg;base64,{base64.b64encode(content).decode()}", "reason": None}
