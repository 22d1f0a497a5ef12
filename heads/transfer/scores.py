"""Transferability scores: how much of the labels is in the vectors, without training a head.

Plain functions of vectors F (n, dim) and labels y (n,): classes, or numbers (float dtype) where a
score is defined for them. Higher is better for all. None is safe as the only judge (Agostinelli
et al., 2022; Sorkhei et al., 2025, arXiv:2503.18528), so `rank` shows them beside real heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from featurestore.errors import NotEnoughData, ShapeMismatch
from featurestore.terms.vectors import class_sums, unit_rows
from heads.estimators.knn import TEMPERATURE, nearest_rows
from heads.estimators.ridge import ALPHAS, indicators
from heads.estimators.ridge import ridge_loo as fit_ridge
from heads.estimators.shrinkage import shrunk_covariance

LEAST_VARIANCE = 1e-4  # of a class in one direction: google-research/stable_transfer, gbc.py
GBC_DIRECTIONS = 64
FAINT = 1e-8  # of the largest squared singular value: below, a Gram matrix rounds too much


def ridge_loo(
    F: NDArray[Any],
    y: NDArray[Any],
    *,
    alphas: Sequence[float] | None = None,
    groups: NDArray[Any] | None = None,
) -> float:
    """Leave-one-out balanced accuracy of ridge regression on ±1 indicators; R² of numbers.

    Exact, from one decomposition. The primary score: it is what a real head does.

    Parameters
    ----------
    F : ndarray of shape (n, dim)
    y, groups : ndarray of shape (n,)
        Rows of one group are left out together.
    alphas : sequence of float, optional
        Penalties, of which the best is taken; they are added to the sum of squared errors. By
        default half decades from 1e-3 to 1e3 times the mean squared length of centred vectors.

    References
    ----------
    .. [1] Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, 7.10.
    """
    return _mean_recall(*ridge_loo_rows(F, y, alphas=alphas, groups=groups))


def ridge_loo_rows(
    F: NDArray[Any],
    y: NDArray[Any],
    *,
    alphas: Sequence[float] | None = None,
    groups: NDArray[Any] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.intp] | None]:
    """Return what each row adds to `ridge_loo`: whether it is right; for numbers 1 - e²/var.

    Returns
    -------
    rows : ndarray of shape (n,)
    codes : ndarray of shape (n,), or None
        Class numbers; None for numbers.
    """
    F, y, codes, n_classes = _checked(F, y)
    if alphas is None:
        length = float(F.var(axis=0).sum()) or 1.0
        alphas = [a * length for a in ALPHAS]
    if codes is None:
        targets = y[:, None] - y.mean()
        error = targets - fit_ridge(F, targets, alphas, groups).scores
        return 1 - error[:, 0] ** 2 / targets.var(), None
    found = fit_ridge(F, indicators(codes, n_classes), alphas, groups)
    return (found.scores.argmax(axis=1) == codes).astype(np.float64), codes


def knn_loo(
    F: NDArray[Any], y: NDArray[Any], *, k: int = 5, groups: NDArray[Any] | None = None
) -> float:
    """Leave-one-out balanced accuracy of k nearest neighbors by cosine; R² of numbers.

    Votes weigh exp(cosine / 0.07); a row's own group has no vote. F is (n, dim), y and groups (n,).
    """
    F, y, codes, n_classes = _checked(F, y)
    Z = unit_rows(F).astype(np.float32)
    block = np.arange(len(F)) if groups is None else np.asarray(groups)
    rows, cosines = nearest_rows(Z, Z, k, block, block)
    weights = np.exp((cosines - 1) / TEMPERATURE)
    if codes is None:
        guess = (weights * y[rows]).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-30)
        return float(1 - np.mean((y - guess) ** 2) / y.var())
    votes = np.zeros((len(F), n_classes))
    np.add.at(votes, (np.arange(len(F))[:, None], codes[rows]), weights)
    return _mean_recall((votes.argmax(axis=1) == codes).astype(np.float64), codes)


def prototype_loo(F: NDArray[Any], y: NDArray[Any], *, groups: NDArray[Any] | None = None) -> float:
    """Leave-one-out balanced accuracy of the nearest class mean, without the row's own group.

    F is (n, dim), y and groups (n,).
    """
    F, _, codes, n_classes = _checked(F, y, only_classes="prototype_loo")
    assert codes is not None
    sums, counts = class_sums(F, codes, n_classes)
    means = sums / counts[:, None]
    distance = (
        (F**2).sum(axis=1)[:, None] - 2 * F @ means.T + (means**2).sum(axis=1)
    )  # (n, n_classes)
    own = counts[codes]
    rows = np.arange(len(F))
    factor = np.where(own > 1, (own / np.maximum(own - 1, 1)) ** 2, np.inf)
    distance[rows, codes] = np.where(own > 1, distance[rows, codes] * factor, np.inf)
    for together in _shared(groups):
        n_left = counts - np.bincount(codes[together], minlength=n_classes)
        left = sums.copy()
        np.subtract.at(left, codes[together], F[together])
        left /= np.maximum(n_left, 1)[:, None]
        without = (left**2).sum(axis=1) - 2 * F[together] @ left.T  # |F|² is the same for all
        distance[together] = np.where(n_left > 0, without, np.inf)
    return _mean_recall((distance.argmin(axis=1) == codes).astype(np.float64), codes)


def _shared(groups: NDArray[Any] | None) -> list[NDArray[np.intp]]:
    """Return the rows of each group of two or more."""
    if groups is None:
        return []
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(number, kind="stable"), np.cumsum(sizes)[:-1])
    return [rows for rows in members if len(rows) > 1]


def logme(F: NDArray[Any], y: NDArray[Any], *, centre: bool = False) -> float:
    """Log maximum evidence of Bayesian linear regression, per row, mean over class indicators.

    F is (n, dim), y is (n,).

    ``max over α, β of log N(t; 0, I/β + F Fᵀ/α) / n`` [1]_, exactly: with λ = α/β the best β is
    known, and the profile over λ is one-dimensional. (The code that the paper's authors
    published, and its many copies, drop zero singular values from the determinant: wrong
    wherever the rank is below dim, and always so with fewer rows than columns; issue 23 of
    thuml/LogME.)

    Parameters
    ----------
    centre : bool
        Give the regression a free intercept, as `rank` does: the evidence of uncentred
        vectors changes when all are shifted.

    References
    ----------
    .. [1] You et al., LogME, ICML 2021, arXiv:2102.11005.
    """
    F, y, codes, n_classes = _checked(F, y)
    T = y[:, None] if codes is None else (codes[:, None] == np.arange(n_classes)).astype(float)
    if centre:
        F, T = F - F.mean(axis=0), T - T.mean(axis=0)
    squares, projected = _spectrum(F, T)
    totals = (T**2).sum(axis=0)
    found = [
        _evidence(squares, row, total, len(F) - centre)  # a free mean takes one row's worth
        for row, total in zip(projected.T, totals, strict=True)
        if total > 0
    ]
    return float(np.mean(found))


def _evidence(
    squares: NDArray[np.float64], projected: NDArray[np.float64], total: float, n: int
) -> float:
    """Return the largest log evidence per row of one target.

    Parameters
    ----------
    squares : ndarray of shape (rank,)
        Squared singular values s² of F.
    projected : ndarray of shape (rank,)
        Squared coefficients x² of the target in the left singular vectors.
    total : float
        The target's squared length.
    """
    rest = max(0.0, total - float(projected.sum()))

    def evidence(log_ratio: float) -> float:  # λ = exp(log_ratio)
        with np.errstate(over="ignore"):
            gain = 1 + squares * math.exp(-log_ratio)
        q = float((projected / gain).sum()) + rest
        return n / 2 * math.log(n / max(q, 1e-300)) - float(np.log(gain).sum()) / 2

    no_signal = n / 2 * math.log(n / total)  # λ → ∞: the prior holds all weights at 0
    best = no_signal
    if len(squares):
        low, high = math.log(squares.min()) - 35, math.log(squares.max()) + 35
        grid = np.linspace(low, high, 160)
        values = [evidence(x) for x in grid]
        at = int(np.argmax(values))
        found = minimize_scalar(
            lambda x: -evidence(x),
            bounds=(grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]),
            method="bounded",
            options={"xatol": 1e-10},
        )
        best = max(no_signal, values[at], -float(found.fun))
    return (best - n / 2 - n / 2 * math.log(2 * math.pi)) / n


def h_score(F: NDArray[Any], y: NDArray[Any], *, shrink: bool = True) -> float:
    """Trace of S⁻¹ S_b: how much of the variance lies between classes.

    F is (n, dim), y is (n,).

    With the Ledoit-Wolf covariance, and times 1 - its shrinkage [2]_; ``shrink=False`` is the
    first definition [1]_, which saturates at n_classes - 1 once there are fewer rows than
    columns. It is the sum of the squared canonical correlations of F and y.

    References
    ----------
    .. [1] Bao et al., ICIP 2019.
    .. [2] Ibrahim, Ponomareva, Mazumder, 2021, arXiv:2110.06893.
    """
    F, _, codes, n_classes = _checked(F, y, only_classes="h_score")
    assert codes is not None
    Z = _rotated(F - F.mean(axis=0))
    sums, counts = class_sums(Z, codes, n_classes)
    means = sums / counts[:, None]
    if shrink:
        covariance, shrinkage = shrunk_covariance(Z, F.shape[1])
        if shrinkage >= 1 or np.trace(covariance) <= 0:
            return 0.0
        solved = np.linalg.solve(covariance, means.T)
    else:
        shrinkage, solved = 0.0, np.linalg.pinv(Z.T @ Z / len(F), hermitian=True) @ means.T
    return float((1 - shrinkage) * (counts / len(F)) @ np.einsum("cd,dc->c", means, solved))


def gbc(F: NDArray[Any], y: NDArray[Any], *, n_directions: int | None = GBC_DIRECTIONS) -> float:
    """Gaussian Bhattacharyya coefficient: minus the overlap of classes, over ordered pairs.

    F is (n, dim), y is (n,).

    Each class a Gaussian with a diagonal covariance, on the first principal directions [1]_;
    ``None`` takes all columns as they are. From -n_classes (n_classes - 1), where all classes
    coincide, to 0.

    References
    ----------
    .. [1] Pandy et al., CVPR 2022, arXiv:2111.12780.
    """
    F, _, codes, n_classes = _checked(F, y, only_classes="gbc")
    assert codes is not None
    if n_directions is not None and F.shape[1] > n_directions:
        Z = _rotated(F - F.mean(axis=0))
        _, directions = np.linalg.eigh(Z.T @ Z)
        F = Z @ directions[:, -n_directions:]
    sums, counts = class_sums(F, codes, n_classes)
    means = sums / counts[:, None]
    squares, _ = class_sums((F - means[codes]) ** 2, codes, n_classes)
    variances = np.maximum(squares / counts[:, None], LEAST_VARIANCE)
    overlap = 0.0
    for c in range(n_classes):
        mean = (variances + variances[c]) / 2
        distance = ((means - means[c]) ** 2 / mean).sum(axis=1) / 8
        distance += np.log(mean / np.sqrt(variances * variances[c])).sum(axis=1) / 2
        overlap += float(np.exp(-distance).sum()) - 1  # without the class itself
    return -overlap


@dataclass(frozen=True)
class ScoreEntry:
    """One score of the panel."""

    compute: Callable[..., float]
    of_numbers: bool
    about: str


SCORES = {
    "ridge_loo": ScoreEntry(ridge_loo, True, "leave-one-out ridge: balanced accuracy, or R²"),
    "knn_loo": ScoreEntry(knn_loo, True, "leave-one-out 5-NN by cosine"),
    "prototype_loo": ScoreEntry(prototype_loo, False, "leave-one-out nearest class mean"),
    "logme": ScoreEntry(lambda F, y: logme(F, y, centre=True), True, "log evidence per row"),
    "h_score": ScoreEntry(h_score, False, "variance between classes, Ledoit-Wolf"),
    "gbc": ScoreEntry(gbc, False, "minus the overlap of Gaussian classes"),
}


def _checked(
    F: NDArray[Any], y: NDArray[Any], *, only_classes: str = ""
) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[np.intp] | None, int]:
    """Return F, y, class numbers (None for numbers) and how many classes there are."""
    F, y = np.asarray(F, dtype=np.float64), np.asarray(y)
    if F.ndim != 2 or y.shape != (len(F),):
        raise ShapeMismatch(f"expected F (n, dim) and y (n,), got {F.shape} and {y.shape}")
    if not np.isfinite(F).all():
        raise ShapeMismatch("F holds values that are not finite")
    if np.issubdtype(y.dtype, np.floating):
        if only_classes:
            raise ShapeMismatch(f"{only_classes} is defined for classes, y holds {y.dtype}")
        if len(y) < 3 or np.ptp(y) == 0:
            raise NotEnoughData("a score needs three rows or more, and numbers that vary")
        return F, y, None, 0
    names, codes = np.unique(y, return_inverse=True)
    if len(names) < 2:
        raise NotEnoughData(f"a score needs two classes or more, found {len(names)}")
    return F, y, codes.astype(np.intp), len(names)


def _rotated(Z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotate rows that are fewer than their columns, (n, dim), to (n, n): products stay."""
    return Z if len(Z) >= Z.shape[1] else np.transpose(np.linalg.qr(Z.T, mode="r"))


