"""Multinomial logistic regression that chooses its normalisation and its penalty."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.sparse import csr_array, issparse
from sklearn.utils import compute_class_weight

from heads.estimators.base import ScoreHead
from heads.estimators.normaliser import normalised
from heads.estimators.ridge import Basis, basis_of, normalisation_of
from heads.estimators.softmax import fit_sharpness, fit_softmax, log_loss, softmax
from heads.estimators.weights import Rows, taken
from heads.labels.fitting import MOST_ROWS, ROWS_A_CLASS, asked, inner_parts
from heads.labels.matrix import Matrix

_log = logging.getLogger(__name__)

# Half decades; vectors have mean squared length 1.
CS = tuple(float(c) for c in 10 ** np.arange(-1, 5.01, 0.5))
GPU_PRODUCTS = 1_000_000_000  # rows × dim × classes from which on torch's import is worth its time
DEFAULT_C = 10.0  # where nothing can be held out
LEAST_GAIN = 1e-3  # of the held-out loss: less is where float32 stopped
FLAT = 1.5e-5  # root mean square of the gradient from which on C is large enough
SEARCH, LAST = 0.3, 0.1  # along principal axes a gradient is that much larger than it looks
DENSE_ROWS = 3000  # up to here sparse rows are replaced by dense ones of the same geometry


class LogisticHead(ScoreHead):
    """L-BFGS softmax regression: normalisation by ridge leave-one-out, C by held-out log loss.

    C runs upward from warm start to warm start and stops once the held-out loss has twice been
    no better. Before it is taken, scores are sharpened as suits the held-out rows best [1]_, and so
    are the probabilities: a small C would else be turned down for its timid scores, however
    good their order. Held out are whole groups: one inner fold of five where that is 200 rows or
    more, else as many as make 200, on 2,000 rows at most (25 for each class where that is more).

    Parameters
    ----------
    normalisation : {"auto", "none", "centre", "l2", "standardise"}
        ``none`` is for inputs that come scaled, and the only one for sparse input.
    Cs : sequence of float
        Inverse penalties to choose from, ascending.
    class_weight : {"balanced"} or mapping, optional
        ``balanced``: each class counts as much as any other, however few its rows; a mapping
        gives each class its weight.
    random_state : int or None
        Draws the rows on which choices are made.
    device : str
        Where the final fit of dense rows runs: ``auto`` is a CUDA GPU where there is one and
        the fit is large, else the CPU; ``cpu`` and ``cuda`` are just that. Choices are made on
        few rows, on the CPU.

    References
    ----------
    .. [1] Berta, Holzmüller, Jordan, Bach, "Rethinking Early Stopping: Refine, Then Calibrate",
       2025, arXiv:2501.19195.
    """

    _accept_sparse = True
    device = "auto"  # of heads that were saved before there was a choice

    def __init__(
        self,
        normalisation: str = "auto",
        Cs: Sequence[float] = CS,
        class_weight: str | Mapping[Any, float] | None = None,
        random_state: int | None = 0,
        device: str = "auto",
    ):
        self.normalisation = normalisation
        self.Cs = Cs
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device

    def fit(
        self,
        X: Matrix,
        y: NDArray[Any],
        groups: NDArray[Any] | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn from X of shape (n, dim); labels y, groups and weights have shape (n,)."""
        rows = self._begin_weighted_fit(X, y, groups, sample_weight)
        X, codes, counts = rows.X, rows.y, rows.weights
        n_classes = len(self.classes_)
        self.normalisation_ = "none" if issparse(X) else self.normalisation
        if self.normalisation_ == "auto":
            self.normalisation_ = normalisation_of(rows, n_classes, self.random_state)
        self.normaliser_, Z = None, X
        if self.normalisation_ != "none":
            self.normaliser_, Z = normalised(self.normalisation_, X, counts)
        prior = self._prior(X, codes, counts)
        device = "cpu" if issparse(Z) else self._device(Z.size * n_classes)
        tol = _tolerance(len(codes), n_classes)
        is_short = len(codes) <= DENSE_ROWS if issparse(Z) else _is_few(len(codes), n_classes)
        L = same_geometry(Z) if issparse(Z) and is_short else Z
        axes = Axes.of(L, counts) if is_short else None
        self.C_, start = self._choose_C(Z, rows, prior, axes)
        fit = partial(
            fit_softmax,
            codes=codes,
            n_classes=n_classes,
            C=self.C_,
            weights=self._weights(codes, n_classes, counts),
            offset=prior,
        )
        if device != "cpu":
            begin = start if axes is None or start is None else axes.weights(L, start)
            try:
                self.weights_ = fit(Z, start=begin, tol=tol, device=device)
                return self
            except RuntimeError as error:  # torch's own, for a GPU without room as well
                if self.device != "auto":
                    raise
                _log.warning("the GPU did not do (%s): fitting on the CPU", str(error)[:200])
        # Behind the except block, which holds on to what the failed fit had on the GPU.
        if axes is None:
            self.weights_ = fit(Z, start=start, tol=tol)
            return self
        W = axes.weights(L, fit(axes.rows, start=start, squares=axes.squares, tol=LAST * tol))
        if issparse(Z):
            # W = Lᵀ A and the weights of Z are Zᵀ A, by the representer theorem.
            A = solve_triangular(L.astype(np.float64), W[:-1], trans="T", lower=True)
            W = np.vstack([Z.T @ A, W[-1]])
        self.weights_ = W
        return self

    def _device(self, n_products: int) -> str:
        """Return the device for a fit with so many multiplications a gradient."""
        if self.device != "auto":
            return self.device
        if n_products < GPU_PRODUCTS:
            return "cpu"
        from heads.estimators.softmax_gpu import find_gpu

        return find_gpu() or "cpu"

    def _prior(
        self,
        X: Matrix,
        codes: NDArray[np.intp] | None = None,
        counts: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64] | None:
        """Return scores to begin from, (n, n_classes); None: begin from zero."""
        return None

    def _weights(
        self, codes: NDArray[np.intp], n_classes: int, counts: NDArray[np.float64] | None
    ) -> NDArray[np.float64] | None:
        """Return sample weight times class weight, (n,); None where all are equal."""
        if self.class_weight is None:
            return counts
        present = np.unique(codes)
        named = self.class_weight
        if isinstance(named, Mapping):
            named = {c: named.get(self.classes_[c], 1.0) for c in present}
        found = np.ones(n_classes)
        found[present] = compute_class_weight(named, classes=present, y=codes, sample_weight=counts)
        return np.asarray(found[codes] if counts is None else found[codes] * counts)

    def _choose_C(
        self,
        Z: Matrix,
        whole: Rows,
        prior: NDArray[np.float64] | None = None,
        axes: Axes | None = None,
    ) -> tuple[float, NDArray[np.float64] | None]:
        """Return the best C and weights to start from, along ``axes`` where there are some."""
        self.sharpness_ = 1.0
        if len(self.Cs) == 1:
            return self.Cs[0], None
        n_classes = len(self.classes_)
        tol = SEARCH * min(1.0, 10 / n_classes) * 1e-4
        request = asked(self)
        rows, parts = inner_parts(
            whole.y, n_classes, whole.groups, request, whole.source, seed=self.random_state
        )
        if not parts:
            return DEFAULT_C, None
        n = len(rows)
        some = None  # the rows that are looked at, where they need axes of their own
        if axes is None:
            some = same_geometry(Z[rows]) if issparse(Z) else Z[rows]
            axes = Axes.of(some, taken(whole.weights, rows))
            F, squares = axes.rows, axes.squares
        else:
            F, squares = axes.rows[rows], axes.squares * (n / len(whole.y))
        codes = whole.y[rows]
        counts = taken(whole.weights, rows)
        prior = np.zeros((n, 1)) if prior is None else prior[rows]
        inner = [(F[train], F[test], *part) for part in parts for train, test in [part]]
        weights: list[NDArray[np.float64] | None] = [None] * len(inner)
        best: tuple[float, float, NDArray[np.float64] | None] = (np.inf, DEFAULT_C, None)
        n_worse = 0
        all_held = np.concatenate([test for _, test in parts])
        held_codes, held_counts = codes[all_held], taken(counts, all_held)
        held_weights = self._weights(held_codes, n_classes, held_counts)
        flat = FLAT * min(1.0, 10 / n_classes) * n * (Z.shape[1] * n_classes) ** 0.5
        for before, C in pairwise((0.0, *self.Cs)):
            W = weights[0]
            if W is not None and np.linalg.norm(W[:-1]) * (1 / before - 1 / C) < flat:
                break  # rows lie apart: a smaller penalty would let weights grow, and no more
            held = []
            for i, (fit_on, held_out, train, test) in enumerate(inner):
                W = weights[i] = fit_softmax(
                    fit_on,
                    codes[train],
                    n_classes,
                    C=C,
                    start=weights[i],
                    offset=prior[train],
                    weights=self._weights(codes[train], n_classes, taken(counts, train)),
                    tol=tol,
                    squares=squares * (len(train) / n),
                )
                held.append(held_out @ W[:-1] + W[-1] + prior[test])
            scores = np.concatenate(held)
            sharpness = 1.0
            if self.class_weight is None:
                sharpness = fit_sharpness(scores, held_codes, near=1.0, weights=held_counts)
            loss = log_loss(sharpness * scores, held_codes, held_weights)
            n_worse = 0 if loss < best[0] * (1 - LEAST_GAIN) else n_worse + 1
            if n_worse == 2:
                break
            if n_worse == 0:
                best = loss, C, weights[0]
                self.sharpness_ = sharpness
                if request is not None:
                    said = softmax(sharpness * scores)
                    request.answer(rows[all_held], said, whole.source, len(whole.y))
        if some is None or best[2] is None:
            return best[1], best[2]
        return best[1], None if issparse(Z) else axes.weights(some, best[2])

    def _normalised(self, X: Matrix) -> Any:
        return X if self.normaliser_ is None else self.normaliser_.apply(X)

    def _scores(self, X: Matrix) -> NDArray[np.float64]:
        scores = np.asarray(self._normalised(X) @ self.weights_[:-1] + self.weights_[-1])
        prior = self._prior(X)
        return scores if prior is None else scores + prior


