"""The part of scikit-learn's contract that all our classifiers share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from heads.estimators.softmax import softmax
from heads.estimators.weights import Rows, checked_weights, weighted_rows
from heads.labels.matrix import Matrix
from heads.labels.shared import once


class ScoreHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier with one score for each class.

    Subclasses give ``_scores(X) -> (n, n_classes)``, whose largest is predicted and whose
    softmax, sharpened by ``sharpness_``, gives the probabilities.
    """

    classes_: NDArray[Any]
    sharpness_: float = 1.0
    _accept_sparse: bool = False

    def _begin_fit(
        self, X: Matrix, y: NDArray[Any], sample_weight: ArrayLike | None = None
    ) -> tuple[Any, NDArray[np.intp], NDArray[np.float64] | None]:
        """Validate, learn ``classes_``, and return X, class numbers and weights of the rows.

        Classes all of whose rows have weight 0 are as if their rows were not there.
        """
        X, y = validate_data(
            self,
            X,
            y,
            dtype=[np.float64, np.float32],
            accept_sparse="csr" if self._accept_sparse else False,
        )
        if np.asarray(y).dtype.kind == "f":  # it warns of many classes: natural with few labels
            check_classification_targets(y)
        weights = checked_weights(sample_weight, len(y))
        self.classes_, codes = np.unique(y, return_inverse=True)
        if weights is not None:
            self.classes_ = np.unique(y[weights > 0])
            codes = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        if len(self.classes_) < 2:
            raise ValueError(f"a head needs two classes or more, found 1 class: {self.classes_}")
        return X, codes, weights

    def _begin_weighted_fit(
        self,
        X: Matrix,
        y: NDArray[Any],
        groups: NDArray[Any] | None,
        sample_weight: ArrayLike | None,
    ) -> Rows:
        """Begin, and return rows whose y are class numbers; see `weighted_rows`."""
        X, codes, weights = self._begin_fit(X, y, sample_weight)
        if weights is not None:
            return weighted_rows(X, codes, groups, weights)
        return once("rows", (X, y, groups), lambda: weighted_rows(X, codes, groups))

    def _scores(self, X: Matrix) -> NDArray[np.float64]:
        raise NotImplementedError

    def _checked_scores(self, X: Matrix) -> NDArray[np.float64]:
        check_is_fitted(self, "classes_")
        X = validate_data(
            self,
            X,
            dtype=[np.float64, np.float32],
            accept_sparse="csr" if self._accept_sparse else False,
            reset=False,
        )
        return self._scores(X)

    def decision_function(self, X: Matrix) -> NDArray[np.float64]:
        """Return scores, shape (n, n_classes); for two classes their difference, shape (n,)."""
        scores = self._checked_scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Matrix) -> NDArray[np.float64]:
        """Return probabilities, shape (n, n_classes), columns in the order of ``classes_``."""
        return self._probabilities(self._checked_scores(X))

    def predict(self, X: Matrix) -> NDArray[Any]:
        """Return the class of each row, shape (n,)."""
        scores = self._checked_scores(X)
        return np.asarray(self.classes_[scores.argmax(axis=1)])

    def predict_both(self, X: Matrix) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return what `predict` and `predict_proba` do, from the same scores."""
        scores = self._checked_scores(X)
        return np.asarray(self.classes_[scores.argmax(axis=1)]), self._probabilities(scores)

    def _probabilities(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return softmax(scores * self.sharpness_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self._accept_sparse
        return tags
