"""Learning curves over few labels: how good with k, and how many would do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadName, NotEnoughData
from heads.catalogue.table import head_entries
from heads.experiments.cells import run_cell
from heads.experiments.compare import cells_of, check_metric, found_in, runs_folder
from heads.experiments.inputs import baselines
from heads.labels.options import PlanOptions
from heads.labels.plan import Plan
from heads.labels.tasks import Task
from heads.measures.intervals import LEVEL
from heads.measures.metrics import METRICS
from heads.saved.common_items import Ground, ground_of
from heads.saved.provenance import library_versions, machine

if TYPE_CHECKING:
    from featurestore.store.view import View

N_DRAWS = 10
PER_CLASS = (1, 2, 4, 8, 16, 32, 64, 128)
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


@dataclass(frozen=True, eq=False)
class Curve:
    """Scores over label budgets, all encoders on the same draws."""

    dataset: str
    label: str
    metric: str
    task: Task
    budgets: tuple[Budget, ...]
    notes: tuple[str, ...]
    card: Mapping[str, Any]

    @property
    def encoders(self) -> list[str]:
        """Encoders, in the order in which they were given."""
        return list(dict.fromkeys(one.encoder for one in self.budgets))

    def of(self, encoder: str) -> list[Budget]:
        """Return one encoder's budgets, smallest first."""
        return [one for one in self.budgets if one.encoder == encoder]

    def rows(self) -> list[dict[str, Any]]:
        """Return the table: encoder, n_labels, value, and the band of one new draw."""
        rows = []
        for one in self.budgets:
            low, high = one.band()
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
            found = ttest_rel(sign * a.scores, sign * b.scores)
            low, high = found.confidence_interval(LEVEL)
            rows.append((a.n_labels, float(gain.mean()), float(low), float(high), found.pvalue))
        adjusted = false_discovery_control([row[-1] for row in rows])
        return [
            BudgetGain(*row[:-1], bool(p <= 1 - LEVEL))
            for row, p in zip(rows, adjusted, strict=True)
        ]

    def labels_needed(self, encoder: str, value: float) -> str:
        """Say how many labels an encoder needs for a score, or that nobody can tell."""
        about = METRICS[self.task][self.metric]
        percent = f"{100 * value:.3g} %"
        name = self.metric.replace("_", " ")
        if not (about.is_share and about.higher_is_better):
            return f"labels needed are told for shares such as accuracy, not for {name}"
        found = labels_needed(self.of(encoder), 1 - value)
        if isinstance(found, str):
            return f"for {percent} {name}: {found}"
        n, low, high = found
        if low == high:
            return f"for {percent} {name} {n:,} labels were enough"
        to = "more than can be told" if high is None else f"{high:,}"
        return f"for {percent} {name} you need about {n:,} labels ({low:,} to {to}; 80 %)"

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
            "card": dict(self.card),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Curve:
        """Read what `to_json` gave."""
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
            data["card"],
        )


def curve(
    views: View | Sequence[View],
    head: str | Any = "logistic",
    *,
    label: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    per_class: Sequence[int] = PER_CLASS,
    n_draws: int = N_DRAWS,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
    save: bool = True,
) -> Curve:
    """Draw few labels again and again, train on them, and test on rows that are none of them.

    All encoders learn from the same draws. At most half of a class's rows are drawn, so that
    draws differ; the test rows are the test split, or another fold for each draw.

    Parameters
    ----------
    views : View or sequence of View
        Of one data set.
    head : str or estimator
    per_class : sequence of int
        Labels per class; for numbers and several labels, five times as many rows in all.
    n_draws : int
        At least 2; 10 or more for bands that mean something.
    metric, label, task, seed, progress, save
        As of `heads.compare`.

    Raises
    ------
    NotEnoughData
        If not even the smallest budget can be drawn.
    """
    if n_draws < 2 or min(per_class, default=0) < 1:
        raise BadName(
            f"{n_draws} draws of {list(per_class)} labels a class: expected 2 and 1 or more"
        )
    views = list(views) if isinstance(views, Sequence) else [views]
    ground = ground_of(views, PlanOptions(label, task, seed=seed))
    plan = ground.plan
    metric = check_metric(metric, plan.task)
    ((name, entry),) = head_entries([head], plan.task).items()
    if entry.reads == "texts":
        raise BadName(f"{name} reads no vectors: its curve is drawn beside those of all encoders")
    materials, without_words = cells_of(ground, {name: entry})
    materials += [one for one in baselines(ground) if one[1] != "majority"]
    drawn = {
        k: draws
        for k in sorted(set(per_class))
        if (draws := draw_labels(plan, k, n_draws, seed)) is not None
    }
    if not drawn:
        raise NotEnoughData(
            f"half of the rows of every class are fewer than {min(per_class)}: label more"
        )
    n_fits, n_done = len(drawn) * len(materials) * n_draws, 0

    def count(what: str) -> None:
        nonlocal n_done
        n_done += 1
        if progress is not None:
            progress(n_done, n_fits, what)

    budgets = []
    for material, head_name, head_entry in materials:
        for k, draws in drawn.items():
            cell = run_cell(
                material,
                head_name,
                head_entry,
                replace(plan, draws=tuple(draws)),
                seed=seed,
                on_fit=partial(count, f"{head_name} on {material.encoder}"),
                cache_in=found_in(views[0].dataset) if save else None,
            )
            n_labels = round(float(np.mean([len(train) for train, _ in draws])))
            scores = cell.report.scores[metric]
            budgets.append(Budget(material.encoder, head_name, k, n_labels, scores))
    found = Curve(
        views[0].dataset.name,
        plan.label,
        metric,
        plan.task,
        tuple(budgets),
        (*_notes(ground, drawn, per_class, n_draws), *without_words),
        {
            "created": datetime.now(UTC).isoformat(),
            "seed": seed,
            "n_draws": n_draws,
            "per_class": list(per_class),
            "head": name,
            "search_space": entry.search_space,
            "views": ground.card(),
            "machine": machine(),
            "versions": library_versions(),
        },
    )
    if save:
        runs_folder(views[0].dataset).write_run("curve", found.to_json())
    return found


