"""Vectors to the table of one view."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.pipeline.todo import Outcome
from featurestore.storage.columns import drop_equal, item_keys
from featurestore.storage.remote import StorePath
from featurestore.storage.shards import each_shard, vectors_of
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
    failed_content: dict[str, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.old_shards = self.table.shards()

    @cached_property
    def known(self) -> set[str]:
        """Content that has a vector in this view; grows as the run goes."""
        if self.overwrite:
            return set()
        return set(self.table.read(["content_hash"]).column("content_hash").to_pylist())

    @cached_property
    def pairs(self) -> set[str]:
        """Keys of (item id, content hash) that the view holds."""
        if self.overwrite:
            return set()
        rows = self.table.read(["item_id", "content_hash"])
        keys = item_keys(rows)
        return set(keys.to_pylist())

    def vectors_by_content(self, wanted: set[str]) -> dict[str, NDArray[np.float32]]:
        """Look up the vectors of some contents: content hash → (dim,) float32."""
        by_content: dict[str, NDArray[np.float32]] = {}
        value_set = pa.array(sorted(wanted), pa.string())
        shards = self.table.shards()
        if self.overwrite:  # vectors that are being replaced are not copied
            shards = [one for one in shards if one not in self.old_shards]
        shards.sort(key=lambda one: one not in self.old_shards)  # the newest last: it counts
        holding = [
            shard
            for shard, part in zip(
                shards, each_shard(_paths(shards), ["content_hash"]), strict=True
            )
            if pc.any(pc.is_in(part.column("content_hash"), value_set=value_set)).as_py()
        ]
        for part in each_shard(_paths(holding), ["content_hash", "vector"]):
            chosen = part.filter(pc.is_in(part.column("content_hash"), value_set=value_set))
            vectors = vectors_of(chosen.column("vector"), self.resolved.dim)
            by_content.update(zip(chosen.column("content_hash").to_pylist(), vectors, strict=True))
        return by_content

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
