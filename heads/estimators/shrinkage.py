"""Covariance within classes, shrunk by the rule of Ledoit and Wolf: for all, or class by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from heads.estimators.weights import taken
from heads.labels.shared import once

_ENOUGH = 1e-3  # of what was found: a first step up to here leaves an error of its square
_LAST_STEP = 1e-5  # from there on float32 is no start for a refinement
_STRONG = 7e4  # largest ratio of directions that float32 was seen to make up for: 6e4
_CHUNK_ROWS = 64  # that are float64 at a time: more do not stay in the cache
CONSTANT = 1e-10  # of the mean variance: rounding leaves that much where nothing varies


@dataclass(frozen=True, eq=False)
class Shrunk:
    """The covariance ``diag(diagonal) + Rᵀ diag(kept) R`` of residuals R, which is never made."""

    diagonal: NDArray[np.float64]  # (dim,)
    kept: NDArray[np.float64]  # (n,), weight of each row over their sum, less what is shrunk
    shrinkage: float  # in [0, 1], the mean over rows

    def blend(self, other: Shrunk, share: float) -> Shrunk:
        """Return ``1 - share`` of this one and ``share`` of another of the same residuals."""
        return Shrunk(
            (1 - share) * self.diagonal + share * other.diagonal,
            (1 - share) * self.kept + share * other.kept,
            (1 - share) * self.shrinkage + share * other.shrinkage,
        )

    def solve(self, R: NDArray[Any], M: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return S⁻¹ M; R is (n, dim), M and the result are (dim, n_columns).

        With fewer rows than columns, S = D + BᵀB is not made either:
        ``S⁻¹ M = D⁻¹ M - D⁻¹ Bᵀ (I + B D⁻¹ Bᵀ)⁻¹ B D⁻¹ M``.
        """
        n, dim = R.shape
        trace = float(self.diagonal.sum() + self.kept @ _squared_lengths(R))
        # A small ridge, for classes within which nothing varies.
        D = self.diagonal + max(1e-9, 1e-6 * trace / dim)
        if n < dim:
            return _solve_wide(R, self.kept, D, M)
        B = R * np.sqrt(self.kept).astype(R.dtype)[:, None]
        S = (B.T @ B).astype(np.float64)
        S.flat[:: dim + 1] += D
        return np.asarray(cho_solve(cho_factor(S), M))


