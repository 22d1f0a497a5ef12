"""The files of a version of a table, and its versions, as plain values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.storage.remote import StorePath
from featurestore.storage.shards import rows_in


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a version."""

    path: StorePath
    size_bytes: int
    n_rows: int | None = field(default=None, compare=False)  # what the log says


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


@dataclass(frozen=True, eq=False)
class Staged:
    """What one commit brings in: shards that lie in the table's folder already, and rows."""

    shards: Sequence[Shard]
    rows: pa.Table | None = None
    drop: Callable[[pa.Table], NDArray[np.bool_]] | None = None  # as of `Table.merge`
    keys: Sequence[str] = ()
    note: Mapping[str, str] = field(default_factory=dict)  # what the commit says of itself
    transaction: str = ""  # a Delta transaction id: of two commits with it the later one conflicts


def rows_of(shards: Iterable[Shard]) -> int:
    """Return how many rows files have, by the log; superseded ones count."""
    return sum(rows_in(one.path) if one.n_rows is None else one.n_rows for one in shards)


def digest_of(shards: Iterable[Shard]) -> str:
    """Return a hash of files, which are named by their bytes."""
    return hashlib.sha256("\n".join(shard.path.name for shard in shards).encode()).hexdigest()


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
