"""Does pretraining help: positive, neutral, negative, or not to be told from these labels.

Read off one interval of Δ, the metric of the encoder's heads less that of the reference without
pretraining, both chosen within the same training rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heads.comparison import TO_DETECTABLE, ComparedHead
from heads.evaluate import Report
from heads.intervals import LEVEL, corrected_t, mean_recall_difference
from heads.metrics import METRICS
from heads.tasks import Task

MARGIN = 0.01  # the smallest difference that matters: a point; for errors, of the label's spread


class Kind(StrEnum):
    """What a verdict can be."""

    POSITIVE = "positive"
    NEUTRAL = "neutral"
    NEGATIVE = "negative"
    INCONCLUSIVE = "inconclusive"


def decide(low: float, high: float, margin: float) -> Kind:
    """Read the verdict off an interval of Δ, where higher is better.

    Negative where all of it is below 0, positive where all of it is above; neutral where it
    holds 0 and lies within ±margin; else the data cannot tell.

    >>> decide(-0.004, 0.006, 0.01), decide(-0.004, 0.06, 0.01)
    (<Kind.NEUTRAL: 'neutral'>, <Kind.INCONCLUSIVE: 'inconclusive'>)
    """
    if high < 0:
        return Kind.NEGATIVE
    if low > 0:
        return Kind.POSITIVE
    return Kind.NEUTRAL if -margin < low and high < margin else Kind.INCONCLUSIVE


@dataclass(frozen=True)
class Verdict:
    """Whether an encoder helps, with the evidence; shares of 1, higher is better."""

    kind: Kind
    encoder: str
    reference: str
    metric: str
    value: float  # Δ; for metrics where lower is better, its negative
    low: float
    high: float
    margin: float
    estimand: str
    encoder_value: float
    reference_value: float
    n_rows: int  # that were tested
    n_claims: int = 1  # the interval holds for so many verdicts at once

    @property
    def is_material(self) -> bool:
        """Whether even the near end of the interval is beyond the margin."""
        return self.low > self.margin or self.high < -self.margin

    @property
    def detectable(self) -> float:
        """The difference that this many rows would have shown in 80 % of cases."""
        return TO_DETECTABLE * (self.high - self.low) / 2

    @property
    def rows_needed(self) -> int:
        """Rows that would show a difference of the margin in 80 % of cases.

        The interval narrows with the square root of the rows.
        """
        return math.ceil(self.n_rows * max(1e-9, self.detectable / self.margin) ** 2)

    def sentence(self) -> str:
        """Say the verdict with its interval."""
        about = next(task[self.metric] for task in METRICS.values() if self.metric in task)
        scale, digits = (100, ".1f") if about.is_share else (1, ".3g")
        unit = "points" if about.is_share else f"in {self.metric}"

        def said(x: float, sign: str = "+") -> str:
            return f"{x * scale:{sign}{digits}}"

        return (
            f"{self.kind}: {self.metric.replace('_', ' ')} {said(self.value)} {unit} "
            f"({said(self.low)} to {said(self.high)}) against {self.reference}; {self.estimand}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields and what follows from them."""
        return {
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "kind": str(self.kind),
            "is_material": self.is_material,
            "detectable": self.detectable,
            "rows_needed": self.rows_needed,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """Read what `to_json` gave."""
        fields = {name: data[name] for name in cls.__dataclass_fields__}
        return cls(**{**fields, "kind": Kind(fields["kind"])})


def judge(
    encoder: ComparedHead,
    reference: ComparedHead,
    metric: str,
    *,
    margin: float,
    n_claims: int = 1,
    reference_name: str = "",
) -> Verdict:
    """Compare an encoder's heads with the reference on the same rows or folds.

    Parameters
    ----------
    margin : float
        In the metric's unit.
    n_claims : int
        Verdicts that are given together: Bonferroni widens the interval, so that all hold at
        once in 95 %.
    """
    about = encoder.report.metric(metric)
    sign = 1 if about.higher_is_better else -1
    found = encoder.report.difference(reference.report, metric, level=1 - (1 - LEVEL) / n_claims)
    assert found.low is not None
    assert found.high is not None
    low, high = sorted((sign * found.low, sign * found.high))
    return Verdict(
        decide(low, high, margin),
        encoder.encoder,
        reference_name or reference.encoder,
        metric,
        sign * found.value,
        low,
        high,
        margin,
        found.estimand,
        encoder.report.estimate(metric).value,
        reference.report.estimate(metric).value,
        len(encoder.report.truth),
        n_claims,
    )


def margin_of(task: Task, metric: str, truth: NDArray[Any], margin: float = MARGIN) -> float:
    """Return the margin in the metric's unit: of errors, a share of the label's deviation."""
    if task is Task.REGRESSION and metric in ("rmse", "mae"):
        return margin * float(np.std(truth))
    return margin


def attribution(
    encoder: ComparedHead, random: Sequence[ComparedHead], metric: str
) -> tuple[float, float, float] | None:
    """Compare an encoder with the mean of random seeds of its own architecture.

    Never with the best of them. Returns Δ, low and high, where higher is better; None where
    a test split has no fold scores to average over.
    """
    sign = 1 if encoder.report.metric(metric).higher_is_better else -1
    own = encoder.report.scores[metric]
    mean = np.mean([one.report.scores[metric] for one in random], axis=0)
    gains = sign * (own - mean)
    if len(gains) == 1:
        ends = [sign * _pair(encoder, one, metric) for one in random]
        low, high = np.mean(ends, axis=0)
        return float(gains[0]), float(min(low, high)), float(max(low, high))
    interval = corrected_t(gains, encoder.report.test_ratio)
    low, high = interval or (float(gains.mean()), float(gains.mean()))
    return float(gains.mean()), low, high


def _pair(first: ComparedHead, second: ComparedHead, metric: str) -> NDArray[np.float64]:
    found = first.report.difference(second.report, metric)
    return np.array([found.low, found.high], dtype=np.float64)


@dataclass(frozen=True)
class SliceDifference:
    """How much better one head is on some of the items; exploration, not a claim."""

    name: str
    n_rows: int
    value: float  # share right, or for numbers the mean absolute error saved
    low: float
    high: float
    p: float
    is_found: bool  # after Benjamini-Hochberg over all slices, at 5 %


def slice_differences(
    first: Report,
    second: Report,
    slices: Mapping[str, NDArray[np.bool_]],
    test_rows: Sequence[NDArray[np.intp]],
) -> list[SliceDifference]:
    """Compare two heads on slices of the tested rows, worst first.

    Parameters
    ----------
    slices : mapping
        Name → mask over the tested rows (n,).
    test_rows : sequence of ndarray
        Positions among the tested rows of each part, in the order of scores.

    References
    ----------
    .. [1] Benjamini and Hochberg, JRSS B 57, 1995, 289-300.
    """
    from scipy.stats import binomtest, false_discovery_control, t

    found = []
    for name, mask in slices.items():
        gains = _gains(first, second, mask, test_rows)
        interval = corrected_t(gains, first.test_ratio) if len(gains) > 2 else None
        if interval is not None:
            value = float(gains.mean())
            half = (interval[1] - interval[0]) / 2
            quantile = float(t.ppf((1 + LEVEL) / 2, len(gains) - 1))
            p = 2 * float(t.sf(abs(value) * quantile / half, len(gains) - 1))
        elif first.task is Task.MULTICLASS:
            a, b = ((r.truth == r.predicted)[mask] for r in (first, second))
            value = float(a.mean() - b.mean())
            interval = mean_recall_difference(a, b, np.zeros(len(a), dtype=np.intp))
            n_apart = int((a != b).sum())
            p = float(binomtest(int((a & ~b).sum()), n_apart).pvalue) if n_apart else 1.0
        else:
            continue
        found.append((name, int(mask.sum()), value, *interval, p))
    if not found:
        return []
    adjusted = false_discovery_control([row[-1] for row in found])
    rows = [
        SliceDifference(*row, bool(a <= 1 - LEVEL)) for row, a in zip(found, adjusted, strict=True)
    ]
    return sorted(rows, key=lambda row: row.value)


def _gains(
    first: Report,
    second: Report,
    mask: NDArray[np.bool_],
    test_rows: Sequence[NDArray[np.intp]],
) -> NDArray[np.float64]:
    """Return the difference in each part that has rows of the slice."""
    if first.repeats is None or second.repeats is None:
        return np.empty(0)
    n_folds = len(test_rows) // len(first.repeats)
    gains = []
    for part, rows in enumerate(test_rows):
        kept = rows[mask[rows]]
        if len(kept):
            a, b = (_merit(r, part // n_folds, kept) for r in (first, second))
            gains.append(float(np.mean(a - b)))
    return np.array(gains)


def _merit(report: Report, repeat: int, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    assert report.repeats is not None
    truth, said = report.truth[rows], report.repeats[repeat][rows]
    if report.task is Task.REGRESSION:
        return np.asarray(-np.abs(truth - said), dtype=np.float64)
    right = truth == said
    return np.asarray(right if right.ndim == 1 else right.all(axis=1), dtype=np.float64)
