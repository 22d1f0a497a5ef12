"""What retraining the upper blocks of an encoder is worth, beside its best head when frozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from featurestore.errors import FeatureStoreError, TimeIsUp
from heads.catalogue.retraining import FINETUNE
from heads.catalogue.table import HEADS
from heads.experiments.cells import paired
from heads.experiments.inputs import of_tap
from heads.labels.plan import Plan
from heads.measures.comparison import ComparedHead
from heads.saved.tapped import can_be_cut
from heads.transfer.advice import Way
from heads.transfer.budgets import BudgetVerdict, budget_verdicts
from heads.transfer.trials import Sides, Tried

if TYPE_CHECKING:
    from featurestore.store.view import View
    from heads.transfer.trials import Trials


def n_retrained(trials: Trials, few: Sequence[Plan]) -> int:
    """Return how many fits it takes: once through the folds; with few labels frozen ones, too."""
    n_of_few = 2 * sum(len(plan.parts) for plan in few)
    return sum(map(can_be_cut, trials.cast.judged)) * (len(_once(trials.plan).parts) + n_of_few)


def retrained(trials: Trials, sides: Sides, notes: list[str]) -> Iterator[Tried]:
    """Yield each encoder with its upper blocks retrained; notes say what could not be tried."""
    once = _once(trials.plan)
    for view in trials.cast.judged:
        spec = str(view.spec)
        if not can_be_cut(view):
            notes.append(f"{view.spec.label} has no blocks to retrain.")
            continue
        try:
            cell = _retrained(trials, view, once)
        except TimeIsUp:
            raise
        except FeatureStoreError as error:  # no room on the disk, pictures that are gone
            notes.append(f"Retraining was not tried with {view.spec.label}: {error}.")
            continue
        rows = [cell, sides.encoders[spec], sides.reference]
        cell, frozen, reference = paired(rows)
        own = Sides(once, {spec: frozen}, reference, sides.reference_name)
        yield Tried(spec, Way.RETRAINED, cell, frozen, own)


def with_few_labels(
    trials: Trials, specs: Sequence[str], few: Sequence[Plan]
) -> dict[str, tuple[BudgetVerdict, ...]]:
    """Judge retraining against the best frozen head at each budget, by encoder."""
    found: dict[str, tuple[BudgetVerdict, ...]] = {}
    for view in trials.cast.judged:
        if str(view.spec) not in specs:
            continue

        def sides_of(plan: Plan, view: View = view) -> Sides:
            frozen = trials.best(trials.material(view, plan), plan)
            cell = _retrained(trials, view, plan)
            return Sides(plan, {str(view.spec): cell}, frozen, "the best frozen head")

        found |= budget_verdicts(few, sides_of, trials.metric, trials.margin)
    return found


def _retrained(trials: Trials, view: View, plan: Plan) -> ComparedHead:
    entry = HEADS[FINETUNE]
    return trials.runner.cell(of_tap(view, plan, entry), FINETUNE, entry, plan)


def _once(plan: Plan) -> Plan:
    """Return the plan with its folds dealt once."""
    if plan.folds is None:
        return plan
    return replace(plan, folds=replace(plan.folds, number=plan.folds.number[:1]))
