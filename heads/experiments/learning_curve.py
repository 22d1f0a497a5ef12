"""What a learning curve says: scores over label budgets, gains, labels needed; JSON and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import StoreCorrupt
from featurestore.terms.shown import Tabular
from featurestore.terms.specs import encoder_label
from heads.charts.charts import Lines
from heads.charts.plotted import Plotted
from heads.charts.results import curve_chart
from heads.labels.tasks import Task
from heads.measures.card import ABSENT, RunCard
from heads.measures.choice import MARGIN
from heads.measures.intervals import LEVEL
from heads.measures.metrics import METRICS

MOST_BEYOND = 4  # times the largest budget: farther out nobody knows
N_BOOTSTRAPS = 100
LEAST_BUDGETS = 4


@dataclass(frozen=True, eq=False)
class Budget:
    """One encoder with so many labels."""

    encoder: str
    head: str
    per_class: int  # for numbers and several labels: rows in all
    n_labels: int  # in all, the mean over draws
    scores: NDArray[np.float64]  # (n_draws,)

    def __repr__(self) -> str:
        """Return it in a line."""
        return (
            f"<Budget of {self.n_labels:,} labels: {self.head} on {self.encoder} {self.mean:.3f}>"
        )

    @property
    def mean(self) -> float:
        """Mean over the draws."""
        return float(self.scores.mean())

    def band(self, level: float = LEVEL) -> tuple[float, float]:
        """Return where the score of one new draw of labels is expected.

        ``mean ± t sd √(1 + 1/R)``: wider than the interval of the mean.
        """
        from scipy.stats import t

        r = len(self.scores)
        half = float(t.ppf((1 + level) / 2, r - 1) * self.scores.std(ddof=1) * math.sqrt(1 + 1 / r))
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class BudgetGain:
    """How much better one encoder is than another with so many labels; higher is better."""

    n_labels: int
    value: float
    low: float
    high: float
    is_found: bool  # after Benjamini-Hochberg over the budgets, at 5 %


@dataclass(frozen=True)
class PowerLaw:
    """``error = a n^-b + c``."""

    a: float
    b: float
    c: float

    def error(self, n: float) -> float:
        """Return the error expected with n labels."""
        return float(self.a * n**-self.b + self.c)

    def labels_for(self, error: float) -> float:
        """Return the labels for an error; infinite where it is never reached."""
        if error <= self.c or self.b <= 0:
            return math.inf
        with np.errstate(over="ignore"):
            return float(np.float64(self.a / (error - self.c)) ** (1 / self.b))


@dataclass(frozen=True, eq=False, kw_only=True)
class CurveCard(RunCard):
    """What decided a learning curve."""

    head: str
    search_space: str = ""  # in words
    n_draws: int
    per_class: list[int] | None = field(default=None, metadata=ABSENT)  # asked for; not in 0.1


@dataclass(frozen=True, eq=False, repr=False)
class Curve(Tabular, Plotted):
    """Scores over label budgets, all encoders on the same draws."""

    dataset: str
    label: str
    metric: str
    task: Task
    budgets: tuple[Budget, ...]
    notes: tuple[str, ...]
    card: CurveCard

    @property
    def encoders(self) -> list[str]:
        """Encoders, in the order in which they were given."""
        return list(dict.fromkeys(one.encoder for one in self.budgets))

    def of(self, encoder: str) -> list[Budget]:
        """Return one encoder's budgets, smallest first."""
        return [one for one in self.budgets if one.encoder == encoder]

    def name_of(self, encoder: str) -> str:
        """Name an encoder with its head: ``logistic on builtin:tiny-image``."""
        return f"{self.of(encoder)[0].head} on {encoder_label(encoder)}"

    def about(self) -> str:
        """Name the data set, and say which budgets of labels were drawn."""
        n = [one.n_labels for one in self.budgets]
        return (
            f"of {self.dataset}, label {self.label!r}: {self.card.head} on "
            f"{len(self.encoders)} encoders, {min(n):,} to {max(n):,} labels"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return the table: encoder, n_labels, value, and the band of one new draw.

        The band ends where the metric does: a share is at most 1.
        """
        rows = []
        for one in self.budgets:
            low, high = METRICS[self.task][self.metric].within(*one.band())
            rows.append(
                {
                    "encoder": one.encoder,
                    "head": one.head,
                    "metric": self.metric,
                    "per_class": one.per_class,
                    "n_labels": one.n_labels,
                    "value": one.mean,
                    "low": low,
                    "high": high,
                    "n_draws": len(one.scores),
                }
            )
        return rows

    def chart(self) -> Lines:
        """Return what is drawn: the mean over label budgets, with the band of one new draw."""
        return curve_chart(self.rows(), METRICS[self.task][self.metric].is_share)

    def gains(self, encoder: str, reference: str) -> list[BudgetGain]:
        """Compare two encoders budget by budget, paired over the draws; exploration.

        Each interval is the t of the draws: for the mean over draws of labels from these items.
        """
        from scipy.stats import false_discovery_control, ttest_rel

        sign = 1 if METRICS[self.task][self.metric].higher_is_better else -1
        rows = []
        for a, b in zip(self.of(encoder), self.of(reference), strict=True):
            gain = sign * (a.scores - b.scores)
            if np.ptp(gain) < 1e-12:
                rows.append((a.n_labels, float(gain.mean()), -math.inf, math.inf, 1.0))
                continue
            test = ttest_rel(sign * a.scores, sign * b.scores)
            low, high = test.confidence_interval(LEVEL)
            rows.append((a.n_labels, float(gain.mean()), float(low), float(high), test.pvalue))
        adjusted = false_discovery_control([row[-1] for row in rows])
        return [
            BudgetGain(*row[:-1], bool(p <= 1 - LEVEL))
            for row, p in zip(rows, adjusted, strict=True)
        ]

    @property
    def higher_is_better(self) -> bool:
        """Whether more is better in the metric."""
        return METRICS[self.task][self.metric].higher_is_better

    def reached(self, encoder: str, value: float) -> Budget | None:
        """Return the smallest budget from which on the band lies above a score; None where none."""
        found = None
        for one in reversed(self.of(encoder)):
            if one.band()[0] < value:
                break
            found = one
        return found

    def labels_needed(self, encoder: str, value: float) -> str:
        """Say how many labels an encoder needs for a score; what to do where it was not reached.

        Enough are labels with which the lower end of the band of one new draw reaches the score.
        """
        about = METRICS[self.task][self.metric]
        goal, name = f"{100 * value:.3g} %", self.metric.replace("_", " ")
        if not (about.is_share and about.higher_is_better):
            return f"labels needed are told for shares such as accuracy, not for {name}"
        budgets = self.of(encoder)
        last = budgets[-1]
        if (sure := self.reached(encoder, value)) is not None:
            return (
                f"{sure.n_labels:,} labels are enough for {goal} {name}: {_percent(sure.mean)} on "
                f"average, and the lower end of the band is {_percent(sure.band()[0])}"
            )
        if (mean := next((one for one in budgets if one.mean >= value), None)) is not None:
            return (
                f"{goal} {name} is reached with {mean.n_labels:,} labels on average "
                f"({_percent(mean.mean)}), but one draw of labels may give "
                f"{_percent(max(0.0, mean.band()[0]))}; with all {last.n_labels:,} it may give "
                f"{_percent(max(0.0, last.band()[0]))}"
            )
        n_all = f"{last.n_labels:,}"
        begin = f"{goal} {name} was not reached: {_percent(last.mean)} with all {n_all} labels"
        needed = labels_needed(budgets, 1 - value)
        if isinstance(needed, str):
            return f"{begin}. {needed}: label about {n_all} more and ask again"
        n, low, high = needed
        to = "more than can be told" if high is None else f"{high:,}"
        return f"{begin}. About {n:,} labels would reach it on average ({low:,} to {to}; 80 %)"

    def enough(self, encoder: str) -> str:
        """Say from how many labels on an encoder is within a point of what it reaches with all."""
        about, budgets = METRICS[self.task][self.metric], self.of(encoder)
        last = budgets[-1]
        if not (about.is_share and about.higher_is_better) or len(budgets) < 2:
            return ""
        near = last
        for one in reversed(budgets):
            if abs(last.mean - one.mean) > MARGIN:
                break
            near = one
        reach = f"{_percent(last.mean)} with {last.n_labels:,} labels on average"
        if near is last:
            return f"{reach}, and still rising: more labels help"
        return f"{reach}; {near.n_labels:,} labels are within a point of that"

    def to_json(self) -> dict[str, Any]:
        """Return everything that is needed to draw it again."""
        return {
            "format": 1,
            "kind": "curve",
            "dataset": self.dataset,
            "label": self.label,
            "metric": self.metric,
            "task": str(self.task),
            "budgets": [{**vars(one), "scores": one.scores.tolist()} for one in self.budgets],
            "notes": list(self.notes),
            "card": self.card.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Curve:
        """Read what `to_json` gave; raises StoreCorrupt for anything else."""
        try:
            budgets = tuple(
                Budget(**{**one, "scores": np.array(one["scores"])}) for one in data["budgets"]
            )
            return cls(
                data["dataset"],
                data["label"],
                data["metric"],
                Task(data["task"]),
                budgets,
                tuple(data["notes"]),
                CurveCard.from_json(data["card"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreCorrupt(
                f"a run card of a curve cannot be read ({error!r}): draw the curve again"
            ) from error


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def labels_needed(budgets: Sequence[Budget], error: float) -> tuple[int, int, int | None] | str:
    """Return the labels that bring the mean error down to a value, with an 80 % interval.

    Returns
    -------
    (n, low, high), or str
        ``high`` is None where it lies beyond four times the labels that were seen. A text says
        why there is no answer: too few budgets, a back-test that fails, an answer that far out.
    """
    kept = [one for one in budgets if one.per_class > 1] or list(budgets)
    n = np.array([one.n_labels for one in kept], dtype=np.float64)
    errors = 1 - np.stack([one.scores for one in kept])  # (n_budgets, n_draws)
    reached = np.flatnonzero(errors.mean(axis=1) <= error)
    if len(reached):
        seen = int(n[reached[0]])
        return seen, seen, seen
    if len(n) < LEAST_BUDGETS or (n <= n[-1] / 4).sum() < 3:
        return "Too few points to extrapolate"
    if not backtest(n, errors):
        return "The curve is too uneven to extrapolate"
    most = MOST_BEYOND * n[-1]
    needed = [law.labels_for(error) for law in laws_of(n, errors)]
    low, middle, high = (float(np.quantile(needed, q, method="lower")) for q in (0.1, 0.5, 0.9))
    if middle > most:
        return f"More than {int(most):,} labels would be needed, too far to extrapolate"
    seen = n[-1]  # with so many it was not reached
    return round(max(middle, seen)), round(max(low, seen)), round(high) if high <= most else None


def backtest(n: NDArray[np.float64], errors: NDArray[np.float64]) -> bool:
    """Tell whether the budgets of at most a quarter of the labels foretell the largest one.

    They do if its mean error lies in the 80 % interval of the laws through them. ``n`` is
    (n_budgets,), ``errors`` is (n_budgets, n_draws).
    """
    early = n <= n[-1] / 4
    if early.sum() < 3:
        return False
    foretold = [law.error(n[-1]) for law in laws_of(n[early], errors[early])]
    low, high = np.quantile(foretold, [0.1, 0.9])
    return bool(low <= errors[-1].mean() <= high)


def laws_of(n: NDArray[np.float64], errors: NDArray[np.float64]) -> list[PowerLaw]:
    """Return power laws through bootstrapped means of the draws, in four forms each.

    One form alone is far too sure of itself: fitted by least squares with a free floor, its
    80 % interval held the truth in half of the cases on the ten data sets of the benchmark.
    So the floor is 0, a half or four fifths of the least error, and a fourth law goes through
    the last three budgets alone (24 of 30).

    Parameters
    ----------
    n : ndarray of shape (n_budgets,)
        Labels, ascending.
    errors : ndarray of shape (n_budgets, n_draws)

    References
    ----------
    .. [1] Power laws fit best of the parametric forms: Viering and Loog, 2023; Brumen, 2021.
    """
    rng = np.random.default_rng(0)
    laws = []
    for _ in range(N_BOOTSTRAPS):
        drawn = rng.integers(0, errors.shape[1], errors.shape[1])
        mean = errors[:, drawn].mean(axis=1)
        laws += [_through(n, mean, floor * mean.min()) for floor in (0.0, 0.5, 0.8)]
        laws.append(_through(n[-3:], mean[-3:], 0.0))
    return laws


def _through(n: NDArray[np.float64], error: NDArray[np.float64], floor: float) -> PowerLaw:
    """Fit a line to the logarithms of n and of what lies above the floor."""
    slope, start = np.polyfit(np.log(n), np.log(np.maximum(error - floor, 1e-6)), 1)
    return PowerLaw(math.exp(start), -float(slope), float(floor))
