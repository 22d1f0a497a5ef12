"""Several heads on several inputs, mixed as held-out rows say."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.pipeline import Pipeline
from sklearn.utils.multiclass import check_classification_targets

from heads.estimators.lda import LdaHead
from heads.estimators.logistic import LogisticHead
from heads.estimators.mixing import Inputs, Mixing, checked
from heads.estimators.opinions import in_columns, probabilities
from heads.estimators.per_label import PerLabel
from heads.estimators.pool import fit_floor, fit_linear_pool, fit_pool, left_out, log_floored
from heads.estimators.regression import RidgeRegressor
from heads.estimators.ridge import RidgeHead
from heads.estimators.softmax import softmax
from heads.estimators.tfidf import text_features
from heads.labels.matrix import Matrix
from heads.labels.tasks import Target, Task

WIDE = 2048  # columns from which on a block has no head but logistic: raw pixels


class MixHead(ClassifierMixin, Mixing):  # type: ignore[misc]
    """A logarithmic pool [1]_ of classifiers: probabilities multiplied, each to a power.

    ``p(class)`` is proportional to ``prod(p_i(class) ** (sharpness * w_i))``; the weights are
    those that make training rows likeliest that no member had learned from (whole groups held
    out). Members that are alike in strength count alike, and a weak one counts little, so that a
    mix with an input that needs no pretraining does next to no harm [2]_ (measured against
    logistic regression on the better input: docs/benchmarks.md).

    Parameters
    ----------
    members : sequence of (name, block, estimator), optional
        What each is called, the block of the input that it reads, and an unfitted classifier with
        ``predict_proba`` or ``decision_function``. Default: logistic regression, lda and ridge on
        each block of fewer than 2,048 columns, on others logistic regression alone, behind TF-IDF
        where the block holds texts. A plain matrix is one block of the name ``""``.
    random_state : int or None
        Draws the rows that are held out.
    few_rows : int
        With fewer rows, the first of the members on each block is the only one.

    Attributes
    ----------
    names_, blocks_ : list of n_members str
    members_ : list of n_members fitted estimators
        None for one whose fit failed: ``failed_`` has the reasons by name.
    weights_ : ndarray of shape (n_members,)
        Their sum is 1. With several labels at once the mean of ``label_weights_``,
        (n_labels, n_members).
    left_out_loss_ : ndarray of shape (n_members,)
        By how much the held-out log loss (nats a row) grows without each member, on the rows
        that the weights were learned from; NaN where there
        is no other, or nothing could be held out.
    held_out_loss_ : float
        The held-out log loss of the mix; NaN where nothing could be held out.
    n_held_out_ : int
        Rows that weights were learned from. 0: no class has two groups, so that nothing can be
        held out, and the mix is the plain average.

    References
    ----------
    .. [1] Genest and Zidek, "Combining Probability Distributions", Statistical Science 1, 1986.
    .. [2] "Residual Feature Integration is Sufficient to Prevent Negative Transfer", 2025,
       arXiv:2505.11771 (the same end by other means).
    """

    classes_: NDArray[Any]

    def _default(self, block: Matrix, n_columns: int | None) -> dict[str, Any]:
        seed = self.random_state
        if block.ndim == 1:
            head = LogisticHead("none", random_state=seed)
            last = head if n_columns is None else PerLabel(head)
            return {"tfidf": Pipeline([("features", text_features()), ("logistic", last)])}
        found: dict[str, Any] = {"logistic": LogisticHead(random_state=seed)}
        if block.shape[1] < WIDE and not issparse(block):
            found |= {"lda": LdaHead(random_state=seed), "ridge": RidgeHead(random_state=seed)}
        if n_columns is not None:
            found = {name: PerLabel(head) for name, head in found.items()}
        return found

    def fit(self, X: Inputs, y: NDArray[Any], groups: NDArray[Any] | None = None) -> Self:
        """Learn from n rows: X is `Blocks` or a matrix (n, dim); labels y, groups are (n,).

        With y of shape (n, n_labels), indicators, several labels at once.
        """
        X, y = checked(self, X, y)
        check_classification_targets(y)
        target = self._target(y)
        blocks, heads = self._begin(X, y.shape[1] if self.multilabel_ else None)
        self._weigh(self._fit_members(blocks, heads, y, groups, target), target.values)
        return self

    def _target(self, y: NDArray[Any]) -> Target:
        self.multilabel_ = y.ndim == 2
        if self.multilabel_:
            self.classes_ = np.arange(y.shape[1])
            return Target(Task.MULTILABEL, y.astype(bool), tuple(map(str, self.classes_)))
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"a head needs two classes or more, found 1 class: {y[0]!r}")
        return Target(Task.MULTICLASS, codes, tuple(map(str, self.classes_)))

    def _weigh(self, said: NDArray[np.float64], values: NDArray[Any]) -> None:
        is_known = np.isfinite(said).all(axis=(0, 2))
        said, values = said[:, is_known], values[is_known]
        self.n_held_out_ = len(values)
        floors, powers, losses, without = [], [], [], []
        for p, codes in self._questions(said, values):
            floor = np.array([fit_floor(of_one, codes) for of_one in p])
            logs = log_floored(p, floor)
            pool = fit_pool(logs, codes)
            floors.append(floor)
            powers.append(pool.weights * pool.sharpness)
            losses.append(pool.loss)
            without.append(left_out(pool, lambda kept: fit_pool(logs[kept], codes).loss))  # noqa: B023
        self.floors_, self.powers_ = np.stack(floors), np.stack(powers)
        shares = self.powers_ / self.powers_.sum(axis=1, keepdims=True)
        self.weights_ = self._spread(shares.mean(axis=0))
        self.held_out_loss_ = float(np.mean(losses))
        self.left_out_loss_ = self._spread(np.mean(without, axis=0))
        if self.multilabel_:
            self.label_weights_ = self._spread(shares.T).T

    def _questions(
        self, said: NDArray[np.float64], values: NDArray[Any]
    ) -> list[tuple[NDArray[np.float64], NDArray[np.intp]]]:
        """Return probabilities (n_working, n, n_options) and answers (n,) of each label, or once.

        One question of all classes; of several labels one for each: whether it is there.
        """
        if not self.multilabel_:
            return [(said, values)]
        return [
            (np.stack([1 - said[:, :, label], said[:, :, label]], axis=2), values[:, label] * 1)
            for label in range(said.shape[2])
        ]

    def _n_columns(self, target: Target) -> int:
        return len(target.classes)

    def _aligned(self, fitted: BaseEstimator, said: NDArray[np.float64]) -> NDArray[np.float64]:
        return said if self.multilabel_ else in_columns(said, fitted.classes_, self.classes_)

    def _said(self, fitted: BaseEstimator, X: Matrix) -> NDArray[np.float64]:
        return self._aligned(fitted, probabilities(fitted, X, is_multilabel=self.multilabel_))

    def predict_proba(self, X: Inputs) -> NDArray[np.float64]:
        """Return probabilities, (n, n_classes) or (n, n_labels), in the order of ``classes_``."""
        return self.pooled(self._all_said(X))

    def pooled(self, said: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return probabilities, (n, n_classes) or (n, n_labels), of those of working members."""
        nothing = np.zeros((said.shape[1], said.shape[2]), dtype=np.intp)
        found = [
            softmax(np.einsum("i,irk->rk", power, log_floored(p, floor)))
            for (p, _), floor, power in zip(
                self._questions(said, nothing), self.floors_, self.powers_, strict=True
            )
        ]
        return np.stack([p[:, 1] for p in found], axis=1) if self.multilabel_ else found[0]

    def predict(self, X: Inputs) -> NDArray[Any]:
        """Return the class of each row, (n,), or which labels it has, (n, n_labels), 0 or 1."""
        return self.predict_both(X)[0]

    def predict_both(self, X: Inputs) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return what `predict` and `predict_proba` do, from the same probabilities."""
        return self.decided(self.predict_proba(X))

    def decided(self, p: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return what probabilities amount to, as `predict` does, and themselves."""
        if self.multilabel_:
            return (p > 0.5).astype(np.intp), p
        return np.asarray(self.classes_[p.argmax(axis=1)]), p


