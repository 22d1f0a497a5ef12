"""Evaluation of a head: metrics with intervals.

On a test split an interval speaks of the fitted heads, over folds of the learning procedure.
Out-of-fold rows are never pooled for a claim: the heads behind them differ, and such tests find
false differences in 7 to 10 % of cases at a nominal 5 %.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import NotEnoughData
from featurestore.terms.intervals import wilson
from heads.labels.matrix import Matrix
from heads.labels.reviewed import Reviewed, differs
from heads.labels.tasks import Target, Task
from heads.measures.intervals import (
    LEVEL,
    bootstrap_difference,
    bootstrap_interval,
    bootstrap_weights,
    corrected_t,
    mean_recall,
    mean_recall_difference,
)
from heads.measures.metrics import METRICS, Metric, Predictions, score

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

CLOSED_FORM = ("balanced_accuracy", "accuracy")  # score intervals; of one class a row
Part = tuple[NDArray[np.intp], NDArray[np.intp]]  # training and test rows


@dataclass(frozen=True)
class Estimate:
    """A value, its interval, and what the interval is of."""

    value: float  # NaN where the metric is undefined on these rows; null in JSON
    low: float | None  # None where this metric has no interval
    high: float | None
    estimand: str


def undefined(metric: str) -> str:
    """Say that a metric has no value on the tested rows, and what has one."""
    other = "mae" if metric in ("r2", "spearman") else "accuracy"
    return (
        f"{metric} is undefined here: the labels of the tested items are all equal; "
        f"{other} is defined"
    )


@dataclass(frozen=True, eq=False)
class Report:
    """How one head did on rows that it had not seen.

    On a test split ``scores`` has one value per metric, and ``draws`` those of the same
    bootstrap draws of the rows for every head; over folds it has one for each fold, and
    ``predicted`` is that of the first repeat.
    """

    truth: NDArray[Any]  # (n,) class numbers or numbers; (n, n_labels) bool
    predicted: NDArray[Any]  # the same shape
    scores: Mapping[str, NDArray[np.float64]]  # metric → (1,) or (n_repeats * n_folds,)
    estimand: str
    test_ratio: float = 0.0  # test rows over training rows of one fold
    task: Task = Task.MULTICLASS
    draws: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)  # (n_draws,)
    repeats: NDArray[Any] | None = None  # (n_repeats, n, …), what each repeat predicted
    n_blocks: int | None = None  # of the test rows; None where each stands for itself
    as_reviewed: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)  # as ``scores``
    n_reviewed: int = 0  # test rows that reviewers see otherwise

    @property
    def n_units(self) -> int:
        """Number of independent units that were tested: blocks of rows, or rows."""
        return len(self.truth) if self.n_blocks is None else self.n_blocks

    def estimate(self, metric: str, *, level: float = LEVEL) -> Estimate:
        """Return a metric with its interval; ``low`` and ``high`` are None where it has none.

        Folds on which it is undefined do not count; the value is NaN where no fold is left.
        """
        scores = self.scores[metric]
        scores = scores[np.isfinite(scores)]
        if not len(scores):
            return Estimate(math.nan, None, None, self.estimand)
        is_share = self.metric(metric).is_share
        value = float(scores.mean())
        if len(self.scores[metric]) > 1:
            interval = corrected_t(scores, self.test_ratio, level=level)
            if interval is None and self._is_closed(metric):
                interval = self._recall(metric, level)  # of the rows of one repeat
            elif interval is None and is_share:  # nothing varies, which n rows may well hide
                interval = wilson(min(1.0, max(0.0, value)), len(self.truth), level=level)
        elif metric in self.draws:
            interval = bootstrap_interval(
                value, self.draws[metric], n_units=self.n_units, is_share=is_share, level=level
            )
        else:
            interval = self._recall(metric, level) if self._is_closed(metric) else None
        if interval is None or not np.isfinite(interval).any():
            return Estimate(value, None, None, self.estimand)
        low, high = self.metric(metric).within(*interval)
        return Estimate(value, low, high, self.estimand)

    def difference(self, other: Report, metric: str, *, level: float = LEVEL) -> Estimate:
        """Return this head's metric less that of another on the same rows or folds.

        Raises
        ------
        ValueError
            If they were tested on other rows, or without the draws that the metric needs.
        """
        if self.estimand != other.estimand or not np.array_equal(self.truth, other.truth):
            raise ValueError("heads can only be paired over the same rows and folds")
        gains = self.scores[metric] - other.scores[metric]
        gains = gains[np.isfinite(gains)]
        if not len(gains):
            raise NotEnoughData(undefined(metric))
        value = float(gains.mean())
        is_share = self.metric(metric).is_share
        is_folded = len(self.scores[metric]) > 1
        interval = corrected_t(gains, self.test_ratio, level=level) if is_folded else None
        if interval is None and self._is_closed(metric):
            interval = mean_recall_difference(
                self.truth == self.predicted,
                self.truth == other.predicted,
                self._strata(metric),
                level=level,
            )
        elif interval is None:
            if is_folded:
                draws = gains
            elif metric in self.draws and metric in other.draws:
                draws = self.draws[metric] - other.draws[metric]
            else:
                raise ValueError(f"{metric} was not drawn: ask for its interval when evaluating")
            interval = bootstrap_difference(
                value, draws, n_units=self.n_units, is_share=is_share, level=level
            )
        if is_share:
            interval = max(-1.0, interval[0]), min(1.0, interval[1])
        return Estimate(value, *interval, self.estimand)

    def _recall(self, metric: str, level: float) -> tuple[float, float]:
        return mean_recall(self.truth == self.predicted, self._strata(metric), level=level)

    def metric(self, name: str) -> Metric:
        """Return what is known of a metric."""
        return METRICS[self.task][name]

    def _is_closed(self, metric: str) -> bool:
        """Whether the closed-form interval of independent rows is valid for a metric."""
        is_known = self.task is Task.MULTICLASS and metric in CLOSED_FORM
        return is_known and metric not in self.draws

    def _strata(self, metric: str) -> NDArray[np.intp]:
        return self.truth if metric == "balanced_accuracy" else np.zeros_like(self.truth)

    def confusion(self, n_classes: int) -> NDArray[np.intp]:
        """Count true (rows) against predicted classes (columns), shape (n_classes, n_classes)."""
        counts = np.zeros((n_classes, n_classes), dtype=np.intp)
        np.add.at(counts, (self.truth, self.predicted), 1)
        return counts


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A report, what it cost, and the predictions behind it."""

    report: Report
    seconds: float  # median of one fit, choices included
    probabilities: NDArray[np.float64] | None  # (n, n_classes), of the rows of the report
    chosen: tuple[dict[str, Any], ...]  # what each fit chose
    last: Any  # the head fitted last


