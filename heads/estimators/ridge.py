"""Ridge regression on class indicators, with exact leave-one-out over all penalties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heads.estimators.base import ScoreHead
from heads.estimators.normaliser import KINDS, Normaliser
from heads.estimators.softmax import fit_sharpness
from heads.estimators.weights import taken
from heads.labels.matrix import Matrix

# Half decades; vectors have mean squared length 1, so their Gram matrix has trace n.
ALPHAS = tuple(float(a) for a in 10 ** np.arange(-3, 3.01, 0.5))


@dataclass(frozen=True, eq=False)
class RidgeLoo:
    """The best of several ridge regressions, by exact leave-one-out."""

    alpha: float
    loss: float  # mean squared leave-one-out error over rows, as they count, and targets
    scores: NDArray[np.float64]  # (n, n_targets), each row predicted without its block
    weights: NDArray[np.float64]  # (dim + 1, n_targets), the last row holds the intercepts


def ridge_loo(
    Z: NDArray[Any],
    targets: NDArray[np.float64],
    alphas: Sequence[float] = ALPHAS,
    groups: NDArray[Any] | None = None,
    weights: NDArray[np.float64] | None = None,
) -> RidgeLoo:
    """Fit ridge regression for every alpha from one decomposition; keep the best.

    For a linear smoother H, the error of rows G when fitted without them is
    ``(I - H_GG)^-1 (T - H T)_G``: no refit is needed [1]_. The intercept is not penalised.

    Parameters
    ----------
    Z : ndarray of shape (n, dim)
    targets : ndarray of shape (n, n_targets)
    alphas : sequence of float
        Penalties on the squared weights, beside the sum of squared errors.
    groups : ndarray of shape (n,), optional
        Rows of one group are left out together.
    weights : ndarray of shape (n,), optional
        How much the squared error of each row counts. A row is left out with all its weight.

    References
    ----------
    .. [1] Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, 7.10.
    """
    Z = np.asarray(Z, dtype=np.float64)
    counts = np.ones(len(Z)) if weights is None else weights
    part = np.sqrt(counts / counts.sum())  # (n,): H of the intercept alone is part partᵀ
    centre, mean = part**2 @ Z, part**2 @ targets
    Z, T = Z - centre, targets - mean
    root = 1.0 if weights is None else np.sqrt(weights)[:, None]
    if weights is not None:  # weighted least squares is plain for rows times the root
        Z, T = Z * root, T * root
    U, squares = _left_basis(Z)
    UT = U.T @ T
    shrink = squares[:, None] / (squares[:, None] + np.asarray(alphas))  # (rank, n_alphas)
    leverage = part[:, None] ** 2 + U**2 @ shrink  # (n, n_alphas)
    together = [(rows, U[rows], part[rows]) for rows in _shared_rows(groups)]

    def left_out(
        a: int, U: NDArray[Any], T: NDArray[Any], UT: NDArray[Any]
    ) -> NDArray[np.floating[Any]]:
        error = T - U @ (shrink[:, a, None].astype(UT.dtype) * UT)
        without = error / np.maximum(1 - leverage[:, a], 1e-12).astype(error.dtype)[:, None]
        for rows, basis, share in together:
            without[rows] = _without(basis, shrink[:, a], share, error[rows])
        return np.asarray(without)

    chosen = 0
    if len(alphas) > 1:  # float32 tells good penalties from bad ones in half the time
        single = [matrix.astype(np.float32) for matrix in (U, T, UT)]
        losses = []
        for a in range(len(alphas)):
            without = left_out(a, *single).ravel()
            losses.append(np.einsum("i,i->", without, without, dtype=np.float64))
        chosen = int(np.argmin(losses))
    error = left_out(chosen, U, T, UT)
    alpha = float(alphas[chosen])
    W = Z.T @ (U @ (UT / (squares + alpha)[:, None]))
    intercept = mean - centre @ W
    loss = float(np.sum(error**2) / counts.sum() / targets.shape[1])
    return RidgeLoo(alpha, loss, targets - error / root, np.vstack([W, intercept]))


def _without(
    basis: NDArray[Any], shrink: NDArray[np.float64], part: NDArray[np.float64], error: NDArray[Any]
) -> NDArray[Any]:
    """Return ``(I - H)⁻¹ error`` of groups, with ``H = p pᵀ + B S Bᵀ``.

    Parameters
    ----------
    basis : ndarray of shape (n_groups, size, rank)
    part : ndarray of shape (n_groups, size)
    error : ndarray of shape (n_groups, size, n_targets)
    """
    size, rank = basis.shape[1:]
    if size <= rank:
        H = part[:, :, None] * part[:, None] + (basis * shrink) @ basis.transpose(0, 2, 1)
        return np.asarray(np.linalg.solve(np.eye(size) * (1 + 1e-12) - H, error))
    # A large group in few columns: (I - C Cᵀ)⁻¹ = I + C (I - Cᵀ C)⁻¹ Cᵀ, group by group.
    found = np.empty(error.shape)
    for g, (B, p, e) in enumerate(zip(basis, part, error, strict=True)):
        C = np.column_stack([B * np.sqrt(shrink), p])
        inner = np.eye(rank + 1) * (1 + 1e-12) - C.T @ C
        found[g] = e + C @ np.linalg.solve(inner, C.T @ e)
    return found


def _left_basis(Z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return left singular vectors (n, rank) and squared singular values (rank,).

    From the smaller of the two Gram matrices: several times faster than an SVD, and exact
    enough as long as penalties stay far above the rounding of the largest square.
    """
    n, dim = Z.shape
    squares, basis = np.linalg.eigh(Z @ Z.T if n <= dim else Z.T @ Z)
    kept = squares > max(squares[-1], 0) * 1e-12
    squares, basis = squares[kept], basis[:, kept]
    return (basis if n <= dim else Z @ (basis / np.sqrt(squares))), squares


