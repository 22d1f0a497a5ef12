"""Ridge regression on class indicators, with exact leave-one-out over all penalties."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh

from heads.estimators.base import ScoreHead
from heads.estimators.normaliser import (
    KINDS,
    MANY_ROWS,
    LazyRows,
    normalised,
    normalised_late,
)
from heads.estimators.ridge_sums import Sums, pieces
from heads.estimators.softmax import fit_sharpness, softmax
from heads.estimators.weights import Rows, taken
from heads.labels.fitting import asked
from heads.labels.matrix import Matrix
from heads.labels.shared import once

# Half decades; vectors have mean squared length 1, so their Gram matrix has trace n.
ALPHAS = tuple(float(a) for a in 10 ** np.arange(-3, 3.01, 0.5))
_ROUNDING = 1e-7  # of the largest square: what float32 cannot tell from nothing
_LEAST_ALPHA = 1e-3  # of the largest square: penalties from there on are safe with float32
_AT_ONCE = 4_000_000  # errors of rows that are looked at together


@dataclass(frozen=True, eq=False)
class Basis:
    """Centred rows, times their root weights, along their axes: ``left * sqrt(squares)``.

    Linear heads with an L2 penalty see nothing else of the rows.
    """

    centre: NDArray[Any]  # (dim,)
    left: NDArray[Any]  # (n, rank), orthonormal columns
    squares: NDArray[np.float64]  # (rank,)
    counts: NDArray[np.float64] | None  # (n,), weight of each row; None where each counts once
    inner: NDArray[Any] | None  # (n, n), products of the rows, where ``left`` is float32

    def rows(self) -> NDArray[Any]:
        """Return the rows along their axes, (n, rank)."""
        root = np.sqrt(self.squares).astype(self.left.dtype)
        return np.asarray(
            self.left * root if self.inner is None else self.inner @ (self.left / root)
        )


def basis_of(
    Z: NDArray[Any], counts: NDArray[np.float64] | None = None, dtype: Any = None
) -> Basis:
    """Return the basis of rows Z, (n, dim), and within `sharing` the same for all heads.

    By default it is found as float64, but for float32 rows of as many columns or more: there
    float32 takes half the time, and with ``inner`` its rounding can be made up for.
    """
    n, dim = Z.shape
    dtype = np.dtype((Z.dtype if n <= dim else np.float64) if dtype is None else dtype)

    def make() -> Basis:
        part = np.full(n, 1 / n) if counts is None else counts / counts.sum()
        centre = part @ Z if dtype == np.float64 else part.astype(dtype) @ Z
        rows = (Z - centre).astype(dtype, copy=False)
        if counts is not None:
            rows *= np.sqrt(counts).astype(dtype)[:, None]
        inner = rows @ rows.T if n <= dim else rows.T @ rows
        squares, left = eigh(inner, check_finite=False, driver="evd")
        most = max(squares[-1], 0)
        is_rough = dtype == np.float32 and n <= dim
        if is_rough:  # weak axes are no axes, but belong to the rows
            squares = np.maximum(squares, _ROUNDING * most)
        kept = squares > most * (1e-12 if dtype == np.float64 else 1e-6 * (not is_rough))
        squares, left = squares[kept], left[:, kept]
        if n > dim:
            left = rows @ (left / np.sqrt(squares))
        return Basis(centre, left, squares.astype(np.float64), counts, inner if is_rough else None)

    return once(("basis", dtype), (Z, counts), make)


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
    dtype: Any = None,
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
    dtype : dtype, optional
        Of the decomposition; by default as exact as the penalty needs.

    References
    ----------
    .. [1] Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, 7.10.
    """
    if _are_many(Z) and dtype in (None, np.float64):
        return _ridge_from_sums(Z, targets, alphas, groups, weights)
    basis = basis_of(Z, weights, dtype)
    U, squares = basis.left, basis.squares
    counts = np.ones(len(Z)) if weights is None else weights
    part = np.sqrt(counts / counts.sum())  # (n,): H of the intercept alone is part partᵀ
    mean, root = part**2 @ targets, np.sqrt(counts)[:, None]
    T = ((targets - mean) * root).astype(U.dtype)  # least squares is plain for rows times the root
    UT = U.T @ T
    shrink = (squares[:, None] / (squares[:, None] + np.asarray(alphas))).astype(U.dtype)
    leverage = part[:, None] ** 2 + U**2 @ shrink  # (n, n_alphas)
    together = [(rows, U[rows], part[rows]) for rows in _shared_rows(groups)]

    def left_out(
        some: NDArray[np.intp], U: NDArray[Any], T: NDArray[Any], UT: NDArray[Any]
    ) -> NDArray[np.floating[Any]]:
        """Return errors, (n, n_some, n_targets), with some of the alphas, all in one product."""
        # (rank, n_some, n_targets)
        fitted = shrink[:, some, None].astype(UT.dtype, copy=False) * UT[:, None]
        error = T[:, None] - np.tensordot(U, fitted, 1)
        without = error / np.maximum(1 - leverage[:, some], 1e-12).astype(error.dtype)[..., None]
        for rows, B, share in together:
            for at, a in enumerate(some):
                without[rows, at] = _without(B, shrink[:, a], share, error[rows, at])
        return np.asarray(without)

    chosen = 0
    if len(alphas) > 1:  # float32 tells good penalties from bad ones in half the time
        single = [matrix.astype(np.float32, copy=False) for matrix in (U, T, UT)]
        at_once = max(1, _AT_ONCE // T.size)
        losses = [
            np.einsum("iaj,iaj->a", error, error, dtype=np.float64)
            for begin in range(0, len(alphas), at_once)
            for error in [left_out(np.arange(begin, min(begin + at_once, len(alphas))), *single)]
        ]
        chosen = int(np.argmin(np.concatenate(losses)))
    alpha = float(alphas[chosen])
    is_strong = alpha < _LEAST_ALPHA * squares.max(initial=0)
    if dtype is None and basis.inner is not None and is_strong:
        return ridge_loo(Z, targets, alphas, groups, weights, np.float64)
    error = left_out(np.array([chosen]), U, T, UT)[:, 0]
    A = U @ (UT / (squares + alpha)[:, None].astype(U.dtype))
    if basis.inner is not None:  # a step of refinement
        missing = T - basis.inner @ A - U.dtype.type(alpha) * A
        A += (missing - U @ (shrink[:, chosen, None] * (U.T @ missing))) / U.dtype.type(alpha)
    A *= root.astype(U.dtype)
    W = Z.T @ A - np.outer(basis.centre, A.sum(axis=0))
    intercept = mean - basis.centre @ W
    loss = float(np.sum(error**2) / counts.sum() / targets.shape[1])
    return RidgeLoo(alpha, loss, targets - error / root, np.vstack([W, intercept]))


def _are_many(Z: NDArray[Any]) -> bool:
    return len(Z) > max(MANY_ROWS, 4 * int(Z.shape[1]))


def _ridge_from_sums(
    Z: NDArray[Any] | LazyRows,
    targets: NDArray[np.float64],
    alphas: Sequence[float],
    groups: NDArray[Any] | None,
    weights: NDArray[np.float64] | None,
) -> RidgeLoo:
    """Do what `ridge_loo` does with many rows in few columns, block by block."""
    sums = Sums.of(Z, targets, weights)
    shrink = sums.squares[:, None] / (sums.squares[:, None] + np.asarray(alphas))
    together = _shared_rows(groups)

    def errors(
        some: list[int], dtype: type[np.floating[Any]]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[Any]]]:
        """Yield rows and their errors when left out, (n, n_some, n_targets)."""
        fitted = (shrink[:, some, None] * sums.along[:, None]).astype(dtype)
        for rows, groups_of in pieces(len(Z), Z.shape[1], together):
            counts = taken(weights, rows)
            root = np.ones(len(rows)) if counts is None else np.sqrt(counts)
            part = root / np.sqrt(sums.total)
            U = sums.rows(Z[rows], counts).astype(dtype)
            T = ((targets[rows] - sums.mean) * root[:, None]).astype(dtype)
            error = T[:, None] - np.tensordot(U, fitted, 1)
            if groups_of is None:
                leverage = part[:, None] ** 2 + U**2 @ shrink[:, some].astype(dtype)
                error /= np.maximum(1 - leverage, 1e-12).astype(dtype)[..., None]
            else:
                B, share = U[groups_of], part[groups_of]
                for at, a in enumerate(some):
                    error[groups_of, at] = _without(B, shrink[:, a], share, error[groups_of, at])
            yield rows, error

    chosen = 0
    if len(alphas) > 1:  # float32 tells good penalties from bad ones in half the time
        losses = sum(
            np.einsum("iaj,iaj->a", error, error, dtype=np.float64)
            for _, error in errors(list(range(len(alphas))), np.float32)
        )
        chosen = int(np.argmin(losses))
    scores, loss = np.empty(targets.shape), 0.0
    for rows, error in errors([chosen], np.float64):
        root = np.ones(len(rows)) if weights is None else np.sqrt(weights[rows])
        scores[rows] = targets[rows] - error[:, 0] / root[:, None]
        loss += float(np.sum(error**2))
    alpha = float(alphas[chosen])
    loss /= sums.total * targets.shape[1]
    return RidgeLoo(alpha, loss, scores, sums.weights(alpha))


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
    X, within, counts = X[rows], taken(groups, rows), taken(weights, rows)
    losses = {}
    for kind in KINDS:
        _, Z = normalised(kind, X, counts)
        losses[kind] = ridge_loo(Z, targets[rows], ALPHAS[::2], within, counts, np.float32).loss
    return min(losses, key=losses.__getitem__)


