"""Several labels at once: one classifier for each."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils import column_or_1d, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, has_fit_parameter, validate_data

from heads.estimators.weights import checked_weights
from heads.labels.fitting import asked, asking
from heads.labels.matrix import Matrix

FLOATS = [np.float64, np.float32]


class PerLabel(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A copy of one classifier for each label, groups and all.

    (``OneVsRestClassifier`` hands no groups to its classifiers.) A label that every training
    row has, or none, is predicted as it stands.

    Parameters
    ----------
    estimator : classifier
        Of two classes.
    """

    def __init__(self, estimator: BaseEstimator):
        self.estimator = estimator

    def fit(
        self,
        X: Matrix,
        y: NDArray[Any],
        groups: NDArray[Any] | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn from X (n, dim) and an indicator matrix y of shape (n, n_labels).

        With y of shape (n,) it is the one classifier itself. Weights, (n,), are for
        classifiers that take some.
        """
        X, y = validate_data(self, X, y, accept_sparse="csr", multi_output=True, dtype=FLOATS)
        if y.ndim == 2 and y.shape[1] == 1 and not np.isin(y, [0, 1]).all():
            y = column_or_1d(y, warn=True)  # classes in a column
        takes_groups = groups is not None and has_fit_parameter(self.estimator, "groups")
        options: dict[str, Any] = {"groups": groups} if takes_groups else {}
        weights = checked_weights(sample_weight, X.shape[0])
        if weights is not None:
            if not has_fit_parameter(self.estimator, "sample_weight"):
                raise ValueError(f"{self.estimator!r} takes no sample_weight")
            kept = np.flatnonzero(weights)
            X, y, weights = X[kept], y[kept], weights[kept]
            options = {name: np.asarray(value)[kept] for name, value in options.items()}
            options["sample_weight"] = weights
        request = asked(self) if weights is None else None
        said: list[NDArray[np.float64] | None] = []  # of rows held out, (n, n_classes) each

        def fitted(answers: NDArray[Any]) -> Any:
            head = clone(self.estimator)
            if request is None:
                return head.fit(X, answers, **options)
            with asking(head, request.fold) as passed_on:
                head.fit(X, answers, **options)
            said.append(passed_on.said)
            return head

        self.single_ = fitted(y) if y.ndim == 1 else None
        if self.single_ is not None:
            self.classes_ = self.single_.classes_
            if request is not None:
                request.said = said[0]
            return self
        Y = y.astype(bool)
        self.heads_ = [
            fitted(column.astype(int)) if 0 < column.sum() < len(column) else None for column in Y.T
        ]
        self.always_ = np.average(Y, axis=0, weights=weights)
        self.classes_ = np.arange(Y.shape[1])
        if request is not None and all(one is not None for one in said):
            found = iter(said)
            columns = [
                np.full(len(Y), always) if head is None else next(found)[:, 1]  # type: ignore[index]
                for head, always in zip(self.heads_, self.always_, strict=True)
            ]
            request.said = np.stack(columns, axis=1)
        return self

    @available_if(lambda self: hasattr(self.estimator, "predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Matrix) -> NDArray[np.float64]:
        """Return the probability of each label, shape (n, n_labels)."""
        X = self._checked(X)
        if self.single_ is not None:
            return np.asarray(self.single_.predict_proba(X))
        columns = [
            np.full(X.shape[0], always) if head is None else head.predict_proba(X)[:, 1]
            for head, always in zip(self.heads_, self.always_, strict=True)
        ]
        return np.stack(columns, axis=1).astype(np.float64)

    def predict(self, X: Matrix) -> NDArray[Any]:
        """Return which labels each row has, shape (n, n_labels), 0 or 1."""
        check_is_fitted(self)
        if self.single_ is not None:
            return np.asarray(self.single_.predict(self._checked(X)))
        X = self._checked(X)
        columns = [
            np.full(X.shape[0], always > 0.5) if head is None else head.predict(X)
            for head, always in zip(self.heads_, self.always_, strict=True)
        ]
        return np.stack(columns, axis=1).astype(np.intp)

    def _checked(self, X: Matrix) -> Any:
        check_is_fitted(self)
        return validate_data(self, X, accept_sparse="csr", dtype=FLOATS, reset=False)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = True
        tags.input_tags.sparse = get_tags(self.estimator).input_tags.sparse
        return tags
