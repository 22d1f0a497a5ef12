"""Fit one head on a view: choose, fit, evaluate, register."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import ModalityMismatch
from featurestore.terms.activations import Activations
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.specs import Modality
from featurestore.terms.words import counted
from heads.catalogue.entry import Build, HeadEntry
from heads.catalogue.layers import layers_of
from heads.catalogue.members import TEXTS
from heads.catalogue.retraining import TAP, retraining_among
from heads.catalogue.table import head_entries
from heads.experiments.cells import Progress, Runner
from heads.experiments.compare import entries_for, once_over
from heads.experiments.inputs import builder_for, of_pool, of_tap, pool_notes
from heads.experiments.leaks import MOST_OF_A_FIT, find_leak
from heads.experiments.metadata import leaks_of
from heads.experiments.on_taps import ground_on_taps
from heads.experiments.prediction_sets import calibrated_sets, set_aside
from heads.experiments.price import priced_training
from heads.experiments.run_notes import stopped_notes
from heads.experiments.together import check_reads_columns, input_of
from heads.labels.blocks import Blocks
from heads.labels.fitting import fit_head
from heads.labels.matrix import Matrix
from heads.labels.options import PlanOptions, renamed
from heads.labels.pace import pace, pacing
from heads.labels.plan import Plan
from heads.labels.tasks import Task, texts_of
from heads.labels.views import AnyView, slice_facts
from heads.measures.evaluate import Evaluation, Exam, Report, undefined
from heads.measures.fits import chosen_by
from heads.measures.metrics import METRICS
from heads.saved.bundle import FittedHead, heads_folder, said_of, save_head
from heads.saved.card import (
    CARD_FORMAT,
    COLUMNS,
    NO_LABEL,
    AsReviewed,
    Evaluated,
    HeadCard,
    Predicted,
    Seconds,
    members_of,
)
from heads.saved.common_items import apart_notes
from heads.saved.concat import blocks_of, stored
from heads.saved.mixed import BLOCKS, BLOCKS_AND_TEXTS, MixView, told
from heads.saved.provenance import library_versions, machine
from heads.saved.tapped import READS_TAP
from heads.saved.unlike import Familiar

if TYPE_CHECKING:
    import pyarrow as pa
    from sklearn.base import BaseEstimator

    from featurestore.store.view import View


@renamed(register="save")
def fit(
    view: AnyView | Sequence[View],
    head: str | Any | None = None,
    *,
    label: str | None = None,
    task: str | None = None,
    coverage: float | None = None,
    seed: int = 0,
    apply_reviews: bool = False,
    save: bool = True,
    progress: Progress | None = None,
    minutes: float | None = None,
) -> FittedHead:
    """Fit a head on a view, evaluate it, and keep it beside the data set.

    Settings are chosen on training rows alone. The head learns from the training split and is
    tested on the test split; without one, it learns from all items and is tested by 5 × 5 folds.

    Parameters
    ----------
    view : View, or several as of `heads.mix`
    head : str or estimator, optional
        A name from `heads.catalogue.table.HEADS`, ``python:module:object``, or an estimator of
        scikit-learn. Default ``logistic``; of several inputs ``mix``.
    label : str, optional
        Label column; default the data set's main label.
    task : {"multiclass", "multilabel", "regression"}, optional
        Default what the labels look like.
    coverage : float, optional
        Share of new items whose prediction set is to hold the truth, say 0.9: a split-conformal
        set of classes, or an interval of numbers. It is calibrated on the split ``val`` beside a
        test split, or else on a fifth of the training rows, which then do not teach the head.
    seed : int
        Of folds and of every drawing within the head.
    apply_reviews : bool
        As of `heads.compare`.
    save : bool
        Write ``heads/<head-id>/`` into the data set's folder.
    progress : callable, optional
        As of `heads.compare`.
    minutes : float, optional
        Stop judging after so long, with whole repeats of the folds; the last fit is still made.

    Returns
    -------
    FittedHead
        Its ``card`` holds metrics with intervals and everything that decided them.

    Raises
    ------
    UnknownHead, MissingColumn, NotEnoughData, TimeIsUp
    """
    begin, created = time.perf_counter(), datetime.now(UTC)
    asked = PlanOptions(label, task, seed=seed, apply_reviews=apply_reviews)
    runner = Runner(seed, None, progress, minutes=minutes)
    with pacing(replace(runner.pace, may_stop=True, may_shorten=True)):
        lesson = _lesson_of(*input_of(view, head), once_over(asked, [head]), coverage)
        evaluation, estimator, lesson = _taught(lesson, runner)
    stopped = stopped_notes(runner, [evaluation.report], lesson.plan)
    conformal = calibrated_sets(estimator, lesson.X, lesson.plan, lesson.calibration, coverage)
    leak, leak_notes = find_leak(stored(lesson.view), lesson.plan, most=MOST_OF_A_FIT)
    card = HeadCard(
        format=CARD_FORMAT,
        head_id=_head_id(lesson, created),
        created=created.isoformat(),
        **_card_of_estimator(lesson, estimator),
        conformal=conformal,
        seed=seed,
        **_card_of_lesson(lesson),
        **_card_of_plan(lesson.plan, evaluation.report),
        **_card_of_evaluation(evaluation, lesson.plan),
        notes=[*_notes_of(lesson, evaluation, estimator), *leak_notes, *stopped],
        twins=None if leak is None else leak.card(leak.metrics_without(evaluation.report)),
        seconds=Seconds(evaluation.seconds, time.perf_counter() - begin),
        machine=machine(),
        versions=library_versions(),
    )
    fitted, said = _fitted(lesson, estimator, card), _predictions(evaluation, lesson.plan)
    lesson.forget()
    return save_head(fitted, said, heads_folder(lesson.view.dataset)) if save else fitted


def _head_id(lesson: _Lesson, created: datetime) -> str:
    stem = re.sub(r"[^A-Za-z0-9._+-]+", "-", lesson.head)[:60]
    return f"{stem}-{created:%Y%m%dT%H%M%S%f}-{lesson.view.fingerprint[:8]}"


def _fitted(lesson: _Lesson, estimator: BaseEstimator, card: HeadCard) -> FittedHead:
    blocks = () if lesson.reads_texts else tuple(blocks_of(lesson.view))
    familiar = _familiar(lesson, card.seed)
    trust = lesson.view.trust
    return FittedHead(card.head_id, estimator, card, blocks, trust=trust, familiar=familiar)


@dataclass(frozen=True, eq=False)
class _Lesson:
    """What one head learns from."""

    view: AnyView
    items: Embeddings
    head: str  # its name
    entry: HeadEntry
    plan: Plan
    X: Matrix | Blocks  # (n, dim) vectors, (n,) texts or several inputs of the plan's rows
    calibration: NDArray[np.intp]  # rows that teach prediction sets, not the head
    builder: Build
    forget: Callable[[], None] = lambda: None  # deletes what an interrupted fit would go on from

    @property
    def reads_texts(self) -> bool:
        """Whether the head reads texts, not vectors."""
        return self.entry.reads == "texts"


def _lesson_of(
    view: AnyView, head: str | Any, options: PlanOptions, coverage: float | None
) -> _Lesson:
    ground = ground_on_taps([view], options, None, retraining_among([head]))
    (items,), plan = ground.tables, ground.plan
    apart = apart_notes(getattr(view, "n_apart", 0))
    plan = replace(plan, notes=(*plan.notes, *apart))
    is_several = isinstance(view, MixView)  # whose best is among heads on each, and a mix
    entries = head_entries([head], plan.task) if is_several else entries_for([head], plan)
    ((name, entry),) = entries.items()
    reads_texts = entry.reads == "texts"
    if reads_texts:
        check_reads_columns(view, name)
    if reads_texts and view.dataset.modality != Modality.TEXT:
        raise ModalityMismatch(f"{name} reads texts, but {view.dataset.name!r} holds pictures")
    plan, calibration = set_aside(plan, coverage, options.seed)
    if entry.reads == TAP or entry.reads.endswith("pool"):
        material = (
            of_tap(view, plan, entry)
            if entry.reads == TAP
            else of_pool(view, items, plan, entry, options.seed, apart=calibration)
        )
        plan = replace(plan, notes=(*plan.notes, *pool_notes(plan, {name: entry}, options.seed)))
        X, builder = material.read()[0], material.build(entry)
        return _Lesson(view, items, name, entry, plan, X, calibration, builder, material.forget)
    inputs = view.inputs(items) if isinstance(view, MixView) else items.vectors
    X = (texts_of(items) if reads_texts else inputs)[plan.rows]
    builder = builder_for(entry, view, plan)
    return _Lesson(view, items, name, entry, plan, X, calibration, builder)


def _taught(lesson: _Lesson, runner: Runner) -> tuple[Evaluation, Any, _Lesson]:
    """Evaluate the head, fit it on all training rows, and return the part that it reads."""
    plan, X, seed, builder = lesson.plan, lesson.X, runner.seed, lesson.builder
    runner.begin(
        len(plan.parts) + (plan.folds is not None),
        f"{lesson.head} on {lesson.view.spec}, {counted(len(plan.parts), 'fit')} to judge it",
    )

    def tell(*_: int) -> None:
        runner.count(f"{lesson.head} on {lesson.view.spec}")

    exam = Exam(
        plan.target,
        plan.parts,
        plan.estimand,
        plan.block,
        tuple(METRICS[plan.task]),
        seed,
        plan.reviewed,
        0 if plan.folds is None else plan.folds.n_folds,
    )
    n_fits = len(plan.parts) + (plan.folds is not None)  # the last has a share of the time
    outer = pace()
    if isinstance(X, Activations):
        outer = priced_training(lesson.head, builder(seed), X, plan, runner)
    with pacing(outer.share(n_fits / len(plan.parts))):
        ((evaluation,),) = exam.take([(X, [partial(builder, seed)])], tell)
    assert evaluation is not None, "TimeIsUp is raised where there is none"
    if plan.folds is None:
        return evaluation, evaluation.last, _of_what_is_read(lesson, evaluation.last)
    rows = plan.train
    with pacing(outer):
        estimator = fit_head(builder(seed), X[rows], plan.taught.lesson[rows], plan.block[rows])
    if runner.n_done == len(plan.parts):  # else the time was up
        tell()
    return evaluation, estimator, _of_what_is_read(lesson, estimator)


def _of_what_is_read(lesson: _Lesson, estimator: BaseEstimator) -> _Lesson:
    """Leave out encoders that no member of a mix reads: the best may be a head on one."""
    view, X = lesson.view, lesson.X
    read = {one.input for one in members_of(estimator) or ()}
    if not isinstance(view, MixView) or not isinstance(X, Blocks):
        return lesson
    views = tuple(one for one in view.views if str(one.spec) in read)
    if not views or len(views) == len(view.views):
        return lesson
    kept = MixView(views, (1.0,) * len(views))
    inputs = Blocks({name: block for name, block in X.items() if name in read})
    return replace(lesson, view=kept, items=kept.load(), X=inputs)


def _familiar(lesson: _Lesson, seed: int) -> Familiar | None:
    """Learn where the training items lie; None where the head reads texts."""
    if lesson.reads_texts:
        return None
    plan, rows = lesson.plan, lesson.plan.train
    if plan.reviewed is not None:
        rows = rows[plan.reviewed.teaches[rows]]
    codes = plan.taught.values[rows] if plan.task is Task.MULTICLASS else None
    is_tap = lesson.entry.reads == TAP  # then the vectors are those of the network as it was
    whole: Any = lesson.items.vectors[plan.rows] if is_tap else lesson.X
    if isinstance(whole, Blocks):
        X = told(whole, blocks_of(lesson.view))[rows]
    else:
        X = np.asarray(whole)[rows]
    if not (layers := layers_of(lesson.view)):
        return Familiar.fit(X, codes, plan.block[rows], seed=seed)
    output = X[:, -list(layers.values())[-1] :]  # time grows with the square of the numbers
    familiar = Familiar.fit(output, codes, plan.block[rows], seed=seed)
    return None if familiar is None else replace(familiar, whole_dim=X.shape[1])


def _card_of_lesson(lesson: _Lesson) -> dict[str, Any]:
    view = lesson.view
    return {
        "head": lesson.head,
        "dataset": view.dataset.name,
        "modality": str(view.dataset.modality),
        "columns": _columns_of(view),
        "metadata_columns": getattr(view, "coding", None),
        "encoder": "baseline:tfidf" if lesson.reads_texts else str(view.spec),
        "fingerprint": "" if lesson.reads_texts else view.fingerprint,
        "snapshot": lesson.items.snapshot,
        **slice_facts(view),
        "dim": lesson.items.dim,
        "search_space": lesson.entry.search_space,
    }


def _card_of_estimator(lesson: _Lesson, estimator: BaseEstimator) -> dict[str, Any]:
    members = members_of(estimator)
    reads = {TAP: READS_TAP, "texts": "texts"}.get(lesson.entry.reads, "vectors")
    if isinstance(lesson.view, MixView):
        has_texts = any(one.input == TEXTS for one in members or ())
        reads = BLOCKS_AND_TEXTS if has_texts else BLOCKS
    cut = getattr(estimator, "cut", None)
    return {"chosen": chosen_by(estimator), "members": members, "reads": reads, "cut": cut}


def _notes_of(lesson: _Lesson, evaluation: Evaluation, estimator: object) -> list[str]:
    """Say what the rows are, what columns and unlabelled items taught, and what is undefined."""
    report = evaluation.report
    said = getattr(estimator, "note_", getattr(getattr(estimator, "head_", None), "note_", None))
    notes = [*lesson.plan.notes, *_notes_on_columns(lesson), *([said] if said else [])]
    return notes + [
        f"{undefined(name)}." for name in report.scores if np.isnan(report.estimate(name).value)
    ]


def _notes_on_columns(lesson: _Lesson) -> list[str]:
    """Say how columns beside the vectors are read, and which may come from the label."""
    coding = getattr(lesson.view, "coding", None)
    if coding is None:
        return []
    return [column.said() for column in coding.columns] + [
        one.sentence(lesson.plan.label) for one in leaks_of(coding, lesson.items, lesson.plan)
    ]


def _columns_of(view: AnyView) -> dict[str, str] | None:
    """Return the column names on which all tables of a data set agree."""
    records = view.dataset.description.sources.values()
    found = {}
    for flag in COLUMNS:
        names = {record.options.get(flag) for record in records}
        if len(names) == 1 and (name := names.pop()) is not None:
            found[flag] = str(name)
    return found or None


def _card_of_plan(plan: Plan, report: Report) -> dict[str, Any]:
    n_folds = plan.folds.n_folds if plan.folds else 0
    n_repeats = 0 if report.repeats is None else len(report.repeats)  # that there was time for
    return {
        "label": plan.label,
        "task": plan.task,
        "classes": list(plan.classes),
        "never_part": ["content_hash", "group"],
        "n_blocks": len(np.unique(plan.block)),
        "evaluation": Evaluated(
            "folds" if plan.folds else "test",
            n_folds,
            n_repeats,
            len(plan.train),
            len(plan.tested),
            plan.n_leaked,
        ),
        "n_items": len(plan.ids),
        "n_unlabelled": plan.n_unlabelled,
        "reviews": None if plan.reviewed is None else plan.reviewed.digest,
    }


def _card_of_evaluation(evaluation: Evaluation, plan: Plan) -> dict[str, Any]:
    report = evaluation.report
    facts: dict[str, Any] = {
        "estimand": report.estimand,
        "metrics": {metric: report.estimate(metric) for metric in report.scores},
    }
    if report.n_reviewed:
        scores = {name: float(values.mean()) for name, values in report.as_reviewed.items()}
        facts["as_reviewed"] = AsReviewed(report.n_reviewed, scores)
    facts["predicted"] = _predicted(report.predicted, plan)
    if plan.task is Task.MULTICLASS:
        facts["confusion"] = report.confusion(len(plan.classes)).tolist()
    return facts


def _predicted(said: NDArray[Any], plan: Plan) -> Predicted:
    """Return how often each class was predicted of the tested rows, or quantiles of numbers."""
    if plan.task is Task.REGRESSION:
        return Predicted(len(said), quantiles=np.quantile(said, np.linspace(0, 1, 101)).tolist())
    if plan.task is Task.MULTILABEL:
        counts = dict(zip(plan.classes, said.astype(bool).sum(axis=0).tolist(), strict=True))
        return Predicted(
            len(said), {**counts, NO_LABEL: int((~said.astype(bool).any(axis=1)).sum())}
        )
    of_class = np.bincount(said, minlength=len(plan.classes)).tolist()
    return Predicted(len(said), dict(zip(plan.classes, of_class, strict=True)))


def _predictions(evaluation: Evaluation, plan: Plan) -> pa.Table:
    """Return one row for each tested item; over folds, of the first repeat."""
    import pyarrow as pa

    report, tested = evaluation.report, plan.tested
    folds = [None] * len(tested) if plan.folds is None else plan.folds.number[0][tested].tolist()
    columns = {
        "item_id": pa.array(plan.ids[tested].astype(str)),
        "label": said_of(plan.target, report.truth),
        "predicted": said_of(plan.target, report.predicted),
    }
    if evaluation.probabilities is not None:
        probabilities = evaluation.probabilities.astype(np.float32)
        if plan.task is Task.MULTICLASS:
            columns["confidence"] = probabilities.max(axis=1)
        columns["probabilities"] = pa.FixedSizeListArray.from_arrays(
            probabilities.ravel(), len(plan.classes)
        )
    columns["fold"] = pa.array(folds, pa.int32())
    columns["split"] = pa.array(plan.split[tested].tolist(), pa.string())
    return pa.table(columns, metadata={"classes": "\n".join(plan.classes)})
