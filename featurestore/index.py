"""FAISS: exact cosine search over the vectors of a view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import MissingExtra, ShapeMismatch, UnknownItem, nearest
from featurestore.values import Neighbors


@dataclass(frozen=True, eq=False)
class ExactIndex:
    """Inner products of L2-normalised vectors: every neighbour is the true one."""

    ids: NDArray[np.str_]  # (n,)
    vectors: NDArray[np.float32]  # (n, dim), normalised
    _flat: Any

    @classmethod
    def build(cls, ids: NDArray[np.str_], vectors: NDArray[np.float32]) -> ExactIndex:
        """Index ``vectors`` of shape (n, dim); they need not be normalised."""
        try:
            import faiss
        except ImportError as error:
            raise MissingExtra(
                "search needs faiss: pip install 'featurestore[cpu]', or 'featurestore[gpu]' "
                "where there is a CUDA GPU"
            ) from error
        normalized = normalize_rows(vectors)
        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(normalized)
        return cls(ids, normalized, flat)

    def search(self, queries: NDArray[np.float32], *, k: int = 10) -> Neighbors:
        """Find the stored vectors closest to each query.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, dim), float32
        k : int
            Neighbours per query; fewer come back from a smaller index.

        Returns
        -------
        Neighbors
            Each (n_queries, min(k, n_items)), best first; scores are cosines in [-1, 1].

        Raises
        ------
        ShapeMismatch
            If ``queries`` has another dim than the index.
        """
        if queries.ndim != 2 or queries.shape[1] != self.vectors.shape[1]:
            raise ShapeMismatch(
                f"index has dim {self.vectors.shape[1]}, queries have shape {queries.shape}: "
                "same encoder?"
            )
        if len(self.ids) == 0:
            none = np.empty((len(queries), 0))
            return Neighbors(none.astype(object), none.astype(np.float32), none.astype(np.intp))
        scores, rows = self._flat.search(normalize_rows(queries), min(k, len(self.ids)))
        return Neighbors(self.ids[rows], scores, rows)

    def neighbors(self, item_id: str, *, k: int = 10) -> Neighbors:
        """Find the items closest to one of the index's own, itself left out.

        Raises
        ------
        UnknownItem
            If the index has no vector of that item.
        """
        rows = np.flatnonzero(self.ids == item_id)
        if len(rows) == 0:
            raise UnknownItem(
                f"there is no vector of {item_id!r} here: {nearest(item_id, self.ids[:10_000])}"
            )
        found = self.search(self.vectors[rows[:1]], k=k + 1)
        others = found.ids[0] != item_id
        return Neighbors(
            found.ids[:, others][:, :k],
            found.scores[:, others][:, :k],
            found.rows[:, others][:, :k],
        )


def normalize_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row to length 1; rows of zeros stay zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = np.ascontiguousarray(
        vectors / np.where(norms > 0, norms, 1), dtype=np.float32
    )
    return scaled