def curves(dataset: Any) -> list[Curve]:
    """Return the stored learning curves of a data set (or of its folder), newest first."""
    return [Curve.from_json(card) for card in runs_folder(dataset).runs("curve")]


def draw_labels(
    plan: Plan, per_class: int, n_draws: int, seed: int
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]] | None:
    """Draw training rows anew ``n_draws`` times; None where half of every class is too few.

    A class with fewer rows gives half of them. With folds, draw r learns from the training rows
    of part r and is tested on its test rows.
    """
    parts = [plan.parts[r % len(plan.parts)] for r in range(n_draws)]
    draws = []
    for r, (pool, test) in enumerate(parts):
        rng = np.random.default_rng([seed, per_class, r])
        if plan.task is Task.MULTICLASS:
            codes = plan.target.values[pool]
            order = rng.permutation(len(pool))
            place = np.empty(len(pool), dtype=np.intp)
            sizes = np.bincount(codes, minlength=len(plan.classes))
            for c in range(len(plan.classes)):
                own = order[codes[order] == c]
                place[own] = np.arange(len(own))
            most = np.maximum(1, sizes // 2)
            if most.max() < per_class:
                return None
            rows = pool[place < np.minimum(per_class, most)[codes]]
        else:
            n = 5 * per_class
            if len(pool) // 2 < n:
                return None
            rows = rng.permutation(pool)[:n]
        draws.append((np.sort(rows), test))
    return draws


def labels_needed(budgets: Sequence[Budget], error: float) -> tuple[int, int, int | None] | str:
    """Return the labels that bring the mean error down to a value, with an 80 % interval.

    Returns
    -------
    (n, low, high), or str
        ``high`` is None where it lies beyond four times the labels that were seen. A text says
        why nobody can tell: too few budgets, a back-test that fails, an answer that far out.
    """
    kept = [one for one in budgets if one.per_class > 1] or list(budgets)
    n = np.array([one.n_labels for one in kept], dtype=np.float64)
    errors = 1 - np.stack([one.scores for one in kept])  # (n_budgets, n_draws)
    reached = np.flatnonzero(errors.mean(axis=1) <= error)
    if len(reached):
        seen = int(n[reached[0]])
        return seen, seen, seen
    if len(n) < LEAST_BUDGETS or (n <= n[-1] / 4).sum() < 3:
        return "more budgets are needed to tell: three of at most a quarter of the labels"
    if not backtest(n, errors):
        return (
            "nobody can tell: fitted on a quarter of these labels, the curve did not foretell the "
            "rest"
        )
    most = MOST_BEYOND * n[-1]
    needed = [law.labels_for(error) for law in laws_of(n, errors)]
    low, middle, high = (float(np.quantile(needed, q, method="lower")) for q in (0.1, 0.5, 0.9))
    if middle > most:
        return f"not within {MOST_BEYOND} × {int(n[-1]):,} labels, and beyond that nobody can tell"
    seen = n[-1]  # with so many it was not reached
    return round(max(middle, seen)), round(max(low, seen)), round(high) if high <= most else None


def backtest(n: NDArray[np.float64], errors: NDArray[np.float64]) -> bool:
    """Tell whether the budgets of at most a quarter of the labels foretell the largest one.

    They do where its mean error lies in the 80 % interval of the laws through them.
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


def _notes(
    ground: Ground, drawn: Mapping[int, Any], per_class: Sequence[int], n_draws: int
) -> tuple[str, ...]:
    notes = ground.notes()
    left = sorted(set(per_class) - set(drawn))
    if left:
        notes.append(
            f"Budgets of {', '.join(map(str, left))} are left out: half of the rows of every "
            "class are fewer."
        )
    notes.append(
        f"Bands are where one new draw of labels is expected (95 %, from {n_draws} draws)."
    )
    return tuple(notes)
