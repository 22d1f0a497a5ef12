"""Linear discriminant analysis with one shrunken covariance within classes."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from featurestore.errors import NotEnoughData
from featurestore.terms.vectors import class_sums
from heads.estimators.base import ScoreHead
from heads.estimators.normaliser import Normaliser
from heads.estimators.softmax import fit_sharpness
from heads.labels.folds import make_folds
from heads.labels.matrix import Matrix

HELD_OUT_ROWS = 5000  # the temperature is one number: more rows do not make it better


class LdaHead(ScoreHead):
    """Gaussian classes that share one covariance, shrunk by the rule of Ledoit and Wolf [1]_.

    All classes lend their rows to one estimate, so that few rows a class are enough (unlike
    ``LinearDiscriminantAnalysis(shrinkage="auto")``, which shrinks each class by itself).
    Probabilities are sharpened on a held-out fifth: with many columns Gaussian ones are far
    too sure.

    Parameters
    ----------
    random_state : int or None
        Draws the held-out fifth.

    References
    ----------
    .. [1] Ledoit and Wolf, Journal of Multivariate Analysis 88, 2004, 365-411.
    """

    def __init__(self, random_state: int | None = 0):
        self.random_state = random_state

    def fit(self, X: Matrix, y: NDArray[Any], groups: NDArray[Any] | None = None) -> Self:
        """Learn from X of shape (n, dim), labels y and, optionally, groups of shape (n,)."""
        X, codes = self._begin_fit(X, y)
        self.normaliser_ = Normaliser("centre").fit(X)
        Z = self.normaliser_.transform(X)
        n_classes = len(self.classes_)
        self.sharpness_ = self._held_out_sharpness(Z, codes, groups, n_classes)
        self.weights_, self.shrinkage_ = _discriminant(Z, codes, n_classes)
        return self

    def _held_out_sharpness(
        self, Z: NDArray[Any], codes: NDArray[np.intp], groups: NDArray[Any] | None, n_classes: int
    ) -> float:
        rng = np.random.default_rng(self.random_state)
        rows = np.sort(rng.permutation(len(codes))[:HELD_OUT_ROWS])
        block = rows if groups is None else np.asarray(groups)[rows]
        try:
            folds = make_folds(np.char.zfill(rows.astype(str), 12), codes[rows], block, n_repeats=1)
        except NotEnoughData:  # a class that lies in one group cannot be held out
            return 1.0
        train, test = (rows[part] for part in next(folds.parts()))
        weights, _ = _discriminant(Z[train], codes[train], n_classes)
        return fit_sharpness(Z[test] @ weights[:-1] + weights[-1], codes[test])

    def _scores(self, X: Matrix) -> NDArray[np.float64]:
        Z = self.normaliser_.transform(X)
        return np.asarray(Z @ self.weights_[:-1] + self.weights_[-1])


def _discriminant(
    Z: NDArray[Any], codes: NDArray[np.intp], n_classes: int
) -> tuple[NDArray[np.float64], float]:
    """Return log-posterior weights (dim + 1, n_classes), intercepts last, and the shrinkage.

    With mean m and share p of a class and covariance S within classes, the score of z is
    ``z S⁻¹ m - m S⁻¹ m / 2 + log p``.
    """
    sums, counts = class_sums(Z, codes, n_classes)
    means = sums / np.maximum(counts, 1)[:, None]
    residuals = Z - means[codes].astype(Z.dtype)
    if len(Z) < Z.shape[1]:
        W, shrinkage = _solve_in_rows(residuals, means.T)
    else:
        covariance, shrinkage = shrunk_covariance(residuals)
        covariance.flat[:: len(covariance) + 1] += _floor(float(np.trace(covariance)), Z.shape[1])
        W = cho_solve(cho_factor(covariance), means.T)  # (dim, n_classes)
    share = np.maximum(counts, 0.5) / counts.sum()  # a class that is not here is unlikely
    return np.vstack([W, np.log(share) - (means.T * W).sum(axis=0) / 2]), float(shrinkage)


def _floor(trace: float, dim: int) -> float:
    """Return a small ridge, for classes within which nothing varies."""
    return max(1e-9, 1e-6 * trace / dim)


def _solve_in_rows(R: NDArray[Any], M: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return S⁻¹ M and the shrinkage, with fewer rows than columns, where S is never made.

    ``S = c I + (1 - a) RᵀR / n``, so ``S⁻¹ M = (M - Rᵀ (c n / (1 - a) I + R Rᵀ)⁻¹ R M) / c``.
    """
    n, dim = R.shape
    R = R.astype(np.float64)
    G = R @ R.T
    trace = float(np.trace(G)) / n
    shrinkage = _shrinkage(G.diagonal(), float(np.vdot(G, G)) / n**2, trace, n, dim)
    c = shrinkage * trace / dim + _floor(trace, dim)
    if shrinkage >= 1:
        return M / c, shrinkage
    G.flat[:: n + 1] += c * n / (1 - shrinkage)
    return (M - R.T @ cho_solve(cho_factor(G), R @ M)) / c, shrinkage


def _shrinkage(lengths: NDArray[Any], squares: float, trace: float, n: int, dim: int) -> float:
    """Return the share of the identity, from squared row lengths, ‖S‖² and the trace of S."""
    noise = (float(lengths @ lengths) / n - squares) / (n * dim)
    spread = squares / dim - (trace / dim) ** 2
    return 0.0 if spread <= 0 or noise <= 0 else min(noise, spread) / spread


def shrunk_covariance(R: NDArray[Any]) -> tuple[NDArray[np.float64], float]:
    """Shrink the covariance of centred rows towards a multiple of the identity [1]_.

    Equal to ``sklearn.covariance.ledoit_wolf(R, assume_centered=True)`` with one matrix
    product instead of three: the sum over all entries of ``(R²)ᵀ R²`` is the sum of the rows'
    fourth powers of length.

    Parameters
    ----------
    R : ndarray of shape (n, dim)

    Returns
    -------
    covariance : ndarray of shape (dim, dim), float64
    shrinkage : float
        In [0, 1].

    References
    ----------
    .. [1] Ledoit and Wolf, Journal of Multivariate Analysis 88, 2004, 365-411.
    """
    n, dim = R.shape
    S = (R.T @ R).astype(np.float64) / n
    trace = float(np.trace(S))
    lengths = np.einsum("ij,ij->i", R, R, dtype=np.float64)
    shrinkage = _shrinkage(lengths, float(np.vdot(S, S)), trace, n, dim)
    S *= 1 - shrinkage
    S.flat[:: dim + 1] += shrinkage * trace / dim
    return S, shrinkage
