"""What a fitted head does with vectors, in numbers that any program can use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadName
from heads.catalogue.best_of import ChosenHead
from heads.estimators.lda import LdaHead
from heads.estimators.logistic import LogisticHead
from heads.estimators.normaliser import Normaliser
from heads.estimators.per_label import PerLabel
from heads.estimators.prototype import PrototypeHead
from heads.estimators.regression import RidgeRegressor
from heads.estimators.ridge import RidgeHead

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

    from featurestore.encoders.onnx_graph import HeadGraph, Scores

_ABLE = "logistic, ridge, lda and prototype"
_SURE = 40.0  # a score of a label that every training item has: of its probability 1 is left


def graph_of(estimator: BaseEstimator, head: str, block_scale: float) -> HeadGraph:
    """Return what a head does, as sums of products.

    Raises
    ------
    BadName
        If it does something else.
    """
    from featurestore.encoders.onnx_graph import HeadGraph

    while isinstance(estimator, ChosenHead):
        estimator = estimator.head_
    if isinstance(estimator, PerLabel) and estimator.single_ is not None:
        estimator = estimator.single_
    if isinstance(estimator, PerLabel):
        parts = _per_label(estimator, head)
        return HeadGraph(block_scale, parts, "sigmoid")
    part = _scores(estimator, head)
    end = "none" if isinstance(estimator, RidgeRegressor) else "softmax"
    return HeadGraph(block_scale, [part], end)


def _scores(estimator: BaseEstimator, head: str) -> Scores:
    """Return scores, times their sharpness, whose softmax is what the head says."""
    from featurestore.encoders.onnx_graph import Scores

    if isinstance(estimator, PrototypeHead):  # the square of z counts for all classes alike
        means = np.asarray(estimator.means_)
        weights = np.vstack([means.T, -0.5 * (means**2).sum(axis=1)])
    elif type(estimator) in (LogisticHead, RidgeHead, LdaHead, RidgeRegressor):
        weights = np.asarray(estimator.weights_)
    else:
        raise BadName(f"a head of {head} cannot be written as a graph: {_ABLE} can")
    weights = weights * getattr(estimator, "sharpness_", 1.0)
    shift, scale, is_unit = _normaliser(estimator.normaliser_, len(weights) - 1)
    return Scores(shift, scale, is_unit, _single(weights[:-1]), _single(weights[-1]))


def _normaliser(normaliser: Normaliser | None, dim: int) -> tuple[Any, Any, bool]:
    if normaliser is None:
        return np.zeros(dim, np.float32), np.ones(dim, np.float32), False
    return (
        _single(normaliser.shift_),
        _single(1 / np.asarray(normaliser.scale_)),
        normaliser.kind == "l2",
    )


def _per_label(estimator: PerLabel, head: str) -> list[Scores]:
    """Return for each label its score less that of its absence."""
    from featurestore.encoders.onnx_graph import Scores

    dim = int(estimator.n_features_in_)
    found = []
    for one, always in zip(estimator.heads_, estimator.always_, strict=True):
        if one is None:
            shift, scale, _ = _normaliser(None, dim)
            bias = np.full(1, _SURE if always > 0.5 else -_SURE, np.float32)
            found.append(Scores(shift, scale, False, np.zeros((dim, 1), np.float32), bias))
            continue
        both = _scores(one, head)
        weight, bias = both.weight[:, 1:] - both.weight[:, :1], both.bias[1:] - both.bias[:1]
        found.append(Scores(both.shift, both.scale, both.is_unit, weight, bias))
    return found


def _single(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, dtype=np.float32)
