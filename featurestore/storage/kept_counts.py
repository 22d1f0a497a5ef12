"""What was counted in the files of tables, kept: later only files that came since are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurestore.errors import FeatureStoreError
from featurestore.storage.files import read_sealed, write_sealed
from featurestore.storage.tables import Shard, Table, digest_of

WORTH_ROWS = 50_000  # fewer are counted in no time


@dataclass(frozen=True)
class KeptCounts:
    """A file of the cache; may be deleted at will."""

    path: Path
    tables: Sequence[Table]
    versions: Sequence[int]
    shards: Sequence[Sequence[Shard]]  # of these versions
    erased_since: Callable[[], bool]  # whether items were erased since this was made

    @property
    def is_worth_it(self) -> bool:
        """Whether there are so many rows that counting them takes a while."""
        return sum(one.n_rows or 0 for one in self.shards[0]) >= WORTH_ROWS

    def read(self) -> tuple[Any, list[list[Shard]]] | None:
        """Return what was counted, and the shards that came since; None if some were taken out."""
        try:
            kept = read_sealed(self.path)
            digests, versions, value = kept["shards"], kept["versions"], kept["value"]
            if digests == _digests(self.shards):
                return value, [[] for _ in self.tables]
            earlier = [t.shards(v) for t, v in zip(self.tables, versions, strict=True)]
        except (FeatureStoreError, OSError, ValueError, KeyError, TypeError, OverflowError):
            return None  # there is none, or it is of another log: a backup was restored
        since = []
        for before, now in zip(map(set, earlier), self.shards, strict=True):
            if not before <= set(now):
                return None
            since.append([one for one in now if one not in before])
        return (value, since) if digests == _digests(earlier) else None

    def write(self, value: object) -> None:
        """Keep what was counted in these versions."""
        with suppress(OSError):  # a read-only store: it is counted each time
            self.path.parent.mkdir(exist_ok=True)
            kept = {"versions": list(self.versions), "shards": _digests(self.shards)}
            write_sealed(self.path, {**kept, "value": value})
            if self.erased_since():  # it may name what is gone: a class, a group
                self.path.unlink(missing_ok=True)


def _digests(shards: Sequence[Sequence[Shard]]) -> list[str]:
    return [digest_of(of_table) for of_table in shards]
