"""The listing against the store: what each view still needs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.pipeline.kept_listings import KeptListing
from featurestore.pipeline.listed import Part
from featurestore.pipeline.run_input import RunInput
from featurestore.storage.columns import converted, is_equal, item_keys, row_keys, text_hash, wider
from featurestore.storage.tables import FAILURES
from featurestore.terms.boxes import BOX_MARK
from featurestore.terms.specs import Modality

_PAIR = ["item_id", "content_hash"]


@dataclass(frozen=True, eq=False)
class EmbedPlan:
    """What has to be done so that each listed item has a vector in each view."""

    rows: pa.Table  # the listing, with its source
    items_version: int  # of the items table that it was compared with
    content_hash: pa.Array  # (n_rows,) str; null where it is not known without reading
    is_new: NDArray[np.bool_]  # (n_rows,), no such item in the store
    is_stale: NDArray[np.bool_]  # (n_rows,), the items table lacks this row, or has other metadata
    wanted: NDArray[np.bool_]  # (n_views, n_rows), what each view is to hold in the end
    todo: NDArray[np.bool_]  # (n_views, n_rows)
    in_part: NDArray[np.bool_]  # (n_rows,), of the part that this process embeds
    n_known_failures: tuple[int, ...]  # of each view
    failed_before: frozenset[str]  # item ids with a failure on record
    is_text: bool
    pairs: tuple[frozenset[str], ...]  # of each view: keys of (id, content) of items due again


class Tally:
    """What the plans of a run's parts come to, for each view."""

    def __init__(self, n_views: int) -> None:
        self.n_items = 0
        self.n_updated = 0  # items whose labels or metadata alone changed
        self.n_wanted = [0] * n_views
        self.n_todo = [0] * n_views
        self.n_known_failures = [0] * n_views

    def add(self, plan: EmbedPlan, part: Part) -> None:
        """Count a part."""
        self.n_items += len(plan.rows) + part.n_done
        for i, is_todo in enumerate(plan.todo):
            self.n_wanted[i] += int(plan.wanted[i].sum()) + part.n_done
            self.n_todo[i] += int(is_todo.sum())
            self.n_known_failures[i] += plan.n_known_failures[i]

    def add_unchanged(self, kept: Sequence[KeptListing]) -> None:
        """Count a source that was not listed, since it is as it was; ``kept`` is for each view."""
        self.n_items += kept[0].n_items
        for i, of_view in enumerate(kept):
            self.n_wanted[i] += of_view.n_items
            self.n_known_failures[i] += of_view.n_known_failures


def plan_embedding(given: RunInput, existing: Collection[str], part: Part) -> EmbedPlan:
    """Compare a part of a listing with the store; the data set may not exist yet.

    Parameters
    ----------
    given : RunInput
        Of its options, ``overwrite`` makes everything due, ``retry_failed`` what failed before,
        ``rehash`` all images, since the size and time of a file then say nothing.
    existing : collection of str
        Slugs of the views that are there.
    """
    folder, rows, options = given.folder, part.rows, given.options
    compared = _compare(rows, part.items, is_text=given.modality is Modality.TEXT)
    ids = rows.column("item_id")
    if not part.is_all:  # one of many: of new items, their content tells whether a vector is there
        ids = ids.filter(pa.array(~compared.is_new))
    of_part = rows.column("item_id")
    failures = folder.failures.read(ids=of_part) if folder.exists else FAILURES.empty_table()
    is_in_part = in_part(rows, options.part)
    is_tapped = is_in_part & _labelled(rows, given.labels)
    wanted = np.array([is_in_part if one.tap is None else is_tapped for one in given.resolved])
    todo = np.zeros((len(given.resolved), len(rows)), bool)
    n_known_failures, pairs = [], []
    failed_before: set[str] = set()
    for is_todo, is_wanted, resolved in zip(todo, wanted, given.resolved, strict=True):
        embedded, held = np.zeros(len(rows), bool), None
        if resolved.slug in existing and not options.overwrite:
            held = folder.view(resolved.slug).read(_PAIR, ids=ids)
            embedded = _is_among(compared.keys, held)
        of_encoder = pc.equal(failures.column("fingerprint"), resolved.fingerprint)
        own = failures.filter(pc.or_(pc.not_equal(failures.column("stage"), "encode"), of_encoder))
        failed_before |= set(own.column("item_id").to_pylist())
        failed = np.zeros(len(rows), bool)
        if not options.retry_failed and not options.overwrite:
            # An unreadable image is known by its unchanged size and time, not by its content.
            failed = _is_among(compared.keys, own) & ~compared.is_new & compared.same_content
        is_due = ~embedded | (options.rehash and not compared.is_text)
        is_todo[:] = is_due & ~failed & is_wanted
        n_known_failures.append(int((failed & ~embedded & is_wanted).sum()))
        if held is None or compared.is_text:  # of a text it is known that its vector is lacking
            pairs.append(frozenset[str]())
        else:
            due = rows.column("item_id").filter(pa.array(is_todo))
            pairs.append(frozenset(item_keys(held.filter(_in(held, due))).to_pylist()))
    return EmbedPlan(
        rows,
        part.version,
        compared.content_hash,
        compared.is_new,
        compared.is_stale,
        wanted,
        todo,
        is_in_part,
        tuple(n_known_failures),
        frozenset(failed_before),
        compared.is_text,
        tuple(pairs),
    )


