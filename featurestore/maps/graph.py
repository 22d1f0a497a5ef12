"""The kNN graph of a view: each item's nearest neighbors, found once for all who ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featurestore.maps.kept_arrays import derive
from featurestore.search.exact import ExactIndex, load_faiss
from featurestore.search.gpu import has_gpu
from featurestore.store.view import View

K = 20  # neighbors that are kept of each item
_PART = 4096  # queries between two calls of `progress`


@dataclass(frozen=True, eq=False)
class Graph:
    """The neighbors of each row of `View.load`, best first, the row itself left out."""

    rows: NDArray[np.int32]  # (n, k)
    scores: NDArray[np.float32]  # (n, k), cosines

    @property
    def k(self) -> int:
        """How many neighbors each item has."""
        return int(self.rows.shape[1])


def neighbor_graph(view: View, *, progress: Callable[[int, int], None] | None = None) -> Graph:
    """Return the graph of K neighbors by cosine, made once a snapshot.

    A view with an index of its own (`View.build_index`) is searched with it, so with its recall;
    else, and wherever the vectors fit on FAISS's GPU, exactly. With K items or fewer, each has all
    the others.
    """
    view = view.now()

    def make() -> dict[str, NDArray[np.generic]]:  # rows and scores, (n, k)
        index = view.index()
        if not isinstance(index, ExactIndex) and has_gpu(load_faiss()):
            exact = view.index(exact=True)
            assert isinstance(exact, ExactIndex)
            index = exact if exact.is_on_gpu else index
        n = len(index.ids)
        k = min(K, n - 1)
        rows = np.empty((n, max(k, 0)), np.int32)
        scores = np.empty((n, max(k, 0)), np.float32)
        for start in range(0, n if k > 0 else 0, _PART):
            found = index.search(index.vectors[start : start + _PART], k=k + 1)
            own = np.arange(start, start + len(found.rows))
            # Of many equal vectors the row itself need not be among those found.
            is_other = found.rows != own[:, None]
            is_other[is_other.all(axis=1), -1] = False
            rows[own] = found.rows[is_other].reshape(-1, k)
            scores[own] = found.scores[is_other].reshape(-1, k)
            if progress is not None:
                progress(min(start + _PART, n), n)
        return {"rows": rows, "scores": scores}

    found = derive(view, "graphs", make)
    return Graph(found["rows"], found["scores"])
