"""What a worker writes of one part: shards that its manifest will name."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.run_folder import RunFolder
from featurestore.storage.shards import write_shard
from featurestore.storage.staged import StagedTable
from featurestore.storage.tables import FAILURES, Table


class Stage:
    """A `Sink` that writes shards and commits nothing; one part after the other."""

    def __init__(self, folder: DatasetFolder, run: RunFolder) -> None:
        self._folder, self._run = folder, run
        self._tables: dict[str, StagedTable] = {}
        self.begin()

    def begin(self) -> None:
        """Begin a part."""
        self._n_before = {name: len(one.staged) for name, one in self._tables.items()}
        self._all_new = True
        self._failures: list[pa.Table] = []

    def view(self, slug: str) -> StagedTable:
        """Return the table that takes the vectors of a view; the worker reads its own there."""
        return self._table(slug, self._folder.view(slug))

    def _table(self, name: str, table: Table) -> StagedTable:
        return self._tables.setdefault(name, StagedTable(table.path))

    def put_items(self, rows: pa.Table, *, all_new: bool) -> None:
        """Write item rows as a shard."""
        # A column without a value has no type: the table gives it one.
        known = [one.name for one in rows.schema if not pa.types.is_null(one.type)]
        self._table("items", self._folder.items).append(rows.select(known))
        self._all_new &= all_new

    def put_failures(self, rows: pa.Table, decided: pa.Array) -> None:
        """Keep failures; a row without a stage says that an older failure is settled."""
        keys = [one.rsplit("\x1f", 1) for one in decided.to_pylist()]
        empty = [""] * len(keys)
        settled = {
            "item_id": [one for one, _ in keys],
            "fingerprint": [of for _, of in keys],
        }
        columns = [pa.array(settled.get(name, empty), pa.string()) for name in FAILURES.names]
        self._failures += [pa.table(columns, schema=FAILURES), rows]

    def taken(self) -> dict[str, Any]:
        """Return what the manifest says of the shards of this part."""
        shards = {
            name: [[one.path.name, one.size_bytes, one.n_rows] for one in table.staged[first:]]
            for name, table in self._tables.items()
            if len(table.staged) > (first := self._n_before.get(name, 0))
        }
        said: dict[str, Any] = {"shards": shards, "all_new": self._all_new}
        if self._failures:
            rows = pa.concat_tables(self._failures)
            said["failures"], _ = write_shard(rows, self._run.path / "failures")
        return said

    def forget(self) -> None:
        """Forget the shards of this part: nothing will name them."""
        for name, table in self._tables.items():
            del table.staged[self._n_before.get(name, 0) :]
