"""Evaluation of a head: metrics with intervals.

On a test split an interval speaks of the fitted heads, over folds of the learning procedure.
Out-of-fold rows are never pooled for a claim: the heads behind them differ, and such tests find
false differences in 7 to 10 % of cases at a nominal 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import NotEnoughData, TimeIsUp
from featurestore.terms.intervals import wilson
from heads.labels.estimands import over_folds
from heads.labels.matrix import Matrix
from heads.labels.reviewed import Reviewed, differs
from heads.labels.tasks import Target, Task
from heads.measures.fits import Bench, Fit, Joined, Part, Tally, fits_of, with_joined
from heads.measures.intervals import (
    LEVEL,
    bootstrap_difference,
    bootstrap_interval,
    bootstrap_weights,
    corrected_t,
    mean_recall,
    mean_recall_difference,
)
from heads.measures.metrics import METRICS, Metric, Predictions

CLOSED_FORM = ("balanced_accuracy", "accuracy")  # score intervals; of one class a row


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

    def __repr__(self) -> str:
        """Return it in a line."""
        first = list(self.scores.items())[:2]
        scores = (f"{name} {values.mean():.3f}" for name, values in first)
        return f"<Report on {len(self.truth):,} items: {', '.join(scores)}>"

    @property
    def n_units(self) -> int:
        """Number of independent units that were tested: blocks of rows, or rows."""
        return len(self.truth) if self.n_blocks is None else self.n_blocks

    @property
    def n_parts(self) -> int:
        """Number of folds, or of draws, that were done; 1 on a test split."""
        return len(next(iter(self.scores.values())))

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
                interval = self._recall(metric, level, value)  # by the rows of one repeat
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

    def _recall(self, metric: str, level: float, value: float | None = None) -> tuple[float, float]:
        correct = self.truth == self.predicted
        return mean_recall(correct, self._strata(metric), value=value, level=level)

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
    exam = Exam(target, list(parts), estimand, groups, intervals_of, seed, reviewed)
    ((found,),) = exam.take([(X, [build])], lambda n, head: on_fit() if on_fit else None)
    assert found is not None, "TimeIsUp is raised where there is none"
    return found


@dataclass(frozen=True, eq=False)
class Exam:
    """How heads are taught and tested; see `evaluate`."""

    target: Target
    parts: Sequence[Part]
    estimand: str
    groups: NDArray[np.intp] | None = None
    intervals_of: Collection[str] = ()
    seed: int = 0
    reviewed: Reviewed | None = None
    n_folds: int = 0  # of each repeat; 0: the parts are no folds

    @property
    def n_whole(self) -> int:
        """How many parts test each row once: the folds of a repeat; else all parts."""
        return self.n_folds or len(self.parts)

    def take(
        self,
        inputs: Sequence[tuple[Matrix, Sequence[Callable[[], Any]]]],
        on_fit: Callable[[int, int], None],
        *,
        tallies: Sequence[Sequence[Tally]] | None = None,
        on_repeat: Callable[[list[list[Evaluation | None]]], None] | None = None,
        joined: Sequence[Joined] = (),
    ) -> list[list[Evaluation | None]]:
        """Examine heads on each input; heads on one input share what is the same for all.

        Where ``on_fit`` raises `TimeIsUp`, what is whole by then is returned: for folds the
        repeats that all rows were tested in; None for heads without any.

        Parameters
        ----------
        inputs : sequence of (X, builds)
            X is (n, dim); each of ``builds`` returns an unfitted head.
        on_fit : callable
            Called after each fit with the numbers of input and head.
        tallies : sequence of sequence of Tally, optional
            Of each head, as far as it has come; they are filled. Last those of ``joined``.
        on_repeat : callable, optional
            Hears what is known after each repeat of the folds but the last.
        joined : sequence of Joined
            Heads that are made of these, as if on one more input, which is the last. All have come
            as far as each other.

        Raises
        ------
        TimeIsUp
            If no head has gone through all rows.
        """
        if tallies is None:
            numbers = [*(len(builds) for _, builds in inputs), *([len(joined)] if joined else [])]
            tallies = [[Tally(self.target) for _ in range(n)] for n in numbers]
        taught = self.target if self.reviewed is None else self.reviewed.taught
        benches = [
            Bench(X, builds, taught, self.target, self.groups, self.seed) for X, builds in inputs
        ]
        last: dict[int, list[Fit]] = {}
        n_done = [len(of_input[0].scores) for of_input in tallies[: len(inputs)]]
        n_whole = n_said = self.n_whole
        try:
            each = fits_of(benches, self.parts, on_fit, n_done)
            for number, fits in with_joined(each, joined, self.parts, on_fit, n_done):
                last[number] = fits
                for tally, fit in zip(tallies[number], fits, strict=False):  # fewer if stopped
                    tally.add(fit, self.reviewed)
                n_all = min(len(of_input[0].scores) for of_input in tallies)
                if on_repeat is not None and n_said <= n_all < len(self.parts):
                    n_said = n_all // n_whole * n_whole
                    on_repeat(self._marks(tallies, last, n_said))
                    n_said += n_whole
        except TimeIsUp:
            every = [tally for of_input in tallies for tally in of_input]
            n_known = [n for one in every if (n := len(one.scores) // n_whole * n_whole)]
            if not n_known:
                raise
            return self._marks(tallies, last, min(n_known))
        return self._marks(tallies, last, len(self.parts))

    def _marks(
        self, tallies: Sequence[Sequence[Tally]], last: Mapping[int, Sequence[Fit]], n_parts: int
    ) -> list[list[Evaluation | None]]:
        found: list[list[Evaluation | None]] = []
        for number, of_input in enumerate(tallies):
            fits = last.get(number, ())
            found.append(
                [
                    self._mark(tally, fit, n_parts) if len(tally.scores) >= n_parts else None
                    for tally, fit in zip_longest(of_input, fits)
                ]
            )
        return found

    def _mark(self, tally: Tally, last: Fit | None, n_parts: int) -> Evaluation:
        """Return what is said of a head that has gone through so many of the parts."""
        is_tested = tally.is_tested
        draws: dict[str, NDArray[np.float64]] = {}
        n_blocks, test_ratio, repeats, estimand = None, 0.0, None, self.estimand
        parts, n_repeats = self.parts[:n_parts], len(tally.repeats)
        if n_parts < len(self.parts):
            n_repeats = n_parts // self.n_whole
            estimand = over_folds(n_repeats, self.n_whole)
        if len(self.parts) == 1:
            assert last is not None, "one part is never begun"
            block = last.test if self.groups is None else self.groups[last.test]
            draws, n_blocks = _draw_blocks(
                last.predictions, self.target.task, block, self.intervals_of, self.seed
            )
        else:
            test_ratio = float(np.mean([len(test) / len(train) for train, test in parts]))
            repeats = np.stack([predicted[is_tested] for predicted in tally.repeats[:n_repeats]])
        report = Report(
            self.target.values[is_tested],
            tally.repeats[0][is_tested],
            _by_metric(tally.scores[:n_parts]),
            estimand,
            test_ratio,
            self.target.task,
            draws,
            repeats,
            n_blocks,
            _by_metric(tally.as_reviewed[:n_parts]),
            self._n_seen_otherwise(is_tested),
        )
        proba = None if tally.probabilities is None else tally.probabilities[is_tested]
        seconds = float(np.median(tally.seconds[:n_parts]))
        head = None if last is None else last.head
        return Evaluation(report, seconds, proba, tuple(tally.chosen[:n_parts]), head)

    def _n_seen_otherwise(self, is_tested: NDArray[np.bool_]) -> int:
        if self.reviewed is None:
            return 0
        changed = differs(self.target, self.reviewed.taught) | ~self.reviewed.teaches
        return int((is_tested & changed).sum())


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
