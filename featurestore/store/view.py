"""A view: the vectors of one data set by one encoder, read, searched, and asked anew."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.curation.slices import Slice, read_slice
from featurestore.encoders import encode_now
from featurestore.errors import (
    BadQuery,
    BadSource,
    FeatureStoreError,
    MissingColumn,
    ShapeMismatch,
    nearest,
)
from featurestore.search.approximate import ApproximateIndex
from featurestore.search.exact import ExactIndex, Metric, check_metric, combine
from featurestore.search.factory import GRAPH, check_recall, is_exact_enough
from featurestore.search.index_files import read_facts
from featurestore.storage.cache import Cached, read_cache, write_cache
from featurestore.storage.columns import row_keys
from featurestore.storage.query import fulfils
from featurestore.storage.shards import each_block, each_shard, vectors_of
from featurestore.storage.tables import Table
from featurestore.terms.embeddings import Embeddings, LazyColumns, Neighbors
from featurestore.terms.snapshots import Snapshot
from featurestore.terms.specs import EncoderSpec, Modality

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet

Index = ExactIndex | ApproximateIndex

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class View:
    """The vectors of one data set by one encoder."""

    dataset: DataSet
    slug: str
    info: dict[str, Any]  # encoder.json
    pinned: Snapshot | None = None  # the state that is read; None: the present one
    part: Slice | None = None  # the items that are read; None: all

    @property
    def name(self) -> str:
        """``dataset@encoder``."""
        return f"{self.dataset.name}@{self.spec}"

    @property
    def spec(self) -> EncoderSpec:
        """The encoder."""
        return EncoderSpec.parse(self.info["spec"])

    @property
    def fingerprint(self) -> str:
        """The encoder's fingerprint."""
        return str(self.info["fingerprint"])

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.info["dim"])

    @property
    def modalities(self) -> frozenset[Modality]:
        """What the encoder embeds: two-tower encoders can be asked in words."""
        return frozenset(map(Modality, self.info["modalities"]))

    @property
    def table(self) -> Table:
        """The table of vectors."""
        return self.dataset.folder.view(self.slug)

    @property
    def snapshot(self) -> Snapshot:
        """The versions of items and vectors that are read."""
        return self.pinned or Snapshot(self.dataset.folder.items.version(), self.table.version())

    @property
    def n_rows(self) -> int:
        """How many items have a valid vector."""
        snapshot = self.snapshot
        if self.part is None:
            cached = read_cache(self._cache_place(snapshot))
            if cached is not None:
                return len(cached.items)
        items = self.dataset.items(["item_id", "content_hash"], version=snapshot.items)
        pairs = self.table.read(["item_id", "content_hash"], snapshot.view)
        is_there = _resolve(items, pairs) >= 0
        if self.part is not None:
            is_there &= _is_in(self.part, items)
        return int(is_there.sum())

    def as_of(self, snapshot: Snapshot | str) -> View:
        """Return this view as it was: what a head's card names, or ``featurestore history``.

        Raises
        ------
        UnknownSnapshot
            If one of the tables has no such version. A version that `vacuum` took the files of
            is known still, and reading it raises StoreCorrupt.
        """
        if isinstance(snapshot, str):
            snapshot = Snapshot.parse(snapshot)
        self.dataset.folder.items.shards(snapshot.items)
        self.table.shards(snapshot.view)
        return replace(self, pinned=snapshot)

    def now(self) -> View:
        """Return this view pinned to what it is now: reads that follow see one state."""
        return self if self.pinned is not None else replace(self, pinned=self.snapshot)

    @property
    def is_present(self) -> bool:
        """Whether nothing was committed since the state that is read."""
        return self.pinned in (None, replace(self, pinned=None).snapshot)

    def within(self, part: str | Slice) -> View:
        """Return this view of a slice's items alone: all that reads it reads only those.

        Raises
        ------
        UnknownSlice
            If the data set has no slice of that name.
        """
        found = read_slice(self.dataset.folder, part) if isinstance(part, str) else part
        return replace(self, part=found)

    def load(
        self,
        *,
        split: str | None = None,
        where: str | None = None,
        columns: Sequence[str] | None = None,
        snapshot: Snapshot | None = None,
    ) -> Embeddings:
        """Load vectors with what is known of their items, joined by id.

        What is not asked for is not read, nor held in memory.

        Parameters
        ----------
        split : str, optional
            Only items of this split.
        where : str, optional
            Only items that fulfil an SQL condition.
        columns : sequence of str, optional
            Item columns to bring along; all by default.
        snapshot : Snapshot, optional
            The state to read; the view's own by default.

        Returns
        -------
        Embeddings
            Sorted by id; vectors (n, dim) float32.
        """
        snapshot = snapshot or self.snapshot
        wanted = None
        if columns is not None:
            wanted = list(dict.fromkeys(["item_id", "content_hash", "split", *columns]))
        found = self._rows(snapshot, where=where, split=split, columns=wanted)
        items = found.items
        if wanted is not None:
            absent = [name for name in wanted if name not in items.column_names]
            items = _with_nulls(items, absent).select(wanted)
        return self._embeddings(items, found.vectors, snapshot)

    def items(self) -> pa.Table:
        """Return what is known of the items that have a vector, row by row as in `load`."""
        return self._rows(self.snapshot).items

    def to_arrow(
        self,
        *,
        split: str | None = None,
        where: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return ids, item columns and vectors as an Arrow table: pandas and polars take it.

        Vectors are ``fixed_size_list<float32>[dim]``.
        """
        snapshot = self.snapshot
        names = None if columns is None else list(dict.fromkeys(["item_id", *columns]))
        if names is not None:
            known = self.dataset.folder.items.schema(snapshot.items).names
            for name in names:
                if name not in known:
                    raise MissingColumn(f"no column {name!r}: {nearest(name, known)}")
        wanted = None if names is None else list(dict.fromkeys([*names, "content_hash", "split"]))
        found = self._rows(snapshot, where=where, split=split, columns=wanted)
        items = found.items if names is None else found.items.select(names)
        vectors = pa.array(np.ascontiguousarray(found.vectors).reshape(-1))
        return items.append_column("vector", pa.FixedSizeListArray.from_arrays(vectors, self.dim))

    def batches(
        self, n: int = 8192, *, columns: Sequence[str] = (), snapshot: Snapshot | None = None
    ) -> Iterator[Embeddings]:
        """Yield the vectors in parts of up to ``n`` rows, for views larger than memory.

        The order is that in which they are stored. At most a few shards are in memory.
        """
        if n < 1:
            raise ValueError(f"batches of {n} rows: expected at least 1")
        snapshot = snapshot or self.snapshot
        wanted = sorted({"item_id", "content_hash", "split", *columns})
        items = self.dataset.items(wanted, version=snapshot.items)
        pairs = self.table.read(["item_id", "content_hash"], snapshot.view)
        place = _resolve(items, pairs)
        if self.part is not None:
            place[~_is_in(self.part, items)] = -1
        item_of = np.full(len(pairs), -1)
        item_of[place[place >= 0]] = np.flatnonzero(place >= 0)
        start = 0
        paths = [shard.path for shard in self.table.shards(snapshot.view)]
        for part in each_shard(paths, ["vector"]):
            block = vectors_of(part.column("vector"), self.dim)
            valid = np.flatnonzero(item_of[start : start + len(block)] >= 0)
            for at in range(0, len(valid), n):
                rows = valid[at : at + n]
                known = items.take(pa.array(item_of[start + rows]))
                yield self._embeddings(known, block[rows], snapshot)
            start += len(block)

    def _embeddings(
        self, items: pa.Table, vectors: NDArray[np.float32], snapshot: Snapshot
    ) -> Embeddings:
        labels = self.dataset.label_columns
        ids: Any = partial(_objects, items.column("item_id"))
        return Embeddings(
            ids,
            vectors,
            self.fingerprint,
            LazyColumns(
                [name for name in items.column_names if name != "item_id"],
                lambda name: _objects(items.column(name)),
            ),
            labels[0] if labels else None,
            snapshot,
        )

    @property
    def state(self) -> str:
        """A digest of the shards that are read: the same versions may hold others some day."""
        return self._state(self.snapshot)

    def _state(self, snapshot: Snapshot) -> str:
        state = self._tables_state(snapshot) + (self.part.digest if self.part else "")
        return hashlib.sha256(state.encode()).hexdigest()[:12]

    def _tables_state(self, snapshot: Snapshot) -> str:
        return self.dataset.folder.items.digest(snapshot.items) + self.table.digest(snapshot.view)

    def _cache_place(self, snapshot: Snapshot) -> Path:
        state = hashlib.sha256(self._tables_state(snapshot).encode()).hexdigest()[:12]
        return self.dataset.folder.local / "cache" / self.slug / f"{snapshot}-{state}"

    def _rows(
        self,
        snapshot: Snapshot,
        *,
        where: str | None = None,
        split: str | None = None,
        columns: list[str] | None = None,
    ) -> Cached:
        """Return the items that have a vector, sorted by id, and the vectors.

        Where there is no cache, some of the rows (or columns) are read by themselves; all of them
        are also written to the cache.
        """

        def choose(items: pa.Table) -> NDArray[np.bool_]:
            chosen = _matching(items, where, split)
            return chosen if self.part is None else chosen & _is_in(self.part, items)

        is_all = where is None and split is None and self.part is None
        is_some = where is not None or split is not None or columns is not None
        erased_since = self.dataset.folder.watch_erasures()
        cache = self._cache_place(snapshot)
        cached = read_cache(cache, erased_since)
        if cached is None and is_some:  # a slice alone is read again and again
            names = columns if where is None else None  # a condition may name any
            return replace(self._read(snapshot, choose, names), erased_since=erased_since)
        if cached is None:
            cached = replace(self._read(snapshot), erased_since=erased_since)
            cached.vectors.flags.writeable = False  # as a mapped one; the cache is written from it
            write_cache(cache, cached)
        if is_all:
            return cached
        chosen = choose(cached.items)
        items = cached.items.filter(pa.array(chosen))
        return replace(cached, items=items, vectors=cached.vectors[chosen])

    def _read(
        self,
        snapshot: Snapshot,
        choose: Callable[[pa.Table], NDArray[np.bool_]] | None = None,
        columns: list[str] | None = None,
    ) -> Cached:
        items = self.dataset.items(columns, version=snapshot.items)
        items = items.sort_by("item_id")
        paths = [shard.path for shard in self.table.shards(snapshot.view)]
        pairs = self.table.read(["item_id", "content_hash"], snapshot.view)
        of_item = _resolve(items, pairs)
        if choose is not None:  # among those that have a vector, as where there is a cache
            there = np.flatnonzero(of_item >= 0)
            chosen = choose(items.take(pa.array(there)))
            of_item[there[~chosen]] = -1
        items = items.filter(pa.array(of_item >= 0))
        target = np.full(len(pairs), -1)  # where in the result a row of the view goes
        target[of_item[of_item >= 0]] = np.arange(len(items))
        del pairs, of_item
        pa.default_memory_pool().release_unused()  # what the join took is not needed any more
        vectors = np.empty((len(items), self.dim), np.float32)

        def place(start: int, n: int) -> NDArray[np.float32] | None:
            rows = target[start : start + n]
            return vectors[rows[0] : rows[0] + n] if _in_order(rows) else None

        def put(start: int, block: NDArray[np.float32]) -> None:
            rows = target[start : start + len(block)]
            vectors[rows[rows >= 0]] = block[rows >= 0]  # below 0: superseded, or of no item

        def is_wanted(start: int, n: int) -> bool:
            return bool((target[start : start + n] >= 0).any())

        each_block(paths, self.dim, put, place, is_wanted)
        return Cached(items, vectors)

    def index(self, *, metric: str = Metric.COSINE, exact: bool = False) -> Index:
        """Return what finds neighbours: the index that `build_index` made, else an exact one.

        An index that no longer fits the items is brought up to date first, and measured again.
        One that cannot be used is named in a warning, and searches are exact.
        """
        n_replacements = self._n_replacements
        return self._index_over(
            self._rows(self.snapshot), n_replacements, check_metric(metric), exact
        )

    def _index_over(self, found: Cached, n_replacements: int, metric: Metric, exact: bool) -> Index:
        ids = _objects(found.items.column("item_id"))
        if not exact and self.part is None and self.is_present:
            try:
                facts = read_facts(self._index_folder)
                if facts is not None and facts.get("metric") == metric:
                    return self._opened(facts, ids, found, n_replacements)
            except (FeatureStoreError, OSError, KeyError, TypeError, RuntimeError) as error:
                _log.warning(
                    "the index in %s cannot be used (%s): searching exactly; delete it, or build "
                    "it anew with `featurestore index`", self._index_folder, error,
                )  # fmt: skip
        return ExactIndex.build(ids, found.vectors, metric)

    def build_index(
        self,
        *,
        recall: float = 0.95,
        memory_bytes: int | None = None,
        metric: str = Metric.COSINE,
        factory: str | None = None,
        seed: int = 0,
    ) -> Index:
        """Choose an index, tune it, measure its recall, and keep it; see `ApproximateIndex`.

        Exact search stays where it is fast enough, or a recall of 1 is asked for: then an index
        that was there goes.

        Raises
        ------
        BadQuery
            For a slice: the index is the whole view's.
        """
        if self.part is not None:
            raise BadQuery(f"an index is of a whole view, not of slice {self.part.name!r}")
        metric = check_metric(metric)
        check_recall(recall)
        n_replacements = self._n_replacements
        found = self._rows(self.snapshot)
        ids = _objects(found.items.column("item_id"))
        if factory is None and is_exact_enough(found.vectors.size, recall, memory_bytes):
            with self._index_locked():
                shutil.rmtree(self._index_folder, ignore_errors=True)
            return ExactIndex.build(ids, found.vectors, metric)
        index = ApproximateIndex.build(
            ids, _keys(found.items), found.vectors, recall=recall, memory_bytes=memory_bytes,
            metric=metric, factory=factory, seed=seed,
        )  # fmt: skip
        return self._kept(index, found.erased_since, n_replacements)

    def _kept(
        self, index: ApproximateIndex, erased_since: Callable[[], bool], n_replacements: int
    ) -> ApproximateIndex:
        """Save an index, unless what it holds was erased meanwhile."""
        index = replace(index, facts={**index.facts, "replacements": n_replacements})
        with self._index_locked():
            if not erased_since():
                index.save(self._index_folder)
        return index

    @property
    def _n_replacements(self) -> int:
        return self.dataset.folder.n_replacements(self.slug)

    def _index_locked(self) -> AbstractContextManager[None]:
        return self.dataset.folder.locked(f"index-{self.slug}")

    @property
    def index_facts(self) -> dict[str, Any] | None:
        """What index.json says: factory, recall, effort; None where there is no index.

        One of vectors that were replaced since is none: the next search makes it anew.

        Raises
        ------
        StoreCorrupt
            If it is damaged, or of another format: then searches are exact.
        """
        facts = read_facts(self._index_folder)
        if facts is not None and facts.get("replacements", 0) != self._n_replacements:
            return None
        return facts

    @property
    def _index_folder(self) -> Path:
        return self.dataset.folder.local / "indexes" / self.slug

    def _opened(
        self, facts: dict[str, Any], ids: NDArray[Any], found: Cached, n_replacements: int
    ) -> ApproximateIndex:
        keys, index = _keys(found.items), None
        if facts.get("replacements", 0) == n_replacements:  # else equal keys have other vectors
            index = ApproximateIndex.open(self._index_folder, ids, keys, found.vectors)
        if index is None:  # too much has gone, or come
            index = ApproximateIndex.build(
                ids, keys, found.vectors, recall=facts["wanted_recall"],
                memory_bytes=facts["memory_bytes"], metric=facts["metric"], seed=facts["seed"],
                factory=facts["factory"] if facts["is_own_choice"] else None,
                may_be_slow=facts["factory"] == GRAPH,  # who searches does not wait for a graph
            )  # fmt: skip
        if index.facts != facts:
            try:
                return self._kept(index, found.erased_since, n_replacements)
            except OSError as error:  # a read-only store: the next process does it again
                _log.info("%s cannot be brought up to date: %s", self._index_folder, error)
        return index

    def matching(self, where: str | None = None, split: str | None = None) -> NDArray[np.bool_]:
        """Mark the rows of `index` that fulfil an SQL condition and are of a split, (n,)."""
        return _matching(self._rows(self.snapshot).items, where, split)

    def search(
        self,
        queries: NDArray[np.float32],
        *,
        k: int = 10,
        where: str | None = None,
        split: str | None = None,
        metric: str = Metric.COSINE,
        exact: bool = False,
        dedupe: float | None = None,
    ) -> Neighbors:
        """Find the items closest to each query vector, among those that are asked for.

        For many calls, keep `index` and, with filters, `matching`.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, dim), float32
        k : int
            That many come back, as long as so many fulfil the filters.
        where, split : str, optional
            SQL condition over the items; their split.
        metric : {"cosine", "ip", "l2"}
        exact : bool
            Even where there is an index.
        dedupe : float, optional
            For one query: of results that are so alike (by cosine), only the best one.
        """
        index, among, look_up = self._ready(where, split, metric, exact)
        return replace(index.search(queries, k=k, among=among, dedupe=dedupe), look_up=look_up)

    def within_score(
        self,
        queries: NDArray[np.float32],
        score: float,
        *,
        where: str | None = None,
        split: str | None = None,
        metric: str = Metric.COSINE,
    ) -> list[Neighbors]:
        """Find all items whose score is at least the given one: exact, one result a query."""
        index, among, look_up = self._ready(where, split, metric, exact=True)
        assert isinstance(index, ExactIndex)
        return [replace(one, look_up=look_up) for one in index.within(queries, score, among)]

    def neighbors(
        self,
        item_id: str,
        *,
        k: int = 10,
        where: str | None = None,
        split: str | None = None,
        metric: str = Metric.COSINE,
        exact: bool = False,
    ) -> Neighbors:
        """Find the items closest to one of the view's own, itself left out; see `search`."""
        index, among, look_up = self._ready(where, split, metric, exact)
        return replace(index.neighbors(item_id, k=k, among=among), look_up=look_up)

    def _ready(
        self, where: str | None, split: str | None, metric: str, exact: bool
    ) -> tuple[Index, NDArray[np.bool_] | None, Callable[[str, NDArray[np.intp]], NDArray[Any]]]:
        """Return an index, the rows that count (None: all), and the columns, of one state."""
        n_replacements = self._n_replacements
        found = self._rows(self.snapshot)
        is_all = where is None and split is None
        among = None if is_all else _matching(found.items, where, split)
        index = self._index_over(found, n_replacements, check_metric(metric), exact)
        return index, among, partial(_look_up, found.items)

    def like(
        self,
        *,
        items: Sequence[str] = (),
        images: Sequence[str | Path | bytes] = (),
        texts: Sequence[str] = (),
        vectors: NDArray[np.float32] | None = None,
        unlike: Sequence[str] = (),
        k: int = 10,
        where: str | None = None,
        split: str | None = None,
        metric: str = Metric.COSINE,
        exact: bool = False,
        dedupe: float | None = None,
    ) -> Neighbors:
        """Find the items closest to several examples together, and away from others.

        The query is the mean of the examples' directions, less half that of ``unlike``
        (`featurestore.search.exact.combine`); the items named are left out of the result.
        """
        given = np.empty((0, self.dim), np.float32) if vectors is None else vectors
        if given.ndim != 2 or given.shape[1] != self.dim:
            raise ShapeMismatch(f"expected vectors (n, {self.dim}), got {given.shape}")
        if not (items or images or texts or len(given)):
            raise BadQuery("nothing to look for: expected an item, image, text or vector")
        index, among, look_up = self._ready(where, split, metric, exact)
        rows = [index.row_of(one) for one in items]
        away = [index.row_of(one) for one in unlike]
        examples = [
            index.vectors[rows],
            *(self.encode([_content(one)]) for one in images),
            *(self.encode([one]) for one in texts),
            given.astype(np.float32),
        ]
        if among is None:
            among = np.ones(len(index.ids), bool)
        among[[*rows, *away]] = False
        query = combine(np.concatenate(examples), index.vectors[away], index.metric)
        found = index.search(query, k=k, among=among, dedupe=dedupe)
        return replace(found, look_up=look_up)

    def search_text(self, text: str, **options: Any) -> Neighbors:
        """Find the items closest to a text, for encoders that read texts; see `search`."""
        return self.search(self.encode([text]), **options)

    def search_image(self, image: str | Path | bytes, **options: Any) -> Neighbors:
        """Find the items closest to a picture, given as a file or its bytes; see `search`."""
        return self.search(self.encode([_content(image)]), **options)

    def encode(self, contents: Sequence[str | bytes]) -> NDArray[np.float32]:
        """Encode new texts or image bytes with this view's encoder, checked to be the same."""
        modality = Modality.TEXT if isinstance(contents[0], str) else Modality.IMAGE
        encode_now.check_reads(self.spec, self.modalities, modality)  # before anything is loaded
        return encode_now.encode(self._encoder, contents)

    @cached_property
    def _encoder(self) -> Any:
        return encode_now.open_encoder(self.info)


