"""FAISS: what every index of vectors does, and the one that is exact.

Scores are higher for what is closer: cosines in [-1, 1], inner products, or Euclidean distances
times -1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadName, BadQuery, MissingExtra, ShapeMismatch, UnknownItem, nearest
from featurestore.search.gpu import MOST_K, GpuVectors, has_gpu
from featurestore.storage.taking import Ids
from featurestore.terms.embeddings import Neighbors
from featurestore.terms.vectors import unit_rows

EXACT = "exact"  # the name of no FAISS factory
RECALL_AT = 10
EXACT_FLOATS = 16 << 20  # up to here a query over all vectors takes some 3 to 6 ms on 2 cores
COPIED_BYTES = 256 << 20  # of vectors; more are searched where they lie
BLOCK = 16_384  # rows of them that are copied at once
CHUNK = 256  # queries whose candidates are in memory at once
GPU_FLOATS = (
    10_000_000_000  # queries × vectors × dim from which on a GPU is asked: 0.2 s on 2 cores
)


class Metric(StrEnum):
    """What close means."""

    COSINE = "cosine"
    INNER_PRODUCT = "ip"
    L2 = "l2"


def check_metric(name: str) -> Metric:
    """Return a metric by name.

    Raises
    ------
    BadName
    """
    try:
        return Metric(name)
    except ValueError:
        raise BadName(f"no metric {name!r}: {nearest(name, map(str, Metric))}") from None


class VectorIndex(ABC):
    """What every index has; `rows` of a result are rows of ``vectors``."""

    ids: NDArray[np.str_] | Ids  # (n,)
    vectors: NDArray[np.float32]  # (n, dim)
    metric: Metric

    def search(
        self,
        queries: NDArray[np.float32],
        *,
        k: int = 10,
        among: NDArray[np.bool_] | None = None,
        dedupe: float | None = None,
    ) -> Neighbors:
        """Find the stored vectors closest to each query.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, dim), float32
        k : int
            Neighbors per query; fewer come back from a smaller index.
        among : ndarray of shape (n,), bool, optional
            Only these rows count.
        dedupe : float, optional
            Leave out results whose cosine to a better result is at least this; for a single
            query only.

        Returns
        -------
        Neighbors
            Each (n_queries, min(k, rows that count)), best first; fewer if `dedupe` leaves fewer.

        Raises
        ------
        ShapeMismatch
            If ``queries`` has another dim than the index.
        """
        dim = self.vectors.shape[1]
        if queries.ndim != 2 or queries.shape[1] != dim:
            raise ShapeMismatch(
                f"index has dim {dim}, queries have shape {queries.shape}: same encoder?"
            )
        if dedupe is not None:
            return self._distinct(queries, k, among, dedupe)
        n = len(self.ids) if among is None else int(np.count_nonzero(among))
        k = min(k, n)
        if k == 0:
            none = np.empty((len(queries), 0))
            return Neighbors(none.astype(object), none.astype(np.float32), none.astype(np.intp))
        if not np.isfinite(queries).all():
            raise BadQuery("a query holds NaN or infinity: no vector is near it")
        ready = prepared(queries, self.metric)
        if among is None or n == len(self.ids):
            scores, rows = self._all(ready, k)
        elif n * dim <= EXACT_FLOATS:
            few = np.flatnonzero(among)
            step = max(1, min(CHUNK, EXACT_FLOATS // n))  # scores in memory at once
            parts = [
                best_among(self.vectors, few, ready[at : at + step], k, self.metric)
                for at in range(0, max(len(ready), 1), step)
            ]
            scores, rows = (np.concatenate(one) for one in zip(*parts, strict=True))
        else:
            scores, rows = self._some(ready, k, among)
        return Neighbors(self.ids[rows], scores, rows)

    def _distinct(
        self, query: NDArray[np.float32], k: int, among: NDArray[np.bool_] | None, limit: float
    ) -> Neighbors:
        """Widen the search until k results are found that are not copies of each other."""
        if len(query) != 1:
            raise BadQuery(f"{len(query)} queries: only the results of one can be deduplicated")
        if not -1 < limit <= 1:
            raise BadQuery(f"dedupe={limit}: expected a cosine above -1 and up to 1")
        width = 2 * k
        while True:
            near = self.search(query, k=width, among=among)
            kept = distinct(unit_rows(self.vectors[near.rows[0]]), limit)[:k]
            if len(kept) == k or near.rows.shape[1] < width:
                return Neighbors(near.ids[:, kept], near.scores[:, kept], near.rows[:, kept])
            width *= 4

    @abstractmethod
    def _all(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Return scores and rows, (n_queries, k), of the best; queries are prepared."""

    @abstractmethod
    def _some(
        self, queries: NDArray[np.float32], k: int, among: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Return the best of the rows that count, too many to look at each."""

    def neighbors(
        self, item_id: str, *, k: int = 10, among: NDArray[np.bool_] | None = None
    ) -> Neighbors:
        """Find the items closest to an item of the index, which is itself left out.

        ``among``, (n,) bool, marks the rows that count. The result is (1, k) or narrower.

        Raises
        ------
        UnknownItem
            If the index has no vector of that item.
        """
        row = self.row_of(item_id)
        if among is None:
            near = self.search(self.vectors[row : row + 1], k=k + 1)
            kept = np.flatnonzero(near.rows[0] != row)[:k]
            return Neighbors(near.ids[:, kept], near.scores[:, kept], near.rows[:, kept])
        among = among.copy()
        among[row] = False
        return self.search(self.vectors[row : row + 1], k=k, among=among)

    def row_of(self, item_id: str) -> int:
        """Return the row of an item."""
        if isinstance(self.ids, Ids):
            row = self.ids.place(item_id)
        else:
            row = next(iter(np.flatnonzero(self.ids == item_id).tolist()), -1)
        if row < 0:
            raise UnknownItem(
                f"there is no vector of {item_id!r} here: {nearest(item_id, self.ids[:10_000])}"
            )
        return row


@dataclass(frozen=True, eq=False)
class ExactIndex(VectorIndex):
    """Search over all vectors; many queries run on a GPU if FAISS has one.

    Few vectors are copied to where FAISS searches them; many are gone through in blocks, so that
    what is mapped stays so.
    """

    ids: NDArray[np.str_] | Ids  # (n,)
    vectors: NDArray[np.float32]  # (n, dim); few of them, for cosine, of length 1
    metric: Metric

    @classmethod
    def build(
        cls,
        ids: NDArray[np.str_] | Ids,
        vectors: NDArray[np.float32],
        metric: str = Metric.COSINE,
    ) -> Self:
        """Index ``vectors`` of shape (n, dim); they need not be normalized."""
        load_faiss()
        metric = check_metric(metric)
        return cls(ids, vectors if is_much(vectors) else prepared(vectors, metric), metric)

    @cached_property
    def _flat(self) -> Any:
        flat = load_faiss().IndexFlat(self.vectors.shape[1], faiss_metric(self.metric))
        flat.add(self.vectors)
        return flat

    @property
    def facts(self) -> Mapping[str, Any]:
        """What index.json says of an index that was built."""
        n, dim = self.vectors.shape
        measured = {"recall_at": RECALL_AT, "recall": 1.0, "recall_low": 1.0}
        return {"factory": EXACT, "metric": str(self.metric), "n": n, "dim": dim, **measured}

    @property
    def is_on_gpu(self) -> bool:
        """Whether many queries run on a GPU; copies the vectors there, where there is one."""
        return self._on_gpu is not None

    @cached_property
    def _on_gpu(self) -> GpuVectors | None:
        faiss = load_faiss()
        if not has_gpu(faiss):
            return None
        vectors = prepared(self.vectors, self.metric) if is_much(self.vectors) else self.vectors
        return GpuVectors.of(faiss, vectors, faiss_metric(self.metric))

    def _all(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        for_gpu = len(queries) * self.vectors.size >= GPU_FLOATS and k <= MOST_K
        answer = self._on_gpu.search(queries, k) if for_gpu and self._on_gpu else None
        if answer is None and is_much(self.vectors):
            return best_in_blocks(self.vectors, queries, k, self.metric)
        distances, rows = answer or self._flat.search(queries, k)
        return scored(distances, rows, self.metric)

    def _some(
        self, queries: NDArray[np.float32], k: int, among: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        if is_much(self.vectors):
            return best_in_blocks(self.vectors, queries, k, self.metric, among)
        faiss = load_faiss()
        bits = np.packbits(among, bitorder="little")
        chosen = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
        distances, rows = self._flat.search(queries, k, params=chosen)
        return scored(distances, rows, self.metric)

    def within(
        self,
        queries: NDArray[np.float32],
        score: float,
        among: NDArray[np.bool_] | None = None,
    ) -> list[Neighbors]:
        """Find all items whose score is at least the given one; one result a query.

        ``queries`` are (n_queries, dim); ``among``, (n,) bool, marks the rows that count.
        """
        # FAISS leaves out what is just at the limit.
        at = np.nextafter(np.float32(score), np.float32(-np.inf))
        if self.metric is Metric.L2:
            at = np.nextafter(np.float32(score) ** 2, np.float32(np.inf))
            at = at if score <= 0 else np.float32(0)  # no distance is below 0
        near: list[list[tuple[NDArray[np.float32], NDArray[np.intp]]]] = [[] for _ in queries]
        ready = prepared(queries, self.metric)
        for start, flat in self._parts():
            limits, distances, rows = flat.range_search(ready, at)
            scores, rows = scored(distances, start + rows.astype(np.intp), self.metric)
            for found, (first, end) in zip(near, pairwise(limits.astype(np.intp)), strict=True):
                found.append((scores[first:end], rows[first:end]))
        results = []
        for found in near:
            scores, rows = (np.concatenate(one) for one in zip(*found, strict=True))
            order = np.argsort(-scores, kind="stable")
            if among is not None:
                order = order[among[rows[order]]]
            row = rows[order][None]
            results.append(Neighbors(self.ids[row], scores[order][None], row))
        return results

    def _parts(self) -> Iterator[tuple[int, Any]]:
        """Yield FAISS's indexes of blocks, and where each begins; one of few vectors."""
        if not is_much(self.vectors):
            yield 0, self._flat
            return
        flat = load_faiss().IndexFlat(self.vectors.shape[1], faiss_metric(self.metric))
        for start in range(0, len(self.vectors), BLOCK):
            flat.reset()
            flat.add(prepared(self.vectors[start : start + BLOCK], self.metric))
            yield start, flat


def is_much(vectors: NDArray[np.float32]) -> bool:
    """Whether no copy of vectors should be made."""
    return vectors.nbytes > COPIED_BYTES


def best_in_blocks(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    metric: Metric,
    among: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return scores and rows, (n_queries, k), of the best; of vectors, (n, dim), a block is copied.

    Queries are prepared; ``among``, (n,), marks the rows that count, at least k. Of equal scores
    the first rows are taken.
    """
    flat = load_faiss().IndexFlat(vectors.shape[1], faiss_metric(metric))
    best_scores = np.full((len(queries), k), -np.inf, np.float32)
    best_rows = np.full((len(queries), k), -1, np.intp)
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        rows = np.arange(start, start + len(block))
        if among is not None:
            rows = rows[among[rows]]
            block = vectors[rows]
        if len(rows) == 0:
            continue
        flat.reset()
        flat.add(prepared(block, metric))
        distances, near = flat.search(queries, min(k, flat.ntotal))
        scores, near = scored(distances, near, metric)
        scores, near = np.hstack([best_scores, scores]), np.hstack([best_rows, rows[near]])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best_scores = np.take_along_axis(scores, order, axis=1)
        best_rows = np.take_along_axis(near, order, axis=1)
    return best_scores, best_rows


def distinct(vectors: NDArray[np.float32], limit: float) -> NDArray[np.intp]:
    """Return the rows of unit vectors (n, dim) that are not copies of an earlier one kept."""
    kept: list[int] = []
    for row, vector in enumerate(vectors):
        if not kept or (vectors[kept] @ vector).max() < limit - 1e-6:  # equal ones round
            kept.append(row)
    return np.array(kept, np.intp)


def best_among(
    vectors: NDArray[np.float32],
    rows: NDArray[np.intp],
    queries: NDArray[np.float32],
    k: int,
    metric: Metric,
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return scores and rows, (n_queries, k), of the best of some rows; queries are prepared."""
    chosen = prepared(vectors[rows], metric)
    scores = queries @ chosen.T
    if metric is Metric.L2:
        squares = (queries**2).sum(1)[:, None] - 2 * scores + (chosen**2).sum(1)
        scores = -np.sqrt(np.maximum(squares, 0))
    if k < scores.shape[1]:
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    else:
        best = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    best_scores = np.take_along_axis(scores, best, axis=1)
    order = np.lexsort((best, -best_scores), axis=1)
    return (
        np.take_along_axis(best_scores, order, axis=1).astype(np.float32),
        rows[np.take_along_axis(best, order, axis=1)],
    )


def combine(
    likes: NDArray[np.float32],
    dislikes: NDArray[np.float32] | None = None,
    metric: Metric = Metric.COSINE,
) -> NDArray[np.float32]:
    """Return one query, (1, dim), for several examples: like these, and not like those.

    The mean of the examples (of their directions, for cosine), less half that of the
    counter-examples (Rocchio, 1971).
    """
    query = prepared(likes, metric).mean(axis=0)
    if dislikes is not None and len(dislikes):
        query = query - 0.5 * prepared(dislikes, metric).mean(axis=0)
    result: NDArray[np.float32] = np.asarray(query, np.float32)[None]
    return result


def prepared(vectors: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    """Return vectors (n, dim) as FAISS compares them: for cosine of length 1, zeros stay zeros."""
    if metric is not Metric.COSINE:
        return np.ascontiguousarray(vectors, np.float32)
    scaled = np.array(vectors, np.float32, order="C")
    load_faiss().normalize_L2(scaled)
    return scaled


def scored(
    distances: NDArray[np.float32], rows: NDArray[np.intp], metric: Metric
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Convert FAISS distances, (n_queries, k), to scores (higher is closer); rows stay."""
    if metric is Metric.L2:
        return -np.sqrt(np.maximum(distances, 0)), rows
    return distances, rows


def faiss_metric(metric: Metric) -> int:
    """Return FAISS's number of a metric."""
    faiss = load_faiss()
    return int(faiss.METRIC_L2 if metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT)


def load_faiss() -> Any:
    """Import FAISS.

    Raises
    ------
    MissingExtra
        If it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra(
            "search needs faiss: pip install 'featurestore[cpu]', or 'featurestore[gpu]' "
            "where there is a CUDA GPU"
        ) from error
    return faiss
