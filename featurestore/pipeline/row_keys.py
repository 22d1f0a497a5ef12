"""Rows as numbers, to tell which of millions are as they were: eight bytes for all that one says.

The numbers differ from process to process, as Python's hashes of texts do: nobody can make texts
that pass for each other, and nothing of it is ever written for later.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_SEED = 0x9E3779B97F4A7C15
_NULL = np.uint64(0xC2B2AE3D27D4EB4F)
_ODD, _SHIFT = np.uint64(0xFF51AFD7ED558CCD), np.uint64(32)
_PEEK, _FEW = 1000, 50  # of so many values, so few are different: each is hashed once


def id_keys(rows: pa.Table) -> NDArray[np.uint64]:
    """Return a number for the id of each row, (n,)."""
    return _of_column(rows.column("item_id"))


def pair_keys(rows: pa.Table, ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a number for id and content of each row, (n,), from those of the ids."""
    keys = ids.copy()
    _mix(keys, np.uint64(_SEED))  # an id may be equal to its content
    _mix(keys, _of_column(rows.column("content_hash")))
    return keys


def row_keys(rows: pa.Table, names: Sequence[str]) -> NDArray[np.uint64]:
    """Return a number for what each row says in these columns, (n,); absent ones are null."""
    keys = np.full(len(rows), _SEED, np.uint64)
    for name in names:
        if name in rows.column_names:
            _mix(keys, _of_column(rows.column(name)))
        else:
            _mix(keys, _NULL)
    return keys


def _of_column(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return a number for each value of a column of plain type, (n,)."""
    if column.null_count == len(column):
        return np.full(len(column), _NULL)
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        wide = column.cast(pa.float64() if pa.types.is_floating(kind) else pa.int64())
        values = np.asarray(pc.fill_null(wide, 0)) + 0  # there is one zero: -0.0 is 0.0
        keys = np.array(values).view(np.uint64)
    elif pc.count_distinct(column.slice(0, _PEEK)).as_py() < _FEW:
        encoded = column.combine_chunks().dictionary_encode()
        codes = np.asarray(pc.fill_null(encoded.indices, 0))
        keys = _of_values(encoded.dictionary)[codes]
    else:
        keys = _of_values(column)
    if column.null_count:
        keys = np.where(np.asarray(column.is_valid()), keys, _NULL)
    return keys


def _of_values(values: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    plain = values if pa.types.is_string(values.type) else values.cast(pa.string())
    return np.fromiter(map(hash, plain.to_pylist()), np.int64, len(values)).view(np.uint64)


def _mix(keys: NDArray[np.uint64], more: NDArray[np.uint64] | np.uint64) -> None:
    """Mix numbers into keys, (n,), in place."""
    keys ^= more
    keys *= _ODD
    keys ^= keys >> _SHIFT
