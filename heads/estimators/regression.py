"""Heads that predict numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular
from scipy.sparse import csr_array, issparse
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import Ridge
from sklearn.utils.validation import check_is_fitted, validate_data

from heads.estimators.knn import (
    CHOICE_ROWS,
    KnnChoices,
    nearest_others,
    nearest_rows,
    vote_weights,
)
from heads.estimators.logistic import DENSE_ROWS, same_geometry
from heads.estimators.normaliser import KINDS, Normaliser, normalised
from heads.estimators.ridge import ALPHAS, choose_normalisation, ridge_loo
from heads.estimators.weights import Rows, checked_weights, taken, weighted_rows
from heads.labels.fitting import asked
from heads.labels.matrix import Matrix


class RidgeRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Ridge regression; normalisation and penalty by exact leave-one-out squared error.

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
        """Learn from X of shape (n, dim); y, groups and weights have shape (n,)."""
        X, y = validate_data(
            self, X, y, dtype=[np.float64, np.float32], accept_sparse="csr", y_numeric=True
        )
        y = np.asarray(y, dtype=np.float64)
        rows = weighted_rows(X, y, groups, checked_weights(sample_weight, len(y)))
        if issparse(X):
            return self._fit_sparse(rows)
        X, targets = rows.X, rows.y[:, None]
        self.normaliser_: Normaliser | None
        self.normalisation_ = self.normalisation
        if self.normalisation == "auto":
            self.normalisation_ = choose_normalisation(
                X, targets, rows.groups, rows.weights, random_state=self.random_state
            )
        elif self.normalisation not in KINDS:
            raise ValueError(
                f"no normalisation {self.normalisation!r}; known: {', '.join(KINDS)}, auto"
            )
        self.normaliser_, Z = normalised(self.normalisation_, X, rows.weights)
        found = ridge_loo(Z, targets, self.alphas, rows.groups, rows.weights)
        self.alpha_ = found.alpha
        self.weights_ = found.weights
        if request := asked(self):
            request.answer(np.arange(len(X)), found.scores, rows.source, len(X))
        return self

    def _fit_sparse(self, given: Rows) -> Self:
        """Learn from rows as they come, such as TF-IDF; alpha is chosen on 3,000 of them."""
        self.normalisation_, self.normaliser_ = "none", None
        X, targets, weights = csr_array(given.X), given.y[:, None], given.weights
        n = X.shape[0]
        rows = np.random.default_rng(self.random_state).permutation(n)
        request = asked(self)
        rows = (rows if request is None else request.first(rows, given.source))[:DENSE_ROWS]
        within, counts = taken(given.groups, rows), taken(weights, rows)
        L = same_geometry(X[rows]).astype(np.float64)
        found = ridge_loo(L, targets[rows], self.alphas, within, counts)
        self.alpha_ = found.alpha
        if request is not None:
            request.answer(rows, found.scores, given.source, n)
        if n == len(rows):  # W = Lᵀ A and the weights of X are Xᵀ A, by the representer theorem
            A = solve_triangular(L, found.weights[:-1], trans="T", lower=True)
            self.weights_ = np.vstack([X[rows].T @ A, found.weights[-1]])
            return self
        # The penalty stands beside a sum over rows.
        more = n / len(rows) if weights is None else weights.sum() / weights[rows].sum()
        whole = Ridge(found.alpha * more, solver="sparse_cg")
        whole.fit(X, targets[:, 0], sample_weight=weights)
        self.weights_ = np.append(whole.coef_, whole.intercept_)[:, None]
        return self

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return the number of each row, shape (n,)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], accept_sparse="csr", reset=False)
        Z = X if self.normaliser_ is None else self.normaliser_.apply(X)
        return np.asarray((Z @ self.weights_[:-1] + self.weights_[-1])[:, 0])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class KnnRegressor(KnnChoices, RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Mean of the k nearest by cosine of centred vectors, weighted by exp(cosine / T).

    Parameters
    ----------
    ks : sequence of int
        Numbers of neighbours to choose from, by leave-one-out squared error on 1,000
        training rows at most; the smallest of equals is kept.
    temperatures : sequence of float
        T to choose from for that k, in the same way. k is chosen with the first of them.
    random_state : int or None
        Draws those rows.
    """

    def fit(self, X: Matrix, y: NDArray[Any], groups: NDArray[Any] | None = None) -> Self:
        """Keep X (n, dim), y (n,); rows of one group (n,) are not neighbours in the choice."""
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], y_numeric=True)
        self._check_choices()
        self.normaliser_, self.vectors_ = normalised("l2", X)
        self.targets_ = np.asarray(y, dtype=np.float64)
        block = np.arange(len(y)) if groups is None else np.asarray(groups)
        rows = np.random.default_rng(self.random_state).permutation(len(y))
        request = asked(self)
        rows = (rows if request is None else request.first(rows))[:CHOICE_ROWS]
        found, cosines = nearest_others(self.vectors_, rows, max(self.ks), block)

        def loss(k: int, temperature: float) -> float:
            said = self._mean(found[:, :k], cosines[:, :k], temperature)
            return float(np.mean((said - self.targets_[rows]) ** 2))

        self.k_ = min(self.ks, key=lambda k: loss(k, self.temperatures[0]))
        self.temperature_ = min(self.temperatures, key=lambda t: loss(self.k_, t))
        if request is not None:
            said = self._mean(found[:, : self.k_], cosines[:, : self.k_], self.temperature_)
            request.answer(rows, said[:, None], None, len(y))
        return self

    def _mean(
        self, rows: NDArray[np.intp], cosines: NDArray[Any], temperature: float
    ) -> NDArray[np.float64]:
        weights = vote_weights(cosines, temperature)
        total = weights.sum(axis=1)
        mean = (weights * self.targets_[rows]).sum(axis=1) / np.where(total > 0, total, 1)
        return np.asarray(np.where(total > 0, mean, self.targets_.mean()))  # every row is barred

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return the number of each row, shape (n,)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        Z = self.normaliser_.apply(X)
        return self._mean(*nearest_rows(Z, self.vectors_, self.k_), self.temperature_)
