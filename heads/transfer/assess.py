"""The door: verdicts for the encoders of a data set, with their evidence and advice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import BadName, FeatureStoreError, NotEnoughData
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.specs import Modality
from heads.catalogue.entry import HeadEntry
from heads.catalogue.table import HEADS, best_of, default_heads, head_entries
from heads.catalogue.words import IMPORTED, reads_words
from heads.experiments.cells import run_cell
from heads.experiments.compare import check_metric, found_in, runs_folder
from heads.experiments.inputs import Material, of_concat, of_texts_and_heads, of_view
from heads.labels.options import PlanOptions
from heads.labels.plan import Plan
from heads.labels.tasks import Task
from heads.measures.comparison import ComparedHead, unit_of
from heads.measures.metrics import METRICS
from heads.saved.common_items import ground_of
from heads.saved.provenance import library_versions, machine
from heads.transfer.advice import Alternative, Evidence, Way, advise
from heads.transfer.assessment import Assessment
from heads.transfer.budgets import budget_verdicts, check_budgets, plans_of
from heads.transfer.evidence import (
    difference_of,
    layers_of,
    random_weights,
    ranking_of,
    shifts_of,
    slices_of,
)
from heads.transfer.rank import LEAST_HEADS, Ranked, agreement
from heads.transfer.verdict import LEAST_ITEMS, MARGIN, Verdict, attribution, judge, margin_of

if TYPE_CHECKING:
    from featurestore.store.view import View

PIXELS = "baseline:pixels"
WITHOUT_PRETRAINING = ("baseline", "random")
LEAST_SEEDS = 3  # of random weights: their mean is to say something
FAR = 0.2  # raw features that are so much worse by themselves are not tried beside an encoder


def assess_transfer(
    views: View | Sequence[View],
    *,
    reference: View | None = None,
    heads: Sequence[str | Any] | None = None,
    label: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    margin: float = MARGIN,
    evaluation: str = "auto",
    group: bool = True,
    by: str | None = None,
    shift_to: Sequence[View] = (),
    budgets: Sequence[int] = (),
    blend: bool = True,
    rank: bool = False,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
    save: bool = True,
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
    margin : float
        The smallest difference that matters, in shares of 1; of errors, in standard
        deviations of the label.
    by : str, optional
        Column whose values are looked at one by one; default the classes.
    shift_to : sequence of View
        Views of another data set, of the same encoders: how far it lies.
    budgets : sequence of int
        Labels per class: the verdict with so few, over ten draws of them or more; exploration.
    blend : bool
        Also try each encoder side by side with the raw pixels and, where it reads words, a head
        that begins from what the classes are called (`heads.words`).
    rank : bool
        Also score all views of the data set without training; layers of one network are in any
        case.
    label, task, metric, evaluation, group, seed, progress, save
        As of `heads.compare`.

    Raises
    ------
    NotEnoughData
        If there is no baseline: vectors without their items, or no view of raw pixels.
    """
    views = list(views) if isinstance(views, Sequence) else [views]
    dataset = views[0].dataset
    known = {str(view.spec): view for view in dataset.views()}
    is_text = dataset.modality == Modality.TEXT
    pixels = known.get(PIXELS) if reference is None else reference
    _check_baseline(views, is_text, pixels)
    judged = [
        view
        for view in views
        if (reference is None and view.spec.family not in WITHOUT_PRETRAINING)
        or (reference is not None and view.spec != reference.spec)
    ]
    if not judged:
        raise NotEnoughData("no pretrained encoder among the views: nothing to judge")
    randoms = {str(v.spec): random_weights(v.spec, known) for v in judged}
    notes = [
        f"{spec} has {len(found)} views of random weights: {LEAST_SEEDS} or more seeds are needed."
        for spec, found in randoms.items()
        if 0 < len(found) < LEAST_SEEDS
    ]
    randoms = {spec: found for spec, found in randoms.items() if len(found) >= LEAST_SEEDS}
    seeds = [one for found in randoms.values() for one in found]
    loaded = [*judged, *seeds, *([] if pixels is None else [pixels])]
    loaded = list({str(view.spec): view for view in loaded}.values())
    ground = ground_of(loaded, PlanOptions(label, task, evaluation, group, seed))
    plan = ground.plan
    _check_classes(plan)
    if by is not None:
        ground.tables[0].column(by)  # a wrong name is found before anything is trained
    metric = check_metric(metric, plan.task)
    check_budgets(budgets, plan.task, metric)
    entries = head_entries(heads or default_heads(plan.task), plan.task)
    if any(entry.is_baseline or entry.per_task for entry in entries.values()):
        raise BadName(
            "heads to choose among are single ones that learn from vectors: not best, tfidf, or "
            "zero-shot"
        )
    table = dict(zip((str(view.spec) for view in loaded), ground.tables, strict=True))
    run = _Runner(plan, metric, entries, seed, found_in(dataset) if save else None, progress)
    networks = layers_of(judged)
    can_blend = blend and pixels is not None and not (is_text and reference is None)
    with_words = [
        one for one in judged if blend and plan.task is Task.MULTICLASS and reads_words(one)
    ]
    n_tried = len(networks) + can_blend * len(judged) + 2 * len(with_words)
    few, more = plans_of(plan, budgets, seed)
    notes += more
    n_parts = len(plan.parts)
    run.n_fits = n_parts * (1 + len(loaded) - (pixels is not None) + n_tried)
    run.n_fits += (1 + len(judged)) * sum(len(one.parts) for one in few)

    def cells(of: Plan) -> tuple[dict[str, ComparedHead], ComparedHead, str]:
        beside = replace(run, plan=of)
        stated = {str(v.spec): beside.cell(of_view(v, table[str(v.spec)], of)) for v in judged}
        found = stated, *_reference(beside, pixels, reference is not None, table, ground.tables[0])
        run.n_done = beside.n_done
        return found

    stated, against, name = cells(plan)
    to = partial(
        judge,
        metric=metric,
        margin=margin_of(plan.task, metric, plan.target.values, margin),
        reference_name=name,
        n_taught=round(float(np.mean([len(teach) for teach, _ in plan.parts]))),
        n_blocks=len(np.unique(plan.block)),
    )
    n_claims = len(judged)
    verdicts = [to(cell, against, n_claims=n_claims) for cell in stated.values()]
    random_cells = {
        str(one.spec): run.cell(of_view(one, table[str(one.spec)], plan)) for one in seeds
    }
    pretraining = {
        spec: attribution(
            stated[spec],
            [random_cells[str(one.spec)] for one in found],
            metric,
            n_claims=len(randoms),
        )
        for spec, found in randoms.items()
    }
    tried = _layer_cells(run, networks, stated)
    if can_blend:
        assert pixels is not None
        tried += _blend_cells(run, judged, pixels, verdicts)
    wordless = {}  # the same head without words: what they add, not what it adds
    for view in with_words:
        try:
            material = of_view(view, table[str(view.spec)], plan)
            cell = run.cell(material, only="zero-shot+probe")
        except FeatureStoreError as error:  # the vectors are here, and the encoder is not
            notes.append(f"Words of the classes were not tried with {view.spec}: {error}.")
            continue
        tried.append((str(view.spec), Way.WORDS, cell))
        wordless[str(view.spec)] = run.cell(material, only="logistic")
    alternatives: dict[str, tuple[Alternative, ...]] = {}
    for spec, way, cell in tried:
        instead_of = stated[spec]
        if way is Way.WORDS and _is_better(wordless[spec], instead_of, metric):
            instead_of = wordless[spec]
        one = Alternative(
            way,
            difference_of(cell, instead_of, metric, len(tried)),
            to(cell, against, n_claims=len(tried)),
        )
        alternatives[spec] = (*alternatives.get(spec, ()), one)
    in_units = margin_of(plan.task, metric, plan.target.values, margin)
    with_few = budget_verdicts(few, lambda of: cells(of)[:2], metric, in_units)
    slices = {
        spec: tuple(slices_of(cell, against, plan, table[spec], by))
        for spec, cell in stated.items()
    }
    shifts, more = shifts_of(judged, table, plan, shift_to)
    notes += more
    ranking: list[Ranked] = []
    higher = METRICS[plan.task][metric].higher_is_better
    if rank or networks:
        trained = {**{spec: cell for spec, cell in stated.items()}, **random_cells}
        values = {spec: cell.report.estimate(metric).value for spec, cell in trained.items()}
        if pixels is not None:
            values[str(pixels.spec)] = against.report.estimate(metric).value
        scored = list(known.values()) if rank else [one for views in networks for one in views]
        ranking, more = ranking_of(scored, plan, values)
        notes += more
        n_known = sum(one.head_value is not None for one in ranking)
        if ranking and n_known < LEAST_HEADS:
            notes.append(
                f"Kendall's τ takes heads on {LEAST_HEADS} encoders or more, here are {n_known}: "
                "judge several (or layers), or add --random 3."
            )
        elif ranking:
            notes.append(
                f"Kendall's τ is over {n_known} encoders: of a score that knows nothing, it is 1 "
                f"or -1 in {2 / math.factorial(n_known):.1%} of cases."
            )
    advice = {
        verdict.encoder: tuple(
            advise(
                Evidence(
                    verdict,
                    alternatives.get(verdict.encoder, ()),
                    pretraining.get(verdict.encoder),
                    shifts.get(verdict.encoder),
                    slices[verdict.encoder],
                    with_few.get(verdict.encoder, ()),
                )
            )
        )
        for verdict in verdicts
    }
    assessment = Assessment(
        dataset.name,
        plan.label,
        metric,
        plan.task,
        len(plan.tested),
        plan.estimand,
        tuple(verdicts),
        advice,
        pretraining,
        alternatives,
        slices,
        shifts,
        tuple(ranking),
        agreement(ranking, higher_is_better=higher),
        (*ground.notes(), *_notes(plan, list(entries), against, n_claims), *notes),
        {
            "created": datetime.now(UTC).isoformat(),
            "seed": seed,
            "margin": margin,
            "heads": list(entries),
            "search_spaces": {one: entry.search_space for one, entry in entries.items()},
            "views": ground.card(),
            "machine": machine(),
            "versions": library_versions(),
        },
        with_few,
    )
    if save:
        runs_folder(dataset).write_run("transfer", assessment.to_json())
    return assessment


