"""The door: verdicts for the encoders of a data set, with their evidence and advice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from featurestore.errors import (
    BadSource,
    EncoderMismatch,
    NoRoom,
    NotEnoughData,
    UnknownItem,
)
from featurestore.terms.words import counted
from heads.catalogue.retraining import FINETUNE
from heads.catalogue.table import HEADS
from heads.experiments.cells import Progress, Runner, cell_cache, keep_run, run_folder
from heads.experiments.compare import check_metric
from heads.experiments.on_taps import ground_on_taps
from heads.labels.options import options_from, renamed
from heads.labels.plan import Plan
from heads.labels.tasks import Task
from heads.labels.views import AnyDataset
from heads.measures.choice import margin_of
from heads.measures.comparison import ComparedHead
from heads.measures.metrics import METRICS
from heads.saved.ground import Ground, ground_of
from heads.saved.provenance import library_versions, machine
from heads.transfer.advice import Alternative, Way, advise
from heads.transfer.assessment import Assessment, AssessmentCard
from heads.transfer.budgets import budget_verdicts, check_budgets, plans_of
from heads.transfer.cast import Cast, cast_of, layers_of
from heads.transfer.evidence import ranking_of, shifts_of, slices_of
from heads.transfer.options import TransferKeywords, TransferOptions
from heads.transfer.rank import LEAST_HEADS, Ranked, agreement
from heads.transfer.retraining import Retraining
from heads.transfer.trials import Sides, Trials, alternatives_of, choosable, pretraining_of
from heads.transfer.verdict import LEAST_ITEMS

if TYPE_CHECKING:
    from featurestore.store.view import View


@renamed(budgets="per_class")
def assess_transfer(
    views: View | Sequence[View],
    *,
    reference: View | None = None,
    heads: Sequence[str | Any] | None = None,
    metric: str | None = None,
    progress: Progress | None = None,
    minutes: float | None = None,
    save: bool = True,
    **options: Unpack[TransferKeywords],
) -> Assessment:
    """Tell for each encoder whether it helps, against the best baseline without pretraining.

    Δ is the metric of the best head on the encoder less that of the best head on the
    reference, where *best* is chosen within each training part among the same heads: nobody's
    luck counts. The reference is raw pixels or the majority for pictures; for texts it is
    TF-IDF, all terms for ``logistic`` and their first 256 principal directions for the other
    heads, or the majority.

    Parameters
    ----------
    views : View or sequence of View
        Of one data set: the encoders to judge. Views of ``random:`` weights of the same
        architecture among the data set's own attribute the gain and are not judged; other
        layers of the same network are compared with the last.
    reference : View, optional
        In place of the baselines: what the encoders are judged against.
    heads : sequence of str or estimator, optional
        Heads to choose among, on both sides; default all of the task.
    minutes : float, optional
        Give up after so long; an equal call goes on from there.
    metric, progress, save, label, task, evaluation, group, seed
        As of `heads.compare`.
    margin : float, default 0.01
        The smallest difference that matters, in shares of 1; of errors, in standard
        deviations of the label.
    by : str, optional
        Column whose values are looked at one by one; default the classes.
    shift_to : sequence of View
        Views of another data set, of the same encoders: how far it lies.
    per_class : sequence of int
        Labels of each class: the verdict with so few, over ten draws of them or more; exploration.
    blend : bool, default True
        Also try a mix with the reference for each encoder that does not help for sure and, where
        an encoder reads words, a head that begins from what the classes are called
        (`heads.catalogue.words`).
    rank : bool, default False
        Also score all views of the data set without training; layers of one network are in any
        case.
    finetune : bool, default False
        Also retrain the upper blocks of each encoder (`heads.fit(view, "finetune")`), once through
        the folds, and compare with its best head when frozen; with ``per_class``, with few labels
        as well. Takes minutes.

    Raises
    ------
    NotEnoughData
        If there is no baseline: vectors without their items, or no view of raw pixels.
    TimeIsUp
        If the minutes were too few; what was done is kept.
    """
    asked = options_from(
        TransferOptions, options, "heads.assess_transfer", "progress", "minutes", "save", "heads"
    )
    cast = cast_of(views if isinstance(views, Sequence) else [views], reference)
    ground = _ground(cast, asked)
    plan = ground.plan
    _check_classes(plan)
    if asked.by is not None:
        ground.tables[0].column(asked.by)  # a wrong name is found before anything is trained
    metric = check_metric(metric, plan.task)
    check_budgets(asked.per_class, plan.task, metric)
    entries = choosable(heads, plan.task)
    margin = margin_of(plan.task, metric, plan.target.values, asked.margin)
    cache = cell_cache(cast.dataset) if save else None
    runner = Runner(asked.seed, cache, progress, (metric,), minutes)
    assessment = _assessed(Trials(cast, ground, entries, metric, margin, runner), asked)
    if save:
        keep_run(cast.dataset, "transfer", assessment.to_json())
    return assessment


def _ground(cast: Cast, asked: TransferOptions) -> Ground:
    """Return the common ground: of retraining without the items that no tap can hold."""
    if asked.finetune:
        try:
            return ground_on_taps(
                cast.loaded, asked.plan, None, [HEADS[FINETUNE]], tapped=cast.judged
            )
        except (NoRoom, BadSource, EncoderMismatch, UnknownItem):
            pass  # it is said of each encoder
    return ground_of(cast.loaded, asked.plan)


def assessments(dataset: AnyDataset) -> list[Assessment]:
    """Return the stored assessments of a data set (or of its folder), newest first."""
    return [Assessment.from_json(card) for card in run_folder(dataset).runs("transfer")]


def _check_classes(plan: Plan) -> None:
    """Stop where no head can be right: no class of the test items is in the training items."""
    if plan.folds is not None or plan.task is not Task.MULTICLASS:
        return
    taught, asked = (np.unique(plan.target.values[rows]) for rows in (plan.train, plan.test))
    if not np.isin(asked, taught).any():
        names = ", ".join(plan.classes[c] for c in asked[:5])
        raise NotEnoughData(
            f"no class of the test split ({names}) is in the training split, so nothing can be "
            "judged: make another split, or judge by folds (--evaluation folds)"
        )


def _assessed(trials: Trials, asked: TransferOptions) -> Assessment:
    """Run all cells, and say what follows from them."""
    cast, plan, metric = trials.cast, trials.plan, trials.metric
    few, few_notes = plans_of(plan, asked.per_class, asked.seed)
    retraining = Retraining(trials, few) if asked.finetune else None
    n_fits = trials.n_fits(few, asked.blend)
    n_encoders = counted(len(cast.judged), "encoder")
    best = f", each the best of {len(trials.heads)} heads" if len(trials.heads) > 1 else ""
    trials.runner.begin(
        n_fits, f"{n_encoders} and what they are judged against, {n_fits} fits{best}"
    )
    sides = trials.sides(plan)
    n_claims = len(cast.judged)
    verdicts = [trials.verdict(cell, sides, n_claims) for cell in sides.encoders.values()]
    seeds = {str(view.spec): trials.best(trials.material(view)) for view in cast.seeds}
    more = () if retraining is None else retraining.tried(sides)
    alternatives, word_notes = alternatives_of(trials, sides, verdicts, asked.blend, more)
    budgets = budget_verdicts(few, trials.sides, metric, trials.margin)
    shifts, shift_notes = shifts_of(cast.judged, trials.tables, plan, asked.shift_to)
    ranking, rank_notes = _ranking(trials, sides, seeds, all_views=asked.rank)
    higher = METRICS[plan.task][metric].higher_is_better
    by_labels = {} if retraining is None else retraining.with_few_labels()
    notes = [] if retraining is None else retraining.notes
    without_advice = Assessment(
        dataset=cast.dataset.name,
        label=plan.label,
        metric=metric,
        task=plan.task,
        n_items=len(plan.tested),
        estimand=plan.estimand,
        verdicts=tuple(verdicts),
        advice={},
        pretraining=pretraining_of(trials, sides, seeds),
        alternatives=alternatives,
        slices={
            spec: tuple(slices_of(cell, sides.reference, plan, trials.tables[spec], asked.by))
            for spec, cell in sides.encoders.items()
        },
        shifts=shifts,
        ranking=tuple(ranking),
        agreement=agreement(ranking, higher_is_better=higher),
        notes=(
            *trials.ground.notes(), *_notes(trials, sides, alternatives), *cast.notes, *few_notes,
            *word_notes, *notes, *shift_notes, *rank_notes,
        ),
        card=_card(trials, asked),
        budgets=budgets,
        retraining=by_labels,
    )  # fmt: skip
    advice = {v.encoder: tuple(advise(without_advice.evidence(v.encoder))) for v in verdicts}
    return replace(without_advice, advice=advice)


def _card(trials: Trials, asked: TransferOptions) -> AssessmentCard:
    return AssessmentCard(
        created=datetime.now(UTC).isoformat(),
        seed=asked.seed,
        margin=asked.margin,
        heads=list(trials.heads),
        search_spaces={name: entry.search_space for name, entry in trials.heads.items()},
        never_part=["content_hash", *(["group"] if asked.group else [])],
        views=trials.ground.read_views(),
        machine=machine(),
        versions=library_versions(),
    )


def _ranking(
    trials: Trials, sides: Sides, seeds: Mapping[str, ComparedHead], *, all_views: bool
) -> tuple[list[Ranked], list[str]]:
    """Score all views without training, or else the layers of one network."""
    networks = layers_of(trials.cast.judged)
    if not all_views and not networks:
        return [], []
    values = {
        spec: cell.report.estimate(trials.metric).value
        for spec, cell in {**sides.encoders, **seeds}.items()
    }
    if trials.cast.reference is not None:
        spec = str(trials.cast.reference.spec)
        values[spec] = sides.reference.report.estimate(trials.metric).value
    layers = [view for views in networks for view in views]
    scored = trials.cast.known if all_views else layers
    ranking, notes = ranking_of(scored, trials.plan, values)
    n_known = sum(ranked.head_value is not None for ranked in ranking)
    if ranking and n_known < LEAST_HEADS:
        notes.append(
            f"Kendall's τ needs heads on {LEAST_HEADS} encoders or more, here are {n_known}: "
            "judge several (or layers), or add --random 3."
        )
    elif ranking:
        notes.append(
            f"Kendall's τ is over {n_known} encoders: even a useless score has 1 "
            f"or -1 in {2 / math.factorial(n_known):.1%} of cases."
        )
    return ranking, notes


def _notes(
    trials: Trials, sides: Sides, alternatives: Mapping[str, Sequence[Alternative]]
) -> list[str]:
    plan, notes = trials.plan, []
    n_blocks = len(np.unique(plan.block))
    if plan.folds is not None and n_blocks < LEAST_ITEMS:
        notes.append(
            f"{n_blocks} independent items are too few for any claim: {LEAST_ITEMS} or more are "
            "needed."
        )
    if plan.folds is None:
        notes.append("One draw of labels: the verdict is for this training set.")
    if (n_groups := sides.reference.report.n_blocks) is not None:
        notes.append(
            f"The {len(plan.test)} test items are in {n_groups} groups, which "
            "intervals draw as a whole."
        )
    names = list(trials.heads)
    if len(names) > 1:
        notes.append(
            f"Both sides use the best of {', '.join(names)}, chosen within each training part."
        )
    else:
        notes.append(f"Both sides use the head {names[0]}.")
    if any(one.way is Way.MIX for found in alternatives.values() for one in found):
        notes.append(
            "A mix is compared with the better of encoder and reference on these same rows, which "
            "can only make its gain look smaller."
        )
    if (n_claims := len(trials.cast.judged)) > 1:
        notes.append(f"All {n_claims} intervals hold together in 95 % of cases (Bonferroni).")
    return notes