def evaluate(
    build: Callable[[], Any],
    X: Matrix,
    target: Target,
    parts: Iterable[Part],
    *,
    estimand: str,
    groups: NDArray[np.intp] | None = None,
    on_fit: Callable[[], None] | None = None,
    intervals_of: Collection[str] = (),
    seed: int = 0,
    reviewed: Reviewed | None = None,
) -> Evaluation:
    """Fit a head on each training part and score it on the test part.

    Parameters
    ----------
    build : callable
        Returns an unfitted head.
    X : ndarray or CSR of shape (n, dim)
    target : Target
        Of the n rows.
    parts : iterable of (training rows, test rows)
        One pair for a test split; for folds all repeats, each covering every row once.
    groups : ndarray of shape (n,), optional
        Rows of one group stay together when a head makes inner folds, and when the rows of
        a test split are drawn for an interval.
    on_fit : callable, optional
        Called after each part.
    intervals_of : collection of str
        Metrics without a closed form that are to have an interval on a test split.
    seed : int
        Of the bootstrap that gives it.
    reviewed : Reviewed, optional
        What reviewers decided: rows teach it, and it is scored against beside the target.
    """
    parts = list(parts)
    lesson = (target if reviewed is None else reviewed.taught).lesson

    def run(part: Part) -> _Fit:
        train, test = part
        within = None if groups is None else groups[train]
        begin = time.perf_counter()
        head = fit_head(build(), X[train], lesson[train], within)
        seconds = time.perf_counter() - begin
        return _Fit(test, head, predictions(head, X[test], target.take(test)), seconds)

    tally = _Tally(target)
    for fit in _each(run, parts):
        tally.add(fit, reviewed)
        if on_fit is not None:
            on_fit()
    draws: dict[str, NDArray[np.float64]] = {}
    n_blocks, test_ratio, repeats = None, 0.0, None
    if len(parts) == 1:
        block = fit.test if groups is None else groups[fit.test]
        draws, n_blocks = _draw_blocks(fit.predictions, target.task, block, intervals_of, seed)
    else:
        test_ratio = float(np.mean([len(test) / len(train) for train, test in parts]))
        repeats = np.stack([predicted[tally.is_tested] for predicted in tally.repeats])
    report = Report(
        target.values[tally.is_tested],
        tally.repeats[0][tally.is_tested],
        _by_metric(tally.scores),
        estimand,
        test_ratio,
        target.task,
        draws,
        repeats,
        n_blocks,
        _by_metric(tally.as_reviewed),
        0 if reviewed is None else _n_seen_otherwise(target, reviewed, tally.is_tested),
    )
    seconds, proba = float(np.median(tally.seconds)), tally.probabilities
    proba = None if proba is None else proba[tally.is_tested]
    return Evaluation(report, seconds, proba, tuple(tally.chosen), fit.head)


