"""Rows of long columns, taken where they lie: Arrow would first join all parts of a column."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, DTypeLike, NDArray

from featurestore.storage.columns import fit_to
from featurestore.storage.shards import read_shard
from featurestore.storage.tables import Shard, rows_of

_OPEN = 4  # shards whose rows stay in memory


def taken(column: pa.ChunkedArray, rows: NDArray[np.intp]) -> pa.Array:
    """Return the values at some rows, (n,)."""
    if column.num_chunks == 0 or len(rows) == 0:
        return pa.array([], column.type)
    starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])
    of_chunk = np.searchsorted(starts, rows, "right") - 1
    used = np.unique(of_chunk)
    if len(used) == 1:
        return column.chunk(int(used[0])).take(pa.array(rows - starts[used[0]]))
    order = np.argsort(of_chunk, kind="stable")
    bounds = np.searchsorted(of_chunk[order], used)
    parts = [
        column.chunk(int(chunk)).take(pa.array(rows[some] - starts[chunk]))
        for chunk, some in zip(used, np.split(order, bounds[1:]), strict=True)
    ]
    back = np.empty(len(rows), np.intp)
    back[order] = np.arange(len(rows))
    return pa.concat_arrays(parts).take(pa.array(back))


class ShardRows:
    """Columns of rows of shards, of which the last ones that were asked for stay in memory."""

    def __init__(self, shards: Sequence[Shard], names: Sequence[str], schema: pa.Schema) -> None:
        self._paths = [one.path for one in shards]
        absent = [pa.field(name, pa.string()) for name in names if name not in schema.names]
        self._schema = pa.schema([*(one for one in schema if one.name in names), *absent])
        self._starts = np.cumsum([0, *(rows_of([one]) for one in shards)])
        self._read = lru_cache(_OPEN)(self._of_shard)

    def take(self, rows: NDArray[np.intp]) -> pa.Table:
        """Return some rows."""
        of_shard = np.searchsorted(self._starts, rows, "right") - 1
        order = np.argsort(of_shard, kind="stable")
        used, bounds = np.unique(of_shard[order], return_index=True)
        if len(used) > _OPEN and self._read.cache_parameters()["maxsize"] == _OPEN:
            self._read = lru_cache(None)(self._of_shard)  # rows lie in another order
        parts = [
            self._read(shard).take(pa.array(rows[some] - self._starts[shard]))
            for shard, some in zip(used.tolist(), np.split(order, bounds[1:]), strict=True)
        ]
        back = np.empty(len(rows), np.intp)
        back[order] = np.arange(len(rows))
        return pa.concat_tables(parts).take(pa.array(back))

    def _of_shard(self, number: int) -> pa.Table:
        return fit_to(read_shard(self._paths[number], self._schema.names), self._schema)


class Ids:
    """Ids as Arrow has them, used as an array: Python texts are made of those asked for."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, rows: slice | ArrayLike) -> Any:
        if isinstance(rows, slice):
            rows = np.arange(len(self))[rows]
        places = np.asarray(rows)
        if places.dtype == bool:
            places = np.flatnonzero(places)
        found = taken(self.column, places.reshape(-1))
        values = np.asarray(found.to_numpy(zero_copy_only=False), object)
        return values.reshape(places.shape) if places.ndim else values[0]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        values = np.asarray(self.column.to_numpy(zero_copy_only=False), object)
        return values if dtype is None else values.astype(dtype)

    def place(self, item_id: str) -> int:
        """Return the row of an id; -1 where there is none."""
        return int(pc.index(self.column, pa.scalar(item_id, self.column.type)).as_py())
