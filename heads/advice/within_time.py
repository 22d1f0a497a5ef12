"""The steps of an advice, each as far as the time goes: comparison, verdict, labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import TimeIsUp
from featurestore.terms.specs import Modality
from heads.advice.advice import Labels, amount
from heads.advice.clock import Clock
from heads.catalogue.table import HEADS, default_heads
from heads.experiments.cells import Runner, cell_cache
from heads.experiments.compare import compare, where_several
from heads.experiments.curve import draw_labels
from heads.experiments.inputs import MAJORITY, TFIDF, Cell, baselines, ngrams_of, of_views
from heads.labels.options import PlanOptions
from heads.labels.tasks import Task
from heads.measures.choice import Choice, cells_said, margin_of
from heads.measures.comparison import Comparison
from heads.measures.metrics import METRICS, Metric
from heads.saved.ground import Ground
from heads.transfer.assess import assess_transfer, assessments
from heads.transfer.assessment import Assessment
from heads.transfer.options import TransferOptions
from heads.transfer.verdict import Kind, Verdict
from heads.transfer.views import PIXELS

if TYPE_CHECKING:
    from featurestore.store.view import View

N_DRAWS = 10  # of labels, for the last doubling
UNTIL_COMPARED, UNTIL_JUDGED = 0.5, 0.85  # shares of the time


@dataclass
class Study:
    """One label of a data set, its views on common ground, and what was left out of it."""

    views: Sequence[View]
    judged: Sequence[View]  # the pretrained encoders among them
    ground: Ground
    options: PlanOptions
    metric: str
    clock: Clock
    save: bool = True
    left_out: list[str] = field(default_factory=list)

    @property
    def _how(self) -> dict[str, Any]:
        """What is asked of every step."""
        o = self.options
        return {
            "label": o.label, "task": o.task, "evaluation": o.evaluation, "group": o.group,
            "seed": o.seed, "metric": self.metric, "save": self.save,
            "progress": self.clock.progress,
        }  # fmt: skip

    @property
    def reference(self) -> str:
        """What the encoders are judged against."""
        return TFIDF if self.views[0].dataset.modality == Modality.TEXT else PIXELS

    def compare(self) -> Comparison | None:
        """Compare all heads on all views as far as the time goes; None if not one was done."""
        try:
            found = compare(self.views, minutes=self.clock.left(UNTIL_COMPARED), **self._how)
        except TimeIsUp:
            self.left_out.append("the comparison")
            return None
        done = {(row.encoder, row.head) for row in found.heads}
        if all(encoder == MAJORITY for encoder, _ in done):
            return None
        self.left_out += _heads_left_out(
            [(c[0].encoder, c[1]) for c in self._cells() if (c[0].encoder, c[1]) not in done],
            len(self.views),
        )
        if found.estimand != self.ground.plan.estimand:
            self.left_out.append(f"some repeats of the folds ({found.estimand})")
        return found

    def _cells(self) -> list[Cell]:
        materials = of_views(self.ground)
        heads = default_heads(self.ground.plan.task)
        cells = [(material, name, HEADS[name]) for name in heads for material in materials]
        ngrams = ngrams_of(self.ground)
        return [
            *cells, *baselines(self.ground, ngrams), *where_several(self.ground, ngrams)
        ]  # fmt: skip

    def assess(self) -> Assessment | None:
        """Judge the encoders, or read an equal assessment; None where time is short."""
        if self.options.group and (kept := self._kept_assessment()) is not None:
            return kept
        minutes = self.clock.left(UNTIL_JUDGED)
        try:
            return assess_transfer(self.judged, blend=False, minutes=minutes, **self._how)
        except TimeIsUp:
            self.left_out.append("the test whether the encoder helps")
            return None

    def _kept_assessment(self) -> Assessment | None:
        plan = self.ground.plan
        now = {one.encoder: one for one in self.ground.read_views()}
        asked = TransferOptions()
        for one in assessments(self.judged[0].dataset):
            read = {view.encoder: view for view in one.card.views}
            if (
                (one.label, one.metric, one.estimand, one.n_items)
                == (plan.label, self.metric, plan.estimand, len(plan.tested))
                and (one.card.seed, one.card.margin) == (self.options.seed, asked.margin)
                and one.card.heads == list(default_heads(plan.task))
                and one.card.never_part == ["content_hash", "group"]
                and {v.encoder for v in one.verdicts} >= {str(view.spec) for view in self.judged}
                and all(now[spec] == read.get(spec) for spec in now)
            ):
                return one
        return None

    def labels(self, choice: Choice, verdict: Verdict | None) -> Labels:
        """Say whether the labels are enough, by the last doubling and by the verdict."""
        plan = self.ground.plan
        n = len(plan.train) if plan.folds is None else len(plan.ids)
        margin = margin_of(plan.task, self.metric, plan.target.values)
        if (left := little_left(choice, METRICS[plan.task][self.metric], margin)) is not None:
            return Labels(n, 0, f"more can add {amount(left, self.metric)} at most")
        last = self._last_doubling(choice)
        is_open = verdict is not None and verdict.kind is Kind.INCONCLUSIVE
        open_reason = ""
        if verdict is not None and is_open and verdict.rows_needed > 0:
            open_reason = (
                f"about {verdict.rows_needed:,} {verdict.rows_word} in all would settle a "
                f"difference of {amount(verdict.margin, verdict.metric)}"
            )
        if last is None:
            if open_reason:
                return Labels(n, n, open_reason)
            return Labels(n, None, f"there are {n:,}; whether more would help was not looked at")
        few, many, gain = last
        better = f"{amount(gain, self.metric)} better" if gain > 0 else "no better"
        said = (
            f"in a trial {choice.taken[1]} that learned from {many:,} of your labels was {better} "
            f"than from {few:,}"
        )
        if gain > margin:
            return Labels(n, n, said)
        if open_reason:
            return Labels(n, n, f"{open_reason}; {said}")
        return Labels(n, 0, said)

    def _last_doubling(self, choice: Choice) -> tuple[int, int, float] | None:
        """Return two numbers of labels and what the larger gained; None where it was not drawn."""
        plan = self.ground.plan
        cell = next((c for c in self._cells() if (c[0].encoder, c[1]) == choice.taken), None)
        pools = [train for train, _ in plan.parts]
        most = min(len(pool) for pool in pools) // 10
        if plan.task is Task.MULTICLASS:
            most = min(int(np.bincount(plan.target.values[pool]).max()) for pool in pools) // 2
        if cell is None or choice.is_guessing or most < 2:
            return None
        cache = cell_cache(self.views[0].dataset) if self.save else None
        found = []
        for per_class in (most // 2, most):
            draws = draw_labels(plan, per_class, N_DRAWS, self.options.seed)
            assert draws is not None, "most can be drawn"
            runner = Runner(
                self.options.seed, cache, self.clock.progress, minutes=self.clock.left()
            )
            runner.begin(N_DRAWS, f"{N_DRAWS} draws of labels")
            try:
                row = runner.cell(*cell, replace(plan, draws=tuple(draws)))
            except TimeIsUp:
                self.left_out.append("the test whether more labels help")
                return None
            n = round(float(np.mean([len(train) for train, _ in draws])))
            found.append((n, float(np.mean(row.report.scores[self.metric]))))
        (few, low), (many, high) = found
        sign = 1 if METRICS[plan.task][self.metric].higher_is_better else -1
        return few, many, sign * (high - low)


def little_left(choice: Choice, metric: Metric, margin: float) -> float | None:
    """Return what more labels can add, from the interval's lower end, if that is little.

    Little are two margins, or five where the score itself is within one of the best.
    """
    if choice.low is None or not (metric.is_share and metric.higher_is_better):
        return None
    left = 1 - choice.low
    is_little = left <= (5 if choice.value > 1 - margin else 2) * margin
    return left if is_little else None


def _heads_left_out(late: Sequence[tuple[str, str]], n_views: int) -> list[str]:
    """Name heads that were left out, with the encoders unless it is all of them."""
    on: dict[str, list[str]] = {}
    for encoder, head in late:
        on.setdefault(head, []).append(encoder)
    whole = [head for head, encoders in on.items() if len(set(encoders) - {TFIDF}) == n_views]
    named = [
        cells_said([(encoder, head) for encoder in encoders])
        for head, encoders in on.items()
        if head not in whole
    ]
    return [*whole, *named]


def allowed(assessment: Assessment | None, comparison: Comparison) -> set[str]:
    """Return the encoders that may be taken: none that harms; where one helps, no baseline."""
    encoders = {row.encoder for row in comparison.heads}
    if assessment is None:
        return encoders
    kinds: Mapping[str, Kind] = {one.encoder: one.kind for one in assessment.verdicts}
    encoders = {one for one in encoders if kinds.get(one) is not Kind.NEGATIVE}
    if Kind.POSITIVE in kinds.values():
        encoders = {one for one in encoders if not one.startswith("baseline:")}
    return encoders
