"""How vectors are made comparable before a head sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from featurestore.terms.vectors import scale_to_unit
from heads.estimators.weights import checked_weights
from heads.labels.matrix import Matrix
from heads.labels.shared import once

_CHUNK_ROWS = 64  # that are float64 at a time: more do not stay in the cache
MANY_ROWS = 50_000  # of more, heads that need no copy of all rows make none
LAZY_AT_ONCE = 16_384
KINDS = ("centre", "l2", "standardise")


class Normaliser(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Shift and scale vectors so that their mean squared length is 1.

    One scale for all encoders lets one grid of penalties serve them all.

    Parameters
    ----------
    kind : {"centre", "l2", "standardise"}
        ``centre`` removes the mean; ``l2`` removes it and gives each vector length 1
        (SimpleShot's CL2N [1]_); ``standardise`` gives each column mean 0 and one variance.

    References
    ----------
    .. [1] Wang et al., SimpleShot, 2019, arXiv:1911.04623.
    """

    def __init__(self, kind: str = "centre"):
        self.kind = kind

    def fit(self, X: Matrix, y: object = None, sample_weight: ArrayLike | None = None) -> Self:
        """Learn shift and scale from the rows of X, shape (n, dim), as much as each counts."""
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        return self.learn(X, checked_weights(sample_weight, len(X)))

    def learn(self, X: NDArray[Any], weights: NDArray[np.float64] | None) -> Self:
        """Do what `fit` does with rows and weights that were looked at before."""
        if self.kind not in KINDS:
            raise ValueError(f"no normalisation {self.kind!r}; known: {', '.join(KINDS)}")
        self.n_features_in_ = X.shape[1]
        self.shift_, variance = once("moments", (X, weights), lambda: _moments(X, weights))
        if self.kind == "standardise":
            self.scale_ = np.sqrt(variance * max((variance > 0).sum(), 1))
        else:
            self.scale_ = np.full(X.shape[1], np.sqrt(variance.sum()))
        self.scale_[self.scale_ == 0] = np.inf  # nothing varies: all become 0
        return self

    def transform(self, X: Matrix) -> NDArray[np.floating[Any]]:
        """Return normalised rows, shape and dtype of X."""
        check_is_fitted(self)
        return self.apply(validate_data(self, X, dtype=[np.float64, np.float32], reset=False))

    def apply(self, X: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """Do what `transform` does with rows that were looked at before."""
        return once("applied", (self, X), lambda: self._applied(X))

    def _applied(self, X: NDArray[Any]) -> NDArray[np.floating[Any]]:
        Z = X - self.shift_.astype(X.dtype)
        Z /= self.scale_.astype(X.dtype)
        return scale_to_unit(Z) if self.kind == "l2" else Z


def normalised(
    kind: str, X: NDArray[Any], weights: NDArray[np.float64] | None = None
) -> tuple[Normaliser, NDArray[np.floating[Any]]]:
    """Return a fitted normaliser and its rows, which must not be changed."""

    def make() -> tuple[Normaliser, NDArray[np.floating[Any]]]:
        fitted = Normaliser(kind).learn(X, weights)
        return fitted, fitted.apply(X)

    return once(("normalised", kind), (X, weights), make)


@dataclass(frozen=True, eq=False)
class LazyRows:
    """Normalised rows, (n, dim), that are made when they are asked for, and not kept."""

    normaliser: Normaliser
    X: NDArray[Any]  # (n, dim)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, dim)."""
        n, dim = self.X.shape
        return n, dim

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, rows: NDArray[np.intp] | slice) -> NDArray[np.floating[Any]]:
        return self.normaliser._applied(self.X[rows])

    def blocks(self) -> Iterator[slice]:
        """Yield slices of rows that together are all."""
        for start in range(0, len(self), LAZY_AT_ONCE):
            yield slice(start, start + LAZY_AT_ONCE)


def normalised_late(
    kind: str, X: NDArray[Any], weights: NDArray[np.float64] | None = None
) -> tuple[Normaliser, LazyRows]:
    """Do what `normalised` does, without a copy of all rows."""
    fitted = Normaliser(kind).learn(X, weights)
    return fitted, LazyRows(fitted, X)


def _moments(
    X: NDArray[Any], weights: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and variance of each column, (dim,) both."""
    if weights is None:
        mean = X.mean(axis=0, dtype=np.float64)
        variance = np.zeros_like(mean)
        for begin in range(0, len(X), _CHUNK_ROWS):
            apart = X[begin : begin + _CHUNK_ROWS] - mean
            variance += np.einsum("ij,ij->j", apart, apart)
        variance /= len(X)
    else:
        mean = weights @ X / weights.sum()
        variance = weights @ (X - mean) ** 2 / weights.sum()
    # Rounding leaves a little variance in a constant column: it carries nothing.
    variance[variance <= (1e-6 * mean) ** 2] = 0
    return mean, variance