def assessments(dataset: Any) -> list[Assessment]:
    """Return the stored assessments of a data set (or of its folder), newest first."""
    return [Assessment.from_json(card) for card in runs_folder(dataset).runs("transfer")]


@dataclass
class _Runner:
    """Runs the best of some heads on one material after the other, and says how far it is."""

    plan: Plan
    metric: str
    entries: Mapping[str, HeadEntry]
    seed: int
    cache_in: Path | None
    progress: Callable[[int, int, str], None] | None
    n_fits: int = 0
    n_done: int = 0

    def cell(
        self, material: Material, *, or_majority: bool = False, only: str | None = None
    ) -> ComparedHead:
        """Evaluate the best head, or the only one; the majority may be among them."""
        heads = {**self.entries, **({"majority": HEADS["majority"]} if or_majority else {})}
        if only is not None:
            heads = {only: HEADS[only]}
        name, entry = next(iter(heads.items()))
        if len(heads) > 1:
            name, entry = "best", best_of(heads, self.metric)
        return run_cell(
            material,
            name,
            entry,
            self.plan,
            seed=self.seed,
            intervals_of=(self.metric,),
            on_fit=partial(self._count, f"{name} on {material.encoder}"),
            cache_in=self.cache_in,
        )

    def _count(self, what: str) -> None:
        self.n_done += 1
        if self.progress is not None:
            self.progress(self.n_done, self.n_fits, what)


