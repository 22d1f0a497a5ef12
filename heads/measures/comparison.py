"""The result of a comparison: rows with intervals, paired differences, JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import NormalDist
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import StoreCorrupt, UnknownHead, nearest
from featurestore.terms.specs import EncoderSpec
from heads.labels.tasks import Task
from heads.measures.card import ABSENT, RunCard, TwinsInTest, WithColumns, known_fields
from heads.measures.evaluate import CLOSED_FORM, Report
from heads.measures.intervals import LEVEL, detectable, level_of_each, likely
from heads.measures.metrics import METRICS, Metric
from heads.measures.shown import ShownComparison

RUN_FORMAT = 2
Cell = tuple[str, str]  # encoder, head
N_JOINT = 2000  # draws of the rows, for the largest of many differences


@dataclass(frozen=True)
class Difference:
    """The difference of a metric between two heads, each on an encoder."""

    first: Cell
    second: Cell
    value: float
    low: float
    high: float
    estimand: str
    metric: str = "balanced_accuracy"
    n_claims: float = 1  # the interval holds for so many differences at once

    @property
    def detectable(self) -> float:
        """The difference that data of this size would show in 80 % of cases."""
        return detectable(self.low, self.high, self.n_claims)

    @property
    def gain(self) -> tuple[float, float, float]:
        """Value, low and high, turned so that higher is better."""
        if metric_of(self.metric).higher_is_better:
            return self.value, self.low, self.high
        return -self.value, -self.high, -self.low

    @property
    def swapped(self) -> Difference:
        """The same difference, seen from the second."""
        return replace(
            self,
            first=self.second,
            second=self.first,
            value=-self.value,
            low=-self.high,
            high=-self.low,
        )

    def sentence(self) -> str:
        """Say what the interval says, shares in percentage points.

        >>> a, b = ("timm:x", "logistic"), ("baseline:pixels", "logistic")
        >>> Difference(a, b, 0.021, 0.004, 0.039, "the learning procedure, 5 × 5 folds").sentence()
        'logistic on timm:x is better than logistic on baseline:pixels by 2.1 points \
(0.4 to 3.9; the learning procedure, 5 × 5 folds)'
        """
        first, second = cell_name(self.first), cell_name(self.second)
        unit = unit_of(self.metric)
        value, low, high = self.gain

        def said(x: float, sign: str = "") -> str:
            return number(x, self.metric, sign)

        if low > 0:
            return (
                f"{first} is better than {second} by {said(value)} {unit} "
                f"({said(low)} to {said(high)}; {self.estimand})"
            )
        if high < 0:
            return (
                f"{first} is worse than {second} by {said(-value)} {unit} "
                f"({said(-high)} to {said(-low)}; {self.estimand})"
            )
        if not np.isfinite([low, high]).all():
            return f"{first} and {second} cannot be compared: the tested items are of one group"
        sign = likely(value, low, high, self.n_claims)
        if sign < 0:
            return self.swapped.sentence()
        span = f"{said(value, '+')} {unit} ({said(low, '+')} to {said(high, '+')}; {self.estimand})"
        if sign == 0:
            return (
                f"No difference between {first} and {second} can be seen: {span}; one of "
                f"{said(self.detectable)} {unit} would have been seen"
            )
        return f"{first} is likely better than {second}: {span}; at worst {said(-low)} {unit} worse"


@dataclass(frozen=True, eq=False)
class ComparedHead:
    """One row of a comparison."""

    encoder: str
    head: str
    report: Report
    seconds: float  # median of one fit, choices included
    chosen: tuple[Mapping[str, Any], ...] = ()  # what each fit chose

    def __repr__(self) -> str:
        """Return it in a line."""
        return f"<ComparedHead {cell_name((self.encoder, self.head))}: {self.report!r}>"

    def to_json(self, *, repeats: bool = False) -> dict[str, Any]:
        """Return all but the truth, which the rows of a comparison share.

        ``repeats`` adds what each repeat of the folds predicted.
        """
        kept = self.report.repeats if repeats else None
        return {
            "encoder": self.encoder,
            "head": self.head,
            "seconds": self.seconds,
            "chosen": [dict(chosen) for chosen in self.chosen],
            "predicted": self.report.predicted.tolist(),
            "scores": {name: s.tolist() for name, s in self.report.scores.items()},
            "draws": {name: s.tolist() for name, s in self.report.draws.items()},
            "test_ratio": self.report.test_ratio,
            "n_blocks": self.report.n_blocks,
            "as_reviewed": {name: s.tolist() for name, s in self.report.as_reviewed.items()},
            "n_reviewed": self.report.n_reviewed,
            **({} if kept is None else {"repeats": kept.tolist()}),
        }

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], truth: NDArray[Any], task: Task, estimand: str
    ) -> Self:
        """Read what `to_json` gave; ``truth`` is that of the comparison, (n,) or (n, n_labels)."""
        report = Report(
            truth,
            np.array(data["predicted"], dtype=truth.dtype).reshape(truth.shape),
            {name: np.array(values) for name, values in data["scores"].items()},
            estimand,
            data["test_ratio"],
            task,
            {name: np.array(values) for name, values in data.get("draws", {}).items()},
            np.array(data["repeats"], dtype=truth.dtype) if "repeats" in data else None,
            data.get("n_blocks"),
            {name: np.array(values) for name, values in data.get("as_reviewed", {}).items()},
            data.get("n_reviewed", 0),
        )
        return cls(data["encoder"], data["head"], report, data["seconds"], tuple(data["chosen"]))


@dataclass(frozen=True, eq=False, kw_only=True)
class ComparisonCard(RunCard):
    """What decided a comparison."""

    heads: list[str] | None = field(default=None, metadata=ABSENT)  # asked for; not in 0.1
    search_spaces: Mapping[str, str] = field(default_factory=dict)  # by head, in words
    evaluation: str  # test | folds
    n_folds: int  # 0 on a test split
    n_repeats: int
    never_part: list[str]  # columns whose equal values stay together
    n_train: int | None  # None with folds
    n_unlabelled: int
    n_without_vector: int
    n_leaked: int  # test items whose content also stands in the training split
    twins: TwinsInTest | None = None
    apply_reviews: bool = False
    reviews: str | None = None  # digest of what reviewers decided
    rows: int | None = field(default=None, metadata=ABSENT)  # labelled items asked for
    with_columns: WithColumns | None = field(default=None, metadata=ABSENT)

    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        **RunCard.readers,
        "twins": lambda data: TwinsInTest(**known_fields(TwinsInTest, data)),
        "with_columns": lambda data: WithColumns(**known_fields(WithColumns, data)),
    }


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(ShownComparison):
    """Heads on encoders, all taught and tested on the same rows."""

    dataset: str
    label: str
    metric: str
    estimand: str
    task: Task
    classes: tuple[str, ...]
    item_ids: tuple[str, ...]  # tested items, in the order of every report
    heads: tuple[ComparedHead, ...]
    notes: tuple[str, ...]
    card: ComparisonCard

    @property
    def n_items(self) -> int:
        """Number of items that heads were tested on."""
        return len(self.item_ids)

    @property
    def higher_is_better(self) -> bool:
        """Whether the best row has the largest value."""
        return METRICS[self.task][self.metric].higher_is_better

    @property
    def is_share(self) -> bool:
        """Whether values are shares of 1, to be shown as percentages."""
        return METRICS[self.task][self.metric].is_share

    def rows(self) -> list[dict[str, Any]]:
        """Return the table, best first.

        Each row has encoder, head, metric, value, low, high (95 % interval, None where the
        metric has none) and seconds (median of one fit, its choices included); where reviews
        were applied also as_reviewed, the metric against what reviewers say; where near-duplicates
        lie across the split, without_twins, the metric on the other test items.
        """
        rows = []
        twins = self.card.twins
        leaked = twins.without if twins and twins.n else [None] * len(self.heads)
        for cell, without in zip(self.heads, leaked, strict=True):
            found = cell.report.estimate(self.metric)
            rows.append(
                {
                    "encoder": cell.encoder,
                    "head": cell.head,
                    "metric": self.metric,
                    "value": found.value,
                    "low": found.low,
                    "high": found.high,
                    "seconds": cell.seconds,
                    **_as_reviewed(cell.report, self.metric),
                    **({} if without is None else {"without_twins": without}),
                }
            )
        sign = -1 if self.higher_is_better else 1
        return sorted(rows, key=lambda row: sign * row["value"])

    def cell(self, encoder: str, head: str) -> ComparedHead:
        """Return one row's report; `Report.confusion` is in it.

        Raises
        ------
        UnknownHead
            With the nearest rows.
        """
        for cell in self.heads:
            if (cell.encoder, cell.head) == (encoder, head):
                return cell
        known = [f"{cell.encoder} {cell.head}" for cell in self.heads]
        raise UnknownHead(f"no {head!r} on {encoder!r} here: {nearest(f'{encoder} {head}', known)}")

    def difference(self, first: Cell, second: Cell, *, n_claims: float = 1) -> Difference:
        """Compare two rows, each an (encoder, head), paired over rows or folds.

        Parameters
        ----------
        n_claims : float
            How many differences will be claimed together: Bonferroni widens each interval
            so that all of them hold at once in 95 %.
        """
        found = self.cell(*first).report.difference(
            self.cell(*second).report, self.metric, level=level_of_each(n_claims)
        )
        assert found.low is not None
        assert found.high is not None
        return Difference(
            first,
            second,
            found.value,
            found.low,
            found.high,
            found.estimand,
            self.metric,
            n_claims,
        )

    def claims(self) -> list[Difference]:
        """Compare the best row with the best of each other encoder.

        They are picked after the fact, so each interval is widened until those of all pairs
        of rows would hold at once in 95 % (`n_claims`).
        """
        best: dict[str, Cell] = {}
        for row in self.rows():
            best.setdefault(row["encoder"], (row["encoder"], row["head"]))
        first, *others = best.values()
        return [self.difference(first, other, n_claims=self.n_claims) for other in others]

    @property
    def n_pairs(self) -> int:
        """Number of pairs of rows."""
        return max(1, len(self.heads) * (len(self.heads) - 1) // 2)

    @cached_property
    def n_claims(self) -> float:
        """How many independent claims the pairs of rows are worth.

        On a test split the heads are right and wrong on the same rows, so the largest of all
        studentised differences is smaller than if each pair had rows of its own: its 95 % quantile
        over joint bootstrap draws of the rows (or their groups) says by how much [1]_. Over folds,
        where there is nothing to draw, all pairs count (Bonferroni).

        References
        ----------
        .. [1] Romano and Wolf, Econometrica 73, 2005, 1237-1282; Westfall and Young, 1993.
        """
        if self.n_pairs == 1 or not self._can_be_drawn:
            return float(self.n_pairs)
        values = self._drawn_values()
        first, second = np.triu_indices(values.shape[1], 1)
        gains = values[:, first] - values[:, second]
        gains -= gains.mean(axis=0)
        spread = gains.std(axis=0, ddof=1)
        varies = spread > 1e-12
        if not varies.any():
            return 1.0
        largest = np.abs(gains[:, varies] / spread[varies]).max(axis=1)
        z = float(np.quantile(largest, LEVEL))
        return float(np.clip((1 - LEVEL) / (2 * NormalDist().cdf(-z)), 1, self.n_pairs))

    @property
    def allowance(self) -> str:
        """Name the method that widens intervals for many pairs."""
        return "max-statistic" if self._can_be_drawn else "Bonferroni"

    @property
    def _can_be_drawn(self) -> bool:
        reports = [cell.report for cell in self.heads]
        if any(len(report.scores[self.metric]) > 1 for report in reports):
            return False  # folds
        is_closed = self.metric in CLOSED_FORM and self.task is Task.MULTICLASS
        return is_closed or all(self.metric in report.draws for report in reports)

    def _drawn_values(self) -> NDArray[np.float64]:
        """Return the metric of every head in joint draws of the test rows, (n_draws, n_heads).

        Rows of one class on which the same heads are right are drawn as one: how many of each
        such kind come is multinomial within the class.
        """
        reports = [cell.report for cell in self.heads]
        if all(self.metric in report.draws for report in reports):
            return np.stack([report.draws[self.metric] for report in reports], axis=1)
        truth = reports[0].truth
        strata = truth if self.metric == "balanced_accuracy" else np.zeros_like(truth)
        right = np.stack([report.predicted == truth for report in reports], axis=1)
        rng = np.random.default_rng(0)
        recalls = []
        for c in np.unique(strata):
            kinds, counts = np.unique(right[strata == c], axis=0, return_counts=True)
            n = int(counts.sum())
            drawn = rng.multinomial(n, counts / n, size=N_JOINT)
            recalls.append(drawn @ kinds.astype(float) / n)
        return np.asarray(np.mean(recalls, axis=0))

    def to_json(self) -> dict[str, Any]:
        """Return all that `from_json` needs."""
        return {
            "format": RUN_FORMAT,
            "kind": "compare",
            "dataset": self.dataset,
            "label": self.label,
            "metric": self.metric,
            "estimand": self.estimand,
            "task": str(self.task),
            "rows": self.rows(),  # for other readers: from_json computes them anew
            "notes": list(self.notes),
            "card": self.card.to_json(),
            "classes": list(self.classes),
            "item_ids": list(self.item_ids),
            "truth": self.heads[0].report.truth.tolist(),
            "heads": [cell.to_json() for cell in self.heads],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave, also of format 1, which knew classes alone.

        Raises
        ------
        StoreCorrupt
            If it is something else, or of a newer format.
        """
        try:
            if data["format"] > RUN_FORMAT or data["kind"] != "compare":
                raise StoreCorrupt(f"no comparison of format {RUN_FORMAT} or older")
            task = Task(data.get("task", Task.MULTICLASS))
            kind = {Task.MULTICLASS: np.intp, Task.MULTILABEL: np.bool_, Task.REGRESSION: float}
            known = data["truth"] if "truth" in data else data["codes"]
            truth: NDArray[Any] = np.array(known, dtype=kind[task])
            return cls(
                data["dataset"],
                data["label"],
                data["metric"],
                data["estimand"],
                task,
                tuple(data["classes"]),
                tuple(data["item_ids"]),
                tuple(
                    ComparedHead.from_json(head, truth, task, data["estimand"])
                    for head in data["heads"]
                ),
                tuple(data["notes"]),
                ComparisonCard.from_json(data["card"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StoreCorrupt(f"this is not a stored comparison: {error!r}") from error


def _as_reviewed(report: Report, metric: str) -> dict[str, float]:
    found = report.as_reviewed.get(metric)
    return {} if found is None or not report.n_reviewed else {"as_reviewed": float(found.mean())}


def metric_of(name: str) -> Metric:
    """Return what is known of a metric; names mean the same in every task."""
    return next(task[name] for task in METRICS.values() if name in task)


def number(x: float, metric: str, sign: str = "") -> str:
    """Write a difference of a metric: a share in percentage points.

    >>> number(0.0214, "accuracy", "+"), number(0.0214, "rmse")
    ('+2.1', '0.0214')
    """
    return f"{100 * x:{sign}.1f}" if metric_of(metric).is_share else f"{x:{sign}.3g}"


def unit_of(metric: str) -> str:
    """Name what `number` counts: ``points``, or ``in rmse``."""
    return "points" if metric_of(metric).is_share else f"in {metric.replace('_', ' ')}"


def cell_name(cell: Cell) -> str:
    """Name a row in a sentence: ``logistic on timm:resnet18``."""
    encoder, head = cell
    return f"{head} on {EncoderSpec.parse(encoder).label}"
