"""FAISS: the nearest vectors, exactly or by an index that knows its recall.

Scores are higher for what is closer: cosines in [-1, 1], inner products, or Euclidean distances
times -1. Positions inside FAISS are those in which vectors were added; rows are those of the
view as it is now.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.errors import (
    BadName,
    BadQuery,
    MissingExtra,
    NotEnoughData,
    ShapeMismatch,
    StoreCorrupt,
    UnknownItem,
    nearest,
)
from featurestore.values import Neighbors

FORMAT = 1
EXACT_FLOATS = 16 << 20  # up to here a query over all vectors takes some 3 ms on 2 cores
RECALL_AT = 10
_SHARE_DEAD = 0.2  # from here on an index is built anew
_N_QUERIES = 256  # to tune with, and as many others to measure
_REFINE = 4  # candidates for each neighbour, scored exactly
_CHUNK = 256  # queries whose candidates are in memory at once


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


class _Search:
    """What every index has; `rows` of a result are rows of ``vectors``."""

    ids: NDArray[np.str_]
    vectors: NDArray[np.float32]
    metric: Metric

    def search(
        self,
        queries: NDArray[np.float32],
        *,
        k: int = 10,
        among: NDArray[np.bool_] | None = None,
    ) -> Neighbors:
        """Find the stored vectors closest to each query.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, dim), float32
        k : int
            Neighbours per query; fewer come back from a smaller index.
        among : ndarray of shape (n,), bool, optional
            Only these rows count.

        Returns
        -------
        Neighbors
            Each (n_queries, min(k, rows that count)), best first.

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
        n = len(self.ids) if among is None else int(np.count_nonzero(among))
        k = min(k, n)
        if k == 0:
            none = np.empty((len(queries), 0))
            return Neighbors(none.astype(object), none.astype(np.float32), none.astype(np.intp))
        if not np.isfinite(queries).all():
            raise BadQuery("a query holds NaN or infinity: no vector is near it")
        prepared = _prepared(queries, self.metric)
        if among is None or n == len(self.ids):
            scores, rows = self._all(prepared, k)
        elif n * dim <= EXACT_FLOATS:
            few = np.flatnonzero(among)
            step = max(1, min(_CHUNK, EXACT_FLOATS // n))  # scores in memory at once
            parts = [
                best_among(self.vectors, few, prepared[at : at + step], k, self.metric)
                for at in range(0, max(len(prepared), 1), step)
            ]
            scores, rows = (np.concatenate(one) for one in zip(*parts, strict=True))
        else:
            scores, rows = self._some(prepared, k, among)
        return Neighbors(self.ids[rows], scores, rows)

    def _all(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        raise NotImplementedError

    def _some(
        self, queries: NDArray[np.float32], k: int, among: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        raise NotImplementedError

    def neighbors(
        self, item_id: str, *, k: int = 10, among: NDArray[np.bool_] | None = None
    ) -> Neighbors:
        """Find the items closest to one of the index's own, itself left out.

        Raises
        ------
        UnknownItem
            If the index has no vector of that item.
        """
        row = self.row_of(item_id)
        if among is None:
            found = self.search(self.vectors[row : row + 1], k=k + 1)
            others = found.rows[0] != row
            return Neighbors(
                found.ids[:, others][:, :k],
                found.scores[:, others][:, :k],
                found.rows[:, others][:, :k],
            )
        among = among.copy()
        among[row] = False
        return self.search(self.vectors[row : row + 1], k=k, among=among)

    def row_of(self, item_id: str) -> int:
        """Return the row of an item."""
        rows = np.flatnonzero(self.ids == item_id)
        if len(rows) == 0:
            raise UnknownItem(
                f"there is no vector of {item_id!r} here: {nearest(item_id, self.ids[:10_000])}"
            )
        return int(rows[0])


@dataclass(frozen=True, eq=False)
class ExactIndex(_Search):
    """Every neighbour is the true one."""

    ids: NDArray[np.str_]  # (n,)
    vectors: NDArray[np.float32]  # (n, dim); of length 1 for cosine
    metric: Metric
    _flat: Any

    @classmethod
    def build(
        cls, ids: NDArray[np.str_], vectors: NDArray[np.float32], metric: str = Metric.COSINE
    ) -> Self:
        """Index ``vectors`` of shape (n, dim); they need not be normalised."""
        faiss, metric = _faiss(), check_metric(metric)
        prepared = _prepared(vectors, metric)
        flat = faiss.IndexFlat(vectors.shape[1], _faiss_metric(metric))
        flat.add(prepared)
        return cls(ids, prepared, metric, flat)

    def _all(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        distances, rows = self._flat.search(queries, k)
        return _scored(distances, rows, self.metric)

    def _some(
        self, queries: NDArray[np.float32], k: int, among: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        faiss = _faiss()
        bits = np.packbits(among, bitorder="little")
        chosen = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
        distances, rows = self._flat.search(queries, k, params=chosen)
        return _scored(distances, rows, self.metric)

    def within(self, queries: NDArray[np.float32], score: float) -> list[Neighbors]:
        """Find all items whose score is at least the given one; one result a query."""
        # FAISS leaves out what is just at the limit.
        at = np.nextafter(np.float32(score), np.float32(-np.inf))
        if self.metric is Metric.L2:
            at = np.nextafter(np.float32(score) ** 2, np.float32(np.inf))
            at = at if score <= 0 else np.float32(0)  # no distance is below 0
        limits, distances, rows = self._flat.range_search(_prepared(queries, self.metric), at)
        scores, rows = _scored(distances, rows.astype(np.intp), self.metric)
        found = []
        for start, end in pairwise(limits.astype(np.intp)):
            order = start + np.argsort(-scores[start:end], kind="stable")
            row = rows[order][None]
            found.append(Neighbors(self.ids[row], scores[order][None], row))
        return found


@dataclass(frozen=True, eq=False)
class ApproximateIndex(_Search):
    """A FAISS index tuned to a recall that was measured; scores are exact."""

    ids: NDArray[np.str_]  # (n,), of the view as it is now
    vectors: NDArray[np.float32]  # (n, dim), as the view has them, mapped where there is a cache
    metric: Metric
    keys: pa.Array  # (n_added,): (item id, content hash) of each position
    position_rows: NDArray[np.intp]  # (n_added,): the row of each position, -1 where it has gone
    effort: int  # nprobe or efSearch
    facts: Mapping[str, Any]  # index.json
    _index: Any

    @classmethod
    def build(
        cls,
        ids: NDArray[np.str_],
        keys: pa.Array,
        vectors: NDArray[np.float32],
        *,
        recall: float = 0.95,
        memory_bytes: int | None = None,
        metric: str = Metric.COSINE,
        factory: str | None = None,
        seed: int = 0,
    ) -> Self:
        """Choose, train, fill, tune and measure an index.

        Parameters
        ----------
        ids, keys, vectors
            The rows of a view: ids (n,), keys of id and content (n,), vectors (n, dim).
        recall : float
            Wanted share of the true ten nearest among the ten found.
        memory_bytes : int, optional
            What the index may take.
        factory : str, optional
            A FAISS factory string instead of our choice.
        """
        faiss, metric = _faiss(), check_metric(metric)
        n, dim = vectors.shape
        if not 0 < recall <= 1:
            raise BadName(f"recall {recall}: expected a share above 0 and up to 1")
        name = factory or choose_factory(n, dim, memory_bytes)
        started = time.perf_counter()
        try:
            index = faiss.index_factory(dim, name, _faiss_metric(metric))
        except RuntimeError as error:
            reason = str(error).rpartition(":")[2].strip()
            raise BadName(f"FAISS cannot make {name!r} of dim {dim}: {reason}") from None
        if n < 2:
            raise NotEnoughData(f"{n} vectors are too few for an index: search exactly")
        try:
            _fill(index, vectors, metric, seed)
        except RuntimeError as error:
            reason = str(error).rpartition("failed: ")[2].strip() or str(error)
            raise NotEnoughData(
                f"FAISS cannot train {name} on {n:,} vectors: {reason}; fewer lists or shorter "
                "codes need fewer"
            ) from None
        made = cls(ids, vectors, metric, keys, np.arange(n), 1, {}, index)
        tuned = made.tuned(recall, seed)
        facts = {
            "format": FORMAT,
            "factory": name,
            "is_own_choice": factory is not None,  # of the user, who knows FAISS strings
            "memory_bytes": memory_bytes,
            "metric": str(metric),
            "dim": dim,
            "seed": seed,
            "wanted_recall": recall,
            "seconds": time.perf_counter() - started,
        }
        return replace(tuned, facts={**tuned.facts, **facts})

    @cached_property
    def kind(self) -> str:
        """``ivf``, ``hnsw`` or ``other``: what the effort means."""
        faiss = _faiss()
        inner = faiss.downcast_index(self._index)
        if isinstance(inner, faiss.IndexIVF):
            return "ivf"
        return "hnsw" if isinstance(inner, faiss.IndexHNSW) else "other"

    @property
    def share_dead(self) -> float:
        """How much of it is of items that have gone."""
        return float(np.mean(self.position_rows < 0)) if len(self.position_rows) else 0.0

    def tuned(self, recall: float, seed: int = 0) -> Self:
        """Return this with the least effort that reaches a recall on some queries.

        The recall is measured on others; a query's own item does not count.
        """
        rng = np.random.default_rng(seed)
        drawn = rng.permutation(len(self.ids))[: 2 * _N_QUERIES]
        some, others = drawn[::2], drawn[1::2]
        if len(others) == 0 or len(self.ids) < 2:
            raise NotEnoughData(f"{len(self.ids)} vectors are too few for an index: search exactly")
        least = self._least_scores(drawn)
        best = self
        for effort in self._efforts():
            best = replace(self, effort=effort)
            if best._recall(some, least[::2]) >= recall:
                break
        found = best._recall(others, least[1::2])
        facts = {
            **self.facts,
            "effort": best.effort,
            "recall_at": RECALL_AT,
            "recall": found,
            "recall_low": _wilson_low(found, len(others)),
            "n_queries": len(others),
            "n": len(self.ids),
        }
        return replace(best, facts=facts)

    def _least_scores(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return how near the last of the true nearest of some rows is, themselves left out."""
        flat = _faiss().IndexFlat(self.vectors.shape[1], _faiss_metric(self.metric))
        k = min(RECALL_AT, len(self.ids) - 1)
        queries = _prepared(self.vectors[rows], self.metric)
        best_scores = np.full((len(rows), k + 1), -np.inf, np.float32)
        best_rows = np.full((len(rows), k + 1), -1, np.intp)
        for start in range(0, len(self.ids), 65_536):  # a part at a time: the rest stays mapped
            flat.reset()
            flat.add(_prepared(self.vectors[start : start + 65_536], self.metric))
            distances, found = flat.search(queries, min(k + 1, flat.ntotal))
            scores, found = _scored(distances, found, self.metric)
            scores = np.hstack([best_scores, scores])
            found = np.hstack([best_rows, found + start])
            order = np.argsort(-scores, axis=1, kind="stable")[:, : k + 1]
            best_scores = np.take_along_axis(scores, order, axis=1)
            best_rows = np.take_along_axis(found, order, axis=1)
        return _without_own(best_scores, best_rows, rows, k)[:, -1]

    def _recall(self, rows: NDArray[np.intp], least: NDArray[np.float32]) -> float:
        """Return the share of what is found that is as near as the true nearest: ties are right."""
        k = min(RECALL_AT, len(self.ids) - 1)
        found = self.search(np.ascontiguousarray(self.vectors[rows]), k=k + 1)
        scores = _without_own(found.scores, found.rows, rows, k)
        slack = 1e-5 * np.maximum(np.abs(least), 1)
        return float((scores >= (least - slack)[:, None]).mean())

    def _efforts(self) -> list[int]:
        if self.kind == "ivf":
            n_lists = _faiss().downcast_index(self._index).nlist
            return [*(2**i for i in range(20) if 2**i < n_lists), n_lists]
        return [2**i for i in range(4, 12)] if self.kind == "hnsw" else [1]

    def _all(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        alive = None if not self._has_dead else self.position_rows >= 0
        return self._refined(queries, k, alive)

    def _some(
        self, queries: NDArray[np.float32], k: int, among: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        alive = (self.position_rows >= 0) & among[self.position_rows]
        return self._refined(queries, k, alive)

    @cached_property
    def _has_dead(self) -> bool:
        return bool((self.position_rows < 0).any())

    def _refined(
        self, queries: NDArray[np.float32], k: int, alive: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Ask FAISS for some more than k, and score these exactly."""
        width = min(max(_REFINE * k, k + 16), len(self.position_rows))
        scores = np.empty((len(queries), k), np.float32)
        rows = np.empty((len(queries), k), np.intp)
        for start in range(0, len(queries), _CHUNK):
            some = queries[start : start + _CHUNK]
            found = self._candidates(some, width, self.effort, alive)
            for i, candidates in enumerate(found):
                effort = self.effort
                while len(candidates) < k and effort < self._efforts()[-1]:
                    effort *= 4  # a filter left too few in the lists that were looked at
                    (candidates,) = self._candidates(some[i : i + 1], width, effort, alive)
                if len(candidates) < k:
                    valid = self.position_rows[
                        slice(None) if alive is None else np.flatnonzero(alive)
                    ]
                    candidates = valid[valid >= 0]
                at = start + i
                scores[at : at + 1], rows[at : at + 1] = best_among(
                    self.vectors, candidates, some[i : i + 1], k, self.metric
                )
        return scores, rows

    def _candidates(
        self,
        queries: NDArray[np.float32],
        width: int,
        effort: int,
        alive: NDArray[np.bool_] | None,
    ) -> list[NDArray[np.intp]]:
        """Return rows that may be the nearest, for each query."""
        faiss, options = _faiss(), {}
        if alive is not None:
            bits = np.packbits(alive, bitorder="little")
            options["sel"] = faiss.IDSelectorBitmap(bits)
        if self.kind == "ivf":
            parameters = faiss.SearchParametersIVF(nprobe=effort, **options)
        elif self.kind == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=max(effort, width), **options)
        else:
            parameters = None
            width = width if alive is None else min(4 * width, len(self.position_rows))
        _, positions = self._index.search(queries, width, params=parameters)
        found = []
        for row in positions:
            row = row[row >= 0]
            if alive is not None and parameters is None:
                row = row[alive[row]]
            rows = self.position_rows[row]
            found.append(rows[rows >= 0])
        return found

    def caught_up(
        self, ids: NDArray[np.str_], keys: pa.Array, vectors: NDArray[np.float32]
    ) -> Self | None:
        """Return this for a view that has changed: what is new added, what has gone masked.

        None where so much has gone that it should be built anew.
        """
        rows = pc.fill_null(pc.index_in(self.keys, value_set=keys), -1)
        position_rows = np.asarray(rows).astype(np.intp)
        is_known = np.asarray(pc.is_in(keys, value_set=self.keys))
        new = np.flatnonzero(~is_known)
        all_keys = pa.concat_arrays([self.keys, keys.filter(pa.array(~is_known))])
        position_rows = np.concatenate([position_rows, new])
        updated = replace(
            self, ids=ids, vectors=vectors, keys=all_keys, position_rows=position_rows
        )
        if updated.share_dead > _SHARE_DEAD or len(new) > len(self.keys):
            return None
        for start in range(0, len(new), 16_384):
            part = vectors[new[start : start + 16_384]]
            self._index.add(_prepared(part, self.metric))
        if len(new) or updated.share_dead != self.share_dead:
            return updated.tuned(float(self.facts["wanted_recall"]), int(self.facts["seed"]))
        return updated

    # On disk: index.faiss, keys.arrow, index.json

    def save(self, folder: Path) -> None:
        """Write it in place of what is there; the caller holds the lock of this index."""
        folder.parent.mkdir(exist_ok=True)
        temporary, old = (folder.with_name(f".{uuid4().hex}") for _ in range(2))
        try:
            temporary.mkdir()
            _faiss().write_index(self._index, str(temporary / "index.faiss"))
            table = pa.table({"key": self.keys})
            with pa.ipc.new_file(str(temporary / "keys.arrow"), table.schema) as file:
                file.write_table(table)
            text = json.dumps(dict(self.facts), indent=1, sort_keys=True)
            (temporary / "index.json").write_text(text + "\n", encoding="utf-8")
            if folder.exists():
                folder.rename(old)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)

    @classmethod
    def open(
        cls, folder: Path, ids: NDArray[np.str_], keys: pa.Array, vectors: NDArray[np.float32]
    ) -> Self | None:
        """Return the index in a folder for a view as it is now; None where it must be made anew.

        Raises
        ------
        StoreCorrupt
            If its files are damaged; deleting the folder loses nothing.
        """
        facts = read_facts(folder)
        if facts is None:
            return None
        try:
            index = _faiss().read_index(str(folder / "index.faiss"))
            with pa.memory_map(str(folder / "keys.arrow")) as file:
                known = pa.ipc.open_file(file).read_all().column("key").combine_chunks()
            if index.d != vectors.shape[1] or index.ntotal != len(known):
                raise ValueError(
                    f"{index.ntotal} vectors of dim {index.d}, "
                    f"expected {len(known)} of {vectors.shape[1]}"
                )
            made = cls(
                ids, vectors, Metric(facts["metric"]), known, np.arange(len(known)),
                int(facts["effort"]), facts, index,
            )  # fmt: skip
        except (OSError, ValueError, KeyError, RuntimeError, pa.ArrowInvalid) as error:
            reason = " ".join(str(error).split())[:200]
            raise StoreCorrupt(
                f"the index in {folder} cannot be read: {reason}; delete the folder, or build it "
                "anew with `featurestore index`"
            ) from error
        return made.caught_up(ids, keys, vectors)


def read_facts(folder: Path) -> dict[str, Any] | None:
    """Return index.json; None where there is no index, or one of another format."""
    try:
        facts = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreCorrupt(f"cannot read {folder / 'index.json'}: {error}; delete it") from error
    return facts if isinstance(facts, dict) and facts.get("format") == FORMAT else None


def choose_factory(n: int, dim: int, memory_bytes: int | None = None) -> str:
    """Choose by rows and memory: inverted lists of 8-bit codes, or of product codes.

    >>> choose_factory(200_000, 512)
    'IVF512,SQ8'
    >>> choose_factory(200_000, 512, memory_bytes=20 << 20)
    'IVF512,PQ64'
    """
    n_lists = int(2 ** np.clip(np.round(np.log2(max(n, 1)) / 2), 2, 16))
    n_lists = max(1, min(n_lists, n // 39 or 1))  # FAISS wants 39 vectors to train each
    code = "SQ8"
    if memory_bytes is not None and n * (dim + 8) > memory_bytes:
        # The longest product code that fits and divides dim.
        fitting = [m for m in range(1, dim + 1) if dim % m == 0 and n * (m + 8) <= memory_bytes]
        if not fitting:
            raise BadName(
                f"{memory_bytes / 1e6:,.1f} MB are too few for {n:,} vectors: "
                f"expected at least {n * 9 / 1e6:,.1f}"
            )
        code = f"PQ{max(fitting)}"
    return f"IVF{n_lists},{code}"


def best_among(
    vectors: NDArray[np.float32],
    rows: NDArray[np.intp],
    queries: NDArray[np.float32],
    k: int,
    metric: Metric,
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return scores and rows, (n_queries, k), of the best of some rows; queries are prepared."""
    chosen = _prepared(vectors[rows], metric)
    scores = queries @ chosen.T
    if metric is Metric.L2:
        squares = (queries**2).sum(1)[:, None] - 2 * scores + (chosen**2).sum(1)
        scores = -np.sqrt(np.maximum(squares, 0))
    if k < scores.shape[1]:
        part = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    else:
        part = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    found = np.take_along_axis(scores, part, axis=1)
    order = np.lexsort((part, -found), axis=1)
    return (
        np.take_along_axis(found, order, axis=1).astype(np.float32),
        rows[np.take_along_axis(part, order, axis=1)],
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
    query = _prepared(likes, metric).mean(axis=0)
    if dislikes is not None and len(dislikes):
        query = query - 0.5 * _prepared(dislikes, metric).mean(axis=0)
    result: NDArray[np.float32] = np.asarray(query, np.float32)[None]
    return result


def _fill(index: Any, vectors: NDArray[np.float32], metric: Metric, seed: int) -> None:
    """Train on a sample and add all, a part at a time."""
    faiss = _faiss()
    n = len(vectors)
    inner = faiss.downcast_index(index)
    n_lists = getattr(inner, "nlist", 256)
    if isinstance(inner, faiss.IndexIVF):
        inner.cp.niter, inner.cp.seed = 10, seed
        inner.cp.min_points_per_centroid = 1  # a small data set is no warning
    rows = np.sort(np.random.default_rng(seed).permutation(n)[: max(64 * n_lists, 16_384)])
    if not index.is_trained:
        index.train(_prepared(vectors[rows], metric))
    for start in range(0, n, 16_384):
        index.add(_prepared(vectors[start : start + 16_384], metric))


def _without_own(
    scores: NDArray[np.float32], rows: NDArray[np.intp], own: NDArray[np.intp], k: int
) -> NDArray[np.float32]:
    """Return the scores, (n, k), each query's own row left out."""
    kept = [score[row != one][:k] for score, row, one in zip(scores, rows, own, strict=True)]
    return np.stack(kept)


def _wilson_low(share: float, n: int, z: float = 1.96) -> float:
    """Return the low end of Wilson's interval; each query counts once, however many it finds."""
    centre = share + z * z / (2 * n)
    spread = z * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return (centre - spread) / (1 + z * z / n)


def _prepared(vectors: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    if metric is Metric.COSINE:
        return normalize_rows(vectors)
    return np.ascontiguousarray(vectors, np.float32)


def _scored(
    distances: NDArray[np.float32], rows: NDArray[np.intp], metric: Metric
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Turn what FAISS gives into scores."""
    if metric is Metric.L2:
        return -np.sqrt(np.maximum(distances, 0)), rows
    return distances, rows


def _faiss_metric(metric: Metric) -> int:
    faiss = _faiss()
    return int(faiss.METRIC_L2 if metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra(
            "search needs faiss: pip install 'featurestore[cpu]', or 'featurestore[gpu]' "
            "where there is a CUDA GPU"
        ) from error
    return faiss


def normalize_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row to length 1; rows of zeros stay zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = np.ascontiguousarray(
        vectors / np.where(norms > 0, norms, 1), dtype=np.float32
    )
    return scaled
