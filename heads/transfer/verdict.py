"""Does pretraining help: positive, neutral, negative, or inconclusive.

The verdict is read off one interval of Δ: the metric of the encoder's heads less that of the
reference without pretraining, both chosen within the same training rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.terms.specs import EncoderSpec
from heads.labels.estimands import ON_TEST
from heads.labels.tasks import Task
from heads.measures.comparison import ComparedHead, metric_of, number, unit_of
from heads.measures.evaluate import Report
from heads.measures.intervals import (
    LEVEL,
    bootstrap_difference,
    corrected_t,
    detectable,
    level_of_each,
    likely,
    mean_recall_difference,
    settled,
)

LEAST_ITEMS = 30  # independent ones behind folds, for a claim


class Kind(StrEnum):
    """What a verdict can be."""

    POSITIVE = "positive"
    NEUTRAL = "neutral"
    NEGATIVE = "negative"
    INCONCLUSIVE = "inconclusive"


def decide(low: float, high: float, margin: float) -> Kind:
    """Read the verdict off an interval of Δ, where higher is better.

    Negative if all of it is below 0, positive if all of it is above 0; neutral if it holds 0 and
    lies within ±margin; else inconclusive.

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
    n_taught: int  # that taught the heads behind the verdict
    n_claims: int = 1  # the interval holds for so many verdicts at once

    @property
    def is_material(self) -> bool:
        """Whether even the near end of the interval is beyond the margin."""
        return self.low > self.margin or self.high < -self.margin

    @property
    def detectable(self) -> float:
        """The difference that this many rows would have shown in 80 % of cases."""
        return detectable(self.low, self.high, self.n_claims)

    @property
    def rows_needed(self) -> int:
        """Rows that would settle a difference of the margin in 80 % of cases.

        With so many, encoders that do not differ are found *neutral*; a difference of the margin
        takes three quarters of them. They are test rows on a test split, else rows in all; the
        interval narrows with the square root of their number. -1 if no number is enough.
        """
        margin = settled(self.low, self.high, self.n_claims)
        if not math.isfinite(margin):
            return -1
        return math.ceil(self.n_rows * max(1e-9, margin / self.margin) ** 2)

    @property
    def rows_word(self) -> str:
        """What ``n_rows`` counts."""
        return "test items" if self.estimand == ON_TEST else "labelled items"

    @property
    def rows_needed_for(self) -> str:
        """What ``rows_needed`` counts: ``labels needed to settle a difference of 1 point``."""
        margin = f"{self.margin:.3g} {unit_of(self.metric)}"
        if metric_of(self.metric).is_share:
            margin = f"{100 * self.margin:.3g} point{'s' * (self.margin != 0.01)}"
        rows = "test items" if self.estimand == ON_TEST else "labels"
        return f"{rows} needed to settle a difference of {margin}"

    def sentence(self) -> str:
        """Say whether the encoder helps, with the interval, and the worst where it is open."""
        name, unit = EncoderSpec.parse(self.encoder).label, unit_of(self.metric)

        def said(x: float, sign: str = "+") -> str:
            return number(x, self.metric, sign)

        span = f"({said(self.low)} to {said(self.high)})"
        over = f"{said(self.value)} {unit} over {self.reference} {span}"
        against = f"{said(self.value)} {unit} against {self.reference} {span}"
        if self.kind is Kind.POSITIVE:
            return f"{name} helps{'' if self.is_material else ' a little'}: {over}"
        if self.kind is Kind.NEGATIVE:
            return f"{name} is worse than {self.reference}: {said(self.value)} {unit} {span}"
        if self.kind is Kind.NEUTRAL:
            within = f"the interval is within ±{said(self.margin, '')} {unit}"
            return f"{name} makes no difference that matters: {against}; {within}"
        sign = likely(self.value, self.low, self.high, self.n_claims)
        if sign == 0:
            return (
                f"No difference between {name} and {self.reference} can be seen: "
                f"{said(self.value)} {unit} {span}"
            )
        if sign > 0:
            worst = f"; at worst {said(-self.low, '')} {unit} worse" if self.low < 0 else ""
            return f"{name} likely helps: {over}{worst}"
        best = f"; at best {said(self.high, '')} {unit} better" if self.high > 0 else ""
        return (
            f"{name} is likely worse than {self.reference}: {said(self.value)} {unit} {span}{best}"
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
    n_taught: int = 0,
    n_blocks: int | None = None,
) -> Verdict:
    """Compare an encoder's heads with the reference on the same rows or folds.

    Parameters
    ----------
    margin : float
        In the metric's unit.
    n_claims : int
        Verdicts that are given together: Bonferroni widens the interval, so that all hold at
        once in 95 %.
    n_blocks : int, optional
        Independent items behind folds, default each row: of fewer than LEAST_ITEMS the corrected t
        claims too often (benchmarks/transfer.py), so nothing is claimed.
    """
    about = encoder.report.metric(metric)
    sign = 1 if about.higher_is_better else -1
    gain = encoder.report.difference(reference.report, metric, level=level_of_each(n_claims))
    assert gain.low is not None
    assert gain.high is not None
    low, high = sorted((sign * gain.low, sign * gain.high))
    n_units = len(encoder.report.truth) if n_blocks is None else n_blocks
    is_few = gain.estimand != ON_TEST and n_units < LEAST_ITEMS
    return Verdict(
        Kind.INCONCLUSIVE if is_few else decide(low, high, margin),
        encoder.encoder,
        reference_name or reference.encoder,
        metric,
        sign * gain.value,
        low,
        high,
        margin,
        gain.estimand,
        encoder.report.estimate(metric).value,
        reference.report.estimate(metric).value,
        len(encoder.report.truth),
        n_taught,
        n_claims,
    )


