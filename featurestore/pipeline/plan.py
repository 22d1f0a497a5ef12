"""The listing against the store: what each view still needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.storage.columns import is_equal, row_keys, text_hash
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.tables import FAILURES, ITEMS, Table


@dataclass(frozen=True, eq=False)
class ViewState:
    """A view that a run brings up to date."""

    table: Table | None  # None where the view does not exist yet
    fingerprint: str


@dataclass(frozen=True, eq=False)
class EmbedPlan:
    """What has to be done so that each listed item has a vector in each view."""

    rows: pa.Table  # the listing, with its source
    items_version: int  # of the items table that it was compared with
    content_hash: pa.Array  # what is known of each row without reading it; null otherwise
    is_new: NDArray[np.bool_]  # (n_rows,), no such item in the store
    stale: NDArray[np.bool_]  # (n_rows,), the items table lacks this row, or has other metadata
    todo: NDArray[np.bool_]  # (n_views, n_rows)
    mine: NDArray[np.bool_]  # (n_rows,), of the part that this process is about
    n_known_failures: tuple[int, ...]  # of each view
    failed_before: frozenset[str]  # item ids with a failure on record


def plan_embedding(
    folder: DatasetFolder,
    rows: pa.Table,
    targets: Sequence[ViewState],
    *,
    overwrite: bool = False,
    retry_failed: bool = False,
    rehash: bool = False,
    part: tuple[int, int] | None = None,
) -> EmbedPlan:
    """Compare a listing with the store.

    Parameters
    ----------
    folder : DatasetFolder
        It may not exist yet.
    rows : pyarrow.Table
        Listed items, with a ``source`` column.
    targets : sequence of ViewState
    overwrite : bool
        Everything is to do.
    retry_failed : bool
        What failed before is to do.
    rehash : bool
        Size and time of a file say nothing: all images are read, and embedded where their
        bytes have changed.
    part : (int, int), optional
        ``(i, n)``: only the i-th of n parts of the items, drawn by their ids.
    """
    # The version first: what others commit from now on is not taken for known.
    version = folder.items.version() if folder.exists else 0
    items = folder.items.read(version=version) if folder.exists else ITEMS.empty_table()
    place = pc.index_in(rows.column("item_id"), value_set=items.column("item_id"))
    is_new = np.asarray(pc.is_null(place))
    is_text = rows.column("text").null_count < len(rows)
    if is_text:
        texts = rows.column("text").to_pylist()
        content_hash = pa.array([None if t is None else text_hash(t) for t in texts], pa.string())
        same_content = np.ones(len(rows), bool)  # the hash tells
    else:
        same_content = is_equal(rows, items, place, "size") & is_equal(
            rows, items, place, "mtime_ns"
        )
        stored = items.column("content_hash").take(place).combine_chunks()
        content_hash = pc.if_else(pa.array(same_content), stored, pa.nulls(len(rows), pa.string()))
    compared = [name for name in rows.column_names if name not in ("size", "mtime_ns")]
    same = np.logical_and.reduce([is_equal(rows, items, place, name) for name in compared])
    keys = row_keys([rows.column("item_id"), content_hash])
    failures = folder.failures.read() if folder.exists else FAILURES.empty_table()
    mine = np.ones(len(rows), bool)
    if part is not None:
        number, n_parts = part
        ids = rows.column("item_id").to_pylist()
        mine = np.array([crc32(one.encode()) % n_parts == number for one in ids], bool)
    todo = np.zeros((len(targets), len(rows)), bool)
    n_known_failures = []
    failed_before: set[str] = set()
    for row, target in zip(todo, targets, strict=True):
        embedded = np.zeros(len(rows), bool)
        if target.table is not None and not overwrite:
            pairs = target.table.read(["item_id", "content_hash"])
            have = row_keys([pairs.column("item_id"), pairs.column("content_hash")])
            embedded = np.asarray(pc.is_in(keys, value_set=have))
        of_encoder = pc.equal(failures.column("fingerprint"), target.fingerprint)
        own = failures.filter(pc.or_(pc.not_equal(failures.column("stage"), "encode"), of_encoder))
        failed_before |= set(own.column("item_id").to_pylist())
        failed = np.zeros(len(rows), bool)
        if not retry_failed and not overwrite:
            bad = row_keys([own.column("item_id"), own.column("content_hash")])
            # An unreadable image is known by its unchanged size and time, not by its content.
            failed = np.asarray(pc.is_in(keys, value_set=bad)) & ~is_new & same_content
        is_due = ~embedded | (rehash and not is_text)
        row[:] = is_due & ~failed & mine
        n_known_failures.append(int((failed & ~embedded & mine).sum()))
    return EmbedPlan(
        rows,
        version,
        content_hash,
        is_new,
        is_new | ~same,
        todo,
        mine,
        tuple(n_known_failures),
        frozenset(failed_before),
    )


def keep_attached(rows: pa.Table, items: pa.Table, attached: Sequence[str]) -> pa.Table:
    """Return the rows with the stored values of columns that were given apart from the source.

    Items that are new have what their source says.
    """
    place = pc.index_in(rows.column("item_id"), value_set=items.column("item_id"))
    for name in attached:
        if name not in items.column_names:
            continue
        stored = items.column(name).take(place)
        at = rows.schema.get_field_index(name)
        if at < 0:
            rows = rows.append_column(name, stored)
        else:
            listed = rows.column(name).cast(stored.type)
            rows = rows.set_column(at, name, pc.if_else(pc.is_null(place), listed, stored))
    return rows
