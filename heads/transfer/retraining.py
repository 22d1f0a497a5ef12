"""What retraining the upper blocks of an encoder is worth, beside its best head when frozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from featurestore.errors import FeatureStoreError, TimeIsUp
from heads.catalogue.retraining import FINETUNE
from heads.catalogue.table import HEADS
from heads.experiments.cells import paired
from heads.experiments.inputs import Material, of_tap
from heads.experiments.price import price_of
from heads.labels.plan import Plan
from heads.measures.comparison import ComparedHead
from heads.saved.tapped import can_be_cut
from heads.transfer.advice import Way
from heads.transfer.budgets import BudgetVerdict, budget_verdicts
from heads.transfer.trials import Sides, Tried

if TYPE_CHECKING:
    from featurestore.store.view import View
    from heads.transfer.trials import Trials


class Retraining:
    """Retrains the upper blocks of each judged encoder, once through the folds.

    Making one reads the taps, and says what retraining will take before anything is fitted.
    ``notes`` say what cannot be tried.
    """

    def __init__(self, trials: Trials, few: Sequence[Plan]) -> None:
        self.trials, self.few = trials, few
        self.once = _once(trials.plan)
        self.notes: list[str] = []
        self._materials: dict[str, Material] = {}
        for view in trials.cast.judged:
            if not can_be_cut(view):
                self.notes.append(f"{view.spec.label} has no blocks to retrain.")
                continue
            try:
                self._read(view)
            except FeatureStoreError as error:  # no room on the disk, pictures that are gone
                self.notes.append(f"Retraining was not tried with {view.spec.label}: {error}.")

    def _read(self, view: View) -> None:
        entry, runner = HEADS[FINETUNE], self.trials.runner
        material = of_tap(view, self.once, entry)
        todo = [
            len(train)
            for plan in (self.once, *self.few)
            if not runner.is_kept((material, FINETUNE, entry), plan)
            for train, _ in plan.parts
        ]
        if todo:
            X, _ = material.read()
            head = material.build(entry)(runner.seed)
            name = f"{FINETUNE} on {material.encoder}"
            price_of(name, head, X, self.once.target, todo).say(runner.until)
            runner.priced.add(name)
        self._materials[str(view.spec)] = material

    def tried(self, sides: Sides) -> Iterator[Tried]:
        """Yield each encoder with its upper blocks retrained, as far as the time goes."""
        runner = self.trials.runner
        for spec, material in list(self._materials.items()):
            runner.n_fits += len(self.once.parts)
            try:
                cell = self._cell(material, self.once)
            except TimeIsUp as error:
                self.notes.append(
                    f"Retraining {spec} is left out: {error}; give it more --minutes, or none."
                )
                self._materials.clear()
                return
            rows = [cell, sides.encoders[spec], sides.reference]
            cell, frozen, reference = paired(rows)
            own = Sides(self.once, {spec: frozen}, reference, sides.reference_name)
            yield Tried(spec, Way.RETRAINED, cell, frozen, own)

    def with_few_labels(self) -> dict[str, tuple[BudgetVerdict, ...]]:
        """Judge retraining against the best frozen head at each budget, by encoder."""
        trials, found = self.trials, dict[str, tuple[BudgetVerdict, ...]]()
        for view in trials.cast.judged:
            spec = str(view.spec)
            if spec not in self._materials:
                continue
            trials.runner.n_fits += 2 * sum(len(plan.parts) for plan in self.few)

            def sides_of(plan: Plan, view: View = view, spec: str = spec) -> Sides:
                frozen = trials.best(trials.material(view, plan), plan)
                cell = self._cell(self._materials[spec], plan)
                return Sides(plan, {spec: cell}, frozen, "the best frozen head")

            try:
                found |= budget_verdicts(self.few, sides_of, trials.metric, trials.margin)
            except TimeIsUp as error:
                self.notes.append(f"Retraining {spec} with few labels is left out: {error}.")
                break
        return found

    def _cell(self, material: Material, plan: Plan) -> ComparedHead:
        return self.trials.runner.cell(material, FINETUNE, HEADS[FINETUNE], plan)


def _once(plan: Plan) -> Plan:
    """Return the plan with its folds dealt once."""
    if plan.folds is None:
        return plan
    return replace(plan, folds=replace(plan.folds, number=plan.folds.number[:1]))