def _check_baseline(views: Sequence[View], is_text: bool, pixels: View | None) -> None:
    if is_text or pixels is not None:
        return
    name = views[0].dataset.name
    if all(view.spec.family == IMPORTED for view in views):
        raise NotEnoughData(
            f"{name} holds imported vectors without their items, so there is no baseline without "
            "pretraining to judge them against: name a view as reference (--against SPEC)"
        )
    raise NotEnoughData(
        f"{name} has no view of {PIXELS} to judge encoders against: "
        f"featurestore embed --dataset {name} -e {PIXELS}"
    )


def _check_classes(plan: Plan) -> None:
    """Stop where no head can be right: all of the test items are of classes that none teaches."""
    if plan.folds is not None or plan.task is not Task.MULTICLASS:
        return
    taught, asked = (np.unique(plan.target.values[rows]) for rows in (plan.train, plan.test))
    if not np.isin(asked, taught).any():
        names = ", ".join(plan.classes[c] for c in asked[:5])
        raise NotEnoughData(
            f"the test split has classes that no training item has ({names}), and no other: "
            "nothing can be judged; make a split anew, or judge by folds (--evaluation folds)"
        )


def _reference(
    run: _Runner,
    pixels: View | None,
    is_given: bool,
    table: Mapping[str, Embeddings],
    any_table: Embeddings,
) -> tuple[ComparedHead, str]:
    """Evaluate what the encoders are judged against, and name it."""
    if pixels is not None:
        material = of_view(pixels, table[str(pixels.spec)], run.plan)
        cell = run.cell(material, or_majority=not is_given)
        name = pixels.spec.label if is_given else "raw pixels"
    else:
        cell = run.cell(of_texts_and_heads(any_table, run.plan, run.entries, run.metric))
        name = "TF-IDF"
    is_mostly = sum(one.get("chosen") == "majority" for one in cell.chosen) * 2 > len(cell.chosen)
    if is_mostly:
        name = "the mean" if run.plan.task is Task.REGRESSION else "the majority class"
    return cell, name


