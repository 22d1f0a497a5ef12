"""What is run in an assessment: both sides, and what may stand in an encoder's place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import BadName, FeatureStoreError
from featurestore.terms.embeddings import Embeddings
from heads.catalogue.entry import HeadEntry
from heads.catalogue.table import HEADS, MIX, best_of, default_heads, head_entries, head_entry
from heads.catalogue.words import reads_words
from heads.experiments.cells import Runner
from heads.experiments.inputs import Material, ngrams_of, of_concat, of_texts_and_heads, of_view
from heads.experiments.ngrams import Ngrams
from heads.experiments.together import of_several
from heads.labels.plan import Plan
from heads.labels.tasks import Task
from heads.measures.comparison import ComparedHead
from heads.saved.ground import Ground
from heads.saved.mixed import MixView
from heads.transfer.advice import Alternative, Way
from heads.transfer.cast import Cast, layers_of
from heads.transfer.evidence import difference_of
from heads.transfer.verdict import Kind, Verdict, attribution, judge

if TYPE_CHECKING:
    from featurestore.store.view import View

CONSTANTS = "the mean", "the majority class"  # names of references that read nothing


@dataclass(frozen=True, eq=False)
class Sides:
    """The judged encoders and their reference, evaluated on one plan."""

    plan: Plan
    encoders: Mapping[str, ComparedHead]  # by spec
    reference: ComparedHead
    reference_name: str


@dataclass(frozen=True, eq=False)
class Tried:
    """Something cheap in an encoder's place."""

    spec: str  # of the encoder
    way: Way
    cell: ComparedHead
    instead_of: ComparedHead  # what it is compared with
    sides: Sides | None = None  # those of its own plan; None: those of all


@dataclass(frozen=True, eq=False)
class Trials:
    """Evaluates the best of some heads on one input after the other, always on common ground."""

    cast: Cast
    ground: Ground
    heads: Mapping[str, HeadEntry]
    metric: str
    margin: float  # in the metric's unit
    runner: Runner

    @property
    def plan(self) -> Plan:
        """Which rows teach and test."""
        return self.ground.plan

    @cached_property
    def tables(self) -> dict[str, Embeddings]:
        """The vectors of each view, by spec."""
        specs = (str(view.spec) for view in self.ground.views)
        return dict(zip(specs, self.ground.tables, strict=True))

    def material(self, view: View, plan: Plan | None = None) -> Material:
        """Return what heads read of a view."""
        return of_view(view, self.tables[str(view.spec)], plan or self.plan)

    def best(
        self, material: Material, plan: Plan | None = None, *, or_majority: bool = False
    ) -> ComparedHead:
        """Evaluate the best of the heads; the majority may be among them."""
        heads = {**self.heads, **({"majority": HEADS["majority"]} if or_majority else {})}
        name, entry = next(iter(heads.items()))
        if len(heads) > 1:
            name, entry = "best", best_of(heads, self.metric)
        return self.runner.cell(material, name, entry, plan or self.plan)

    def sides(self, plan: Plan) -> Sides:
        """Evaluate the judged encoders and their reference on a plan."""
        encoders = {
            str(view.spec): self.best(self.material(view, plan), plan) for view in self.cast.judged
        }
        return Sides(plan, encoders, *self._reference(plan))

    def _reference(self, plan: Plan) -> tuple[ComparedHead, str]:
        """Evaluate what the encoders are judged against, and name it."""
        view = self.cast.reference
        if view is not None:
            is_given = self.cast.is_given
            cell = self.best(self.material(view, plan), plan, or_majority=not is_given)
            name = view.spec.label if is_given else "raw pixels"
        else:
            texts = of_texts_and_heads(self.ground.tables[0], plan, self.heads, self.metric)
            cell, name = self.best(texts, plan), "TF-IDF"
        n_majority = sum(chosen.get("chosen") == "majority" for chosen in cell.chosen)
        if n_majority * 2 > len(cell.chosen):
            name = CONSTANTS[plan.task is not Task.REGRESSION]
        return cell, name

    def verdict(self, cell: ComparedHead, sides: Sides, n_claims: int) -> Verdict:
        """Judge a cell against the reference; so many verdicts hold at once."""
        return judge(
            cell,
            sides.reference,
            self.metric,
            margin=self.margin,
            n_claims=n_claims,
            reference_name=sides.reference_name,
            n_taught=round(float(np.mean([len(train) for train, _ in sides.plan.parts]))),
            n_blocks=len(np.unique(sides.plan.block)),
        )

    @cached_property
    def ngrams(self) -> Ngrams | None:
        """The n-grams of texts, where TF-IDF is the reference."""
        return None if self.cast.reference is not None else ngrams_of(self.ground)

    def mix(self, view: View) -> ComparedHead:
        """Evaluate a mix of heads on a view and on what it is judged against."""
        reference = self.cast.reference
        views = [view] if reference is None else [view, reference]
        tables = [self.tables[str(one.spec)] for one in views]
        name = str(MixView(tuple(views)).spec)
        material = of_several(name, views, tables, self.plan, self.ngrams)
        head, names = MIX, list(self.heads)
        if names != list(default_heads(self.plan.task)) and set(names) <= HEADS.keys():
            head = f"{MIX}:{','.join([*names, *(['tfidf'] if self.ngrams else [])])}"
        return self.runner.cell(material, head, head_entry(head), self.plan)

    def with_words(self, blend: bool) -> list[View]:
        """Return the judged views whose encoder can read the words of the classes."""
        if not blend or self.plan.task is not Task.MULTICLASS:
            return []
        return [view for view in self.cast.judged if reads_words(view)]

    def n_fits(self, few: Sequence[Plan], blend: bool) -> int:
        """Return how many fits an assessment takes, with these plans of few labels."""
        n_judged = len(self.cast.judged)
        n_tried = len(layers_of(self.cast.judged)) + 2 * len(self.with_words(blend))
        n_tried += n_judged if blend else 0
        n_encoders = len(self.cast.loaded) - (self.cast.reference is not None)
        n_of_few = (1 + n_judged) * sum(len(plan.parts) for plan in few)
        return len(self.plan.parts) * (1 + n_encoders + n_tried) + n_of_few