@dataclass(frozen=True, eq=False)
class _Fit:
    """What one fit gave."""

    test: NDArray[np.intp]  # rows
    head: Any
    predictions: Predictions
    seconds: float


class _Tally:
    """What is kept of all fits: heads and most probabilities would not fit into memory."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.n_tests = np.zeros(len(target), dtype=np.intp)  # of each row
        self.repeats: list[NDArray[Any]] = []  # each of the shape of the target's values
        shape = (len(target), len(target.classes))
        self.probabilities = np.zeros(shape) if target.classes else None  # of the first repeat
        self.scores: list[dict[str, float]] = []
        self.as_reviewed: list[dict[str, float]] = []
        self.seconds: list[float] = []
        self.chosen: list[dict[str, Any]] = []

    @property
    def is_tested(self) -> NDArray[np.bool_]:
        """Which rows were tested, shape (n,)."""
        return self.n_tests > 0

    def add(self, fit: _Fit, reviewed: Reviewed | None) -> None:
        """Score a fit, and put its predictions where their rows stand."""
        found, test = fit.predictions, fit.test
        self.scores.append(score(self.target.task, found))
        if reviewed is not None:
            self.as_reviewed.append(_scored_anew(found, reviewed, test))
        self.seconds.append(fit.seconds)
        self.chosen.append(chosen_by(fit.head))
        repeat = int(self.n_tests[test[0]])  # every row is tested once in each
        if repeat == len(self.repeats):
            self.repeats.append(np.zeros_like(self.target.values))
        self.repeats[repeat][test] = found.predicted
        if found.proba is None:
            self.probabilities = None
        elif self.probabilities is not None and repeat == 0:
            self.probabilities[test] = found.proba
        self.n_tests[test] += 1


def _by_metric(scores: Sequence[Mapping[str, float]]) -> dict[str, NDArray[np.float64]]:
    """Turn the scores of each fit into the values of each metric, (n_fits,)."""
    values: dict[str, list[float]] = {}
    for of_fit in scores:
        for metric, value in of_fit.items():
            values.setdefault(metric, []).append(value)
    return {metric: np.array(of_metric) for metric, of_metric in values.items()}


def _draw_blocks(
    found: Predictions,
    task: Task,
    block: NDArray[np.intp],
    intervals_of: Collection[str],
    seed: int,
) -> tuple[dict[str, NDArray[np.float64]], int | None]:
    """Draw the blocks of a test split for metrics without a closed form; count the blocks.

    Rows of one block are no independent draws: score intervals would be too narrow.
    """
    n_blocks = len(np.unique(block))
    is_grouped = n_blocks < len(block)
    closed = CLOSED_FORM if task is Task.MULTICLASS and not is_grouped else ()
    asked = {*intervals_of, *(CLOSED_FORM if is_grouped else ())}
    wanted = {
        name: metric
        for name, metric in METRICS[task].items()
        if name in asked and name not in closed and not (metric.needs_proba and found.proba is None)
    }
    return _draws(found, wanted, block, seed), n_blocks if is_grouped else None


def predictions(head: BaseEstimator, X: Matrix, target: Target) -> Predictions:
    """Predict rows X, (n, dim), as class numbers, indicators or numbers, like their target."""
    said = head.predict(X)
    if target.task is Task.REGRESSION:
        return Predictions(target.values, np.asarray(said, dtype=np.float64).reshape(len(target)))
    proba = head.predict_proba(X) if hasattr(head, "predict_proba") else None
    if target.task is Task.MULTILABEL:
        return Predictions(target.values, np.asarray(said).astype(bool), proba)
    names = np.array(target.classes)
    if proba is not None:
        found = np.zeros((len(target), len(names)))
        found[:, np.searchsorted(names, head.classes_)] = proba
        proba = found
    return Predictions(target.values, np.searchsorted(names, said), proba)


def _draws(
    found: Predictions,
    metrics: Mapping[str, Metric],
    block: NDArray[np.intp],
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Compute metrics on bootstrap draws of whole blocks of the test rows."""
    if not metrics:
        return {}
    draws: dict[str, list[NDArray[np.float64]]] = {name: [] for name in metrics}
    for weights in bootstrap_weights(block, seed=seed):
        for name, metric in metrics.items():
            draws[name].append(metric.compute(found, weights))
    return {name: np.concatenate(values) for name, values in draws.items()}