def _resolve(items: pa.Table, pairs: pa.Table) -> NDArray[np.intp]:
    """Return, for each item, the row of the view that is valid for it, or -1.

    A row is valid when its id and content are the item's; among equals the last one counts.
    """
    names = ("item_id", "content_hash")
    if len(items) == len(pairs) and all(items[one].equals(pairs[one]) for one in names):
        return np.arange(len(items))  # row by row, as a first run leaves them
    wanted = row_keys([items.column("item_id"), items.column("content_hash")])
    have = row_keys([pairs.column("item_id"), pairs.column("content_hash")])
    found = np.asarray(pc.fill_null(pc.index_in(have, value_set=wanted), -1))
    place = np.full(len(items), -1, np.intp)
    rows = np.flatnonzero(found >= 0)
    place[found[rows]] = rows
    return place


def _look_up(items: pa.Table, name: str, rows: NDArray[np.intp]) -> NDArray[Any]:
    if name not in items.column_names:
        raise MissingColumn(f"no column {name!r}: {nearest(name, items.column_names)}")
    return _objects(items.column(name).take(pa.array(rows)))


def _is_in(part: Slice, items: pa.Table) -> NDArray[np.bool_]:
    """Mark the items of a slice."""
    ids = pa.array(part.item_ids, pa.string())
    return np.asarray(pc.is_in(items.column("item_id"), value_set=ids))


def _matching(items: pa.Table, where: str | None, split: str | None) -> NDArray[np.bool_]:
    chosen = np.ones(len(items), bool)
    if split is not None:
        chosen &= np.asarray(pc.fill_null(pc.equal(items.column("split"), split), False))
    if where is not None:
        chosen &= fulfils(where, items)
    return chosen


def _in_order(rows: NDArray[np.intp]) -> bool:
    """Whether rows follow one another, as a first run leaves them."""
    return bool(len(rows) and rows[0] >= 0 and (np.diff(rows) == 1).all())


def _with_nulls(items: pa.Table, names: Sequence[str]) -> pa.Table:
    for name in names:
        items = items.append_column(name, pa.nulls(len(items), pa.string()))
    return items


def _content(image: str | Path | bytes) -> bytes:
    if isinstance(image, bytes):
        return image
    path = Path(image)
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadSource(f"cannot read {path}: {error.strerror}") from None


def _keys(items: pa.Table) -> pa.Array:
    return row_keys([items.column("item_id"), items.column("content_hash")])


def _objects(column: pa.ChunkedArray) -> NDArray[Any]:
    if pa.types.is_string(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False), object)
    values = np.empty(len(column), object)
    values[:] = column.to_pylist()
    return values
