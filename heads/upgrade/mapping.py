"""A linear map from the vectors of one encoder to those of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featurestore.terms.vectors import unit_rows

Vectors = NDArray[np.floating]  # (n, dim)
ALPHAS = tuple(10.0**k for k in range(-3, 4))  # of ridge, over the mean square of the vectors
K = 10


@dataclass(frozen=True)
class Found:
    """A map, and how well searches through it find what searches in the new vectors find."""

    name: str  # procrustes | ridge
    recall: float  # of the ten nearest by the new vectors, on items that taught nothing
    alpha: float | None = None


def chosen_map(
    old: Vectors, new: Vectors, seed: int = 0
) -> tuple[Found, Callable[[Vectors], Vectors], NDArray[np.intp]]:
    """Learn a map from old (n, d) to new (n, e) vectors of the same items.

    Half of the items teach; a quarter chooses between Procrustes and ridge, and ridge's penalty;
    the last quarter, whose rows are returned, says how well it does.

    Returns
    -------
    found : Found
    apply : callable
        From old vectors (m, d) to (m, e).
    rows : ndarray of shape (n_tested,)
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(old))
    half, three = len(order) // 2, 3 * len(order) // 4
    teach, choose, test = order[:half], order[half:three], order[three:]
    x, y = unit_rows(old), unit_rows(new)
    made: list[tuple[str, float | None, Callable[[Vectors], Vectors]]] = [
        ("procrustes", None, procrustes(x[teach], y[teach])),
        *(("ridge", alpha, one) for alpha, one in ridges(x[teach], y[teach])),
    ]
    recalls = [recall(apply(x[choose]), y, choose) for _, _, apply in made]
    name, alpha, apply = made[int(np.argmax(recalls))]
    found = Found(name, recall(apply(x[test]), y, test), alpha)
    return found, lambda given: apply(unit_rows(given)), test


def procrustes(old: Vectors, new: Vectors) -> Callable[[Vectors], Vectors]:
    """Return the orthogonal map, with shifts and one scale, of least squared error [1]_.

    Of unequal widths it is semi-orthogonal: rows or columns of length 1.

    References
    ----------
    .. [1] Schönemann, Psychometrika 31, 1966, 1-10; Gower, Psychometrika 40, 1975, 33-51.
    """
    a, b = old.mean(axis=0), new.mean(axis=0)
    u, s, v = np.linalg.svd((old - a).T @ (new - b), full_matrices=False)
    turn = u @ v
    square = float(((old - a) @ turn).__pow__(2).sum())
    scale = float(s.sum()) / square if square else 1.0
    return lambda given: (given - a) @ turn * scale + b


def ridges(old: Vectors, new: Vectors) -> list[tuple[float, Callable[[Vectors], Vectors]]]:
    """Return ridge regressions of new on old vectors, one a penalty, from one decomposition."""
    a, b = old.mean(axis=0), new.mean(axis=0)
    u, s, v = np.linalg.svd(old - a, full_matrices=False)
    told = u.T @ (new - b)
    unit = float((s**2).mean()) or 1.0

    def at(alpha: float) -> Callable[[Vectors], Vectors]:
        weights = v.T @ ((s / (s**2 + alpha * unit))[:, None] * told)
        return lambda given: (given - a) @ weights + b

    return [(alpha, at(alpha)) for alpha in ALPHAS]


def nearest(
    queries: Vectors, items: Vectors, rows: NDArray[np.intp], k: int = K
) -> NDArray[np.intp]:
    """Return the k items (n, dim) nearest to queries (m, dim) by cosine, (m, k).

    A query never finds the item whose number stands in ``rows``, (m,).
    """
    scores = unit_rows(queries) @ unit_rows(items).T
    scores[np.arange(len(rows)), rows] = -np.inf
    return np.asarray(np.argpartition(-scores, k - 1, axis=1)[:, :k])


def overlap(first: NDArray[np.intp], second: NDArray[np.intp]) -> float:
    """Return which share of the one's neighbors, (m, k), are the other's."""
    both = [np.isin(a, b).mean() for a, b in zip(first, second, strict=True)]
    return float(np.mean(both))


def recall(mapped: Vectors, new: Vectors, rows: NDArray[np.intp], k: int = K) -> float:
    """Return which share of the k nearest by the new vectors is found through mapped ones."""
    k = min(k, len(new) - 1)
    return overlap(nearest(new[rows], new, rows, k), nearest(mapped, new, rows, k))