def attribution(
    encoder: ComparedHead, random: Sequence[ComparedHead], metric: str, *, n_claims: int = 1
) -> tuple[float, float, float]:
    """Compare an encoder with the mean of random seeds of its own architecture.

    Never with the best of them, which would flatter them. Returns Δ, low and high, where higher is
    better. On a test split the limits are the means of
    those of the single differences, which is a little too wide.
    """
    sign = 1 if encoder.report.metric(metric).higher_is_better else -1
    level = level_of_each(n_claims)
    if len(encoder.report.scores[metric]) == 1:
        gains = [encoder.report.difference(seed.report, metric, level=level) for seed in random]
        ends = np.array([[sign * gain.value, sign * gain.low, sign * gain.high] for gain in gains])  # type: ignore[operator]
        value, first, second = (float(x) for x in ends.mean(axis=0))
        return value, min(first, second), max(first, second)
    mean = np.mean([seed.report.scores[metric] for seed in random], axis=0)
    gains = sign * (encoder.report.scores[metric] - mean)
    value = float(gains.mean())
    interval = corrected_t(gains, encoder.report.test_ratio, level=level)
    if interval is None:
        is_share = encoder.report.metric(metric).is_share
        interval = bootstrap_difference(
            value, gains, n_units=encoder.report.n_units, is_share=is_share, level=level
        )
    return value, *interval


@dataclass(frozen=True)
class SliceDifference:
    """How much better one head is on some of the items; exploration, not a claim."""

    name: str
    n_rows: int
    value: float  # of the share right, or of the mean absolute error saved; in rows' mean
    low: float
    high: float
    p: float
    is_found: bool  # after Benjamini-Hochberg over all slices, at 5 %


