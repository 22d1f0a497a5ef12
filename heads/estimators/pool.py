"""Opinions of several heads made one: how much each counts, learned from held-out rows.

Weights minimise a convex loss of the held-out rows less a little of the logarithm of each weight,
as if a fifth of a row more spoke for the plain average. Without rows that is the answer; with some
hundred it decides nothing but which of two members alike in strength to take: both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heads.estimators.softmax import fit_sharpness, log_loss

PRIOR = 0.2  # rows that speak for the plain average
FLOORS = (1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 0.1)  # shares of the uniform distribution
MOST_STEPS = 100

Loss = Callable[
    [NDArray[np.float64]], tuple[float, NDArray[np.float64], NDArray[np.float64]]
]  # value, gradient and Hessian


@dataclass(frozen=True, eq=False)
class Pool:
    """How much each of m members counts."""

    weights: NDArray[np.float64]  # (m,), above 0, their sum is 1
    sharpness: float  # by which the pooled logarithms are multiplied
    loss: float  # mean held-out log loss in nats, or squared error; NaN without held-out rows


def log_floored(p: NDArray[np.float64], floor: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return logarithms of probabilities mixed with a share ``floor`` of the uniform ones.

    One floor for all, or for p of shape (n_members, n, n_classes) one of each member.
    """
    floor = np.reshape(floor, (-1, *[1] * (p.ndim - 1)))
    p = np.clip(np.nan_to_num(p), 0, None)
    total = p.sum(axis=-1, keepdims=True)
    n_classes = p.shape[-1]
    p = np.where(total > 0, p / np.where(total > 0, total, 1), 1 / n_classes)
    return np.asarray(np.log((1 - floor) * p + floor / n_classes))


def fit_floor(p: NDArray[np.float64], codes: NDArray[np.intp]) -> float:
    """Find how often a member errs that is quite sure: the floor that suits held-out rows best.

    Probabilities have shape (n, n_classes), codes (n,).
    """
    rows = np.arange(len(codes))
    if not len(rows):
        return FLOORS[2]
    losses = [-log_floored(p, floor)[rows, codes].mean() for floor in FLOORS]
    return FLOORS[int(np.argmin(losses))]


def fit_pool(logs: NDArray[np.float64], codes: NDArray[np.intp], prior: float = PRIOR) -> Pool:
    """Find the logarithmic pool that makes held-out rows likeliest.

    The pooled probability of a class is proportional to ``prod(p_i ** w_i)`` [1]_, whose log loss
    is convex in the weights. A row counts by the inverse root of its class's share, so that rare
    classes are heard without being all that is heard. Members that know different things are
    together surer than their mean, so the pool is sharpened then, as suits the same rows, each of
    which then counts once.

    Parameters
    ----------
    logs : ndarray of shape (n_members, n, n_classes)
        Logarithms of probabilities of held-out rows.
    codes : ndarray of shape (n,)
        Their classes.

    References
    ----------
    .. [1] Genest and Zidek, "Combining Probability Distributions", Statistical Science 1, 1986.
    """
    m, n, _ = logs.shape
    sizes = np.bincount(codes)
    counts = sizes[codes] ** -0.5  # (n,)
    counts /= counts.mean() if n else 1
    above = logs - np.take_along_axis(logs, codes[None, :, None], axis=2)  # of the true class

    def loss(v: NDArray[np.float64]) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        scores = np.einsum("i,irk->rk", v, above)
        most = scores.max(axis=1, keepdims=True)
        p = np.exp(scores - most)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        mean = np.einsum("rk,irk->ir", p, above)
        weighted = counts * mean
        spread = np.einsum("irk,jrk->ij", above * (counts[:, None] * p), above) - weighted @ mean.T
        value = float(counts @ (np.log(total) + most)[:, 0])
        return value, weighted.sum(axis=1), spread

    w = _least(loss, m, prior)
    scores = np.einsum("i,irk->rk", w, logs)
    sharpness = fit_sharpness(scores, codes, near=1.0) if n else 1.0
    return Pool(w, sharpness, log_loss(sharpness * scores, codes) if n else np.nan)


def fit_linear_pool(
    said: NDArray[np.float64], targets: NDArray[np.float64], prior: float = PRIOR
) -> Pool:
    """Find the weighted mean of numbers that errs least on held-out rows, in squares.

    Parameters
    ----------
    said : ndarray of shape (n_members, n)
    targets : ndarray of shape (n,)
    """
    m, n = said.shape
    errors = said - targets
    squares = errors @ errors.T  # (m, m)
    variance = max(float(squares.diagonal().min()) / n, 1e-300) if n else 1.0

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        pull = squares @ w / variance
        return float(w @ pull) / 2, pull, squares / variance

    w = _least(loss, m, prior)
    return Pool(w, 1.0, float(w @ squares @ w) / n if n else np.nan)


def left_out(pool: Pool, loss_of: Callable[[list[int]], float]) -> NDArray[np.float64]:
    """Return how much the held-out loss grows without each member, (m,)."""
    m = len(pool.weights)
    if m == 1:
        return np.full(1, np.nan)
    without = [[one for one in range(m) if one != i] for i in range(m)]
    return np.array([loss_of(kept) - pool.loss for kept in without])


def _least(loss: Loss, m: int, prior: float) -> NDArray[np.float64]:
    """Minimise a convex loss less ``prior * log(w).sum()`` over the simplex, by Newton's method."""

    def whole(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        value, gradient, bend = loss(w)
        value -= prior * float(np.log(w).sum())
        return value, gradient - prior / w, bend + prior * np.diag(w**-2)

    w = np.full(m, 1 / m)
    value, gradient, bend = whole(w)
    for _ in range(MOST_STEPS):
        system = np.ones((m + 1, m + 1))
        system[:m, :m], system[m, m] = bend, 0
        step = -np.linalg.solve(system, np.append(gradient, 0))[:m]
        gain = -float(gradient @ step)
        if gain < 1e-10 * max(1.0, abs(value)):
            break
        shrinks = step < 0
        length = min(1.0, float(0.99 * (w[shrinks] / -step[shrinks]).min(initial=np.inf)))
        while length > 1e-9 and whole(w + length * step)[0] > value - 1e-4 * length * gain:
            length /= 2
        w = w + length * step
        value, gradient, bend = whole(w)
    return np.asarray(w / w.sum())
