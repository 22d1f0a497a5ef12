"""What a data set has of the items that were listed, and what is gone from their sources."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.storage.columns import fit_to
from featurestore.storage.dataset_file import SourceRecord
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.lookups import all_rows, concatenated, groups_of, marked, rows_with
from featurestore.storage.shards import read_shard
from featurestore.storage.tables import ITEMS, Shard, TableState

FEW_ROWS = 1 << 18  # stored items that are read whole, at once
PLACE = ["item_id", "source", "uri"]


@dataclass(frozen=True)
class Looked:
    """Where was looked for items: a source, or parts of it; these as in `Listing`."""

    name: str  # of the source
    location: str
    covers: tuple[str, ...] | None = None
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class StoredItems:
    """The items that a version has of a listing, and those that it has beside it."""

    version: int
    items: pa.Table  # those that are listed, with all columns; of a small data set, all
    gone: pa.Array  # ids of those that the sources had and no longer list
    stand_ins: pa.Array  # ids of those among them that stood for what could not be read
    is_whole: bool  # all others are listed
    n_rows: int = 0  # that the version has
    shards: Sequence[Shard] = ()  # of the version

    def now(self, folder: DatasetFolder, ids: pa.ChunkedArray) -> tuple[int, pa.Table]:
        """Return the latest version, and what it has of some items, which were looked for here.

        Where others only added rows meanwhile, theirs alone are read.
        """
        state = folder.items.state()
        if state.version == self.version:
            return state.version, self.items
        known = {one.path for one in self.shards}
        came = [one for one in state.shards if one.path not in known]
        if len(came) + len(known) != len(state.shards):
            return state.version, rows_with(state.shards, ids, None, state.schema)
        found = rows_with(came, ids, None, state.schema)
        both = [fit_to(one, state.schema) for one in (self.items, found)]
        return state.version, pa.concat_tables(both)

    @classmethod
    def look(
        cls,
        folder: DatasetFolder,
        rows: pa.Table,
        looked: Sequence[Looked],
        records: Mapping[str, SourceRecord],
    ) -> StoredItems:
        """Look for listed rows among the items, and for items that ``looked`` no longer lists."""
        nothing = pa.nulls(0, pa.string())
        if not folder.exists:
            return cls(0, ITEMS.empty_table(), nothing, nothing, is_whole=True)
        state = folder.items.state()
        if not len(rows) and not looked:
            none = state.schema.empty_table()
            return cls(state.version, none, nothing, nothing, False, state.n_rows, state.shards)
        items: list[pa.Table] = []
        gone: list[pa.Table] = []
        n_beside = 0
        for part, places, is_listed in _parts(state, rows.column("item_id")):
            if part is not None:
                items.append(part)
            beside = places.filter(pa.array(~is_listed))
            n_beside += len(beside)
            gone.append(missing_among(beside, looked))
        found = concatenated(gone, state.schema)
        return cls.beside(state, concatenated(items, state.schema), found, n_beside, records)

    @classmethod
    def beside(
        cls,
        state: TableState,
        items: pa.Table,
        missing: pa.Table,
        n_beside: int,
        records: Mapping[str, SourceRecord],
    ) -> StoredItems:
        """Tell apart what is gone; ``n_beside`` items are not listed, of them ``missing``."""
        stood_in = pa.array(_stands_in(missing, records))
        ids = missing.column("item_id").combine_chunks()
        gone, stand_ins = ids.filter(pc.invert(stood_in)), ids.filter(stood_in)
        is_whole = n_beside == len(missing)
        return cls(state.version, items, gone, stand_ins, is_whole, state.n_rows, state.shards)


def _parts(
    state: TableState, ids: pa.ChunkedArray
) -> Iterator[tuple[pa.Table | None, pa.Table, NDArray[np.bool_]]]:
    """Yield some items, those that are listed (of small tables all), and the places of all.

    The third value says which of these places are listed.
    """
    if state.n_rows <= FEW_ROWS:
        rows = all_rows(state.shards, None, state.schema)
        yield rows, rows.select(PLACE), np.asarray(pc.is_in(rows["item_id"], value_set=ids))
        return
    for group in groups_of(state.shards, len(ids)):
        for shard, places, is_listed in marked(group, ids, PLACE):
            rows = None
            if is_listed.any():
                rows = fit_to(read_shard(shard.path).filter(pa.array(is_listed)), state.schema)
            yield rows, places, is_listed


def missing_among(items: pa.Table, looked: Sequence[Looked]) -> pa.Table:
    """Return the items, none of them listed, that lie where we looked."""
    missing = np.zeros(len(items), bool)
    unread = np.zeros(len(items), bool)
    for one in looked if len(items) else ():
        own = np.asarray(pc.equal(items.column("source"), one.name))
        missing |= own if one.covers is None else own & _begins(items, one.covers)
        if one.unread:  # nobody can say what is there
            unread |= own & _begins(items, one.unread)
    return items.filter(pa.array(missing & ~unread))


def _stands_in(items: pa.Table, records: Mapping[str, SourceRecord]) -> NDArray[np.bool_]:
    """Mark items that stand for a folder or shard that could not be read; (n_items,) bool."""
    ids = items.column("item_id")
    stands = np.zeros(len(items), bool)
    for kind, ending in (("folder", "/"), ("webdataset", "/damaged")):
        names = [name for name, record in records.items() if record.kind == kind]
        own = np.asarray(pc.is_in(items.column("source"), value_set=pa.array(names, pa.string())))
        stands |= own & np.asarray(pc.ends_with(ids, ending))
    return stands


def _begins(items: pa.Table, prefixes: Sequence[str]) -> NDArray[np.bool_]:
    """Mark items whose id or uri begins with one of ``prefixes``; (n_items,) bool."""
    pattern = f"^(?:{'|'.join(map(re.escape, prefixes))})"
    is_below = np.zeros(len(items), bool)
    for name in ("item_id", "uri"):
        begins = pc.match_substring_regex(items.column(name), pattern)
        is_below |= np.asarray(pc.fill_null(begins, False))
    return is_below
