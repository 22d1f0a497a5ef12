"""What workers made, brought into the tables: items first, one commit a table now and then.

Whoever drives may do it, and several at once: each commit says which parts of the run it brings
in, and whoever comes second reads that and finds nothing left. It does not matter that shards
were joined meanwhile: what counts is what commits said, not which files are there now.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import DuplicateIds, StoreBusy, StoreCorrupt
from featurestore.pipeline.plan import keep_attached
from featurestore.pipeline.sink import drop_decided
from featurestore.storage.columns import drop_equal, row_keys
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.log_files import said_since
from featurestore.storage.lookups import concatenated
from featurestore.storage.run_folder import RunFolder
from featurestore.storage.shards import read_shard, shard_schema
from featurestore.storage.tables import FAILURES, Shard, Staged, Table

COMMIT_S = 30.0
_RUN, _PARTS = "featurestore.run", "featurestore.parts"  # what a commit says of itself
_ITEMS, _FAILURES = "items", "failures"


@dataclass
class _Read:
    """What the commits of a table say, up to a version."""

    version: int
    parts: set[str] = field(default_factory=set)  # of this run, that they brought in
    others: set[str] = field(default_factory=set)  # shards that they added, not of this run


class Committer:
    """Brings the parts of a run that are done into the tables."""

    def __init__(
        self, folder: DatasetFolder, run: RunFolder, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder, self.run, self.now = folder, run, now
        self.manifests: dict[str, dict[str, Any]] = {}  # of the parts that are done
        self._undone = set(run.parts())  # parts that are not, as far as was looked
        self._own: set[str] = set()  # names of their shards
        self._read = {name: _Read(version) for name, version in run.facts["since"].items()}
        self._committed: set[str] = set()  # parts that were brought in, here or by others
        self._next = -math.inf  # no commit is due before

    @property
    def is_whole(self) -> bool:
        """Whether all parts are done, as far as was looked."""
        return not self._undone

    def look(self) -> None:
        """Read the manifests that came since, whoever wrote them."""
        for name in sorted(self.run.done() - self.manifests.keys()):
            self.take(name)

    def take(self, name: str) -> None:
        """Read the manifest of a part that is done."""
        if name in self.manifests:
            return
        try:
            manifest = self.manifests[name] = self.run.manifest(name)
        except StoreCorrupt:
            if self.run.is_open:
                raise
            return  # another driver brought all in, and closed the run
        self._own |= {one for shards in manifest.get("shards", {}).values() for one, *_ in shards}
        self._undone.discard(name)
        self._undone.update(one for one in manifest.get("halves", ()) if one not in self.manifests)

    def is_due(self) -> bool:
        """Whether something is done and the last commit is as old as the interval, or all is."""
        if len(self.manifests) == len(self._committed):
            return False
        if self.is_whole:
            return True
        if self.now() < self._next:  # others may have committed since, not undone a commit
            return False
        self._next = self.now() + COMMIT_S - (idle_s := self.idle_s())
        return idle_s >= COMMIT_S

    def idle_s(self) -> float:
        """Seconds since the last commit of anybody."""
        views = [name for name in self.run.facts["since"] if name not in (_ITEMS, _FAILURES)]
        tables = [self.folder.items, *map(self.folder.view, views)]
        return time.time() - max(one.times(1)[0][1] for one in tables)

    def commit(self) -> None:
        """Bring in what is done: items, then vectors, then failures.

        Raises
        ------
        StoreBusy
            If items were erased since the run was planned.
        DuplicateIds
            If rows of a pipeline have one id.
        """
        self.look()
        with self.folder.locked("dataset"):  # an erasure comes before all of it, or after
            self._check_erasures("nothing more of it is brought in; run embed again")
            if self.run.facts.get("ids_are_unchecked"):
                self._check_ids()
            parts = list(self.manifests)  # what comes while we commit waits: items come first
            self.folder.items.bring(lambda version: self._items(version, parts))
            for slug in self.run.facts["since"]:
                if slug not in (_ITEMS, _FAILURES):
                    self._bring_vectors(slug, parts)
            self.folder.failures.bring(lambda version: self._failures(version, parts))
            self._committed.update(parts)
            # On another machine the lock is not seen.
            self._check_erasures("some were brought in meanwhile: erase these items once more")

    def _check_ids(self) -> None:
        """Refuse rows of somebody's pipeline of which two have one id: nobody looked before."""
        items = self.folder.items
        paths = [one.path for part in self.manifests for one in self._shards(items, _ITEMS, part)]
        schema = pa.schema([("item_id", pa.string())])
        ids = concatenated([read_shard(one, ["item_id"]) for one in paths], schema)
        counts = ids.column("item_id").value_counts()
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
        if twice:
            shown = ", ".join(map(repr, twice[:3]))
            more = f" and {len(twice) - 3:,} more" if len(twice) > 3 else ""
            raise DuplicateIds(
                f"several rows written to {self.folder.name!r} have one id: {shown}{more}; nothing "
                "is brought in: give each row an id of its own, and run the pipeline again"
            )

    def _check_erasures(self, then: str) -> None:
        if self.folder.n_erasures != self.run.facts["n_erasures"]:
            raise StoreBusy(
                f"items were erased since the run {self.run.name} was planned, and its parts may "
                f"hold them: {then}"
            )

    def _left(self, table: Table, name: str, version: int, parts: Sequence[str]) -> list[str]:
        """Return the parts that no commit up to a version has brought into a table."""
        read = self._read[name]
        since = said_since(table.path, read.version, version)
        read.version = max(version, read.version)
        read.others |= since.added - self._own
        for note in since.notes:
            if note.get(_RUN) == self.run.name:
                read.parts.update(note[_PARTS].split(","))
        return [one for one in parts if one not in read.parts]

    def _shards(self, table: Table, name: str, part: str) -> list[Shard]:
        said = self.manifests[part].get("shards", {}).get(name, [])
        return [Shard(table.path / one, n_bytes, n_rows) for one, n_bytes, n_rows in said]

    def _staged(self, shards: Sequence[Shard], parts: Sequence[str]) -> Staged:
        note = {_RUN: self.run.name, _PARTS: ",".join(parts)}
        return Staged(shards, note=note, transaction=f"featurestore-{self.run.name}")

    def _bring_vectors(self, slug: str, parts: Sequence[str]) -> None:
        view = self.folder.view(slug)

        def staged(version: int) -> Staged | None:
            left = self._left(view, slug, version, parts)
            shards = {part: self._shards(view, slug, part) for part in left}
            named = [part for part in left if shards[part]]
            if not named:
                return None
            return self._staged([one for part in named for one in shards[part]], named)

        view.bring(staged)

    def _items(self, version: int, parts: Sequence[str]) -> Staged | None:
        """Return what the items table lacks: shards as they are, where all their ids are new.

        Other rows take the place of those that are there, and keep what was attached to these.
        """
        items = self.folder.items
        left = self._left(items, _ITEMS, version, parts)
        shards = {part: self._shards(items, _ITEMS, part) for part in left}
        named = [part for part in left if shards[part]]
        if not named:
            return None
        came = self._ids_of_others()
        schema = items.schema(version)
        whole = [
            part
            for part in named
            if self.manifests[part]["all_new"]
            and all(_fits(one, schema) and not _has_any(one, came) for one in shards[part])
        ]
        as_they_are = [one for part in whole for one in shards[part]]
        if not (others := [one for part in named if part not in whole for one in shards[part]]):
            return self._staged(as_they_are, named)
        rows = _joined([read_shard(one.path) for one in others])
        ids = rows.column("item_id")
        if attached := [one for one in self.folder.read().attached if one in schema.names]:
            known = items.read(["item_id", *attached], version, ids=ids)
            rows = keep_attached(rows, known, attached)
        drop = drop_equal({"item_id": ids}, ["item_id"])
        return replace(self._staged(as_they_are, named), rows=rows, drop=drop, keys=["item_id"])

    def _ids_of_others(self) -> pa.Array:
        """Return the ids that other writers added since the run was planned."""
        paths = [self.folder.items.path / name for name in self._read[_ITEMS].others - self._own]
        parts = [read_shard(path, ["item_id"]) for path in paths if path.is_file()]
        schema = pa.schema([("item_id", pa.string())])
        return concatenated(parts, schema).column("item_id").combine_chunks()

    def _failures(self, version: int, parts: Sequence[str]) -> Staged | None:
        failures = self.folder.failures
        left = self._left(failures, _FAILURES, version, parts)
        named = [
            one for one in left if "failures" in self.manifests[one] and one not in self._committed
        ]
        if not named:
            return None
        folder = self.run.path / "failures"
        told = pa.concat_tables(
            [read_shard(folder / self.manifests[one]["failures"]) for one in named]
        )
        rows = told.filter(pc.not_equal(told.column("stage"), "")).cast(FAILURES)
        decided = row_keys([told.column("item_id"), told.column("fingerprint")])
        keys = ["item_id", "fingerprint"]
        return replace(self._staged([], named), rows=rows, drop=drop_decided(decided), keys=keys)


def _joined(parts: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(parts, promote_options="permissive")


def _fits(shard: Shard, schema: pa.Schema) -> bool:
    """Whether the columns of a shard are those of its table, or some of them."""
    own = shard_schema(shard.path)
    return all(one.name in schema.names and schema.field(one.name).type == one.type for one in own)


def _has_any(shard: Shard, ids: pa.Array) -> bool:
    if not len(ids):
        return False
    own = read_shard(shard.path, ["item_id"]).column("item_id")
    return bool(np.asarray(pc.is_in(own, value_set=ids)).any())