class MixRegressor(RegressorMixin, Mixing):  # type: ignore[misc]
    """A linear pool of regressors: a weighted mean, weights by held-out squared error.

    Parameters and attributes are those of `MixHead`, losses mean squared errors; the default for
    each block is ridge regression, behind TF-IDF where it holds texts.
    """

    def _default(self, block: Matrix, n_columns: int | None) -> dict[str, Any]:
        ridge = RidgeRegressor(random_state=self.random_state)
        if block.ndim == 2:
            return {"ridge": ridge}
        return {"tfidf": Pipeline([("features", text_features()), ("ridge", ridge)])}

    def fit(self, X: Inputs, y: NDArray[Any], groups: NDArray[Any] | None = None) -> Self:
        """Learn from n rows: X is `Blocks` or a matrix (n, dim); numbers y and groups are (n,)."""
        X, y = checked(self, X, y, is_number=True)
        blocks, heads = self._begin(X, None)
        target = self._target(y)
        self._weigh(self._fit_members(blocks, heads, y, groups, target), y)
        return self

    def _target(self, y: NDArray[Any]) -> Target:
        return Target(Task.REGRESSION, y)

    def _weigh(self, said: NDArray[np.float64], values: NDArray[Any]) -> None:
        said = said[:, :, 0]
        is_known = np.isfinite(said).all(axis=0)
        said, y = said[:, is_known], values[is_known]
        self.n_held_out_ = len(y)
        pool = fit_linear_pool(said, y)
        self.powers_ = pool.weights
        self.weights_ = self._spread(pool.weights)
        self.held_out_loss_ = pool.loss
        self.left_out_loss_ = self._spread(
            left_out(pool, lambda kept: fit_linear_pool(said[kept], y).loss)
        )

    def _n_columns(self, target: Target) -> int:
        return 1

    def _said(self, fitted: BaseEstimator, X: Matrix) -> NDArray[np.float64]:
        return np.asarray(fitted.predict(X), dtype=np.float64).reshape(-1, 1)

    def predict(self, X: Inputs) -> NDArray[np.float64]:
        """Return the number of each row, shape (n,)."""
        return self.pooled(self._all_said(X))

    def pooled(self, said: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the number of each row, (n,), of those of working members."""
        return np.asarray(self.powers_ @ said[:, :, 0])

    def decided(self, numbers: NDArray[np.float64]) -> tuple[NDArray[np.float64], None]:
        """Return the numbers, and no probabilities."""
        return numbers, None
