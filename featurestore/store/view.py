"""A view: the vectors of one data set by one encoder, read and searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.curation.slices import Slice, read_slice
from featurestore.encoders import encode_now
from featurestore.encoders.trust import Trust
from featurestore.errors import BadQuery, MissingColumn, ShapeMismatch, nearest
from featurestore.search.exact import ExactIndex, Metric, check_metric, combine
from featurestore.search.factory import check_recall
from featurestore.storage.tables import Table
from featurestore.store.renamed import renamed
from featurestore.store.strip import strip
from featurestore.store.tap import activations_of
from featurestore.store.view_facts import ViewFacts, facts_of
from featurestore.store.view_index import Index, ViewIndex
from featurestore.store.view_info import ViewInfo
from featurestore.store.view_rows import ViewRows, matching, objects, with_nulls
from featurestore.store.view_search import Scope, SearchAmong, SearchOptions, checked, content_of
from featurestore.terms.activations import Activations
from featurestore.terms.embeddings import Embeddings, LazyColumns, Neighbors
from featurestore.terms.snapshots import Snapshot
from featurestore.terms.specs import Modality

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet


@dataclass(frozen=True, eq=False, repr=False)
class View(ViewInfo):
    """The vectors of one data set by one encoder."""

    dataset: DataSet
    slug: str
    info: dict[str, Any]  # encoder.json
    pinned: Snapshot | None = None  # the state that is read; None: the present one
    slice_: Slice | None = None  # the items that are read; None: all
    trust: Trust = False  # which code that the store names may run, to encode new contents

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
        return self._rows(self.snapshot).count()

    def facts(self, runs: Sequence[Mapping[str, Any]] | None = None) -> ViewFacts:
        """Return what the view holds and how it was made last; see `facts_of`."""
        return facts_of(self, runs)

    def as_of(self, snapshot: Snapshot | str) -> View:
        """Return this view as it was at a snapshot, such as that of a head's card.

        Raises
        ------
        UnknownSnapshot
            If one of the tables has no such version. A version whose files `vacuum` deleted is
            still known, but reading it raises StoreCorrupt.
        """
        if isinstance(snapshot, str):
            snapshot = Snapshot.parse(snapshot)
        self.dataset.folder.items.shards(snapshot.items)
        self.table.shards(snapshot.view)
        return replace(self, pinned=snapshot)

    def now(self) -> View:
        """Return this view pinned to its present state: later reads see that state."""
        return self if self.pinned is not None else replace(self, pinned=self.snapshot)

    @property
    def is_present(self) -> bool:
        """Whether the state that is read is the latest."""
        return self.pinned in (None, replace(self, pinned=None).snapshot)

    @renamed(part="slice_")
    def within(self, slice_: str | Slice) -> View:
        """Return this view restricted to the items of a slice.

        Raises
        ------
        UnknownSlice
            If the data set has no slice of that name.
        """
        if isinstance(slice_, str):
            slice_ = read_slice(self.dataset.folder, slice_)
        return replace(self, slice_=slice_)

    def load(
        self,
        *,
        split: str | None = None,
        where: str | None = None,
        columns: Sequence[str] | None = None,
        snapshot: Snapshot | None = None,
    ) -> Embeddings:
        """Load vectors and item columns, joined by id.

        Only what is asked for is read and held in memory.

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
        rows = self._rows(snapshot).read(where=where, split=split, columns=wanted)
        items = rows.items
        if wanted is not None:
            absent = [name for name in wanted if name not in items.column_names]
            items = with_nulls(items, absent).select(wanted)
        return self._embeddings(items, rows.vectors, snapshot)

    def items(self) -> pa.Table:
        """Return the items that have a vector, in the order of `load`."""
        rows = self._rows(self.snapshot)
        return rows.read().items if self.tap is None else rows.items()

    def activations(self, ids: Sequence[str] | None = None) -> Activations:
        """Return the whole activations of a tap, which are read batch by batch where they lie.

        Parameters
        ----------
        ids : sequence of str, optional
            Of these items, in this order; of all that the tap has, sorted by id, by default.

        Raises
        ------
        UnknownView
            If this is a view of vectors.
        UnknownItem
            If the tap has not one of the items.
        """
        return activations_of(self, self._rows(self.snapshot), ids)

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
        rows = self._rows(snapshot).read(where=where, split=split, columns=wanted)
        items = rows.items if names is None else rows.items.select(names)
        vectors = pa.array(np.ascontiguousarray(rows.vectors).reshape(-1))
        return items.append_column("vector", pa.FixedSizeListArray.from_arrays(vectors, self.dim))

    def batches(
        self, n: int = 8192, *, columns: Sequence[str] = (), snapshot: Snapshot | None = None
    ) -> Iterator[Embeddings]:
        """Yield the vectors in blocks of up to ``n`` rows, for views larger than memory.

        They come in the order in which they are stored. At most a few shards are in memory.
        """
        if n < 1:
            raise ValueError(f"batches of {n} rows: expected at least 1")
        snapshot = snapshot or self.snapshot
        wanted = sorted({"item_id", "content_hash", "split", *columns})
        for items, vectors in self._rows(snapshot).batches(n, wanted):
            yield self._embeddings(items, vectors, snapshot)

    def _embeddings(
        self, items: pa.Table, vectors: NDArray[np.float32], snapshot: Snapshot
    ) -> Embeddings:
        labels = self.dataset.label_columns
        ids: Any = partial(objects, items.column("item_id"))
        return Embeddings(
            ids,
            vectors,
            self.fingerprint,
            LazyColumns(
                [name for name in items.column_names if name != "item_id"],
                lambda name: objects(items.column(name)),
            ),
            labels[0] if labels else None,
            snapshot,
        )

    @property
    def state(self) -> str:
        """A digest of the shards that are read; a restored backup may reuse version numbers."""
        return self._rows(self.snapshot).state

    def _rows(self, snapshot: Snapshot) -> ViewRows:
        folder = self.dataset.folder
        return ViewRows(folder, self.slug, self.dim, snapshot, self.slice_, self.check_vectors)

    def index(
        self, *, metric: str = Metric.COSINE, exact: bool = False, waits: bool = True
    ) -> Index:
        """Return the index that `build_index` made, else an exact one.

        One that no longer fits the items is updated and measured again first; without ``waits``
        only if that is quick. If it cannot be used, a warning says so and searches are exact.
        """
        kept, of = self._kept_index, self._rows(self.snapshot)  # before the rows are read
        return kept.index_of(of.read(), of.state, metric, exact=self._is_exact(exact), waits=waits)

    def _is_exact(self, exact: bool) -> bool:
        return exact or self.slice_ is not None or not self.is_present

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

        Where exact search is fast enough, or a recall of 1 is asked for, search stays exact and
        an earlier index is deleted.

        Raises
        ------
        BadQuery
            For a slice: only whole views have an index.
        """
        if self.slice_ is not None:
            raise BadQuery(f"an index is of a whole view, not of slice {self.slice_.name!r}")
        metric = check_metric(metric)
        check_recall(recall)
        kept = self._kept_index  # before the rows are read
        of = self._rows(self.snapshot)
        return kept.build(
            of.read(), of.state, recall=recall, memory_bytes=memory_bytes,
            metric=metric, factory=factory, seed=seed,
        )  # fmt: skip

    @property
    def index_facts(self) -> dict[str, Any] | None:
        """What index.json says: factory, recall, effort; None where there is no index.

        An index of vectors that were replaced since does not count: the next search rebuilds it.

        Raises
        ------
        StoreCorrupt
            If it is damaged, or of another format: then searches are exact.
        """
        return self._kept_index.facts

    @property
    def _kept_index(self) -> ViewIndex:
        return ViewIndex.of(self.dataset.folder, self.slug)

    def matching(self, where: str | None = None, split: str | None = None) -> NDArray[np.bool_]:
        """Mark the rows of `index` that fulfil an SQL condition and are of a split, (n,)."""
        return matching(self.items(), where, split)

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
        """Find the items closest to each query vector, among those that fulfil the filters.

        Each call reads the view: for many searches, keep `index` and, with filters, `matching`.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, dim), float32
        k : int
            Neighbors per query; fewer come back if fewer items fulfil the filters.
        where, split : str, optional
            SQL condition over the items; their split. Without them, all items.
        metric : {"cosine", "ip", "l2"}
        exact : bool
            Search exactly even if there is an index.
        dedupe : float, optional
            A cosine, for one query: of results at least so alike, only the best one is kept.
        """
        scope = self._scope(where, split, metric, exact)
        found = scope.index.search(queries, k=k, among=scope.among, dedupe=dedupe)
        return scope.with_columns(found)

    def within_score(
        self,
        queries: NDArray[np.float32],
        score: float,
        *,
        where: str | None = None,
        split: str | None = None,
        metric: str = Metric.COSINE,
    ) -> list[Neighbors]:
        """Find all items whose score is at least the given one: exact, one result a query.

        ``queries`` are float32 (n_queries, dim).
        """
        scope = self._scope(where, split, metric, exact=True)
        assert isinstance(scope.index, ExactIndex)
        return [scope.with_columns(one) for one in scope.index.within(queries, score, scope.among)]

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
        scope = self._scope(where, split, metric, exact)
        return scope.with_columns(scope.index.neighbors(item_id, k=k, among=scope.among))

    def _scope(
        self,
        where: str | None = None,
        split: str | None = None,
        metric: str = Metric.COSINE,
        exact: bool = False,
    ) -> Scope:
        kept = self._kept_index  # before the rows are read
        of = self._rows(self.snapshot)
        rows = of.read()
        is_all = where is None and split is None
        among = None if is_all else matching(rows.items, where, split)
        is_exact = self._is_exact(exact)
        index = kept.index_of(rows, of.state, metric, exact=is_exact, waits=False)
        return Scope(index, among, rows.items, partial(strip, self.dataset))

    def like(
        self,
        *,
        items: Sequence[str] = (),
        images: Sequence[str | Path | bytes] = (),
        texts: Sequence[str] = (),
        vectors: NDArray[np.float32] | None = None,
        unlike: Sequence[str] = (),
        k: int = 10,
        dedupe: float | None = None,
        **among: Unpack[SearchAmong],
    ) -> Neighbors:
        """Find the items closest to several examples together, and away from others.

        The query is the mean of the examples' directions, less half that of ``unlike``
        (`featurestore.search.exact.combine`); the items named are left out of the result.

        Parameters
        ----------
        items, unlike : sequence of str
            Ids of the view's own items.
        images : sequence of path or bytes
        texts : sequence of str
        vectors : ndarray of shape (n, dim), float32, optional
        k, dedupe, **among
            ``k``, ``dedupe``, ``where``, ``split``, ``metric`` and ``exact`` of `search`.
        """
        given = np.empty((0, self.dim), np.float32) if vectors is None else vectors
        if given.ndim != 2 or given.shape[1] != self.dim:
            raise ShapeMismatch(f"expected vectors (n, {self.dim}), got {given.shape}")
        if not (items or images or texts or len(given)):
            raise BadQuery("nothing to look for: expected an item, image, text or vector")
        scope = self._scope(**checked(among))
        index = scope.index
        rows = [index.row_of(item_id) for item_id in items]
        away = [index.row_of(item_id) for item_id in unlike]
        examples = [
            index.vectors[rows],
            *(self.encode([content_of(image)]) for image in images),
            *(self.encode([text], as_queries=True) for text in texts),
            given.astype(np.float32),
        ]
        allowed = np.ones(len(index.ids), bool) if scope.among is None else scope.among
        allowed[[*rows, *away]] = False
        query = combine(np.concatenate(examples), index.vectors[away], index.metric)
        return scope.with_columns(index.search(query, k=k, among=allowed, dedupe=dedupe))

    def search_text(self, text: str, **options: Unpack[SearchOptions]) -> Neighbors:
        """Find the items closest to a text, for encoders that read texts; see `search`."""
        return self.search(self.encode([text], as_queries=True), **options)

    def search_image(
        self, image: str | Path | bytes, **options: Unpack[SearchOptions]
    ) -> Neighbors:
        """Find the items closest to a picture, given as a file or its bytes; see `search`."""
        return self.search(self.encode([content_of(image)]), **options)

    def encode(
        self, contents: Sequence[str | bytes], *, as_queries: bool = False
    ) -> NDArray[np.float32]:
        """Encode new texts or image bytes with this view's encoder, checked to be the same.

        Texts are encoded as items are, or with the model's query prompt if ``as_queries``.

        Returns
        -------
        ndarray of shape (len(contents), dim), float32
        """
        self.check_vectors()
        modality = Modality.TEXT if isinstance(contents[0], str) else Modality.IMAGE
        encode_now.check_reads(self.spec, self.modalities, modality)  # before anything is loaded
        return encode_now.encode(self._encoder, contents, as_queries=as_queries)

    @cached_property
    def _encoder(self) -> Any:
        return encode_now.open_encoder(self.info, trust=self.trust)