def _shared_rows(groups: NDArray[Any] | None) -> list[NDArray[np.intp]]:
    """Return the rows of groups of two or more: an array (n_groups, size) for each size."""
    if groups is None:
        return []
    _, code, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    ordered = np.argsort(code, kind="stable")
    begins = np.cumsum(sizes) - sizes
    return [
        ordered[begins[sizes == size, None] + np.arange(size)]
        for size in np.unique(sizes[sizes > 1])
    ]


def indicators(codes: NDArray[np.intp], n_classes: int) -> NDArray[np.float64]:
    """Return class indicators, 1 for the row's class and else -1, shape (n, n_classes)."""
    targets = -np.ones((len(codes), n_classes))
    targets[np.arange(len(codes)), codes] = 1
    return targets


def choose_normalisation(
    X: NDArray[Any],
    targets: NDArray[Any],
    groups: NDArray[Any] | None = None,
    weights: NDArray[np.float64] | None = None,
    *,
    random_state: int | None = 0,
) -> str:
    """Choose the normalisation under which ridge regression errs least when left out.

    Looks at 500 rows, or 10 for each target where that is more: the choice is coarse, and
    the cost grows with the cube of the rows. Targets have shape (n, n_targets).
    """
    rows = np.arange(len(targets))
    if len(rows) > (n_rows := max(500, 10 * targets.shape[1])):
        rows = np.random.default_rng(random_state).choice(rows, n_rows, replace=False)
    within, counts = taken(groups, rows), taken(weights, rows)
    losses = {}
    for kind in KINDS:
        Z = Normaliser(kind).fit(X[rows], sample_weight=counts).transform(X[rows])
        losses[kind] = ridge_loo(Z, targets[rows], ALPHAS[::2], within, counts).loss
    return min(losses, key=losses.__getitem__)


class RidgeHead(ScoreHead):
    """Ridge regression on ±1 class indicators; normalisation and penalty by leave-one-out.

    Probabilities are a softmax over scores, sharpened to be most likely on the
    leave-one-out scores.

    Parameters
    ----------
    normalisation : {"auto", "centre", "l2", "standardise"}
    alphas : sequence of float
        Penalties to choose from; vectors are scaled to a mean squared length of 1.
    random_state : int or None
        Draws the rows on which the normalisation is chosen.
    """

    def __init__(
        self,
        normalisation: str = "auto",
        alphas: Sequence[float] = ALPHAS,
        random_state: int | None = 0,
    ):
        self.normalisation = normalisation
        self.alphas = alphas
        self.random_state = random_state

    def fit(
        self,
        X: Matrix,
        y: NDArray[Any],
        groups: NDArray[Any] | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn from X of shape (n, dim); labels y, groups and weights have shape (n,)."""
        rows = self._begin_weighted_fit(X, y, groups, sample_weight)
        X, codes = rows.X, rows.y
        targets = indicators(codes, len(self.classes_))
        self.normalisation_ = self.normalisation
        if self.normalisation == "auto":
            self.normalisation_ = choose_normalisation(
                X, targets, rows.groups, rows.weights, random_state=self.random_state
            )
        self.normaliser_ = Normaliser(self.normalisation_).fit(X, sample_weight=rows.weights)
        Z = self.normaliser_.transform(X)
        found = ridge_loo(Z, targets, self.alphas, rows.groups, rows.weights)
        self.alpha_ = found.alpha
        self.weights_ = found.weights
        self.sharpness_ = fit_sharpness(found.scores, codes, weights=rows.weights)
        return self

    def _scores(self, X: Matrix) -> NDArray[np.float64]:
        return np.asarray(self.normaliser_.transform(X) @ self.weights_[:-1] + self.weights_[-1])
