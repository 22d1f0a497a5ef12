"""Metrics of predictions, each for many weightings of the rows at once.

A metric takes weights of shape (n_draws, n), how often each row counts, and returns one value
for each draw: all ones give the plain metric, multinomial counts a bootstrap of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heads.labels.tasks import Task

Weights = NDArray[np.float64]  # (n_draws, n), how often each row counts
Values = NDArray[np.float64]  # (n_draws,)
LEAST_PROBABILITY = 1e-6  # in log_loss no class counts as less likely
_ROUNDING = 1e-20  # a variance of so little of the mean square is none
N_BINS = 15  # of confidence, in the calibration error: Guo et al., 2017, arXiv:1706.04599


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of n rows and their truth; shapes as in `heads.labels.tasks.Target`."""

    truth: NDArray[Any]
    predicted: NDArray[Any]
    proba: NDArray[np.float64] | None = None  # (n, n_classes); None where a head gives none


@dataclass(frozen=True)
class Metric:
    """A metric: how it is computed and shown."""

    compute: Callable[[Predictions, Weights], Values]
    needs_proba: bool = False
    higher_is_better: bool = True
    is_share: bool = True  # in [0, 1]; said in percentage points
    least: float = 0.0
    most: float = 1.0

    def within(self, low: float, high: float) -> tuple[float, float]:
        """Return an interval without what the metric cannot be."""
        return max(self.least, low), min(self.most, high)


def score(task: Task, found: Predictions) -> dict[str, float]:
    """Compute every metric of a task that the predictions allow; NaN where it is undefined."""
    weights = np.ones((1, len(found.truth)))
    return {
        name: float(metric.compute(found, weights)[0])
        for name, metric in METRICS[task].items()
        if found.proba is not None or not metric.needs_proba
    }


# -- one class a row -----------------------------------------------------------------------


