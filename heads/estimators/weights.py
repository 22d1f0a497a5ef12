"""How much each row of a fit counts: sample weights, checked, and exact copies counted once."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse

from featurestore.terms.vectors import class_sums
from heads.labels.matrix import Matrix
from heads.labels.shared import once

SHARES = 1 + 1e-6  # weights with a sum up to here are shares of the rows, as AdaBoost passes them
# Columns, by place: rows that differ in one of them are no copies. Pictures have equal corners.
LOOKED_AT = (0.0, 0.5, 1.0, *(np.arange(1, 32, 2) / 32).tolist())


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows that a head learns from, each with its weight."""

    X: Any  # (n, dim)
    y: NDArray[Any]  # (n,), class numbers or targets
    groups: NDArray[Any] | None  # (n,)
    weights: NDArray[np.float64] | None  # (n,), above 0; None where each row counts once
    # (n_given,), which row each given one became, -1 where it was dropped; None: they are the same
    source: NDArray[np.intp] | None = None


def weighted_rows(
    X: Matrix,
    y: NDArray[Any],
    groups: NDArray[Any] | None = None,
    weights: NDArray[np.float64] | None = None,
) -> Rows:
    """Drop rows of weight 0, and make one row of exact copies.

    A row of weight 2 and two equal rows are then the same input, also where penalties are
    chosen: a row is never judged by its own copy. Copies agree in vector, y and group. With
    weights or copies the rows come out in an order that depends on what they hold, not on
    where they stood; without either they stay as they are.

    Parameters
    ----------
    X : ndarray or CSR of shape (n, dim)
    y : ndarray of shape (n,)
        Numbers: of classes, or to be predicted.
    groups : ndarray of shape (n,), optional
    weights : ndarray of shape (n,), optional
        As `checked_weights` returns them.
    """
    if groups is not None:
        groups = np.asarray(groups)
    if weights is None and not once("has copies", (X,), lambda: _has_copies(X)):
        return Rows(X, y, groups, None)
    n_given = X.shape[0]
    kept = np.arange(n_given)
    if weights is not None and not weights.all():
        kept = np.flatnonzero(weights)
        X, y, weights = X[kept], y[kept], weights[kept]
        groups = None if groups is None else groups[kept]
    keys = np.frombuffer(b"".join(_digests(X)), dtype=np.uint64).reshape(-1, 2)
    parts = [y, keys[:, 1], keys[:, 0]]
    if groups is not None:
        parts.insert(0, np.unique(groups, return_inverse=True)[1])
    order = np.lexsort(parts)
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = np.any([np.diff(part[order]) != 0 for part in parts], axis=0)
    if weights is None and is_new.all():
        return Rows(X, y, groups, None)
    totals = np.bincount(
        np.cumsum(is_new) - 1, weights=None if weights is None else weights[order]
    ).astype(np.float64)
    first = order[is_new]
    source = np.full(n_given, -1)
    source[kept[order]] = np.cumsum(is_new) - 1
    return Rows(
        X[first],
        y[first],
        None if groups is None else groups[first],
        None if np.allclose(totals, 1, rtol=1e-12, atol=0) else totals,
        source,
    )


def checked_weights(sample_weight: ArrayLike | None, n: int) -> NDArray[np.float64] | None:
    """Return the weight of each row, (n,), or None where each row counts once.

    Weights whose sum is 1 or less say only how the rows compare; they are scaled so that their
    mean is 1, that of rows of weight 0 left aside.

    Raises
    ------
    ValueError
        Unless there is one finite number of 0 or more for each row, one of them above 0.
    """
    if sample_weight is None:
        return None
    try:
        weights = np.array(sample_weight, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"sample_weight: expected one number for each row: {error}") from None
    if weights.ndim == 0:
        weights = np.full(n, float(weights))
    if weights.shape != (n,):
        raise ValueError(
            f"sample_weight has shape {weights.shape}: expected ({n},), one number for each row"
        )
    if (bad := np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))).size:
        raise ValueError(
            f"sample_weight[{bad[0]}] is {weights[bad[0]]:g}: expected a finite number of 0 or more"
        )
    total = weights.sum()
    if total == 0:
        raise ValueError("every sample weight is zero: expected at least one above 0")
    if total <= SHARES:
        weights *= np.count_nonzero(weights) / total
    return None if np.allclose(weights, 1, rtol=1e-12, atol=0) else weights


def class_means(
    Z: NDArray[Any], codes: NDArray[np.intp], n_classes: int, weights: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean of each class, (n_classes, dim), and the weight of its rows, (n_classes,).

    A class without rows has mean 0.
    """
    sums, _ = class_sums(Z if weights is None else weights[:, None] * Z, codes, n_classes)
    totals = np.bincount(codes, weights=weights, minlength=n_classes).astype(np.float64)
    return sums / np.where(totals > 0, totals, 1)[:, None], totals


def taken(values: NDArray[Any] | None, rows: NDArray[Any] | slice) -> NDArray[Any] | None:
    """Return some rows of what may not be given."""
    return None if values is None else values[rows]


def _has_copies(X: Matrix) -> bool:
    """Whether two rows are equal; some columns tell nearly all of them apart."""
    rows = np.arange(X.shape[0])
    for place in () if issparse(X) else LOOKED_AT:
        column = X[rows, round(place * (X.shape[1] - 1))]
        _, number, counts = np.unique(column, return_inverse=True, return_counts=True)
        rows = rows[counts[number] > 1]
        if not len(rows):
            return False
    return len(set(_digests(X[rows]))) < len(rows)


def _digests(X: Matrix) -> list[bytes]:
    """Return what names the content of each row, 16 bytes long."""
    if issparse(X):
        X = csr_array(X)
        ends = X.indptr.tolist()
        return [
            blake2b(X.indices[a:b].tobytes() + X.data[a:b].tobytes(), digest_size=16).digest()
            for a, b in pairwise(ends)
        ]
    return [blake2b((row + 0.0).tobytes(), digest_size=16).digest() for row in X]  # -0 is 0