@dataclass(frozen=True, eq=False)
class _Compared:
    """A listing beside the items table, row for row; see `EmbedPlan`."""

    is_text: bool
    content_hash: pa.Array  # (n_rows,) str
    keys: pa.Array  # (n_rows,) str, of item id and content hash
    is_new: NDArray[np.bool_]  # (n_rows,)
    is_stale: NDArray[np.bool_]  # (n_rows,)
    same_content: NDArray[np.bool_]  # (n_rows,), as far as can be told without reading


def _compare(rows: pa.Table, items: pa.Table, *, is_text: bool) -> _Compared:
    positions = pc.index_in(rows.column("item_id"), value_set=items.column("item_id"))
    is_new = np.asarray(pc.is_null(positions))
    if is_text:
        texts = rows.column("text").to_pylist()
        content_hash = pa.array([None if t is None else text_hash(t) for t in texts], pa.string())
        same_content = np.ones(len(rows), bool)  # the hash tells
    else:
        same_content = np.logical_and.reduce(
            [is_equal(rows, items, positions, name) for name in ("size", "mtime_ns")]
        )
        # A box is other content where its margin is another, whatever the file says of itself.
        is_box = np.asarray(pc.fill_null(pc.match_substring(rows.column("uri"), BOX_MARK), False))
        same_content &= ~is_box | is_equal(rows, items, positions, "uri")
        stored = items.column("content_hash").take(positions).combine_chunks()
        content_hash = pc.if_else(pa.array(same_content), stored, pa.nulls(len(rows), pa.string()))
    names = [name for name in rows.column_names if name not in ("size", "mtime_ns")]
    same = np.logical_and.reduce([is_equal(rows, items, positions, name) for name in names])
    keys = row_keys([rows.column("item_id"), content_hash])
    return _Compared(is_text, content_hash, keys, is_new, is_new | ~same, same_content)


def _is_among(keys: pa.Array, pairs: pa.Table) -> NDArray[np.bool_]:
    """Mark the keys of (item id, content hash) that stand in a table; (n_rows,) bool."""
    known = item_keys(pairs)
    return np.asarray(pc.is_in(keys, value_set=known))


def _in(rows: pa.Table, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.is_in(rows.column("item_id"), value_set=ids)


def in_part(rows: pa.Table, part: tuple[int, int] | None) -> NDArray[np.bool_]:
    """Mark the rows of the i-th of n parts, drawn by item id; (n_rows,) bool."""
    if part is None:
        return np.ones(len(rows), bool)
    number, n_parts = part
    ids = rows.column("item_id").to_pylist()
    return np.array([crc32(one.encode()) % n_parts == number for one in ids], bool)


def _labelled(rows: pa.Table, columns: Sequence[str]) -> NDArray[np.bool_]:
    """Mark the rows that have a value in one of the columns, (n_rows,) bool; without any, all."""
    if not columns:
        return np.ones(len(rows), bool)
    has_one = np.zeros(len(rows), bool)
    for name in columns:
        if name in rows.column_names:
            has_one |= np.asarray(pc.is_valid(rows.column(name)))
    return has_one


def keep_attached(rows: pa.Table, items: pa.Table, attached: Sequence[str]) -> pa.Table:
    """Return the rows with the stored values of columns that were given apart from the source.

    Items that are new have what their source says.
    """
    positions = pc.index_in(rows.column("item_id"), value_set=items.column("item_id"))
    for name in attached:
        if name not in items.column_names:
            continue
        stored = items.column(name).take(positions)
        number = rows.schema.get_field_index(name)
        if number < 0:
            rows = rows.append_column(name, stored)
        else:
            listed = rows.column(name)
            kind = wider(stored.type, listed.type) or stored.type
            listed, stored = converted(listed, kind), converted(stored, kind)
            rows = rows.set_column(number, name, pc.if_else(pc.is_null(positions), listed, stored))
    return rows
