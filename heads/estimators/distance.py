"""How far rows lie from the classes, and from the nearest of their items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featurestore.terms.vectors import class_sums, unit_rows

_CHUNK_ROWS = 4096
ROWS_OF_A_MEAN = 3  # of local means: that many or a little more
_STEPS = 3


@dataclass(frozen=True, eq=False)
class ClassDistance:
    """Squared Mahalanobis distance of vectors of length 1 to the nearest class mean [1]_.

    The covariance within classes is shrunk by the rule of Ledoit and Wolf. It is kept as
    principal directions and one variance for all others, so that few rows make a small value.

    References
    ----------
    .. [1] Mueller and Hein, "Mahalanobis++", ICML 2025, arXiv:2505.18032.
    """

    means: NDArray[np.floating[Any]]  # (n_classes, dim)
    directions: NDArray[np.floating[Any]]  # (dim, rank), of length 1
    variances: NDArray[np.floating[Any]]  # (rank,), along them
    rest: float  # variance along all other directions
    shrinkage: float  # share of the identity, in [0, 1]

    @classmethod
    def fit(
        cls,
        vectors: NDArray[np.floating[Any]],
        codes: NDArray[np.intp] | None = None,
        *,
        means_of: tuple[NDArray[np.floating[Any]], NDArray[np.intp]] | None = None,
        shrinkage: float | None = None,
        most_directions: int | None = None,
    ) -> Self:
        """Learn from vectors (n, dim) and class numbers (n,); without these all are one class.

        Parameters
        ----------
        means_of : pair of ndarray, optional
            Vectors and class numbers that class means are taken from, with every class of
            ``codes`` among them; by default the rows themselves.
        shrinkage : float, optional
            By default the rule decides.
        most_directions : int, optional
            Keep the directions of greatest variance; those that are left share their mean.
        """
        unit = unit_rows(vectors).astype(np.float64)
        codes = np.zeros(len(unit), np.intp) if codes is None else codes
        lent, lent_codes = (unit, codes) if means_of is None else means_of
        if means_of is not None:
            lent = unit_rows(lent).astype(np.float64)
        names, lent_class = np.unique(lent_codes, return_inverse=True)
        sums, counts = class_sums(lent, lent_class, len(names))
        means = sums / counts[:, None]
        class_of = np.searchsorted(names, codes)
        residual = unit - means[class_of]
        if shrinkage is None:
            shrinkage = _shrinkage(residual)
        values, directions = _principal(residual)
        dim = unit.shape[1]
        trace = float(values.sum())
        values = (1 - shrinkage) * values + shrinkage * trace / dim
        least = float(values.max(initial=0.0)) * 1e-6 + 1e-12
        n_kept = len(values) if most_directions is None else min(len(values), most_directions)
        n_others = dim - n_kept
        left = float(values[n_kept:].sum()) + shrinkage * trace / dim * (dim - len(values))
        return cls(
            means,
            directions[:, :n_kept],
            np.maximum(values[:n_kept], least),
            max(left / n_others if n_others else 0.0, least),
            shrinkage,
        )

    def squares(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the squared distance of each row of (n, dim) to the nearest class, (n,)."""
        return _in_chunks(self._squares, vectors)

    def _squares(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        unit = unit_rows(vectors).astype(np.float64)
        means = np.asarray(self.means, np.float64)
        spun, centres = unit @ self.directions, means @ self.directions
        scale = 1 / np.sqrt(np.asarray(self.variances, np.float64))
        found = _between(spun * scale, centres * scale)
        if self.directions.shape[1] < unit.shape[1]:
            across = _between(unit, means) - _between(spun, centres)
            found += np.maximum(across, 0) / self.rest
        return np.asarray(found.min(axis=1))


def mahalanobis(
    vectors: NDArray[np.floating[Any]], codes: NDArray[np.intp] | None = None
) -> NDArray[np.float64]:
    """Return squared Mahalanobis distances of rows to the nearest of their own class means, (n,).

    ``vectors`` (n, dim) are brought to length 1; ``codes`` (n,) are class numbers, -1 for none.
    """
    known = np.ones(len(vectors), bool) if codes is None else codes >= 0
    fitted = ClassDistance.fit(vectors[known], None if codes is None else codes[known])
    return fitted.squares(vectors)


def local_means(
    vectors: NDArray[np.floating[Any]], codes: NDArray[np.intp], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return means (m, dim) of three to five vectors of length 1 of one class that lie together.

    A class may be of several kinds, and bent: to lie near these says more than to lie near its
    middle, as nearest neighbours do, of which they keep no single one. Each class is halved
    across its longest direction, and again: all means are of as many rows (of fewer where the
    class has fewer than three), since a mean of many lies nearer to every row.
    """
    unit = unit_rows(vectors).astype(np.float64)
    found = []
    for code in np.unique(codes):
        own = unit[codes == code]
        parts = [(own, max(1, len(own) // ROWS_OF_A_MEAN))]
        while parts:
            rows, n_means = parts.pop()
            if n_means == 1:
                found.append(rows.mean(axis=0))
                continue
            n_left = n_means // 2
            order = np.argsort(_along_longest(rows, rng), kind="stable")
            at = round(len(rows) * n_left / n_means)
            parts += [(rows[order[:at]], n_left), (rows[order[at:]], n_means - n_left)]
    return np.array(found)


def _along_longest(rows: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return where rows lie along a direction of great variance, (n,), by power iteration."""
    centred = rows - rows.mean(axis=0)
    along = centred @ rng.normal(size=rows.shape[1])
    for _ in range(_STEPS):
        direction = along @ centred
        along = centred @ (direction / max(float(np.linalg.norm(direction)), 1e-30))
    return np.asarray(along)


def squares_to(
    means: NDArray[np.floating[Any]], vectors: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Return the squared distance of each row of (n, dim), at length 1, to the nearest mean."""

    def squares(some: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        unit = unit_rows(some).astype(np.float64)
        return np.asarray(_between(unit, np.asarray(means, np.float64)).min(axis=1))

    return _in_chunks(squares, vectors)


def _in_chunks(
    squares: Callable[[NDArray[np.floating[Any]]], NDArray[np.float64]],
    vectors: NDArray[np.floating[Any]],
) -> NDArray[np.float64]:
    starts = range(0, len(vectors), _CHUNK_ROWS)
    parts = [squares(vectors[at : at + _CHUNK_ROWS]) for at in starts]
    return np.concatenate(parts) if parts else np.empty(0)


def _shrinkage(residual: NDArray[np.float64]) -> float:
    from sklearn.covariance import ledoit_wolf_shrinkage

    return float(ledoit_wolf_shrinkage(residual, assume_centered=True))


def _principal(
    residual: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return variances (rank,), greatest first, and directions (dim, rank) of centred rows.

    With fewer rows than columns they are those of the rows' inner products.
    """
    n, dim = residual.shape
    if n >= dim:
        values, directions = np.linalg.eigh(residual.T @ residual)
        return np.maximum(values[::-1], 0) / n, directions[:, ::-1]
    values, of_rows = np.linalg.eigh(residual @ residual.T)
    is_some = values > max(values.max(initial=0.0), 1e-12) * 1e-9
    values, of_rows = values[is_some][::-1], of_rows[:, is_some][:, ::-1]
    return values / n, residual.T @ of_rows / np.sqrt(values)


def _between(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return squared Euclidean distances, (len(a), len(b))."""
    squares = (a**2).sum(axis=1)[:, None] - 2 * a @ b.T + (b**2).sum(axis=1)
    return np.asarray(np.maximum(squares, 0))