@dataclass(frozen=True, eq=False)
class Axes:
    """Rows along their principal axes: of the same geometry, with as many columns at most.

    There each column bends the loss as its square says, which L-BFGS cannot see in columns
    that go together.
    """

    rows: NDArray[Any]  # (n, rank), in the dtype of Z
    squares: NDArray[np.float64]  # (rank,), of the columns
    basis: Basis

    @classmethod
    def of(cls, Z: NDArray[Any], counts: NDArray[np.float64] | None) -> Self:
        """Find the axes of Z, (n, dim), rows weighing as much as ``counts``, (n,)."""
        basis = basis_of(Z, counts)
        rows = basis.rows()
        if counts is not None:
            rows /= np.sqrt(counts)[:, None]
        return cls(rows.astype(Z.dtype), basis.squares, basis)

    def weights(self, Z: NDArray[Any], A: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn weights of ``rows`` into those of Z, (dim + 1, n_classes), intercepts last."""
        basis = self.basis
        by_row = basis.left @ (A[:-1] / np.sqrt(self.squares)[:, None]).astype(basis.left.dtype)
        if basis.counts is not None:
            by_row *= np.sqrt(basis.counts).astype(by_row.dtype)[:, None]
        W = Z.T @ by_row - np.outer(basis.centre, by_row.sum(axis=0))
        return np.vstack([W, A[-1] - basis.centre @ W])


def _n_searched(n_classes: int) -> int:
    """Return how many rows C is chosen on, at most."""
    return max(MOST_ROWS, ROWS_A_CLASS * n_classes)


def _tolerance(n_rows: int, n_classes: int) -> float:
    """Return the gradient at which the last fit stops.

    Entries of the gradient shrink as classes grow in number: at 77 of them 1e-3 stops before
    the first step. Of far more rows than C was chosen on, stopping early is worth keeping: it
    is several times faster, and more accurate (benchmarks/heads.py, 50k rows of 100 classes).
    """
    return 1e-4 * (min(1.0, 10 / n_classes) if _is_few(n_rows, n_classes) else 1.0)


def _is_few(n_rows: int, n_classes: int) -> bool:
    """Whether C is chosen on an eighth of the rows or more."""
    return n_rows <= 8 * _n_searched(n_classes)


def same_geometry(X: csr_array) -> NDArray[np.float32]:
    """Return dense rows with the inner products of sparse ones, shape (n, n), lower triangular.

    A linear head with an L2 penalty sees nothing else, and n columns are far fewer than
    the terms of n texts.
    """
    gram = inner_products(X)
    gram.flat[:: len(gram) + 1] += 1e-5 * gram.diagonal().mean()  # equal rows: else singular
    return np.asarray(cholesky(gram, lower=True, check_finite=False), dtype=np.float32)


def inner_products(X: csr_array) -> NDArray[Any]:
    """Return those of sparse rows, (n, n).

    Products of sparse rows cost the square of a column's count, so common terms go dense.
    """
    is_common = np.bincount(X.indices, minlength=X.shape[1]) > X.shape[0] / 20
    common, rare = X[:, is_common].toarray(), X[:, ~is_common]
    return np.asarray((rare @ rare.T).toarray() + common @ common.T)
