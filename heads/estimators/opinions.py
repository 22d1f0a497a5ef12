"""What classifiers of any kind say of rows, as probabilities in columns that fit together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator

from heads.estimators.softmax import softmax
from heads.labels.matrix import Matrix


def probabilities(
    fitted: BaseEstimator, X: Matrix, *, is_multilabel: bool = False
) -> NDArray[np.float64]:
    """Return a classifier's probabilities of its classes, (n, n_classes).

    Those of one without ``predict_proba`` are the softmax of its ``decision_function``.
    """
    if hasattr(fitted, "predict_proba"):
        return np.asarray(fitted.predict_proba(X), dtype=np.float64)
    scores = np.asarray(fitted.decision_function(X), dtype=np.float64)
    if is_multilabel:
        return np.asarray(expit(scores))
    return softmax(np.column_stack([-scores, scores]) / 2 if scores.ndim == 1 else scores)


def in_columns(
    p: NDArray[np.float64], known: NDArray[Any], classes: NDArray[Any]
) -> NDArray[np.float64]:
    """Return probabilities of ``known`` classes, (n, n_known), as those of ``classes``.

    What is not known has probability 0.
    """
    place = {name: column for column, name in enumerate(classes.tolist())}
    found = np.where(np.isnan(p[:, :1]), np.nan, np.zeros((1, len(classes))))
    for column, name in enumerate(known.tolist()):
        if name in place:
            found[:, place[name]] = p[:, column]
    return found