def slice_differences(
    first: Report,
    second: Report,
    slices: Mapping[str, NDArray[np.bool_]],
    test_rows: Sequence[NDArray[np.intp]],
    *,
    block: NDArray[np.intp] | None = None,
    of_label: Mapping[str, int] | None = None,
) -> list[SliceDifference]:
    """Compare two heads on slices of the tested rows, worst first.

    Over folds two intervals are made, and the wider one and the larger p are taken: the corrected
    t over parts allows for overlapping training sets, the t over blocks for few rows. A slice of
    fewer than five blocks is not tested: its p is 1.

    Parameters
    ----------
    slices : mapping
        Name → mask over the tested rows (n,).
    test_rows : sequence of ndarray
        Positions among the tested rows of each part, in the order of scores.
    block : ndarray of shape (n,), optional
        Rows of one block are not independent.
    of_label : mapping, optional
        With several labels a row: the one that a slice is about; default all of them at once.

    References
    ----------
    .. [1] Benjamini and Hochberg, JRSS B 57, 1995, 289-300.
    """
    from scipy.stats import binomtest, false_discovery_control

    block = np.arange(len(first.truth)) if block is None else block
    found = []
    for name, mask in slices.items():
        gain = _row_gains(first, second, (of_label or {}).get(name))  # (n_repeats, n)
        rows = gain[:, mask].mean(axis=0)
        value = float(rows.mean())
        units = _block_means(rows, block[mask])
        low, high, p = _t_of(units, value)
        if first.repeats is not None:
            parts = _part_gains(gain, mask, test_rows)
            interval = corrected_t(parts, first.test_ratio) if len(parts) > 2 else None
            if interval is not None:
                half = (interval[1] - interval[0]) / 2
                low, high = min(low, value - half), max(high, value + half)
                p = max(p, _p_of(value, half, len(parts)))
        elif first.task is Task.MULTICLASS and len(units) == len(rows):
            a, b = ((r.truth == r.predicted)[mask] for r in (first, second))
            low, high = mean_recall_difference(a, b, np.zeros(len(a), dtype=np.intp))
            n_apart = int((a != b).sum())
            p = float(binomtest(int((a & ~b).sum()), n_apart).pvalue) if n_apart else 1.0
        if len(units) < LEAST_BLOCKS:
            p = 1.0
        if first.task is not Task.REGRESSION:
            low, high = max(-1.0, low), min(1.0, high)
        found.append((name, int(mask.sum()), value, low, high, p))
    if not found:
        return []
    adjusted = false_discovery_control([row[-1] for row in found])
    rows_found = [
        SliceDifference(*row, bool(a <= 1 - LEVEL)) for row, a in zip(found, adjusted, strict=True)
    ]
    return sorted(rows_found, key=lambda row: row.value)


LEAST_BLOCKS = 5  # of a slice that is tested: of four, all can agree by chance in 1 of 8 cases


def _row_gains(first: Report, second: Report, label: int | None) -> NDArray[np.float64]:
    """Return how much better the first did on each row in each repeat, (n_repeats, n)."""
    a, b = (r.predicted[None] if r.repeats is None else r.repeats for r in (first, second))
    if first.task is Task.REGRESSION:
        return np.asarray(np.abs(b - first.truth) - np.abs(a - first.truth), dtype=np.float64)
    right = [said == first.truth for said in (a, b)]
    if first.truth.ndim == 2:
        right = [one.all(axis=2) if label is None else one[:, :, label] for one in right]
    return np.asarray(right[0].astype(np.float64) - right[1])


def _block_means(rows: NDArray[np.float64], block: NDArray[np.intp]) -> NDArray[np.float64]:
    _, number, sizes = np.unique(block, return_inverse=True, return_counts=True)
    return np.asarray(np.bincount(number, weights=rows) / sizes)


def _t_of(units: NDArray[np.float64], value: float) -> tuple[float, float, float]:
    """Return low and high of the t interval about a value, and its p; no limits for one unit."""
    from scipy.stats import t

    if len(units) < 2:
        return -math.inf, math.inf, 1.0
    half = float(t.ppf((1 + LEVEL) / 2, len(units) - 1) * units.std(ddof=1)) / math.sqrt(len(units))
    n_apart = int((np.abs(units) > 1e-12).sum())
    least = min(1.0, 2.0 ** (1 - n_apart))  # of the sign test, if all of them agree
    return value - half, value + half, max(least, _p_of(value, half, len(units)))


def _p_of(value: float, half: float, n: int) -> float:
    """Return the two-sided p of a t interval's centre."""
    from scipy.stats import t

    if half <= 1e-12:
        return 1.0 if abs(value) <= 1e-12 else 0.0
    quantile = float(t.ppf((1 + LEVEL) / 2, n - 1))
    return 2 * float(t.sf(abs(value) * quantile / half, n - 1))


def _part_gains(
    gain: NDArray[np.float64], mask: NDArray[np.bool_], test_rows: Sequence[NDArray[np.intp]]
) -> NDArray[np.float64]:
    """Return the mean gain in each part that has rows of the slice."""
    n_folds = len(test_rows) // len(gain)
    means = []
    for part, rows in enumerate(test_rows):
        kept = rows[mask[rows]]
        if len(kept):
            means.append(float(gain[part // n_folds, kept].mean()))
    return np.array(means)
