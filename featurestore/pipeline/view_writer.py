"""Vectors to the table of one view."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.pipeline.contents import Contents, ContentsOfPart, keys_of
from featurestore.pipeline.plan import EmbedPlan
from featurestore.pipeline.todo import Outcome
from featurestore.sources.reading import Reader
from featurestore.storage.columns import drop_equal
from featurestore.storage.remote import StorePath
from featurestore.storage.shards import (
    ACTIVATIONS,
    VECTOR,
    each_group,
    each_shard,
    read_shard,
    vectors_of,
    view_rows,
)
from featurestore.storage.tables import Shard, Table
from featurestore.storage.tap_shards import tap_rows
from featurestore.terms.activations import HALF
from featurestore.terms.specs import ResolvedEncoder


@dataclass(eq=False)
class ViewWriter:
    """One view of a run: what it held before, and what became of its items."""

    table: Table
    resolved: ResolvedEncoder
    overwrite: bool
    n_encoded: int = 0
    n_copied: int = 0
    n_same: int = 0  # touched, but of equal content
    n_failed: int = 0
    remarks: Counter[str] = field(default_factory=Counter)  # how many items each is about
    first_failures: list[str] = field(default_factory=list)
    first: list[tuple[str, str]] = field(default_factory=list)  # source and uri, of some encoded
    pending: list[Outcome] = field(default_factory=list)
    copies: list[Outcome] = field(default_factory=list)  # of content encoded, or soon
    waiting: list[Outcome] = field(default_factory=list)  # those not of the batch of their original
    failed_content: dict[str, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.old_shards = self.table.shards()
        self.known: Contents | ContentsOfPart = Contents()
        self.pairs: frozenset[str] = frozenset()
        self._has_begun = False
        # Content that has a vector in this view; grows as the run goes. Of a large view it is
        # read when a second part begins: the first one is often all that there is to do.
        self._contents: Contents | None = None if self.old_shards else Contents()

    @property
    def contents(self) -> Contents:
        """Content that has a vector in this view; grows as the run goes."""
        if self._contents is None:
            self._contents = Contents()
            for part in each_shard(_paths(self._shards()), ["content_hash"]):
                self._contents.update(part.column("content_hash"))
        return self._contents

    def _contents_among(self, hashes: pa.ChunkedArray) -> Contents:
        """Return those of some contents that have a vector in this view, and maybe a few more."""
        asked, found = Contents(), Contents()
        asked.update(hashes)
        for part in each_shard(_paths(self._shards()), ["content_hash"]):
            of_part = part.column("content_hash")
            if (is_asked := asked.marks(of_part)).any():
                found.update(of_part.filter(pa.array(is_asked)))
        return found

    def _shards(self) -> list[Shard]:
        """Return those of this run, and the older ones, unless their vectors are being replaced."""
        new = [one for one in self.table.shards() if one not in self.old_shards]
        return new if self.overwrite else [*new, *self.old_shards]

    def reset(self) -> None:
        """Count from zero again, for a part that is told of by itself."""
        self.n_encoded = self.n_copied = self.n_same = self.n_failed = 0
        self.remarks, self.first_failures = Counter(), []
        self.pending, self.copies, self.waiting = [], [], []

    def begin(self, plan: EmbedPlan, number: int) -> None:
        """Begin with the items of a plan, in which this view has a number."""
        self.pairs = plan.pairs[number]
        if not plan.is_text:
            self.known = self.contents
            return
        due = plan.content_hash.filter(pa.array(plan.todo[number])).drop_null()
        hashes = pa.chunked_array([due])
        is_only = self._contents is None and not self._has_begun
        known = self._contents_among(hashes) if is_only else self.contents
        self.known, self._has_begun = ContentsOfPart(known, hashes), True

    def some_contents(self, readers: Mapping[str, Reader]) -> list[bytes]:
        """Return the bytes of the first images that were encoded and are still there."""
        contents = []
        for source, uri in self.first:
            try:
                contents.append(readers[source](uri))
            except OSError:
                continue  # it has its vector, and has been removed since
        return contents

    def remember(self, hashes: pa.Array) -> None:
        """Take in contents that have just been committed, unless they are in already."""
        if self._contents is not None and self.known is not self._contents:
            self._contents.update(pa.chunked_array([hashes]))

    def append(self, ids: pa.Array, outcomes: Sequence[Outcome]) -> None:
        """Commit the vectors (of a tap: activations) of items, shape (n,)."""
        hashes = pa.array([one.content_hash for one in outcomes], pa.string())
        made = [one.vector for one in outcomes if one.vector is not None]
        if self.resolved.tap is None:
            self.table.append(view_rows(ids, hashes, np.stack(made)))
        else:
            self.table.append(tap_rows(ids, hashes, made))
        self.remember(hashes)

    def vectors_by_content(
        self, wanted: Set[str]
    ) -> Iterator[dict[str, NDArray[np.floating[Any]]]]:
        """Look up the vectors of some contents, part by part: content hash → (dim,) float32.

        Of a tap, its activations. What two shards have comes from the one that is looked at
        first, one of this run.
        """
        left = set(wanted)
        keys = np.sort(keys_of(pa.chunked_array([pa.array(wanted, pa.string())])))
        for shard in self._shards():
            if not left:
                return
            own = keys_of(read_shard(shard.path, ["content_hash"]).column("content_hash"))
            if not np.isin(own, keys, kind="sort").any():
                continue
            for part in self._parts(shard.path):
                hashes = part.column("content_hash")
                rows = part.filter(pa.array(np.isin(keys_of(hashes), keys, kind="sort")))
                vectors = self._vectors(rows)
                named = zip(rows.column("content_hash").to_pylist(), vectors, strict=True)
                found = {one: row for one, row in named if one in left}
                left -= found.keys()
                yield found

    def _parts(self, path: StorePath) -> Iterator[pa.Table]:
        """Yield the rows of a shard; of a tap, which may be large, group by group."""
        if self.resolved.tap is not None:
            return each_group(path)
        return iter([read_shard(path, ["content_hash", VECTOR])])

    def _vectors(self, rows: pa.Table) -> Iterable[NDArray[np.floating[Any]]]:
        if self.resolved.tap is None:
            return vectors_of(rows.column(VECTOR), self.resolved.dim)
        return [np.frombuffer(one, HALF) for one in rows.column(ACTIVATIONS).to_pylist()]

    def drop_superseded(self) -> None:
        """Drop the old rows of items that this run embedded again."""
        new = [one for one in self.table.shards() if one not in self.old_shards]
        ids = [
            part.column("item_id").combine_chunks() for part in each_shard(_paths(new), ["item_id"])
        ]
        if ids:
            drop = drop_equal({"item_id": pa.concat_arrays(ids)}, ["item_id"])
            self.table.merge(None, drop=drop, keys=["item_id"], only=self.old_shards)


def _paths(shards: Sequence[Shard]) -> list[StorePath]:
    return [shard.path for shard in shards]
