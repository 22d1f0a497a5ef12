"""Items that are listed on the disk: those that lack nothing fall out, the others come in parts.

Their order stays that of the sources, so that a part reads files, shards and row groups that lie
together; what is compared in buckets of ids are numbers (`row_join`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.pipeline.counted import Counted
from featurestore.pipeline.gathered import Gathered
from featurestore.pipeline.listed import Part
from featurestore.pipeline.plan import in_part, keep_attached
from featurestore.pipeline.row_join import NEW, SAME, SOMEWHERE, Joined, RowJoin
from featurestore.pipeline.run_input import RunInput
from featurestore.pipeline.stored import PLACE, Looked, StoredItems, missing_among
from featurestore.storage.columns import fit_to
from featurestore.storage.dataset_file import SourceRecord
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.lookups import concatenated
from featurestore.storage.shards import each_shard, read_shard
from featurestore.storage.tables import ITEMS, TableState
from featurestore.terms.specs import Modality

PART_ROWS = 1 << 17
_PAIR = ["item_id", "content_hash"]


class LargeListing:
    """Listed items, compared with what the data set has.

    Parameters
    ----------
    folder : DatasetFolder
    gathered : Gathered
        On the disk.
    schema : Schema
        Of its rows.
    modality : Modality
    attached : sequence of str
        Columns that keep what the store has.
    known_only : bool
        Leave out items that the data set lacks.
    """

    def __init__(
        self,
        folder: DatasetFolder,
        gathered: Gathered,
        schema: pa.Schema,
        modality: Modality,
        attached: Sequence[str],
        *,
        known_only: bool = False,
    ) -> None:
        self._folder, self._gathered, self._schema = folder, gathered, schema
        self._is_text, self._attached = modality is Modality.TEXT, attached
        self._known_only = known_only
        self._compare()

    def _compare(self) -> None:
        """Compare the listing with the latest version."""
        left_out = {*self._attached, *(("size", "mtime_ns") if self._is_text else ())}
        names = [name for name in self._schema.names if name not in left_out]
        self._state = (
            self._folder.items.state()
            if self._folder.exists
            else TableState(0, pa.schema(ITEMS), [])
        )
        n_rows = max(self._gathered.n_rows, self._state.n_rows)
        self._join = RowJoin(self._folder.path, names, self._gathered.sources, n_rows)
        for rows in self._chunks():
            self._join.add_listed(rows)
        there = [name for name in names if name in self._state.schema.names]
        columns = list(dict.fromkeys([*there, *_PAIR, "source"]))
        kinds = {field.name: field for field in self._schema}
        schema = pa.schema([kinds.get(name, self._state.schema.field(name)) for name in columns])
        n_of_shards = []
        for rows in each_shard([one.path for one in self._state.shards], columns):
            self._join.add_stored(fit_to(rows, schema))
            n_of_shards.append(len(rows))
        self._starts = [0, *accumulate(n_of_shards)]
        self._joined: Joined = self._join.join()

    def _chunks(self) -> Iterator[pa.Table]:
        return self._gathered.tables(self._schema)

    @property
    def n_rows(self) -> int:
        """How many there are."""
        return self._gathered.n_rows - (self.n_new if self._known_only else 0)

    @property
    def n_new(self) -> int:
        """How many the data set lacks; a few more where numbers of ids are equal."""
        return int((self._joined.state == NEW).sum())

    def beside(self, looked: Sequence[Looked], records: Mapping[str, SourceRecord]) -> StoredItems:
        """Return what the data set has beside these items."""
        is_beside = ~self._joined.is_listed
        missing = [ITEMS.empty_table().select(PLACE)]
        if is_beside.any():
            paths = [one.path for one in self._state.shards]
            for start, places in zip(self._starts, each_shard(paths, PLACE), strict=False):
                some = is_beside[start : start + len(places)]
                missing.append(missing_among(places.filter(pa.array(some)), looked))
        rows = pa.concat_tables([fit_to(one, missing[0].schema) for one in missing])
        nothing = self._state.schema.empty_table()
        n_beside = int(is_beside.sum())
        return StoredItems.beside(self._state, nothing, rows, n_beside, records)

    def doubtful(self) -> tuple[pa.Table, pa.Table]:
        """Return listed rows whose id perhaps stands twice, and perhaps in another source.

        Two ids may have one number: whoever gets these compares them themselves.
        """
        joined = self._joined
        return self._rows_at(joined.perhaps_twice), self._rows_at(joined.perhaps_elsewhere)

    def _rows_at(self, places: NDArray[np.int64]) -> pa.Table:
        found = [self._schema.empty_table()]
        start = 0
        for rows in self._chunks() if len(places) else ():
            own = places[(places >= start) & (places < start + len(rows))] - start
            found.append(rows.take(pa.array(own)))
            start += len(rows)
        return pa.concat_tables(found)

    def items_of(self, ids: pa.ChunkedArray) -> pa.Table:
        """Return what the version that was compared has of some items."""
        if not self._folder.exists or not len(ids):
            return self._state.schema.empty_table()
        return self._folder.items.read(version=self._state.version, ids=ids)

    def parts(self, given: RunInput, existing: Collection[str]) -> Iterator[Part]:
        """Yield the items that lack something, in their order, beside what the data set has."""
        if self._folder.exists and self._folder.items.version() != self._state.version:
            self._compare()  # another process was here
        is_done = self._done(given, existing)
        if self._known_only:
            is_left_out = self._joined.state == NEW
        else:
            is_left_out = np.zeros(len(is_done), bool)
        part = given.options.part
        start = n_done = 0
        held: list[pa.Table] = []
        places: list[NDArray[np.int64]] = []
        for rows in self._chunks():
            here = slice(start, start + len(rows))
            start += len(rows)
            if is_done[here].any():
                n_done += int(in_part(rows.filter(pa.array(is_done[here])), part).sum())
            is_due = ~is_done[here] & ~is_left_out[here]
            if is_due.any():
                held.append(rows.filter(pa.array(is_due)))
                places.append(self._joined.where[here][is_due])
            if sum(map(len, held)) >= PART_ROWS:
                yield self._part(held, places, n_done)
                n_done = 0
        yield self._part(held, places, n_done)

    def _done(self, given: RunInput, existing: Collection[str]) -> NDArray[np.bool_]:
        """Mark the listed items that are as they were and have a vector in each view."""
        options = given.options
        nothing = np.zeros(self._gathered.n_rows, bool)
        is_new_view = any(one.slug not in existing for one in given.resolved)
        if options.overwrite or is_new_view or (options.rehash and not self._is_text):
            return nothing
        is_done: NDArray[np.bool_] = self._joined.state == SAME
        if not is_done.any():
            return nothing
        where = self._joined.where[is_done]
        for resolved in given.resolved:
            shards = given.folder.view(resolved.slug).shards()
            held = self._join.held(each_shard([one.path for one in shards], _PAIR))
            is_done[is_done] = held[where]
            where = self._joined.where[is_done]
        failures = given.folder.failures.read(["item_id"])
        is_done &= ~self._join.named(failures)
        return is_done

    def _part(self, held: list[pa.Table], places: list[NDArray[np.int64]], n_done: int) -> Part:
        """Make a part of rows and their places; nothing else holds them any more."""
        rows = pa.concat_tables([self._schema.empty_table(), *held]).combine_chunks()
        where = np.concatenate([np.empty(0, np.int64), *places])
        held.clear()
        places.clear()
        found = [self._stored_at(np.unique(where[where >= 0]))]
        unclear = rows.filter(pa.array(where == SOMEWHERE))
        found.append(self.items_of(unclear.column("item_id")))
        items = concatenated([one for one in found if len(one)], self._state.schema)
        rows = keep_attached(rows, items, self._attached)
        return Part(rows, items, self._state.version, n_done, is_all=False)

    def _stored_at(self, places: NDArray[np.int64]) -> pa.Table:
        """Return the stored rows at some places, which are sorted."""
        found = []
        ends = np.searchsorted(places, self._starts)
        for shard, start, first, last in zip(
            self._state.shards, self._starts, ends, ends[1:], strict=False
        ):
            if first < last:
                rows = read_shard(shard.path).take(pa.array(places[first:last] - start))
                found.append(fit_to(rows, self._state.schema))
        return concatenated(found, self._state.schema)

    def is_apart(self, folder: DatasetFolder) -> bool:
        """Whether no item has by now come from another source: only listing again would tell."""
        return False

    def counted(self, names: Sequence[str]) -> Counted:
        """Count the values of columns."""
        return Counted(self._chunks(), names)

    def table(self) -> pa.Table:
        """Return all rows."""
        return pa.concat_tables(self._chunks())
