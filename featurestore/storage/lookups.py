"""Rows of some items, out of tables that may be far larger: memory follows what is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.storage.columns import fit_to
from featurestore.storage.shards import each_shard, read_shard
from featurestore.storage.table_files import Shard

_LEAST_ROWS = 1 << 16  # that are looked at together


def all_rows(shards: Sequence[Shard], columns: list[str] | None, schema: pa.Schema) -> pa.Table:
    """Return the rows of shards, with the columns of a schema."""
    with ThreadPoolExecutor(max_workers=min(8, len(shards)) or 1) as pool:
        parts = pool.map(lambda shard: fit_to(read_shard(shard.path, columns), schema), shards)
        return concatenated([*parts], schema)


def concatenated(parts: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """Return the rows of tables that were fit to a schema; there may be none."""
    return pa.concat_tables(parts) if parts else schema.empty_table()


def rows_with(
    shards: Sequence[Shard],
    ids: pa.Array | pa.ChunkedArray,
    columns: list[str] | None,
    schema: pa.Schema,
) -> pa.Table:
    """Return the rows of shards whose item is one of ``ids``, with the columns of a schema."""
    found = []
    for group in groups_of(shards, len(ids)) if len(ids) else ():
        for shard, _, is_wanted in marked(group, ids, ["item_id"]):
            if is_wanted.any():
                rows = read_shard(shard.path, columns).filter(pa.array(is_wanted))
                found.append(fit_to(rows, schema))
    return concatenated(found, schema)


def groups_of(shards: Sequence[Shard], n_rows: int) -> Iterator[list[Shard]]:
    """Yield shards that have so many rows together, or a few more."""
    group: list[Shard] = []
    n = 0
    for shard in shards:
        group.append(shard)
        n += shard.n_rows or _LEAST_ROWS
        if n >= max(n_rows, _LEAST_ROWS):
            yield group
            group, n = [], 0
    if group:
        yield group


def marked(
    shards: Sequence[Shard], ids: pa.Array | pa.ChunkedArray, columns: list[str]
) -> Iterator[tuple[Shard, pa.Table, NDArray[np.bool_]]]:
    """Yield shards with some of their columns, and which of their rows are of one of these ids."""
    parts = list(each_shard([one.path for one in shards], columns))
    of_rows = pa.chunked_array([c for one in parts for c in one["item_id"].chunks], pa.string())
    # At once: a table of the ids is made for each call.
    is_wanted = np.asarray(pc.is_in(of_rows, value_set=ids))
    ends = np.cumsum([len(one) for one in parts])
    yield from zip(shards, parts, np.split(is_wanted, ends[:-1]), strict=True)
