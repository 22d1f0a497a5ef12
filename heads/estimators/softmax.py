"""What the heads share: probabilities from scores, and multinomial logistic regression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

from heads.labels.matrix import Matrix

MOST_STEPS = 500


def softmax(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Return probabilities, rows sum to 1; scores and result of shape (n, n_classes)."""
    p = np.exp(scores - scores.max(axis=1, keepdims=True), dtype=np.float64)
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def log_loss(
    scores: NDArray[Any], codes: NDArray[np.intp], weights: NDArray[Any] | None = None
) -> float:
    """Mean negative log-probability of the true classes (nats).

    ``scores`` before the softmax, (n, n_classes); ``codes`` and ``weights``, (n,).
    """
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1, dtype=np.float64))
    return float(np.average(log_sum - shifted[np.arange(len(codes)), codes], weights=weights))


def fit_sharpness(
    scores: NDArray[Any],
    codes: NDArray[np.intp],
    *,
    near: float | None = None,
    weights: NDArray[np.float64] | None = None,
) -> float:
    """Find the factor on held-out scores, (n, n_classes), that makes their softmax most likely.

    Rows count as much as their ``weights``, (n,). With ``near``, a prior of one standard
    deviation on the log scale draws the factor there: of a few rows, all of which may be right,
    the likeliest factor has no bound.

    The inverse of a temperature (Guo et al., 2017, arXiv:1706.04599), from 0.01 to 1000;
    from 10,000 rows spread over all of them, which tell one number well enough.
    """
    step = max(1, len(codes) // 10_000)
    scores, codes = scores[::step], codes[::step]
    if weights is not None:
        weights = weights[::step]
    total = len(codes) if weights is None else float(weights.sum())
    found = minimize_scalar(
        lambda log_factor: (
            log_loss(np.exp(log_factor) * scores, codes, weights)
            + (0.0 if near is None else (log_factor - np.log(near)) ** 2 / 2 / total)
        ),
        bounds=(np.log(0.01), np.log(1000)),
        method="bounded",
        options={"xatol": 1e-3},
    )
    return float(np.exp(found.x))


def fit_softmax(
    X: Matrix,
    codes: NDArray[np.intp],
    n_classes: int,
    *,
    C: float,
    start: NDArray[np.float64] | None = None,
    weights: NDArray[np.float64] | None = None,
    offset: NDArray[np.float64] | None = None,
    tol: float = 1e-4,
    device: str = "cpu",
    squares: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Multinomial logistic regression with an L2 penalty, by L-BFGS.

    Minimises ``mean log loss + |W|² / (2 C n)``, with n the sum of the weights; the intercepts
    are free. That is the problem of ``sklearn.linear_model.LogisticRegression`` for three
    classes or more; for two
    it is the one with ``2 C`` in its place, since both classes have weights here.

    Parameters
    ----------
    X : ndarray or CSR of shape (n, dim)
        Products are computed in its dtype: float32 halves the time.
    start : ndarray of shape (dim + 1, n_classes)
        Where to begin, say the result of a smaller C.
    weights : ndarray of shape (n,), optional
        How much each row counts: 2 is the same as two equal rows.
    offset : ndarray of shape (n, n_classes), optional
        Scores to begin from: the penalty draws toward them, in place of toward zero.
    tol : float
        Largest entry of the gradient at which to stop.
    device : str
        Where loss and gradient are computed; dense rows may go to a GPU, as float32.
    squares : ndarray of shape (dim,), optional
        Sums of squares of the columns, where these are principal axes of the rows or nearly so.
        Each column is then scaled by the curvature along it, and ten steps do what took a hundred.

    Returns
    -------
    ndarray of shape (dim + 1, n_classes), float64
        Weights; the last row holds the intercepts.
    """
    dim = X.shape[1]
    scale = np.ones((dim + 1, 1))  # what is found are the weights over it
    if squares is not None:
        total = float(X.shape[0] if weights is None else weights.sum())
        bend = _curvature(X, n_classes, start, weights, offset)
        scale[:dim, 0] = (bend * squares + 1 / C) ** -0.5
        scale[dim] = (bend * total) ** -0.5
        X = X * scale[:dim, 0].astype(X.dtype)
    begin = np.zeros((dim + 1) * n_classes) if start is None else (start / scale).ravel()

    def least(loss: Callable[[NDArray[np.float64]], Any]) -> NDArray[np.float64]:
        """Minimise a loss of the weights; both of shape (dim + 1, n_classes), flat for the loss."""
        # Below this relative gain a float32 loss only changes by its rounding.
        options = {"maxiter": MOST_STEPS, "gtol": tol, "ftol": 1e-8, "maxls": 50}
        found = minimize(loss, begin, jac=True, method="L-BFGS-B", options=options)
        return np.asarray(found.x.reshape(dim + 1, n_classes) * scale)

    if device == "cpu":
        return least(_loss(X, codes, n_classes, C, weights, offset, scale))
    from heads.estimators.softmax_gpu import alone, give_back, loss_on_gpu

    with alone():
        try:
            return least(loss_on_gpu(X, codes, n_classes, C, weights, offset, device))
        finally:
            give_back()


def _loss(
    X: Matrix,
    codes: NDArray[np.intp],
    n_classes: int,
    C: float,
    weights: NDArray[np.float64] | None,
    offset: NDArray[np.float64] | None,
    scale: NDArray[np.float64] | float = 1.0,
) -> Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]:
    """Return the function of the weights that gives their loss and gradient.

    Weights come divided by ``scale``, (dim + 1, 1), by which the columns of X were multiplied.
    """
    n, dim = X.shape
    scale = np.broadcast_to(scale, (dim + 1, 1))
    per_weight, intercept = scale[:dim] ** 2 / C, float(scale[dim, 0])
    rows = np.arange(n)
    total_weight = n if weights is None else float(weights.sum())
    w = None if weights is None else weights.astype(X.dtype)
    given = None if offset is None else offset.astype(X.dtype)

    def loss_and_gradient(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        W = flat.reshape(dim + 1, n_classes)
        p = X @ W[:dim].astype(X.dtype)  # (n, n_classes)
        p += (intercept * W[dim]).astype(X.dtype)
        if given is not None:
            p += given
        p -= p.max(axis=1, keepdims=True)
        own = p[rows, codes]
        true = own.sum(dtype=np.float64)
        np.exp(p, out=p)
        total = p.sum(axis=1, keepdims=True)
        if w is None:
            loss = np.log(total).sum(dtype=np.float64) - true
        else:
            loss = np.vdot(w, np.log(total[:, 0]) - own).astype(np.float64)
        p /= total
        p[rows, codes] -= 1
        if w is not None:
            p *= w[:, None]
        gradient = np.empty_like(W)
        drawn = per_weight * W[:dim]
        gradient[:dim] = X.T @ p + drawn
        gradient[dim] = intercept * p.sum(axis=0)
        penalty = np.vdot(W[:dim], drawn) / 2
        return float((loss + penalty) / total_weight), gradient.ravel() / total_weight

    return loss_and_gradient


def _curvature(
    X: Matrix,
    n_classes: int,
    W: NDArray[np.float64] | None,
    weights: NDArray[np.float64] | None,
    offset: NDArray[np.float64] | None,
) -> float:
    """Return the mean of p (1 - p) over rows and classes, above 0: how the loss of scores bends."""
    if W is None and offset is None:
        return (n_classes - 1) / n_classes**2
    scores = np.zeros((X.shape[0], n_classes)) if W is None else X @ W[:-1].astype(X.dtype) + W[-1]
    p = softmax(scores if offset is None else scores + offset)
    bend = np.average((p * (1 - p)).mean(axis=1), weights=weights)
    return max(float(bend), 1e-6)