def choosable(heads: Sequence[str | Any] | None, task: Task) -> dict[str, HeadEntry]:
    """Return the heads among which the best is chosen on both sides, by name.

    Raises
    ------
    UnknownHead, BadName
    """
    entries = head_entries(heads or default_heads(task), task)
    if any(entry.is_baseline or entry.per_task for entry in entries.values()):
        raise BadName(
            "heads to choose among are single ones that learn from vectors: not best, tfidf, or "
            "zero-shot"
        )
    return entries


def pretraining_of(
    trials: Trials, sides: Sides, seeds: Mapping[str, ComparedHead]
) -> dict[str, tuple[float, float, float]]:
    """Compare each encoder with random weights of its architecture: Δ, low, high.

    Parameters
    ----------
    seeds : mapping
        Spec of random weights → their cell.
    """
    randoms = trials.cast.randoms
    return {
        spec: attribution(
            sides.encoders[spec],
            [seeds[str(view.spec)] for view in views],
            trials.metric,
            n_claims=len(randoms),
        )
        for spec, views in randoms.items()
    }


def alternatives_of(
    trials: Trials,
    sides: Sides,
    verdicts: Sequence[Verdict],
    blend: bool,
    more: Iterable[Tried] = (),
) -> tuple[dict[str, tuple[Alternative, ...]], list[str]]:
    """Try layers, mixes and words in the place of each encoder; say what could not be tried.

    ``more`` is tried after them.
    """
    notes: list[str] = []
    tried = list(_layers(trials, sides))
    if blend:
        tried += _mixes(trials, sides, verdicts)
    tried += _words(trials, sides, blend, notes)
    tried += more
    alternatives: dict[str, tuple[Alternative, ...]] = {}
    for one in tried:
        alternative = Alternative(
            one.way,
            difference_of(one.cell, one.instead_of, trials.metric, len(tried)),
            trials.verdict(one.cell, one.sides or sides, len(tried)),
            (one.cell.seconds, one.instead_of.seconds) if one.way is Way.RETRAINED else None,
        )
        alternatives[one.spec] = (*alternatives.get(one.spec, ()), alternative)
    return alternatives, notes


def _layers(trials: Trials, sides: Sides) -> Iterator[Tried]:
    """Yield what may stand in the place of each last layer: the others, and all together."""
    for views in layers_of(trials.cast.judged):
        *others, last = (str(view.spec) for view in views)
        instead_of = sides.encoders[last]
        for spec in others:
            yield Tried(last, Way.LAYER, sides.encoders[spec], instead_of)
        cell = trials.best(of_concat(views, trials.plan))
        yield Tried(last, Way.LAYERS, cell, instead_of)


def _mixes(trials: Trials, sides: Sides, verdicts: Sequence[Verdict]) -> Iterator[Tried]:
    """Yield each encoder that does not help for sure mixed with what it is judged against."""
    for view, verdict in zip(trials.cast.judged, verdicts, strict=True):
        if verdict.kind is not Kind.POSITIVE and verdict.reference not in CONSTANTS:
            spec = str(view.spec)
            yield Tried(spec, Way.MIX, trials.mix(view), sides.encoders[spec])
        else:
            trials.runner.n_fits -= len(trials.plan.parts)  # counted, and not wanted
            trials.runner.count("a mix is not needed", 0)


def _words(trials: Trials, sides: Sides, blend: bool, notes: list[str]) -> Iterator[Tried]:
    """Yield heads that begin from the words of the classes.

    They are compared with the better of the encoder's heads and the same head without words.
    """
    for view in trials.with_words(blend):
        spec, material = str(view.spec), trials.material(view)
        try:
            cell = _one_head(trials, material, "zero-shot+probe")
        except FeatureStoreError as error:  # the vectors are here, and the encoder is not
            notes.append(f"Words of the classes were not tried with {spec}: {error}.")
            continue
        instead_of, wordless = sides.encoders[spec], _one_head(trials, material, "logistic")
        if _is_better(wordless, instead_of, trials.metric):
            instead_of = wordless
        yield Tried(spec, Way.WORDS, cell, instead_of)


def _one_head(trials: Trials, material: Material, name: str) -> ComparedHead:
    return trials.runner.cell(material, name, HEADS[name], trials.plan)


def _is_better(first: ComparedHead, second: ComparedHead, metric: str) -> bool:
    gain = first.report.estimate(metric).value - second.report.estimate(metric).value
    return (gain > 0) == first.report.metric(metric).higher_is_better