def _mean_recall(rows: NDArray[np.float64], codes: NDArray[np.intp] | None) -> float:
    if codes is None:
        return float(rows.mean())
    counts = np.bincount(codes)
    return float((np.bincount(codes, weights=rows)[counts > 0] / counts[counts > 0]).mean())


def _spectrum(
    F: NDArray[np.float64], T: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return squared singular values (rank,) and squared left coefficients (rank, n_targets).

    With more rows than columns from the Gram matrix, at a tenth of the cost, where it is as good
    as exact; faint directions, which it would round away, take the triangle of a QR
    decomposition, whose singular values are those of F.
    """
    if len(F) > F.shape[1]:
        squares, V = np.linalg.eigh(F.T @ F)
        if squares[0] > FAINT * squares[-1]:
            return squares, (V.T @ (F.T @ T)) ** 2 / squares[:, None]
        _, s, Vt = np.linalg.svd(np.linalg.qr(F, mode="r"))
        kept = _is_kept(s, F.shape)
        return s[kept] ** 2, (Vt[kept] @ (F.T @ T) / s[kept, None]) ** 2
    U, s, _ = np.linalg.svd(F, full_matrices=False)
    kept = _is_kept(s, F.shape)
    return s[kept] ** 2, (U[:, kept].T @ T) ** 2


def _is_kept(s: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.asarray(s > (s[0] if len(s) else 0) * np.finfo(float).eps * max(shape))
