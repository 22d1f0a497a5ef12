"""How good a head is, and how sure that is: plain arrays in, frozen reports out.

Every interval names its estimand. On a test split it speaks of *these fitted heads*, paired
over the rows; over folds of *the learning procedure*. Out-of-fold rows are never pooled for
a claim: the heads behind them differ, and such tests find differences that are none in 7 to
10 % of cases at a nominal 5 %.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heads.intervals import LEVEL, corrected_t, mean_recall, mean_recall_difference

ON_TEST = "these fitted heads, on the test split"
METRICS = ("balanced_accuracy", "accuracy")  # those that heads are compared by
Parts = Iterable[tuple[NDArray[np.intp], NDArray[np.intp]]]  # training and test rows


def over_folds(n_repeats: int, n_folds: int) -> str:
    """Name the estimand of repeated folds."""
    return f"the learning procedure, {n_repeats} × {n_folds} folds"


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval and what that is an interval for."""

    value: float
    low: float | None  # None where this metric has no interval
    high: float | None
    estimand: str


@dataclass(frozen=True, eq=False)
class Report:
    """What one head did on the rows it had not seen.

    On a test split ``scores`` has one value per metric; over folds it has one for each
    fold, and ``predicted`` is that of the first repeat.
    """

    codes: NDArray[np.intp]  # (n,), true classes of the tested rows
    predicted: NDArray[np.intp]  # (n,)
    scores: Mapping[str, NDArray[np.float64]]  # metric → (1,) or (n_repeats * n_folds,)
    estimand: str
    test_ratio: float = 0.0  # test rows over training rows of one fold

    def estimate(self, metric: str, *, level: float = LEVEL) -> Estimate:
        """Return a metric with its interval."""
        scores = self.scores[metric]
        value = float(scores.mean())
        interval = corrected_t(scores, self.test_ratio, level=level) if len(scores) > 1 else None
        if interval is not None and metric != "log_loss":
            interval = max(0.0, interval[0]), min(1.0, interval[1])
        if interval is None and metric in METRICS:
            # On a test split; or all folds agree, where the rows of one repeat bound
            # what may have gone unseen.
            interval = mean_recall(self.codes == self.predicted, self._strata(metric), level=level)
        low, high = interval or (None, None)
        return Estimate(value, low, high, self.estimand)

    def difference(self, other: Report, metric: str, *, level: float = LEVEL) -> Estimate:
        """Return how much better this head is than another on the same rows or folds."""
        if metric not in METRICS:
            raise ValueError(f"no paired interval for {metric!r}; known: {', '.join(METRICS)}")
        if self.estimand != other.estimand or not np.array_equal(self.codes, other.codes):
            raise ValueError("heads can only be paired over the same rows and folds")
        gains = self.scores[metric] - other.scores[metric]
        interval = corrected_t(gains, self.test_ratio, level=level) if len(gains) > 1 else None
        if interval is None:  # as in `estimate`
            interval = mean_recall_difference(
                self.codes == self.predicted,
                self.codes == other.predicted,
                self._strata(metric),
                level=level,
            )
        return Estimate(
            float(gains.mean()), max(-1.0, interval[0]), min(1.0, interval[1]), self.estimand
        )

    def _strata(self, metric: str) -> NDArray[np.intp]:
        return self.codes if metric == "balanced_accuracy" else np.zeros_like(self.codes)

    def confusion(self, n_classes: int) -> NDArray[np.intp]:
        """Count true (rows) against predicted classes (columns), shape (n_classes, n_classes)."""
        counts = np.zeros((n_classes, n_classes), dtype=np.intp)
        np.add.at(counts, (self.codes, self.predicted), 1)
        return counts


