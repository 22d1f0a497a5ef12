"""A table whose new shards are written now and named by a commit later, of somebody else."""

from __future__ import annotations

import pyarrow as pa

from featurestore.storage.remote import StorePath
from featurestore.storage.shards import write_shard
from featurestore.storage.table_files import Shard
from featurestore.storage.tables import Table


class StagedTable(Table):
    """A table in which one writer sees the shards that it has staged, and nobody else does."""

    def __init__(self, path: StorePath) -> None:
        super().__init__(path)
        self.staged: list[Shard] = []

    def append(self, rows: pa.Table) -> int:
        """Write rows as a shard that no version names yet; return the present version."""
        name, n_bytes = write_shard(rows, self.path)
        self.staged.append(Shard(self.path / name, n_bytes, len(rows)))
        return -1

    def shards(self, version: int | None = None) -> list[Shard]:
        """Return the files of a version, and those staged here."""
        there = super().shards(version)
        return [*there, *(one for one in self.staged if one not in there)]
