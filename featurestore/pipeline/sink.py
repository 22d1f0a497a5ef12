"""Where the rows of a run go: into the tables at once, or wherever else `Sink` says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.pipeline.plan import EmbedPlan, keep_attached
from featurestore.storage.columns import drop_equal, row_keys
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.tables import Table


class Sink(Protocol):
    """What a writer hands its rows to."""

    def view(self, slug: str) -> Table:
        """Return the table that takes the vectors of a view."""

    def put_items(self, rows: pa.Table, *, all_new: bool) -> pa.ChunkedArray | None:
        """Take item rows; ``all_new``: none of their ids is known to be there.

        Returned are ids that came from other writers meanwhile, if any.
        """

    def put_failures(self, rows: pa.Table, decided: pa.Array) -> None:
        """Take failures; ``decided`` holds the keys (item_id, fingerprint) that they settle."""


class TableSink:
    """The tables themselves: each call is a commit.

    Parameters
    ----------
    folder : DatasetFolder
    version : int
        Of the items table that the run was planned with.
    """

    def __init__(self, folder: DatasetFolder, version: int) -> None:
        self._folder, self._version = folder, version

    def view(self, slug: str) -> Table:
        """Return the table of a view."""
        return self._folder.view(slug)

    def put_items(self, rows: pa.Table, *, all_new: bool) -> pa.ChunkedArray | None:
        """Commit item rows, in place of those with the same ids."""
        before, expected = self._version, self._version + 1
        unseen_at = before if all_new else None
        self._version = put_items(self._folder, rows, unseen_at=unseen_at)
        if self._version == expected:
            return None
        items = self._folder.items  # another writer was here
        return items.read(["item_id"], self._version, since=before).column("item_id")

    def put_failures(self, rows: pa.Table, decided: pa.Array) -> None:
        """Commit failures, in place of what is decided."""
        keys = ["item_id", "fingerprint"]
        self._folder.failures.merge(rows, drop=drop_decided(decided), keys=keys)


def drop_decided(decided: pa.Array) -> Callable[[pa.Table], NDArray[np.bool_]]:
    """Return a ``drop`` for the failures table that marks those of some keys."""

    def drop(part: pa.Table) -> NDArray[np.bool_]:
        keys = row_keys([part.column("item_id"), part.column("fingerprint")])
        return np.asarray(pc.is_in(keys, value_set=decided))

    return drop


def put_items(folder: DatasetFolder, rows: pa.Table, *, unseen_at: int | None = None) -> int:
    """Commit item rows, in place of those with the same ids; return the version.

    Columns that were attached keep what the store has by now, not what it had when the rows
    were planned. ``unseen_at`` says that none of the ids stood in that version: then only what
    came since is looked at.
    """

    def over(version: int) -> pa.Table:
        if version == unseen_at or not (attached := folder.read().attached):
            return rows
        there = folder.items.schema(version).names  # a column that is just being attached is not
        attached = tuple(name for name in attached if name in there)
        ids = rows.column("item_id")
        known = folder.items.read(["item_id", *attached], version, since=unseen_at, ids=ids)
        return keep_attached(rows, known, attached)

    with folder.locked("dataset"):
        return replace_items(folder, rows.column("item_id"), over, unseen_at=unseen_at)


def replace_items(
    folder: DatasetFolder,
    ids: pa.ChunkedArray,
    rows: pa.Table | Callable[[int], pa.Table],
    *,
    unseen_at: int | None = None,
) -> int:
    """Replace the rows of items in one commit; the caller holds the lock."""
    drop = drop_equal({"item_id": ids}, ["item_id"])
    return folder.items.merge(rows, drop=drop, keys=["item_id"], unseen_at=unseen_at, widen=True)


def update_metadata(folder: DatasetFolder, plan: EmbedPlan) -> int:
    """Commit changed labels and metadata of items whose content is known unchanged."""
    known = np.asarray(pc.is_valid(plan.content_hash))
    is_wanted = ~plan.is_new | plan.wanted.any(axis=0)  # a new one that no tap wants stays out
    settled = is_wanted & ~plan.todo.any(axis=0)
    due = np.flatnonzero(plan.is_stale & known & plan.in_part & settled)
    if len(due):
        rows = plan.rows.take(pa.array(due))
        put_items(folder, rows.append_column("content_hash", plan.content_hash.take(pa.array(due))))
    return len(due)
