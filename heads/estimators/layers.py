"""Several layers of a network side by side: how much each counts, held-out rows decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from featurestore.errors import ShapeMismatch
from heads.estimators.base import ScoreHead
from heads.estimators.logistic import LogisticHead
from heads.estimators.normaliser import Normaliser
from heads.estimators.regression import RidgeRegressor
from heads.estimators.ridge import ALPHAS, indicators, ridge_loo
from heads.estimators.softmax import fit_sharpness, log_loss
from heads.estimators.weights import Rows, checked_weights, taken, weighted_rows
from heads.labels.matrix import Matrix

# How sharply the layers that tell more alone are preferred; 0: all count alike.
PREFERENCES = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)
OUTPUT_ALONE = 0.5  # how likely it is, before any row is seen, that no other layer is needed
MOST_ROWS, ROWS_A_CLASS = 400, 8  # that weights are learned from: each try costs their cube

Loss = Callable[[NDArray[Any]], float]  # of normalised rows, when each is left out


class _Layers(BaseEstimator):  # type: ignore[misc]
    """What `LayersHead` and `LayersRegressor` share: their layers, and how much each counts."""

    weights_: NDArray[np.float64]
    own_: Any
    fused_: Any

    def __init__(self, layers: Mapping[str, int] | None = None, random_state: int | None = 0):
        self.layers = layers
        self.random_state = random_state

    def _begin(self, n_columns: int) -> None:
        """Learn which columns are whose."""
        layers = {"output": n_columns} if self.layers is None else dict(self.layers)
        if sum(layers.values()) != n_columns:
            said = ", ".join(f"{name}: {width}" for name, width in layers.items())
            raise ShapeMismatch(f"{n_columns} columns: expected those of the layers, {said}")
        self.names_ = list(layers)
        self.ends_ = np.cumsum(list(layers.values())).tolist()

    def _blocks(self, X: Matrix) -> list[NDArray[Any]]:
        """Cut rows, (n, dim), into their layers."""
        begins = [0, *self.ends_[:-1]]
        return [X[:, begin:end] for begin, end in zip(begins, self.ends_, strict=True)]

    def _weigh(self, rows: Rows, loss: Loss, some: NDArray[np.intp], n_judged: int) -> None:
        """Learn normalisations and weights of the layers; ``some`` are the rows to learn from."""
        blocks = self._blocks(rows.X)
        found = [Normaliser("l2").fit(one, sample_weight=rows.weights) for one in blocks]
        self.normalisers_ = found
        self.layer_weights_ = np.ones(1)
        if len(found) > 1:
            layers = [one.transform(block[some]) for one, block in zip(found, blocks, strict=True)]
            self.layer_weights_ = weigh_layers(layers, loss, n_judged)
        self.weights_ = self.layer_weights_ / 2
        self.weights_[-1] += 0.5  # of the head that reads the output alone
        order = np.argsort(-self.weights_, kind="stable")
        self.chosen_ = ", ".join(
            f"{self.names_[i]} {self.weights_[i]:.2f}" for i in order if self.weights_[i] >= 0.005
        )

    def _fused(self, X: Matrix) -> NDArray[Any]:
        """Return the layers, normalised and weighed, side by side."""
        parts = zip(self.normalisers_, self._blocks(X), self.layer_weights_, strict=True)
        return np.hstack([one.transform(block) * np.sqrt(weight) for one, block, weight in parts])


class LayersHead(_Layers, ScoreHead):
    """Two logistic heads whose scores are averaged: on the network's output, and on all layers.

    The second one reads the layers side by side, each normalised and then stretched by the root
    of its weight, which is a penalty of its own for each layer. Weights are a softmax over how
    well each layer tells the classes alone, by the leave-one-out log loss of ridge regression: an
    attention over layers [1]_. How sharp that softmax is, and whether the output alone says it
    all, is not chosen but averaged over, each possibility counting as its own leave-one-out loss
    deserves. Whole groups are left out.

    Parameters
    ----------
    layers : mapping of str to int, optional
        Name → number of columns of the layers, in their order; the network's own output last.
        Default: all columns are one layer, and it is `LogisticHead`.
    random_state : int or None
        Draws the rows on which choices are made.

    Attributes
    ----------
    weights_ : ndarray of shape (n_layers,)
        How much each layer counts in both heads together; the sum is 1.

    References
    ----------
    .. [1] Attentive fusion of layers over frozen networks gained more than the linear form, and
       lost less where the last layer is best ("Attentive layer fusion", ICML 2026).
    """

    def fit(
        self,
        X: Matrix,
        y: NDArray[Any],
        groups: NDArray[Any] | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn from X of shape (n, dim); labels y, groups and weights have shape (n,)."""
        rows = self._begin_weighted_fit(X, y, groups, sample_weight)
        self._begin(rows.X.shape[1])
        n_classes = len(self.classes_)
        most = max(MOST_ROWS, ROWS_A_CLASS * n_classes)
        some = np.sort(np.random.default_rng(self.random_state).permutation(len(rows.y))[:most])
        codes, within, counts = rows.y[some], taken(rows.groups, some), taken(rows.weights, some)
        block = np.arange(len(some)) if within is None else np.asarray(within)
        number = np.unique(block, return_inverse=True)[1]
        pairs = np.unique(np.column_stack([codes, number]), axis=0)
        # A class that lies in one group cannot be left out of what teaches it.
        judged = np.flatnonzero(np.bincount(pairs[:, 0], minlength=n_classes)[codes] > 1)
        targets = indicators(codes, n_classes)

        def loss(Z: NDArray[Any]) -> float:
            if not len(judged):
                return 0.0
            found = ridge_loo(Z, targets, ALPHAS[::2], within, counts, np.float32)
            scores, weights = found.scores[judged], taken(counts, judged)
            sharpness = fit_sharpness(scores, codes[judged], weights=weights)
            return log_loss(sharpness * scores, codes[judged], weights)

        self._weigh(rows, loss, some, len(judged))
        labels = self.classes_[rows.y]
        own = LogisticHead(random_state=self.random_state)
        self.own_ = own.fit(self._blocks(rows.X)[-1], labels, rows.groups, rows.weights)
        self.fused_ = None
        if len(self.names_) > 1:
            fused = LogisticHead("none", random_state=self.random_state)
            self.fused_ = fused.fit(self._fused(rows.X), labels, rows.groups, rows.weights)
        return self

    def _scores(self, X: Matrix) -> NDArray[np.float64]:
        own = self.own_.sharpness_ * self.own_._scores(self._blocks(X)[-1])
        if self.fused_ is None:
            return np.asarray(own)
        # Logarithms of probabilities but for a number a row, which no class sees.
        return np.asarray((own + self.fused_.sharpness_ * self.fused_._scores(self._fused(X))) / 2)


