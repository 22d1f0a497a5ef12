"""A frozen head as a layer, from which runs that retrain a network begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from heads.estimators.logistic import LogisticHead
from heads.estimators.per_label import PerLabel
from heads.estimators.regression import RidgeRegressor

if TYPE_CHECKING:
    from heads.estimators.retrain import Linear

LEAST_SCALE = 1e-3  # of a column, of the median of all: it counts less than standardised


def layer_of_head(
    head: LogisticHead | RidgeRegressor, mean: float = 0.0, std: float = 1.0
) -> Linear:
    """Return a fitted logistic or ridge head as a layer on vectors as they come."""
    from heads.estimators.retrain import Linear

    sharp = getattr(head, "sharpness_", 1.0) / std
    weights, bias = sharp * head.weights_[:-1], sharp * (head.weights_[-1] - mean)
    if (normaliser := head.normaliser_) is None:
        return Linear(np.zeros(len(weights)), weights, bias)
    shift, scale = normaliser.shift_, normaliser.scale_
    length = None
    if normaliser.kind == "l2":  # rows get one length: that of vectors as they come, on average
        length = float(scale[0])
    # Columns that hardly vary (1e-33 in MiniLM) would have weights whose gradients overflow.
    known = scale[np.isfinite(scale)]
    least = LEAST_SCALE * float(np.median(known)) if len(known) else 1.0
    return Linear(shift, weights / np.maximum(scale, least)[:, None], bias, length)


def layer_of_labels(head: PerLabel) -> Linear:
    """Return one layer for heads of two classes, one for each label."""
    from heads.estimators.retrain import Linear

    layers = [None if one is None else layer_of_head(one) for one in head.heads_]
    known = [one for one in layers if one is not None]
    if not known:
        raise ValueError("no label is there in some rows and absent in others")
    dim = len(known[0].shift)
    weights, bias = np.zeros((dim, len(layers))), np.zeros(len(layers))
    for column, (layer, always) in enumerate(zip(layers, head.always_, strict=True)):
        if layer is None:
            bias[column] = 6.0 if always > 0.5 else -6.0
        else:
            weights[:, column] = layer.weights[:, 1] - layer.weights[:, 0]
            bias[column] = layer.bias[1] - layer.bias[0]
    return Linear(known[0].shift, weights, bias)