def score(
    codes: NDArray[np.intp], predicted: NDArray[np.intp], proba: NDArray[np.float64]
) -> dict[str, float]:
    """Compute every metric on one set of rows; classes without rows here do not count.

    Parameters
    ----------
    codes, predicted : ndarray of shape (n,)
    proba : ndarray of shape (n, n_classes)
        In ``log_loss`` (nats) no class counts as less likely than 1e-6.
    """
    n_classes = proba.shape[1]
    right = np.bincount(codes[codes == predicted], minlength=n_classes)
    n_true = np.bincount(codes, minlength=n_classes)
    n_predicted = np.bincount(predicted, minlength=n_classes)
    seen = n_true + n_predicted > 0
    true_share = np.maximum(proba[np.arange(len(codes)), codes], 1e-6)
    return {
        "balanced_accuracy": float(np.mean(right[n_true > 0] / n_true[n_true > 0])),
        "accuracy": float(np.mean(codes == predicted)),
        "macro_f1": float(np.mean(2 * right[seen] / (n_true + n_predicted)[seen])),
        "log_loss": float(-np.mean(np.log(true_share))),
    }


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A report, what it cost, and the predictions behind it."""

    report: Report
    seconds: float  # median of one fit, choices included
    probabilities: NDArray[np.float64]  # (n, n_classes), of the rows of ``report.predicted``
    chosen: tuple[dict[str, Any], ...]  # what each fit chose
    last: Any  # the head fitted last


def evaluate(
    build: Callable[[], Any],
    X: Any,
    codes: NDArray[np.intp],
    parts: Parts,
    *,
    classes: Sequence[str],
    estimand: str,
    groups: NDArray[np.intp] | None = None,
    on_fit: Callable[[], None] | None = None,
) -> Evaluation:
    """Fit a head on each training part and score it on the test part.

    Parameters
    ----------
    build : callable
        Returns an unfitted classifier.
    X : ndarray or CSR of shape (n, dim)
    codes : ndarray of shape (n,)
        Class numbers.
    parts : iterable of (training rows, test rows)
        One pair for a test split; for folds all repeats, each covering every row once.
    classes : sequence of str
        Sorted class names; heads learn these.
    groups : ndarray of shape (n,), optional
        Rows of one group stay together when a head makes inner folds.
    on_fit : callable, optional
        Called after each part.
    """
    names = np.array(classes)
    n_classes = len(names)
    parts = list(parts)

    def run(part: tuple[NDArray[np.intp], NDArray[np.intp]]) -> _Part:
        train, test = part
        within = None if groups is None else groups[train]
        begin = time.perf_counter()
        head = fit_head(build(), X[train], names[codes[train]], within)
        seconds = time.perf_counter() - begin
        proba = np.zeros((len(test), n_classes))
        proba[:, np.searchsorted(names, head.classes_)] = head.predict_proba(X[test])
        return _Part(head, np.searchsorted(names, head.predict(X[test])), proba, seconds)

    predicted = np.full(len(codes), -1, dtype=np.intp)
    probabilities = np.zeros((len(codes), n_classes))
    scores: dict[str, list[float]] = {}
    seconds, chosen = [], []
    for (_, test), found in zip(parts, _each(run, parts), strict=True):
        for metric, value in score(codes[test], found.predicted, found.probabilities).items():
            scores.setdefault(metric, []).append(value)
        seconds.append(found.seconds)
        chosen.append(chosen_by(found.head))
        is_new = predicted[test] < 0  # later repeats do not overwrite the first
        predicted[test[is_new]] = found.predicted[is_new]
        probabilities[test[is_new]] = found.probabilities[is_new]
        if on_fit is not None:
            on_fit()
    tested = predicted >= 0
    report = Report(
        codes[tested],
        predicted[tested],
        {metric: np.array(values) for metric, values in scores.items()},
        estimand,
        float(np.mean([len(test) / len(train) for train, test in parts])) if len(parts) > 1 else 0,
    )
    return Evaluation(
        report, float(np.median(seconds)), probabilities[tested], tuple(chosen), found.head
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """What one fit gave."""

    head: Any
    predicted: NDArray[np.intp]
    probabilities: NDArray[np.float64]
    seconds: float


def _each(run: Callable[[Any], _Part], parts: Sequence[Any]) -> Iterator[_Part]:
    """Run all parts in order; several at once, each on one core, where there are several.

    BLAS threads gain little on folds of this size, and where other processes keep the cores
    busy they wait for each other: ten times slower was seen.
    """
    from threadpoolctl import threadpool_limits

    if len(parts) == 1:
        yield run(parts[0])
        return
    n_threads = min(len(parts), os.cpu_count() or 1, 8)
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(n_threads) as pool:
        yield from pool.map(run, parts)


def fit_head(head: Any, X: Any, y: NDArray[Any], groups: NDArray[Any] | None) -> Any:
    """Fit a classifier or a pipeline, with groups where its last step takes them."""
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import has_fit_parameter

    last = head.steps[-1][1] if isinstance(head, Pipeline) else head
    if groups is None or not has_fit_parameter(last, "groups"):
        return head.fit(X, y)
    prefix = f"{head.steps[-1][0]}__" if isinstance(head, Pipeline) else ""
    return head.fit(X, y, **{f"{prefix}groups": groups})


def chosen_by(head: Any) -> dict[str, Any]:
    """Return the settings that a fitted head chose for itself."""
    last = head[-1] if hasattr(head, "steps") else head
    names = ("normalisation_", "C_", "alpha_", "k_")
    return {name.rstrip("_"): getattr(last, name) for name in names if hasattr(last, name)}