def _solve_wide(
    R: NDArray[Any], kept: NDArray[np.float64], D: NDArray[np.float64], M: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return (diag(D) + Rᵀ diag(kept) R)⁻¹ M from the inner products of the rows of R, (n, dim).

    That is done in the dtype of R. One or two steps of refinement make up for float32; where they
    do not, as along a strong direction, all is done in float64.
    """
    root = np.sqrt(D).astype(R.dtype)[:, None]
    by_row = np.sqrt(kept).astype(R.dtype)[:, None]
    scaled = R * by_row
    scaled /= root[:, 0]
    if D.min() == D.max():
        inner = _inner_products(R) * (by_row / D[0].astype(R.dtype)) * by_row[:, 0]
    else:
        inner = scaled @ scaled.T
    if R.dtype == np.float32 and np.linalg.norm(inner) > _STRONG:
        return _solve_wide(R.astype(np.float64), kept, D, M)
    inner.flat[:: len(inner) + 1] += 1
    try:
        factor = cho_factor(inner, overwrite_a=True, check_finite=False)
    except LinAlgError:  # copies within classes: beyond what float32 can tell
        if R.dtype != np.float32:
            raise
        return _solve_wide(R.astype(np.float64), kept, D, M)

    def solve(M: NDArray[np.float64]) -> NDArray[np.float64]:
        spun = M.astype(R.dtype) / root
        spun -= scaled.T @ cho_solve(factor, scaled @ spun, check_finite=False)
        return np.asarray(spun / root, dtype=np.float64)

    found = solve(M)
    if R.dtype != np.float32:
        return found
    for small in (_ENOUGH, _LAST_STEP):
        missing = M - D[:, None] * found
        for begin in range(0, len(R), _CHUNK_ROWS):
            rows = slice(begin, begin + _CHUNK_ROWS)
            part = R[rows].astype(np.float64)
            missing -= part.T @ (kept[rows, None] * (part @ found))
        step = solve(missing)
        found += step
        if np.linalg.norm(step) <= small * np.linalg.norm(found):
            return found
    return _solve_wide(R.astype(np.float64), kept, D, M)


def _inner_products(R: NDArray[Any]) -> NDArray[Any]:
    return once("inner products", (R,), lambda: R @ R.T)


def _squared_lengths(R: NDArray[Any]) -> NDArray[np.float64]:
    return once("lengths", (R,), lambda: np.einsum("ij,ij->i", R, R, dtype=np.float64))


def shrunk_together(R: NDArray[Any], weights: NDArray[np.float64] | None = None) -> Shrunk:
    """Shrink the covariance of all residuals towards a multiple of the identity.

    R is (n, dim), weights are (n,).
    """
    share, _ = _shares(len(R), weights)
    lengths = _squared_lengths(R)
    mean_variance = float(share @ lengths) / R.shape[1]
    a = intensity(R, lengths, weights, _inner_products(R) if len(R) < R.shape[1] else None)
    return Shrunk(np.full(R.shape[1], a * mean_variance), (1 - a) * share, a)


def shrunk_by_class(
    R: NDArray[Any],
    codes: NDArray[np.intp],
    weights: NDArray[np.float64] | None = None,
) -> Shrunk:
    """Shrink the covariance of each class towards its own diagonal; return their mean by share.

    That is ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")`` of scikit-learn but
    for columns that are constant within a class: there the mean variance is the target, not 1
    in whatever unit the column has.

    Parameters
    ----------
    R : ndarray of shape (n, dim)
        Residuals from the class means.
    codes, weights : ndarray of shape (n,)
    """
    share, _ = _shares(len(R), weights)
    mean_variance = float(share @ _squared_lengths(R)) / R.shape[1]
    diagonal, kept, shrinkage = np.zeros(R.shape[1]), share.copy(), 0.0
    order = np.argsort(codes, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(codes))[:-1]):
        if not len(rows):
            continue
        part, within = R[rows], taken(weights, rows)
        p, _ = _shares(len(rows), within)
        variance = np.asarray(p @ np.square(part, dtype=np.float64))
        is_constant = variance <= CONSTANT * mean_variance
        scale = np.where(is_constant, np.inf, np.sqrt(variance))
        Z = part / scale.astype(part.dtype)
        a = intensity(Z, np.einsum("ij,ij->i", Z, Z, dtype=np.float64), within)
        of_all = float(share[rows].sum())
        diagonal += of_all * a * np.where(is_constant, mean_variance, variance)
        kept[rows] *= 1 - a
        shrinkage += of_all * a
    return Shrunk(diagonal, kept, shrinkage)


def intensity(
    R: NDArray[Any],
    lengths: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
    inner: NDArray[Any] | None = None,
) -> float:
    """Return Ledoit and Wolf's share of the target [1]_, in [0, 1].

    The sum over all entries of ``(R²)ᵀ R²`` is the sum of the rows' fourth powers of length, and
    ``‖RᵀR‖`` is ``‖R Rᵀ‖``: the smaller product is enough.

    Parameters
    ----------
    R : ndarray of shape (n, dim)
        Centred rows.
    lengths : ndarray of shape (n,)
        Their squared lengths.
    weights : ndarray of shape (n,), optional
    inner : ndarray of shape (n, n), optional
        Inner products of the rows, where they are known.

    References
    ----------
    .. [1] Ledoit and Wolf, Journal of Multivariate Analysis 88, 2004, 365-411.
    """
    n, dim = R.shape
    share, total = _shares(n, weights)
    if inner is not None:
        product = inner if weights is None else inner * np.sqrt(np.outer(weights, weights))
    else:
        if weights is not None:
            R = R * np.sqrt(weights).astype(R.dtype)[:, None]
        product = R @ R.T if n < dim else R.T @ R
    return _share_of_target(
        float(share @ lengths**2),
        float(np.vdot(product, product)) / total**2,
        float(share @ lengths),
        total,
        dim,
    )


def _shares(n: int, weights: NDArray[np.float64] | None) -> tuple[NDArray[np.float64], float]:
    """Return each row's share of the weight, (n,), and all of it."""
    if weights is None:
        return np.full(n, 1 / n), float(n)
    return weights / weights.sum(), float(weights.sum())


def _share_of_target(fourth: float, squares: float, trace: float, n: float, dim: int) -> float:
    """Return the intensity, from the mean fourth power of length, ‖S‖² and the trace of S."""
    noise = (fourth - squares) / (n * dim)
    spread = squares / dim - (trace / dim) ** 2
    return 0.0 if spread <= 0 or noise <= 0 else min(noise, spread) / spread


def shrunk_covariance(R: NDArray[Any], dim: int | None = None) -> tuple[NDArray[np.float64], float]:
    """Shrink the covariance of centred rows towards a multiple of the identity.

    Equal to ``sklearn.covariance.ledoit_wolf(R, assume_centered=True)`` with one matrix
    product instead of three.

    Parameters
    ----------
    R : ndarray of shape (n, k)
    dim : int, optional
        Columns of the rows, where R has them rotated into the k directions that they span.

    Returns
    -------
    covariance : ndarray of shape (k, k), float64
    shrinkage : float
        In [0, 1].
    """
    n, k = R.shape
    dim = k if dim is None else dim
    S = (R.T @ R).astype(np.float64) / n
    trace = float(np.trace(S))
    lengths = np.einsum("ij,ij->i", R, R, dtype=np.float64)
    a = _share_of_target(float(lengths @ lengths) / n, float(np.vdot(S, S)), trace, n, dim)
    S *= 1 - a
    S.flat[:: k + 1] += a * trace / dim
    return S, a