def can_leave_out(rows: Rows) -> bool:
    """Whether some class stays known when a row, with its group, is left out."""
    _, y = np.unique(rows.y, return_inverse=True)
    if rows.groups is None:
        return bool(np.bincount(y).max(initial=0) > 1)
    _, block = np.unique(rows.groups, return_inverse=True)
    pairs = np.unique(y.astype(np.int64) * (block.max(initial=0) + 1) + block)
    return bool(y.max(initial=-1) + 1 < len(pairs))


def normalisation_of(rows: Rows, n_classes: int, random_state: int | None) -> str:
    """Choose the normalisation for classes, once for all heads that learn from these rows.

    With one row of each class every one is wrong when left out, and the choice would mean
    nothing: cosines serve best then.
    """
    X, codes, groups, counts = rows.X, rows.y, rows.groups, rows.weights
    if not can_leave_out(rows):
        return "l2"
    return once(
        ("normalisation", n_classes, random_state),
        (X, codes, groups, counts),
        lambda: choose_normalisation(
            X, indicators(codes, n_classes), groups, counts, random_state=random_state
        ),
    )


class RidgeHead(ScoreHead):
    """Ridge regression on ±1 class indicators; normalisation and penalty by leave-one-out.

    Probabilities are a softmax over scores, sharpened to be most likely on the
    leave-one-out scores. With one row of each class nothing can be left out: rows of length 1
    and the middle penalty are taken.

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
            self.normalisation_ = normalisation_of(rows, len(self.classes_), self.random_state)
        is_told = can_leave_out(rows)
        alphas = self.alphas if is_told else self.alphas[len(self.alphas) // 2 :][:1]
        if _are_many(X):
            self.normaliser_, late = normalised_late(self.normalisation_, X, rows.weights)
            found = _ridge_from_sums(late, targets, alphas, rows.groups, rows.weights)
        else:
            self.normaliser_, Z = normalised(self.normalisation_, X, rows.weights)
            found = ridge_loo(Z, targets, alphas, rows.groups, rows.weights)
        self.alpha_ = found.alpha
        self.weights_ = found.weights
        self.sharpness_ = 1.0
        if is_told:
            self.sharpness_ = fit_sharpness(found.scores, codes, weights=rows.weights)
            if request := asked(self):
                said = softmax(self.sharpness_ * found.scores)
                request.answer(np.arange(len(codes)), said, rows.source, len(codes))
        return self

    def _scores(self, X: Matrix) -> NDArray[np.float64]:
        return np.asarray(self.normaliser_.apply(X) @ self.weights_[:-1] + self.weights_[-1])
