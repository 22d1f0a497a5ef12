"""The rows of a view in one state: which items have a vector, in which order, read or cached."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.curation.slices import Slice
from featurestore.errors import MissingColumn, nearest
from featurestore.storage.cache import Cached, fill_cache, read_cache, write_cache
from featurestore.storage.columns import item_keys
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.key_hashes import key_hashes, places
from featurestore.storage.query import fulfils
from featurestore.storage.remote import StorePath
from featurestore.storage.shards import each_shard, read_shard, vectors_of
from featurestore.storage.tables import Shard, Table, digest_of, rows_of
from featurestore.storage.taking import Ids, ShardRows, taken
from featurestore.storage.tap_shards import ShardFile, open_tap
from featurestore.store.cache_in_parts import read_into, write_in_parts
from featurestore.store.valid_count import count_valid
from featurestore.terms.snapshots import Snapshot

_KEY = ["item_id", "content_hash"]
MANY = 100_000  # items whose ids are not all made Python objects
TakeVectors = Callable[[NDArray[np.intp]], NDArray[np.float32]]  # of rows, (n, dim)
IN_MEMORY_BYTES = 500_000_000  # of vectors; of more, the cache is written first, and mapped


@dataclass(frozen=True, eq=False)
class ViewRows:
    """The rows of a view at a snapshot, all or those of a slice; sorted by item id."""

    folder: DatasetFolder
    slug: str  # of the view
    dim: int
    snapshot: Snapshot
    slice_: Slice | None = None  # None: all items
    check: Callable[[], None] = lambda: None  # raises where rows hold no vectors

    @property
    def table(self) -> Table:
        """The table of vectors."""
        return self.folder.view(self.slug)

    @property
    def state(self) -> str:
        """A digest (12 hex digits) of the shards that are read, and of the slice."""
        return _short_hash(self._digests + (self.slice_.digest if self.slice_ else ""))

    @property
    def cache_path(self) -> Path:
        """The folder of the cache of all rows."""
        name = f"{self.snapshot}-{_short_hash(self._digests)}"
        return self.folder.local / "cache" / self.slug / name

    @cached_property
    def _shards(self) -> tuple[list[Shard], list[Shard]]:
        return self.folder.items.shards(self.snapshot.items), self.table.shards(self.snapshot.view)

    @property
    def _digests(self) -> str:
        return "".join(map(digest_of, self._shards))

    def count(self) -> int:
        """Return how many items have a valid vector."""
        if self.slice_ is None:
            cached = read_cache(self.cache_path)
            if cached is not None:
                return len(cached.items)
            return count_valid(self.folder, self.slug, self.snapshot, *self._shards)
        items = self.folder.items.read(_KEY, self.snapshot.items)
        pairs = self.table.read(_KEY, self.snapshot.view)
        return int((self._in_slice(items) & (resolve(items, pairs) >= 0)).sum())

    def read(
        self,
        *,
        where: str | None = None,
        split: str | None = None,
        columns: list[str] | None = None,
    ) -> Cached:
        """Return the items that have a vector, and the vectors, float32 (n, dim).

        Where there is no cache, some of the rows (or columns) are read by themselves; all of them
        are also written to the cache.
        """
        self.check()

        def choose(items: pa.Table) -> NDArray[np.bool_]:  # (n,)
            return matching(items, where, split) & self._in_slice(items)

        is_all = where is None and split is None and self.slice_ is None
        is_some = where is not None or split is not None or columns is not None
        erased_since = self.folder.watch_erasures()
        path = self.cache_path
        cached = read_cache(path, erased_since)
        if cached is None and where is None and split is None and self._is_large:
            cached = self._cached_in_parts(erased_since)
        if cached is None and is_some:  # a slice alone is read again and again
            names = columns if where is None else None  # a condition may name any
            return replace(self._read_shards(choose, names), erased_since=erased_since)
        if cached is None:
            cached = replace(self._read_shards(), erased_since=erased_since)
            cached.vectors.flags.writeable = False  # as a mapped one; the cache is written from it
            write_cache(path, cached)
        if is_all:
            return cached
        chosen = choose(cached.items)
        items = cached.items.filter(pa.array(chosen))
        return replace(cached, items=items, vectors=cached.vectors[chosen])

    def _read_shards(
        self,
        choose: Callable[[pa.Table], NDArray[np.bool_]] | None = None,
        columns: list[str] | None = None,
    ) -> Cached:
        items = self.folder.items.read(columns, self.snapshot.items).sort_by("item_id")
        pairs = self.table.read(_KEY, self.snapshot.view)
        row_of_item = resolve(items, pairs)
        if choose is not None:  # among those that have a vector, as where there is a cache
            with_vector = np.flatnonzero(row_of_item >= 0)
            chosen = choose(items.take(pa.array(with_vector)))
            row_of_item[with_vector[~chosen]] = -1
        items = items.filter(pa.array(row_of_item >= 0))
        target = np.full(len(pairs), -1)  # where in the result a row of the view goes
        target[row_of_item[row_of_item >= 0]] = np.arange(len(items))
        del pairs, row_of_item
        pa.default_memory_pool().release_unused()  # what the join took is not needed any more
        vectors = np.empty((len(items), self.dim), np.float32)
        read_into(vectors, self._shards[1], target)
        return Cached(items, vectors)

    @property
    def _is_large(self) -> bool:
        return rows_of(self._shards[1]) * self.dim * 4 > IN_MEMORY_BYTES

    def _cached_in_parts(self, erased_since: Callable[[], bool]) -> Cached | None:
        items, pairs = self._shards
        schema = self._schema

        def fill(folder: Path) -> None:
            write_in_parts(folder, items, pairs, schema, self.dim)

        return fill_cache(self.cache_path, fill, erased_since)

    def located(
        self, item_bytes: int | None
    ) -> tuple[pa.Table, list[ShardFile], NDArray[np.int64]]:
        """Return the items of a tap, and where the activations of each lie; see `open_tap`."""
        items, row_of_item = self._items_with_rows()
        paths = [shard.path for shard in self._shards[1]]
        copies = self.folder.local / "cache" / "taps" / self.slug
        files, places = open_tap(paths, item_bytes, copies)
        return items, files, places[row_of_item]

    def items(self) -> pa.Table:
        """Return the items that have a row, sorted by id; nothing else is read."""
        return self._items_with_rows()[0]

    def _items_with_rows(self) -> tuple[pa.Table, NDArray[np.intp]]:
        items = self.folder.items.read(version=self.snapshot.items).sort_by("item_id")
        row_of_item = resolve(items, self.table.read(_KEY, self.snapshot.view))
        has_row = (row_of_item >= 0) & self._in_slice(items)
        return items.filter(pa.array(has_row)), row_of_item[has_row]

    def batches(
        self, n: int, columns: Sequence[str]
    ) -> Iterator[tuple[pa.Table, NDArray[np.float32]]]:
        """Yield up to ``n`` items and their vectors, (n, dim), in the order of the shards."""
        self.check()
        items, pairs = self._shards
        item_of_row = self._item_of_pair()
        rest = ShardRows(items, [one for one in columns if one not in _KEY], self._schema)
        start = 0
        for shard in each_shard([one.path for one in pairs], [*_KEY, "vector"]):
            block = vectors_of(shard.column("vector"), self.dim)
            valid = np.flatnonzero(item_of_row[start : start + len(block)] >= 0)
            for at in range(0, len(valid), n):
                rows = valid[at : at + n]
                found = _with_keys(rest.take(item_of_row[start + rows]), shard, rows)
                yield found.select(list(columns)), block[rows]
            start += len(block)

    def by_shard(self, columns: Sequence[str]) -> Iterator[tuple[pa.Table, TakeVectors]]:
        """Yield the items of each shard, and what reads vectors of some of them."""
        self.check()
        items, pairs = self._shards
        item_of_row = self._item_of_pair()
        rest = ShardRows(items, [one for one in columns if one not in _KEY], self._schema)
        start = 0
        paths = [one.path for one in pairs]
        for path, shard in zip(paths, each_shard(paths, _KEY), strict=True):
            valid = np.flatnonzero(item_of_row[start : start + len(shard)] >= 0)
            found = _with_keys(rest.take(item_of_row[start + valid]), shard, valid)
            yield found.select(list(columns)), partial(self._vectors_of, path, valid)
            start += len(shard)

    def _vectors_of(
        self, path: StorePath, valid: NDArray[np.intp], rows: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        return vectors_of(read_shard(path, ["vector"]).column("vector"), self.dim)[valid[rows]]

    @property
    def _schema(self) -> pa.Schema:
        return self.folder.items.schema(self.snapshot.items)

    def _item_of_pair(self) -> NDArray[np.intp]:
        """Return for each row of the view the row of its item; -1 for one that does not count."""
        items, pairs = self._shards
        item_of_pair = places(key_hashes(items), key_hashes(pairs))
        if self.slice_ is not None:
            is_in = self._in_slice(self.folder.items.read(["item_id"], self.snapshot.items))
            item_of_pair[~is_in[item_of_pair]] = -1
        known = np.flatnonzero(item_of_pair >= 0)
        last = np.full(item_of_pair.max(initial=-1) + 1, -1)
        last[item_of_pair[known]] = known  # of equal pairs
        superseded = known[last[item_of_pair[known]] != known]
        item_of_pair[superseded] = -1
        return item_of_pair

    def _in_slice(self, items: pa.Table) -> NDArray[np.bool_]:
        if self.slice_ is None:
            return np.ones(len(items), bool)
        ids = pa.array(self.slice_.item_ids, pa.string())
        return np.asarray(pc.is_in(items.column("item_id"), value_set=ids))


def _with_keys(found: pa.Table, shard: pa.Table, rows: NDArray[np.intp]) -> pa.Table:
    for name in _KEY:  # as the item has them
        found = found.append_column(name, [taken(shard.column(name), rows)])
    return found


def resolve(items: pa.Table, pairs: pa.Table) -> NDArray[np.intp]:
    """Return for each item the row of the view that holds its vector, or -1; shape (n_items,).

    A row counts when its id and content hash are the item's; of several such rows, the last one.
    """
    if len(items) == len(pairs) and all(items[name].equals(pairs[name]) for name in _KEY):
        return np.arange(len(items))  # row by row, as a first run leaves them
    found = pc.index_in(item_keys(pairs), value_set=item_keys(items))
    item_of_row = np.asarray(pc.fill_null(found, -1))
    row_of_item = np.full(len(items), -1, np.intp)
    rows = np.flatnonzero(item_of_row >= 0)
    row_of_item[item_of_row[rows]] = rows
    return row_of_item


def matching(items: pa.Table, where: str | None, split: str | None) -> NDArray[np.bool_]:
    """Mark the items that fulfil an SQL condition and are of a split, shape (n,)."""
    chosen = np.ones(len(items), bool)
    if split is not None:
        chosen &= np.asarray(pc.fill_null(pc.equal(items.column("split"), split), False))
    if where is not None:
        chosen &= fulfils(where, items)
    return chosen


def look_up(items: pa.Table, name: str, rows: NDArray[np.intp]) -> NDArray[Any]:
    """Return a column's values at the given rows, object dtype, shape (n_rows,)."""
    if name not in items.column_names:
        raise MissingColumn(f"no column {name!r}: {nearest(name, items.column_names)}")
    return objects(pa.chunked_array([taken(items.column(name), rows)]))


def ids_of(items: pa.Table) -> NDArray[np.str_] | Ids:
    """Return ids, of many items as Arrow has them."""
    column = items.column("item_id")
    return Ids(column) if len(column) > MANY else objects(column)


def objects(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return a column as an array of Python objects, shape (n,); null is None."""
    if pa.types.is_string(column.type):
        if len(column) > MANY and len(column.slice(0, MANY // 10).unique()) < MANY // 100:
            coded = column.combine_chunks().dictionary_encode()  # equal texts are one object
            texts = np.array([*coded.dictionary.to_pylist(), None], object)
            return np.asarray(texts[np.asarray(coded.indices.fill_null(len(texts) - 1))])
        return np.asarray(column.to_numpy(zero_copy_only=False), object)
    values = np.empty(len(column), object)
    values[:] = column.to_pylist()
    return values


def with_nulls(items: pa.Table, names: Sequence[str]) -> pa.Table:
    """Add string columns of nothing but nulls."""
    for name in names:
        items = items.append_column(name, pa.nulls(len(items), pa.string()))
    return items


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
