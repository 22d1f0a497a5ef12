"""The files of a version of a table, and its versions, as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from featurestore.storage.remote import StorePath


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a version."""

    path: StorePath
    size_bytes: int
    n_rows: int | None = dataclasses.field(default=None, compare=False)  # what the log says


@dataclass(frozen=True)
class TableState:
    """What a version of a table holds."""

    version: int
    schema: pa.Schema  # vectors show as plain lists
    shards: list[Shard]

    @property
    def n_rows(self) -> int:
        """How many rows it has, as far as the log says."""
        return sum(one.n_rows or 0 for one in self.shards)


@dataclass(frozen=True)
class Commit:
    """One version of a table."""

    version: int
    when: datetime  # UTC, by the writer's clock
    n_rows: int  # in all, superseded ones included
    n_shards: int


def groups_to_join(shards: list[Shard], target_bytes: int) -> Iterator[list[Shard]]:
    """Return shards to join: small ones, together no larger than the target."""
    group: list[Shard] = []
    for shard in sorted(shards, key=lambda one: one.size_bytes):
        if shard.size_bytes > target_bytes // 2:
            break
        if sum(one.size_bytes for one in group) + shard.size_bytes > target_bytes:
            yield group
            group = []
        group.append(shard)
    if len(group) > 1:
        yield group