_Tried = list[tuple[str, Way, ComparedHead]]  # in place of which encoder, how, with what result


def _layer_cells(
    run: _Runner, networks: Sequence[Sequence[View]], stated: Mapping[str, ComparedHead]
) -> _Tried:
    """Return what may stand in the place of each last layer: the others, and all together."""
    tried: _Tried = []
    for views in networks:
        *others, last = views
        spec = str(last.spec)
        tried += [(spec, Way.LAYER, stated[str(one.spec)]) for one in others]
        tried.append((spec, Way.LAYERS, run.cell(of_concat(views, run.plan))))
    return tried


def _blend_cells(
    run: _Runner, judged: Sequence[View], pixels: View, verdicts: Sequence[Verdict]
) -> _Tried:
    """Return each encoder with the raw features beside it, unless those are far behind."""
    return [
        (str(view.spec), Way.BLEND, run.cell(of_concat([view, pixels], run.plan)))
        for view, verdict in zip(judged, verdicts, strict=True)
        if verdict.low <= FAR or unit_of(run.metric) != "points"
    ]


def _is_better(one: ComparedHead, other: ComparedHead, metric: str) -> bool:
    gain = one.report.estimate(metric).value - other.report.estimate(metric).value
    return (gain > 0) == one.report.metric(metric).higher_is_better


def _notes(plan: Plan, names: Sequence[str], against: ComparedHead, n_claims: int) -> list[str]:
    notes = []
    n_blocks = len(np.unique(plan.block))
    if plan.folds is not None and n_blocks < LEAST_ITEMS:
        notes.append(
            f"{n_blocks} independent items are too few for any claim: {LEAST_ITEMS} or more."
        )
    if plan.folds is None:
        notes.append("One draw of labels: the verdict is for this training set.")
    if against.report.n_blocks is not None:
        notes.append(
            f"The {len(plan.test)} test items are of {against.report.n_blocks} groups: intervals "
            "draw whole groups."
        )
    if len(names) > 1:
        notes.append(
            f"On both sides the best of {', '.join(names)}, chosen within each training part."
        )
    else:
        notes.append(f"On both sides the head {names[0]}.")
    if n_claims > 1:
        notes.append(f"The {n_claims} verdicts hold at once in 95 % (Bonferroni).")
    return notes
