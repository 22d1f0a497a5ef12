"""Rows of a file of vectors; one without vector, id or text fails, and the others come in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.errors import BadSource
from featurestore.sources.class_names import is_list


def matrix(column: pa.ChunkedArray, name: str) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Return a column of lists of numbers as float32 (n, dim), and rows that have none.

    ``name`` is the file's. The vectors of such rows are NaN.

    Raises
    ------
    BadSource
        If there are no vectors, or they have several lengths.
    """
    if len(column) == 0:
        raise BadSource(f"{name} holds no vectors")
    if not is_list(column.type):
        raise BadSource(f"{name} holds {column.type} as vectors: expected lists of numbers")
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
    is_there = lengths > 0
    found = np.unique(lengths[is_there])
    if len(found) > 1:
        raise BadSource(
            f"the vectors of {name} have {len(found)} lengths ({found[0]} to {found[-1]}): "
            "expected one"
        )
    absent = dict.fromkeys(np.flatnonzero(~is_there).tolist(), "no vector in this row")
    if len(absent) == len(column):
        raise BadSource(f"{len(absent)} rows of {name} have no vector, and none has one")
    if absent:
        column = column.filter(pa.array(is_there))
    flat = np.concatenate([np.asarray(chunk.flatten()) for chunk in column.chunks])
    there = numbers(flat.reshape(len(column), -1), name)
    if not absent:
        return there, {}
    vectors = np.full((len(lengths), there.shape[1]), np.nan, np.float32)
    vectors[is_there] = there
    return vectors, absent


def numbers(vectors: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Return vectors as float32 (n, dim); ``name`` is the file's."""
    if vectors.ndim != 2 or vectors.size == 0 or not np.issubdtype(vectors.dtype, np.number):
        raise BadSource(f"{name} holds {vectors.dtype}{vectors.shape}: expected (n, dim) numbers")
    return np.ascontiguousarray(vectors, np.float32)


def odd_vectors(vectors: NDArray[np.float32]) -> dict[int, str]:
    """Return the rows whose vector is not finite."""
    rows = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
    return dict.fromkeys(rows, "its vector holds NaN or infinity")


def without_text(table: pa.Table, name: str | None) -> dict[int, str]:
    """Return the rows without a text: in ``name``, or in a column called text where it has some."""
    if name is None and "text" in table.column_names:
        name = "text" if table.column("text").null_count < len(table) else None
    if name is None or name not in table.column_names:
        return {}
    rows = np.flatnonzero(np.asarray(table.column(name).is_null())).tolist()
    return dict.fromkeys(rows, f"no text in the column {name!r}")


def kept_rows(n: int, bad: Mapping[int, str], name: str) -> NDArray[np.intp]:
    """Return the rows that can be taken; ``name`` is the file's.

    Raises
    ------
    BadSource
        If there is none.
    """
    if len(bad) == n:
        raise BadSource(f"{name} has no row to take: {next(iter(bad.values()))}")
    is_kept = np.ones(n, bool)
    is_kept[list(bad)] = False
    return np.flatnonzero(is_kept)