def _scored_anew(
    found: Predictions, reviewed: Reviewed, test: NDArray[np.intp]
) -> dict[str, float]:
    """Score against what reviewers say, without the rows that they left out."""
    kept = reviewed.teaches[test]
    if not kept.any():
        return {}
    proba = None if found.proba is None else found.proba[kept]
    truth = reviewed.taught.values[test][kept]
    return score(reviewed.taught.task, Predictions(truth, found.predicted[kept], proba))


def _n_seen_otherwise(target: Target, reviewed: Reviewed, tested: NDArray[np.bool_]) -> int:
    changed = differs(target, reviewed.taught) | ~reviewed.teaches
    return int((tested & changed).sum())


def _each(run: Callable[[Part], _Fit], parts: Sequence[Part]) -> Iterator[_Fit]:
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


def fit_head(head: BaseEstimator, X: Matrix, y: NDArray[Any], groups: NDArray[Any] | None) -> Any:
    """Fit a head or pipeline to X (n, dim), with groups (n,) where its last step takes them."""
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import has_fit_parameter

    last = head.steps[-1][1] if isinstance(head, Pipeline) else head
    if groups is None or not has_fit_parameter(last, "groups"):
        return head.fit(X, y)
    prefix = f"{head.steps[-1][0]}__" if isinstance(head, Pipeline) else ""
    return head.fit(X, y, **{f"{prefix}groups": groups})


def chosen_by(head: BaseEstimator) -> dict[str, Any]:
    """Return the settings that a fitted head chose for itself."""
    last = head[-1] if hasattr(head, "steps") else head
    names = ("chosen_", "normalisation_", "C_", "alpha_", "k_", "temperature_")
    found = {name.rstrip("_"): getattr(last, name) for name in names if hasattr(last, name)}
    plain = {name: v.item() if isinstance(v, np.generic) else v for name, v in found.items()}
    return {name: v for name, v in plain.items() if isinstance(v, (str, int, float, bool))}
