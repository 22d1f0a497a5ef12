"""A FAISS index whose recall is measured: choose, tune, save, and bring up to date."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.errors import BadName, NotEnoughData, StoreCorrupt
from featurestore.search.exact import (
    CHUNK,
    RECALL_AT,
    Metric,
    VectorIndex,
    best_among,
    best_in_blocks,
    check_metric,
    faiss_metric,
    load_faiss,
    prepared,
)
from featurestore.search.factory import (
    BITS,
    GRAPH,
    SLOW_FLOATS,
    check_recall,
    choose_factory,
    graph_bytes,
)
from featurestore.search.gpu import FaissIndex
from featurestore.search.index_files import (
    FILES,
    FORMAT,
    ROWS,
    read_facts,
    read_files,
    read_rows,
)
from featurestore.storage.files import written_beside
from featurestore.storage.sums import write_sums
from featurestore.storage.taking import Ids
from featurestore.terms.intervals import wilson

_SHARE_DEAD = 0.2  # from here on an index is built anew
_N_QUERIES = 256  # to tune with, and as many others to measure
_REFINE, _REFINE_BITS = 4, 16  # candidates for each neighbor, scored exactly
_N_TIMED = 64  # single queries


@dataclass(frozen=True, eq=False)
class ApproximateIndex(VectorIndex):
    """A FAISS index tuned to a recall that was measured; scores are exact."""

    ids: NDArray[np.str_] | Ids  # (n,), of the view as it is now
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
        ids: NDArray[np.str_] | Ids,
        keys: pa.Array,
        vectors: NDArray[np.float32],
        *,
        recall: float = 0.95,
        memory_bytes: int | None = None,
        metric: str = Metric.COSINE,
        factory: str | None = None,
        may_be_slow: bool = True,
        seed: int = 0,
    ) -> ApproximateIndex:
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
        may_be_slow : bool
            Whether there is time for a graph.
        """
        metric = check_metric(metric)
        n, dim = vectors.shape
        check_recall(recall)
        started = time.perf_counter()

        def made(name: str) -> ApproximateIndex:
            index = _filled(name, vectors, metric, seed)
            return cls(ids, vectors, metric, keys, np.arange(n), 1, {"factory": name}, index).tuned(
                recall, seed
            )

        name = factory or choose_factory(n, dim, memory_bytes)
        tried = {name: made(name)}
        fits = memory_bytes is None or graph_bytes(n, dim) <= memory_bytes
        if factory is None and may_be_slow and fits and tried[name].floats_read > SLOW_FLOATS:
            tried[GRAPH] = made(GRAPH)
        seconds = {name: index.seconds_a_query() for name, index in tried.items()}
        name = min(tried, key=lambda n: (-min(tried[n].facts["recall"], recall), seconds[n]))
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
            "tried": {
                factory: {"recall": index.facts["recall"], "query_ms": 1e3 * seconds[factory]}
                for factory, index in tried.items()
            },
        }
        return replace(tried[name], facts={**tried[name].facts, **facts})

    @property
    def floats_read(self) -> float:
        """How many numbers a query looks at, lists being of equal length; 0 without lists."""
        if self.kind != "ivf":
            return 0.0
        n_lists = load_faiss().downcast_index(self._index).nlist
        return float(self.vectors.size * self.effort / n_lists)

    def seconds_a_query(self) -> float:
        """Return the median time of single queries, some of the view's own."""
        seconds = []
        for row in np.linspace(0, len(self.vectors) - 1, _N_TIMED).astype(int):
            query = np.ascontiguousarray(self.vectors[row : row + 1])
            started = time.perf_counter()
            self.search(query, k=RECALL_AT)
            seconds.append(time.perf_counter() - started)
        return float(np.median(seconds))

    @cached_property
    def kind(self) -> str:
        """``ivf``, ``hnsw`` or ``other``: what the effort means."""
        faiss = load_faiss()
        inner = faiss.downcast_index(self._index)
        if isinstance(inner, faiss.IndexIVF):
            return "ivf"
        return "hnsw" if isinstance(inner, faiss.IndexHNSW) else "other"

    @property
    def share_dead(self) -> float:
        """The share of positions whose items are gone."""
        return float(np.mean(self.position_rows < 0)) if len(self.position_rows) else 0.0

    def tuned(self, recall: float, seed: int = 0) -> Self:
        """Return this with the least effort that reaches a recall on some queries.

        The recall that ``facts`` tell is measured on other queries. The item that is itself the
        query does not count.
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
        measured = best._recall(others, least[1::2])
        facts = {
            **self.facts,
            "effort": best.effort,
            "recall_at": RECALL_AT,
            "recall": measured,
            "recall_low": wilson(measured, len(others))[0],
            "n_queries": len(others),
            "n": len(self.ids),
        }
        return replace(best, facts=facts)

    def _least_scores(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the score of each row's farthest true neighbor, (n_rows,); itself left out."""
        k = min(RECALL_AT, len(self.ids) - 1)
        queries = prepared(self.vectors[rows], self.metric)
        best_scores, best_rows = best_in_blocks(self.vectors, queries, k + 1, self.metric)
        return _without_own(best_scores, best_rows, rows, k)[:, -1]

    def _recall(self, rows: NDArray[np.intp], least: NDArray[np.float32]) -> float:
        """Return the share of results as near as the farthest true neighbor, or nearer."""
        k = min(RECALL_AT, len(self.ids) - 1)
        near = self.search(np.ascontiguousarray(self.vectors[rows]), k=k + 1)
        scores = _without_own(near.scores, near.rows, rows, k)
        slack = 1e-5 * np.maximum(np.abs(least), 1)
        return float((scores >= (least - slack)[:, None]).mean())

    def _efforts(self) -> list[int]:
        if self.kind == "ivf":
            n_lists = load_faiss().downcast_index(self._index).nlist
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
        refine = _REFINE_BITS if str(self.facts.get("factory")).endswith(BITS) else _REFINE
        width = min(max(refine * k, k + 16), len(self.position_rows))
        scores = np.empty((len(queries), k), np.float32)
        rows = np.empty((len(queries), k), np.intp)
        for start in range(0, len(queries), CHUNK):
            some = queries[start : start + CHUNK]
            for i, candidates in enumerate(self._candidates(some, width, self.effort, alive)):
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
        """Return rows that may be the nearest, an array for each query."""
        faiss, options = load_faiss(), {}
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
        candidates = []
        for near in positions:
            near = near[near >= 0]
            if alive is not None and parameters is None:
                near = near[alive[near]]
            rows = self.position_rows[near]
            candidates.append(rows[rows >= 0])
        return candidates

    def caught_up(
        self, ids: NDArray[np.str_] | Ids, keys: pa.Array, vectors: NDArray[np.float32]
    ) -> Self | None:
        """Return this for a view that has changed: new rows are added, removed ones masked.

        ``ids`` and ``keys`` are (n,), ``vectors`` (n, dim). None if so many rows were removed or
        added that the index should be built anew.
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
        if len(new):
            faiss = load_faiss()  # what is mapped cannot grow
            own = faiss.deserialize_index(faiss.serialize_index(self._index))
            updated = replace(updated, _index=own)
        for start in range(0, len(new), 16_384):
            block = vectors[new[start : start + 16_384]]
            updated._index.add(prepared(block, self.metric))
        if len(new) or updated.share_dead != self.share_dead:
            return updated.tuned(float(self.facts["wanted_recall"]), int(self.facts["seed"]))
        return updated

    # On disk: index.faiss, keys.arrow, index.json, and their sums

    def save(self, folder: Path) -> None:
        """Write it in place of what is there; the caller holds the lock of this index."""
        folder.parent.mkdir(exist_ok=True)
        with written_beside(folder) as temporary:
            temporary.mkdir()
            faiss = load_faiss()
            with (temporary / "index.faiss").open("wb") as faiss_file:  # FAISS's own prints, too
                faiss.write_index(self._index, faiss.PyCallbackIOWriter(faiss_file.write))
            table = pa.table({"key": self.keys})
            with pa.ipc.new_file(str(temporary / "keys.arrow"), table.schema) as file:
                file.write_table(table)
            np.save(temporary / ROWS, self.position_rows)
            text = json.dumps(dict(self.facts), indent=1, sort_keys=True)
            (temporary / "index.json").write_text(text + "\n", encoding="utf-8")
            write_sums(temporary, ("index.json", ROWS, *FILES))

    @classmethod
    def open(
        cls,
        folder: Path,
        ids: NDArray[np.str_] | Ids,
        keys: Callable[[], pa.Array],
        vectors: NDArray[np.float32],
        state: str | None = None,
    ) -> Self | None:
        """Return the index in a folder for a view as it is now; None if it must be built anew.

        ``ids``, and what ``keys`` returns, are (n,), ``vectors`` (n, dim). Where the index is of
        the same ``state``, keys are not looked at.

        Raises
        ------
        StoreCorrupt
            If its files are damaged; deleting the folder loses nothing.
        """
        facts = read_facts(folder)
        if facts is None:
            return None
        index, known = read_files(folder, vectors.shape[1])
        try:
            metric, effort = Metric(facts["metric"]), int(facts["effort"])
        except (ValueError, KeyError) as error:
            raise StoreCorrupt(f"{folder / 'index.json'} is damaged: {error!r}") from error
        if state is not None and facts.get("state") == state:
            rows = read_rows(folder, len(known), len(vectors))
            return cls(ids, vectors, metric, known, rows, effort, facts, index)
        made = cls(ids, vectors, metric, known, np.arange(len(known)), effort, facts, index)
        return made.caught_up(ids, keys(), vectors)


def _filled(name: str, vectors: NDArray[np.float32], metric: Metric, seed: int) -> Any:
    """Return a FAISS index of all vectors, trained on some."""
    n, dim = vectors.shape
    try:
        index = load_faiss().index_factory(dim, name, faiss_metric(metric))
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
    return index


def _fill(index: FaissIndex, vectors: NDArray[np.float32], metric: Metric, seed: int) -> None:
    """Train on a sample and add all vectors, block by block."""
    faiss = load_faiss()
    n = len(vectors)
    inner = faiss.downcast_index(index)
    n_lists = 256
    if isinstance(inner, faiss.IndexIVF):
        n_lists = inner.nlist
        inner.cp.niter, inner.cp.seed = 8, seed
        inner.cp.min_points_per_centroid = 1  # a small data set is no warning
    rows = np.sort(np.random.default_rng(seed).permutation(n)[: max(40 * n_lists, 16_384)])
    if not index.is_trained:
        index.train(prepared(vectors[rows], metric))
    for start in range(0, n, 16_384):
        index.add(prepared(vectors[start : start + 16_384], metric))


def _without_own(
    scores: NDArray[np.float32], rows: NDArray[np.intp], own: NDArray[np.intp], k: int
) -> NDArray[np.float32]:
    """Return the scores, (n, k), each query's own row left out."""
    return np.stack([s[r != o][:k] for s, r, o in zip(scores, rows, own, strict=True)])
