"""Whether an encoder helps with few labels: the verdict again, budget by budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadName, NotEnoughData
from heads.experiments.curve import N_DRAWS, draw_labels
from heads.labels.plan import Plan
from heads.labels.tasks import Task
from heads.measures.evaluate import CLOSED_FORM, Report
from heads.measures.intervals import LEVEL
from heads.transfer.verdict import LEAST_BLOCKS, Kind, decide

if TYPE_CHECKING:
    from heads.transfer.trials import Sides


@dataclass(frozen=True)
class BudgetVerdict:
    """The verdict with so many labels; exploration, not a claim."""

    n_labels: int  # in all, the mean over draws
    kind: Kind  # positive and negative only where told from 0 after Benjamini-Hochberg
    value: float  # Δ, in shares of 1
    low: float
    high: float


def check_budgets(budgets: Sequence[int], task: Task, metric: str) -> None:
    """Stop where budgets cannot be judged.

    Raises
    ------
    BadName
    """
    if budgets and (task is not Task.MULTICLASS or metric not in CLOSED_FORM):
        raise BadName(
            f"label budgets are judged by {' or '.join(CLOSED_FORM)} of one class an item, "
            f"not by {metric} of {task}: `featurestore curve` draws them for all"
        )
    if any(k < 1 for k in budgets):
        raise BadName(f"label budgets {list(budgets)}: expected 1 label a class or more")


def plans_of(plan: Plan, budgets: Sequence[int], seed: int) -> tuple[list[Plan], list[str]]:
    """Return one plan for each number of labels a class: labels drawn anew ten times or more.

    And notes on budgets that are more than half of every class.

    Raises
    ------
    NotEnoughData
        If half of the rows of every class are too few for the smallest.
    """
    n_folds = 1 if plan.folds is None else plan.folds.n_folds
    n_draws = n_folds * math.ceil(N_DRAWS / n_folds)  # every row is tested equally often
    plans, notes = [], []
    for k in sorted(set(budgets)):
        draws = draw_labels(plan, k, n_draws, seed)
        if draws is None:
            notes.append(f"No verdict with {k:,} labels a class: no class has twice as many.")
        else:
            plans.append(replace(plan, draws=tuple(draws)))
    if budgets and not plans:
        raise NotEnoughData(
            f"no class has {2 * min(budgets)} labels, twice the smallest budget: ask for smaller "
            "budgets, or label more"
        )
    return plans, notes


def budget_verdicts(
    plans: Sequence[Plan],
    sides_of: Callable[[Plan], Sides],
    metric: str,
    margin: float,
) -> dict[str, tuple[BudgetVerdict, ...]]:
    """Judge each encoder at each budget.

    Parameters
    ----------
    sides_of : callable
        Evaluates the encoders and their reference on a plan.
    """
    from scipy.stats import false_discovery_control

    rows: dict[str, list[tuple[int, float, float, float, float]]] = {}
    for plan in plans:
        sides = sides_of(plan)
        n_labels = round(float(np.mean([len(teach) for teach, _ in plan.parts])))
        block = plan.block[plan.tested]
        for encoder, cell in sides.encoders.items():
            gain = gain_of_draws(cell.report, sides.reference.report, metric, block)
            rows.setdefault(encoder, []).append((n_labels, *gain))
    verdicts = {}
    for encoder, own in rows.items():
        adjusted = false_discovery_control([row[-1] for row in own])
        verdicts[encoder] = tuple(
            BudgetVerdict(n, _kind(decide(low, high, margin), p), value, low, high)
            for (n, value, low, high, _), p in zip(own, adjusted, strict=True)
        )
    return verdicts


def _kind(kind: Kind, p: float) -> Kind:
    is_claim = kind in (Kind.POSITIVE, Kind.NEGATIVE)
    return Kind.INCONCLUSIVE if is_claim and p > 1 - LEVEL else kind


def gain_of_draws(
    first: Report, second: Report, metric: str, block: NDArray[np.intp]
) -> tuple[float, float, float, float]:
    """Compare two heads over draws of labels: Δ, low, high and p.

    The variance is that of the mean over draws and, beside it, that of the rows that are tested:
    all draws on a test split share them, and folds come twice. So the interval holds for other
    labels *and* other items; over folds it is a little wider than need be. A class of fewer than
    five blocks cannot say how much they vary: its rows are held against the mean of all classes.
    One block alone tells nothing.

    Parameters
    ----------
    first, second : Report
        Of the same draws, in which every row was tested equally often.
    metric : {"balanced_accuracy", "accuracy"}
    block : ndarray of shape (n,)
        Rows of one block are no independent witnesses.
    """
    from scipy.stats import t

    assert first.repeats is not None
    assert second.repeats is not None
    gains = first.scores[metric] - second.scores[metric]
    right = [np.asarray(one.repeats == one.truth, np.float64) for one in (first, second)]
    rows = (right[0] - right[1]).mean(axis=0)  # (n,)
    strata = first.truth if metric == "balanced_accuracy" else np.zeros_like(first.truth)
    _, code, size = np.unique(strata, return_inverse=True, return_counts=True)
    mean = np.bincount(code, weights=rows) / size
    _, number = np.unique(block, return_inverse=True)
    n_blocks = int(number.max()) + 1
    value = float(gains.mean())
    if n_blocks < 2:
        return value, -1.0, 1.0, 1.0
    n_of = np.bincount(np.unique(np.stack([code, number]), axis=1)[0])  # blocks of each class
    is_told = n_of >= LEAST_BLOCKS
    centre = np.where(is_told, mean, mean.mean())
    counted = np.where(is_told, n_of, n_blocks)
    few = np.sqrt(counted / np.maximum(counted - 1, 1))  # degrees of freedom that the mean took
    influence = few[code] * (rows - centre[code]) / (len(size) * size[code])
    of_rows = float((np.bincount(number, weights=influence) ** 2).sum())
    error = math.sqrt(float(gains.var(ddof=1)) / len(gains) + of_rows)
    freedom = max(1, min(len(gains), n_blocks) - 1)
    if error < 1e-12:  # nothing varies: equal, or so few rows that nobody can tell
        return (value, 0.0, 0.0, 1.0) if abs(value) < 1e-12 else (value, -1.0, 1.0, 1.0)
    half = float(t.ppf((1 + LEVEL) / 2, freedom)) * error
    p = 2 * float(t.sf(abs(value) / error, freedom))
    return value, max(-1.0, value - half), min(1.0, value + half), p
