"""Listed rows beside stored ones, bucket by bucket: which are new, which the same, which are gone.

Both sides come as numbers (`row_keys`), in buckets of ids that lie on the disk, so that memory
follows the bucket. What is left of each row is a byte and a place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.pipeline.row_keys import id_keys, pair_keys, row_keys
from featurestore.storage.remote import StorePath
from featurestore.storage.spill import NumberSpill

BUCKET_ROWS = 1 << 19
NEW, CHANGED, SAME = range(3)
NOWHERE, SOMEWHERE = -1, -2  # in place of a place: of no stored row, of one of several
_ROWS = np.dtype([("id", "u8"), ("row", "u8"), ("pair", "u8"), ("place", "i8"), ("source", "i2")])
_PAIRS = np.dtype([("id", "u8"), ("pair", "u8")])


@dataclass(frozen=True, eq=False)
class Joined:
    """What came out; "perhaps" is for whoever can compare the ids themselves."""

    state: NDArray[np.uint8]  # (n_listed,): NEW, CHANGED or SAME
    where: NDArray[np.int64]  # (n_listed,), the stored row of each, NOWHERE or SOMEWHERE
    is_listed: NDArray[np.bool_]  # (n_stored,)
    perhaps_twice: NDArray[np.int64]  # listed rows whose id perhaps another listed one has
    perhaps_elsewhere: NDArray[np.int64]  # listed rows whose id perhaps another source has


class RowJoin:
    """The states of listed rows, from what is in the store.

    Parameters
    ----------
    near : path
        Where buckets are written meanwhile.
    names : sequence of str
        The columns of which a change counts.
    sources : sequence of str
        Their names; a stored row may be of another one.
    n_rows : int
        How many rows the larger side has.
    """

    def __init__(
        self, near: StorePath, names: Sequence[str], sources: Sequence[str], n_rows: int
    ) -> None:
        self._near, self._names = near, names
        self._sources = pa.array(list(sources), pa.string())
        self._n_buckets = max(1, -(-n_rows // BUCKET_ROWS))
        self._listed, self._stored = (NumberSpill(near, _ROWS, self._n_buckets) for _ in range(2))
        self._n_listed = self._n_stored = 0

    def add_listed(self, rows: pa.Table) -> None:
        """Take in the next rows of the listing."""
        self._n_listed += self._add(self._listed, rows, self._n_listed)

    def add_stored(self, rows: pa.Table) -> None:
        """Take in the next rows of the items table."""
        self._n_stored += self._add(self._stored, rows, self._n_stored)

    def _add(self, side: NumberSpill, rows: pa.Table, first: int) -> int:
        records = np.empty(len(rows), _ROWS)
        records["id"] = id_keys(rows)
        records["row"] = row_keys(rows, self._names)
        is_stored = "content_hash" in rows.column_names
        records["pair"] = pair_keys(rows, records["id"]) if is_stored else 0
        records["place"] = np.arange(first, first + len(rows))
        codes = pc.index_in(rows.column("source"), value_set=self._sources)
        records["source"] = np.asarray(pc.fill_null(codes, -1))
        side.add(records, self._bucket_of(records["id"]))
        return len(rows)

    def _bucket_of(self, ids: NDArray[np.uint64]) -> NDArray[np.intp]:
        return (ids % np.uint64(self._n_buckets)).astype(np.intp)

    def join(self) -> Joined:
        """Compare the two sides."""
        state = np.full(self._n_listed, NEW, np.uint8)
        where = np.full(self._n_listed, NOWHERE, np.int64)
        is_listed = np.zeros(self._n_stored, bool)
        twice, elsewhere = [], []
        for bucket in range(self._n_buckets):
            listed, stored = self._listed.read(bucket), self._stored.read(bucket)
            listed = listed[np.argsort(listed["id"], kind="stable")]
            twice.append(listed["place"][_is_repeated(listed["id"])])
            if not len(stored):
                continue
            stored = stored[np.argsort(stored["id"], kind="stable")]
            is_one_of_several = _is_repeated(stored["id"])
            at = np.searchsorted(stored["id"], listed["id"])
            at[at == len(stored)] = 0
            is_known = stored["id"][at] == listed["id"]
            listed, at = listed[is_known], at[is_known]
            several = is_one_of_several[at]
            is_same = ~several & (stored["row"][at] == listed["row"])
            state[listed["place"]] = np.where(is_same, SAME, CHANGED)
            where[listed["place"]] = np.where(several, SOMEWHERE, stored["place"][at])
            is_listed[stored["place"][at]] = True
            is_listed[stored["place"][is_one_of_several]] = True  # nothing is gone by mistake
            is_other = several | (stored["source"][at] != listed["source"])
            elsewhere.append(listed["place"][is_other])
        return Joined(state, where, is_listed, _joined(twice), _joined(elsewhere))

    def held(self, pairs: Iterable[pa.Table]) -> NDArray[np.bool_]:
        """Return which stored rows have their id and content among pairs, (n_stored,)."""
        of_view = NumberSpill(self._near, _PAIRS, self._n_buckets)
        for rows in pairs:
            records = np.empty(len(rows), _PAIRS)
            records["id"] = id_keys(rows)
            records["pair"] = pair_keys(rows, records["id"])
            of_view.add(records, self._bucket_of(records["id"]))
        is_held = np.zeros(self._n_stored, bool)
        for bucket in range(self._n_buckets):
            stored = self._stored.read(bucket)
            is_held[stored["place"]] = np.isin(stored["pair"], of_view.read(bucket)["pair"])
        return is_held

    def named(self, rows: pa.Table) -> NDArray[np.bool_]:
        """Return which listed rows perhaps have the id of one of these rows, (n_listed,)."""
        wanted = np.unique(id_keys(rows))
        is_named = np.zeros(self._n_listed, bool)
        for bucket in range(self._n_buckets) if len(wanted) else ():
            listed = self._listed.read(bucket)
            is_named[listed["place"]] = np.isin(listed["id"], wanted)
        return is_named


def _is_repeated(numbers: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Mark sorted numbers that stand more than once, (n,)."""
    is_repeated = np.zeros(len(numbers), bool)
    is_equal = numbers[1:] == numbers[:-1]
    is_repeated[1:] |= is_equal
    is_repeated[:-1] |= is_equal
    return is_repeated


def _joined(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.sort(np.concatenate([np.empty(0, np.int64), *parts]))
