"""Vectors to the table of one view."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.pipeline.contents import Contents, ContentsOfPart, keys_of
from featurestore.pipeline.plan import EmbedPlan
from featurestore.pipeline.todo import Outcome
from featurestore.storage.columns import drop_equal
from featurestore.storage.remote import StorePath
from featurestore.storage.shards import each_shard, read_shard, vectors_of
from featurestore.storage.tables import Shard, Table
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
    first_rows: list[int] = field(default_factory=list)  # the first that were encoded
    pending: list[Outcome] = field(default_factory=list)
    copies: list[Outcome] = field(default_factory=list)  # of content encoded, or soon
    waiting: list[Outcome] = field(default_factory=list)  # those not of the batch of their original
    failed_content: dict[str, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.old_shards = self.table.shards()
        self.known: Contents | ContentsOfPart = Contents()
        self.pairs: frozenset[str] = frozenset()

    @cached_property
    def contents(self) -> Contents:
        """Content that has a vector in this view; grows as the run goes."""
        found = Contents()
        if not self.overwrite:
            for part in each_shard(_paths(self.old_shards), ["content_hash"]):
                found.update(part.column("content_hash"))
        return found

    def begin(self, plan: EmbedPlan, number: int) -> None:
        """Begin with the items of a plan, in which this view has a number."""
        self.pairs = plan.pairs[number]
        if not plan.is_text:
            self.known = self.contents
            return
        hashes = plan.content_hash.filter(pa.array(plan.todo[number])).drop_null()
        self.known = ContentsOfPart(self.contents, pa.chunked_array([hashes]))

    def remember(self, hashes: pa.Array) -> None:
        """Take in contents that have just been committed, unless they are in already."""
        if self.known is not self.contents:
            self.contents.update(pa.chunked_array([hashes]))

    def vectors_by_content(self, wanted: Set[str]) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Look up the vectors of some contents, shard by shard: content hash → (dim,) float32.

        What two shards have comes from the one that is looked at first, one of this run.
        """
        left = set(wanted)
        keys = np.sort(keys_of(pa.chunked_array([pa.array(wanted, pa.string())])))
        shards = [one for one in self.table.shards() if one not in self.old_shards]
        if not self.overwrite:  # vectors that are being replaced are not copied
            shards += self.old_shards
        for shard in shards:
            if not left:
                return
            own = keys_of(read_shard(shard.path, ["content_hash"]).column("content_hash"))
            is_wanted = np.isin(own, keys, kind="sort")
            if not is_wanted.any():
                continue
            rows = read_shard(shard.path, ["content_hash", "vector"]).filter(pa.array(is_wanted))
            vectors = vectors_of(rows.column("vector"), self.resolved.dim)
            hashes = rows.column("content_hash").to_pylist()
            found = {one: row for one, row in zip(hashes, vectors, strict=True) if one in left}
            left -= found.keys()
            yield found

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