class LayersRegressor(RegressorMixin, _Layers):  # type: ignore[misc]
    """The mean of two ridge regressions: on the network's output, and on all layers.

    Layers are weighed as `LayersHead` does it, by leave-one-out squared errors. Parameters and
    attributes are those of `LayersHead`.
    """

    def fit(
        self,
        X: Matrix,
        y: NDArray[Any],
        groups: NDArray[Any] | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn from X of shape (n, dim); y, groups and weights have shape (n,)."""
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], y_numeric=True)
        y = np.asarray(y, dtype=np.float64)
        rows = weighted_rows(X, y, groups, checked_weights(sample_weight, len(y)))
        self._begin(rows.X.shape[1])
        some = np.random.default_rng(self.random_state).permutation(len(rows.y))[:MOST_ROWS]
        some = np.sort(some)
        targets, within, counts = rows.y[some], taken(rows.groups, some), taken(rows.weights, some)

        def loss(Z: NDArray[Any]) -> float:
            found = ridge_loo(Z, targets[:, None], ALPHAS[::2], within, counts, np.float32)
            return float(np.log(max(found.loss, 1e-300)) / 2)  # of a normal density, in nats

        self._weigh(rows, loss, some, len(some))
        own = RidgeRegressor(random_state=self.random_state)
        self.own_ = own.fit(self._blocks(rows.X)[-1], rows.y, rows.groups, rows.weights)
        self.fused_ = None
        if len(self.names_) > 1:
            fused = RidgeRegressor("centre", random_state=self.random_state)
            self.fused_ = fused.fit(self._fused(rows.X), rows.y, rows.groups, rows.weights)
        return self

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return the number of each row, shape (n,)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        own = self.own_.predict(self._blocks(X)[-1])
        if self.fused_ is None:
            return np.asarray(own)
        return np.asarray((own + self.fused_.predict(self._fused(X))) / 2)


def weigh_layers(layers: list[NDArray[Any]], loss: Loss, n_judged: int) -> NDArray[np.float64]:
    """Return how much each layer is to count, (n_layers,); the sum is 1.

    Parameters
    ----------
    layers : list of ndarray of shape (n, dim)
        Normalised; the network's own output last.
    loss : callable
        Leave-one-out log loss of rows, in nats a row.
    n_judged : int
        On how many rows.
    """
    alone = np.array([loss(one) for one in layers])
    worse = alone - alone.min()
    tries = np.exp(-np.outer(PREFERENCES, worse))  # (n_preferences, n_layers)
    tries /= tries.sum(axis=1, keepdims=True)
    of_tries = [
        loss(np.hstack([one * np.sqrt(w) for one, w in zip(layers, weights, strict=True)]))
        for weights in tries
    ]
    prior = np.full(len(tries) + 1, (1 - OUTPUT_ALONE) / len(tries))
    prior[-1] = OUTPUT_ALONE
    tries = np.vstack([tries, np.eye(len(layers))[-1]])
    losses = np.array([*of_tries, alone[-1]])
    # One odd row can decide among losses that are nearly alike: n rows count as their root.
    likely = prior * np.exp(-(n_judged**0.5) * (losses - losses.min()))
    return np.asarray(likely @ tries / likely.sum())
