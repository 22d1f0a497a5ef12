"""How often each value of a column occurs, shard by shard: no column is held whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from featurestore.storage.columns import fit_to
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.kept_counts import KeptCounts
from featurestore.storage.shards import each_shard
from featurestore.storage.tables import Shard

_MERGED_AT = 1 << 16  # values of several shards that are put together
_KEPT_VALUES = 1000  # of a column; the counts of more are not kept


def value_counts(
    folder: DatasetFolder, names: Sequence[str], shards: Sequence[Shard], version: int
) -> dict[str, pa.Table]:
    """Return for columns of the items their values and how often each is there, ``value``, ``n``.

    Values stand in the order in which they come first; null is one of them. ``shards`` are those
    of a version. What was counted of a large data set is kept.
    """
    table = folder.items
    schema = table.schema(version)
    wanted = pa.schema([schema.field(name) for name in dict.fromkeys(names)])
    kept = KeptCounts(
        folder.local / "cache" / "count-items.json", [table], [version], [shards],
        folder.watch_erasures(),
    )  # fmt: skip
    known, since = _known(kept, wanted)
    found = {field.name: ColumnCounts(field.type, known.get(field.name, ())) for field in wanted}
    for rows in each_shard([shard.path for shard in since], wanted.names):
        for name, column in zip(wanted.names, fit_to(rows, wanted).columns, strict=True):
            found[name].add(column)
    counts = {name: one.table() for name, one in found.items()}
    few = {name: one for name, one in counts.items() if len(one) <= _KEPT_VALUES}
    if kept.is_worth_it and since and len(few) == len(counts):
        kept.write({name: one.to_pydict() for name, one in few.items()})
    return counts


class ColumnCounts:
    """How often each value of a column occurs, which comes in parts."""

    def __init__(self, kind: pa.DataType, known: Sequence[pa.Table] = ()) -> None:
        self._kind, self._parts = kind, list(known)

    def add(self, column: pa.ChunkedArray) -> None:
        """Count the values of a part as well."""
        self._parts.append(counted_values(column))
        if sum(map(len, self._parts[1:])) > max(_MERGED_AT, len(self._parts[0])):
            self._parts = [self.table()]

    def table(self) -> pa.Table:
        """Return the values in the order in which they came, ``value`` and ``n``."""
        return _summed(self._parts, self._kind)


def counted_values(column: pa.ChunkedArray) -> pa.Table:
    """Return the values of a column and how often each is there, ``value`` and ``n``."""
    counts = column.value_counts()
    return pa.table({"value": counts.field("values"), "n": counts.field("counts")})


def _known(kept: KeptCounts, wanted: pa.Schema) -> tuple[dict[str, list[pa.Table]], list[Shard]]:
    """Return counts that were kept, and the shards that they lack."""
    read: tuple[Any, list[list[Shard]]] | None = kept.read() if kept.is_worth_it else None
    if read is None or set(read[0]) != set(wanted.names):
        return {}, list(kept.shards[0])
    kinds = {field.name: pa.schema([("value", field.type), ("n", pa.int64())]) for field in wanted}
    try:
        known = {
            name: [pa.Table.from_pydict(counts, kinds[name])] for name, counts in read[0].items()
        }
    except (pa.ArrowException, KeyError, TypeError, ValueError):
        return {}, list(kept.shards[0])
    return known, read[1][0]


def _summed(parts: list[pa.Table], kind: pa.DataType) -> pa.Table:
    if not parts:
        return pa.table({"value": pa.nulls(0, kind), "n": pa.array([], pa.int64())})
    whole = pa.concat_tables(parts).group_by("value", use_threads=False)
    return whole.aggregate([("n", "sum")]).rename_columns(["value", "n"])