def _counts(
    found: Predictions, w: Weights
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return right, true and predicted rows of each class, each (n_draws, n_classes)."""
    n_classes = int(max(found.truth.max(), found.predicted.max())) + 1
    is_true = (found.truth[:, None] == np.arange(n_classes)).astype(np.float64)
    is_said = (found.predicted[:, None] == np.arange(n_classes)).astype(np.float64)
    return w @ (is_true * is_said), w @ is_true, w @ is_said


def _mean_where(values: NDArray[np.float64], counts: NDArray[np.bool_]) -> Values:
    """Return the mean over columns that count, (n_draws,)."""
    total = np.where(counts, values, 0).sum(axis=1)
    return np.asarray(total / np.maximum(counts.sum(axis=1), 1))


def _ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def _mean_of(row_values: NDArray[np.float64], w: Weights) -> Values:
    return np.asarray(w @ row_values / w.sum(axis=1))


def balanced_accuracy(found: Predictions, w: Weights) -> Values:
    """Mean over classes of the share of their rows that is right."""
    right, n_true, _ = _counts(found, w)
    return _mean_where(_ratio(right, n_true), n_true > 0)


def accuracy(found: Predictions, w: Weights) -> Values:
    """Share of rows that is right; with several labels a row, right in all of them."""
    right = found.truth == found.predicted
    return _mean_of((right if right.ndim == 1 else right.all(axis=1)).astype(np.float64), w)


def macro_f1(found: Predictions, w: Weights) -> Values:
    """Mean over classes of the harmonic mean of precision and recall."""
    if found.truth.ndim == 2:
        right, n_true, n_said = (
            w @ m.astype(np.float64)
            for m in (found.truth & found.predicted, found.truth, found.predicted)
        )
    else:
        right, n_true, n_said = _counts(found, w)
    return _mean_where(_ratio(2 * right, n_true + n_said), n_true + n_said > 0)


def log_loss(found: Predictions, w: Weights) -> Values:
    """Mean negative log-probability of the true class (nats)."""
    assert found.proba is not None
    share = found.proba[np.arange(len(found.truth)), found.truth]
    return _mean_of(-np.log(np.maximum(share, LEAST_PROBABILITY)), w)


def brier(found: Predictions, w: Weights) -> Values:
    """Mean squared error of the probabilities, summed over classes; half of it for two."""
    assert found.proba is not None
    n_classes = found.proba.shape[1]
    error = found.proba - (found.truth[:, None] == np.arange(n_classes))
    return _mean_of((error**2).sum(axis=1) / (2 if n_classes == 2 else 1), w)


def calibration_error(found: Predictions, w: Weights) -> Values:
    """Mean distance of confidence from accuracy in 15 bins of confidence (ECE)."""
    assert found.proba is not None
    confidence = found.proba.max(axis=1)
    number = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    gap = confidence - (found.truth == found.predicted)
    in_bin = (number[:, None] == np.arange(N_BINS)) * gap[:, None]
    return np.asarray(np.abs(w @ in_bin).sum(axis=1) / w.sum(axis=1))


# -- rankings ------------------------------------------------------------------------------


def _members(found: Predictions) -> NDArray[np.bool_]:
    """Return which rows belong to which class, (n, n_classes)."""
    assert found.proba is not None
    if found.truth.ndim == 2:
        return found.truth
    return np.asarray(found.truth[:, None] == np.arange(found.proba.shape[1]))


def _hits(
    is_member: NDArray[np.bool_], scores: NDArray[np.float64], w: Weights
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return members and others at or above each distinct score, best first, (n_draws, m)."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits = np.cumsum(w[:, order] * is_member[order], axis=1)[:, ends]
    false = np.cumsum(w[:, order] * ~is_member[order], axis=1)[:, ends]
    return hits, false


def _over_classes(
    found: Predictions,
    w: Weights,
    of_class: Callable[[NDArray[np.float64], NDArray[np.float64]], Values],
    *,
    needs_others: bool,
) -> Values:
    assert found.proba is not None
    values, counts = [], []
    for is_member, scores in zip(_members(found).T, found.proba.T, strict=True):
        hits, false = _hits(is_member, scores, w)
        values.append(of_class(hits, false))
        counts.append((hits[:, -1] > 0) & ((false[:, -1] > 0) | (not needs_others)))
    is_counted = np.stack(counts, axis=1)
    mean = _mean_where(np.stack(values, axis=1), is_counted)
    return np.where(is_counted.any(axis=1), mean, np.nan)


def auroc(found: Predictions, w: Weights) -> Values:
    """Mean over classes of the area under the ROC curve, each class against the others.

    NaN where no class has others beside it.
    """

    def area(hits: NDArray[np.float64], false: NDArray[np.float64]) -> Values:  # (n_draws, m)
        steps = np.diff(false, axis=1, prepend=0)
        before = np.concatenate([np.zeros((len(hits), 1)), hits[:, :-1]], axis=1)
        under = (steps * (hits + before) / 2).sum(axis=1)
        return _ratio(under, hits[:, -1] * false[:, -1])

    return _over_classes(found, w, area, needs_others=True)


def average_precision(found: Predictions, w: Weights) -> Values:
    """Mean over classes of the precision at each recall step."""

    def precision(hits: NDArray[np.float64], false: NDArray[np.float64]) -> Values:  # (n_draws, m)
        gain = np.diff(hits, axis=1, prepend=0)
        return _ratio((gain * _ratio(hits, hits + false)).sum(axis=1), hits[:, -1])

    return _over_classes(found, w, precision, needs_others=False)


# -- several labels a row ------------------------------------------------------------------


def micro_f1(found: Predictions, w: Weights) -> Values:
    """F1 of all decisions on all labels together."""
    right, said, true = (
        w @ m.sum(axis=1).astype(np.float64)
        for m in (found.truth & found.predicted, found.predicted, found.truth)
    )
    return _ratio(2 * right, said + true)


def hamming_loss(found: Predictions, w: Weights) -> Values:
    """Share of decisions on labels that is wrong."""
    return _mean_of((found.truth != found.predicted).mean(axis=1), w)


# -- numbers -------------------------------------------------------------------------------


def rmse(found: Predictions, w: Weights) -> Values:
    """Root mean squared error, in the unit of the label."""
    return np.sqrt(_mean_of((found.truth - found.predicted) ** 2, w))


def mae(found: Predictions, w: Weights) -> Values:
    """Mean absolute error, in the unit of the label."""
    return _mean_of(np.abs(found.truth - found.predicted), w)


def r2(found: Predictions, w: Weights) -> Values:
    """Share of the variance of these rows that is explained; below 0 is worse than their mean.

    NaN where the truth does not vary: there is nothing to explain.
    """
    centred = found.truth - found.truth.mean()
    spread = _mean_of(centred**2, w) - _mean_of(centred, w) ** 2
    error = _mean_of((found.truth - found.predicted) ** 2, w)
    varies = spread > _ROUNDING * _mean_of(found.truth**2, w)
    return 1 - np.divide(error, spread, out=np.full_like(error, np.nan), where=varies)


def spearman(found: Predictions, w: Weights) -> Values:
    """Rank correlation; 0 where one side does not vary."""
    a, b = _ranks(found.truth, w), _ranks(found.predicted, w)
    total = w.sum(axis=1)
    a -= ((w * a).sum(axis=1) / total)[:, None]
    b -= ((w * b).sum(axis=1) / total)[:, None]
    shared, own, other = ((w * x * y).sum(axis=1) for x, y in ((a, b), (a, a), (b, b)))
    return _ratio(shared, np.sqrt(own * other))


def _ranks(values: NDArray[np.float64], w: Weights) -> NDArray[np.float64]:
    """Return mid-ranks among the weighted rows, (n_draws, n)."""
    _, number = np.unique(values, return_inverse=True)
    sizes = np.stack([np.bincount(number, weights=draw) for draw in w])
    return np.asarray((np.cumsum(sizes, axis=1) - sizes / 2)[:, number])


_RANKINGS = {
    "auroc": Metric(auroc, needs_proba=True),
    "average_precision": Metric(average_precision, needs_proba=True),
}
METRICS: Mapping[Task, Mapping[str, Metric]] = {  # the first of each task is its main one
    Task.MULTICLASS: {
        "balanced_accuracy": Metric(balanced_accuracy),
        "accuracy": Metric(accuracy),
        "macro_f1": Metric(macro_f1),
        **_RANKINGS,
        "log_loss": Metric(
            log_loss, needs_proba=True, higher_is_better=False, is_share=False, most=math.inf
        ),
        "brier": Metric(brier, needs_proba=True, higher_is_better=False, is_share=False, most=2),
        "calibration_error": Metric(calibration_error, needs_proba=True, higher_is_better=False),
    },
    Task.MULTILABEL: {
        "macro_f1": Metric(macro_f1),
        "micro_f1": Metric(micro_f1),
        "accuracy": Metric(accuracy),
        **_RANKINGS,
        "hamming_loss": Metric(hamming_loss, higher_is_better=False),
    },
    Task.REGRESSION: {
        "r2": Metric(r2, is_share=False, least=-math.inf),
        "rmse": Metric(rmse, higher_is_better=False, is_share=False, most=math.inf),
        "mae": Metric(mae, higher_is_better=False, is_share=False, most=math.inf),
        "spearman": Metric(spearman, is_share=False, least=-1),
    },
}
