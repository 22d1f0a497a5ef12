"""The door: what to take for a label of a data set, within some minutes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from featurestore.errors import FeatureStoreError, MissingColumn, NotEnoughData
from featurestore.storage.item_columns import ITEMS
from featurestore.store.commands import command_line
from featurestore.store.store import Store, open_store
from featurestore.terms.labels import MOST_CLASSES, is_missing
from featurestore.terms.specs import ALL_TOGETHER, Modality
from heads.advice.advice import Advice, Cost
from heads.advice.clock import Clock
from heads.advice.next_step import costs_of, embed_command, rows_asked, train_command, typed
from heads.advice.within_time import Study, allowed
from heads.experiments.cells import Progress
from heads.experiments.compare import check_metric
from heads.experiments.inputs import TFIDF
from heads.labels.options import PlanOptions, RowKeywords, options_from
from heads.measures.choice import Choice, choose
from heads.measures.comparison import Comparison, Difference
from heads.measures.metrics import METRICS
from heads.saved.ground import ground_of
from heads.saved.tapped import can_be_cut
from heads.transfer.advice import ENOUGH_ROWS, HEADROOM
from heads.transfer.assessment import Assessment
from heads.transfer.cast import WITHOUT_PRETRAINING
from heads.transfer.verdict import Verdict
from heads.transfer.views import PIXELS, embed_views

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet
    from featurestore.store.view import View
    from featurestore.terms.embeddings import Embeddings

MINUTES = 3.0
PIXELS_PER_S = 150  # pictures that are decoded in a second, at least


def advise(
    store: Store | str | Path,
    dataset: str | DataSet,
    *,
    minutes: float = MINUTES,
    encoders: Sequence[str] = (),
    metric: str | None = None,
    progress: Progress | None = None,
    save: bool = True,
    **rows: Unpack[RowKeywords],
) -> Advice:
    """Say which encoder and head to take, whether the encoder helps, and what to do next.

    Runs what is missing: raw pixels as the reference of pictures, a comparison of the default
    heads, the verdict on each encoder, the last doubling of a learning curve. Results are kept,
    so that a second call takes seconds. What does not fit into the time is left out and named.

    Parameters
    ----------
    store : Store or path
    dataset : str or DataSet
        Its name; a `DataSet` may be a slice.
    minutes : float
        Time that may be used, fits that are under way apart.
    encoders : sequence of str
        Encoders to choose among; default all views.
    metric : str, optional
        As of `heads.compare`.
    progress : callable, optional
        As of `heads.compare`, for each step anew.
    save : bool
        Keep what is run, and embed the reference.
    label, task, evaluation, group, seed
        As of `heads.compare`.

    Returns
    -------
    Advice
        `Advice.sentences` are five lines, the last the command to type. Where nothing can be
        taken (no labels, no vectors), they say why and what to type first.
    """
    clock = Clock(minutes, time.monotonic(), progress)
    opened = store if isinstance(store, Store) else open_store(store)
    found = opened.dataset(dataset) if isinstance(dataset, str) else dataset
    asked = options_from(
        PlanOptions, rows, "heads.advise", "minutes", "encoders", "metric", "progress", "save"
    )
    advice = _advised(found, asked, encoders, metric, clock, save)
    return replace(advice, seconds=clock.used_s, minutes=minutes)


def _advised(
    dataset: DataSet,
    asked: PlanOptions,
    encoders: Sequence[str],
    metric: str | None,
    clock: Clock,
    save: bool,
) -> Advice:
    views = [dataset.view(one) for one in encoders] or dataset.views()
    if not views:
        return _nothing_embedded(dataset)
    judged = [view for view in views if view.spec.family not in WITHOUT_PRETRAINING]
    left_out: list[str] = []
    reference = _pixels(dataset, clock, left_out, is_wanted=save and bool(judged))
    views = judged or [view for view in views if view.spec.family == "baseline"] or views
    if judged and reference is not None:
        views = [*judged, reference]
    try:
        ground = ground_of(views, asked)
        metric = check_metric(metric, ground.plan.task)
    except (NotEnoughData, MissingColumn) as error:
        return _too_few_labels(dataset, asked, views[0], str(error))
    study = Study(views, judged, ground, asked, metric, clock, save, left_out)
    comparison = study.compare()
    if comparison is None:
        return _no_time(dataset, asked, clock, study.left_out)
    assessment, reason = None, _no_verdict(study)
    if judged and any(row.encoder == study.reference for row in comparison.heads):
        assessment = study.assess()
    choice = choose(comparison, costs_of(views), among=allowed(assessment, comparison))
    helps = _verdict_for(choice, assessment) or _difference(comparison, choice, study)
    labels = study.labels(choice, helps if isinstance(helps, Verdict) else None)
    return Advice(
        dataset.name,
        ground.plan.label,
        _next_command(dataset, asked, choice, views, judged),
        choice,
        helps,
        reason,
        labels,
        _cost(choice, comparison, views),
        (
            *study.left_out,
            *_retraining(study, choice, dataset),
            *_other_labels(dataset, ground.plan.label),
        ),
        comparison.estimand,
        comparison=comparison,
        assessment=assessment,
        is_late=bool(study.left_out),
    )


# -- what it is compared with --------------------------------------------------------------


def _pixels(dataset: DataSet, clock: Clock, left_out: list[str], *, is_wanted: bool) -> View | None:
    """Return the view of raw pixels, which is embedded where it is missing and time allows."""
    known = {str(view.spec): view for view in dataset.views()}
    if PIXELS in known or dataset.modality != Modality.IMAGE:
        return known.get(PIXELS)
    if not is_wanted or all(view.spec.family == "import" for view in known.values()):
        return None
    seconds = dataset.n_items / PIXELS_PER_S
    command = command_line(
        "embed", "--dataset", dataset.name, "-e", PIXELS, store=dataset.store.path
    )
    if seconds > 60 * clock.left(0.5):
        left_out.append(f"raw pixels as the reference (about {seconds:.0f} s: {command})")
        return None
    try:
        embed_views(dataset)
        return dataset.view(PIXELS)
    except (FeatureStoreError, OSError) as error:
        left_out.append(f"raw pixels as the reference ({error}; {command})")
        return None


def _verdict_for(choice: Choice, assessment: Assessment | None) -> Verdict | None:
    """Return the verdict on the taken encoder; on the best one where a baseline is taken."""
    if assessment is None:
        return None
    for one in assessment.verdicts:
        if one.encoder == choice.taken[0]:
            return one
    return max(assessment.verdicts, key=lambda one: one.value)


def _no_verdict(study: Study) -> str:
    """Say why nothing can be said about the encoder's help."""
    if not study.judged:
        return "no pretrained encoder is embedded, so there is nothing to judge"
    if all(view.spec.family == "import" for view in study.judged):
        return "imported vectors have no reference without pretraining here"
    if study.reference == TFIDF:
        return (
            "only the verdict tells, which lets TF-IDF choose among all heads, and the time was "
            "too short for it"
        )
    return "what needs no pretraining was not run, see what was left out"


def _difference(comparison: Comparison, choice: Choice, study: Study) -> Difference | None:
    """Return the best row of the taken side less the best of the other, from the table.

    Not of texts: the table has one head on TF-IDF, and another may be better by far, which only
    the verdict looks at.
    """
    if study.reference == TFIDF:
        return None
    specs = {str(view.spec) for view in study.judged}
    others = specs if choice.taken[0] == study.reference else {study.reference}
    for row in comparison.rows():
        if row["encoder"] in others:
            cell = row["encoder"], row["head"]
            return comparison.difference(choice.taken, cell, n_claims=comparison.n_claims)
    return None


def _cost(choice: Choice, comparison: Comparison, views: Sequence[View]) -> Cost:
    fit_s, encoder = comparison.cell(*choice.taken).seconds, choice.taken[0]
    read = [view for view in views if encoder in (str(view.spec), str(ALL_TOGETHER))]
    rates = [_items_per_s(view) for view in read]
    known = [rate for rate in rates if rate]
    rate = 1 / sum(1 / one for one in known) if known and len(known) == len(rates) else None
    return Cost(rate, 4 * sum(view.dim for view in read), fit_s)


def _items_per_s(view: View) -> float | None:
    """Return how fast the run that embedded last was."""
    runs = view.dataset.runs("embed")
    of_view = (run for run in runs if run["n_encoded"] and run["encoder"] == str(view.spec))
    rate = next(of_view, {}).get("items_per_s")
    return None if rate is None else float(rate)


# -- what to type --------------------------------------------------------------------------


def _asked(asked: PlanOptions) -> dict[str, object]:
    """Return the options that `train` takes as well."""
    return {"label": asked.label, "task": asked.task, "seed": asked.seed or None}


def _next_command(
    dataset: DataSet,
    asked: PlanOptions,
    choice: Choice,
    views: Sequence[View],
    judged: Sequence[View],
) -> str:
    if not judged and dataset.modality == Modality.IMAGE:
        return embed_command(dataset)
    inputs = [str(view.spec) for view in views]
    return train_command(dataset, choice.taken, inputs=inputs, **_asked(asked))


def _nothing_embedded(dataset: DataSet) -> Advice:
    reason = f"{dataset.name} has no vectors yet, so there is nothing to choose among"
    return Advice(dataset.name, None, embed_command(dataset), reason=reason)


def _no_time(dataset: DataSet, asked: PlanOptions, clock: Clock, left_out: Sequence[str]) -> Advice:
    reason = f"{clock.minutes:.2g} minutes were too short for a single head"
    minutes = f"{max(3 * clock.minutes, MINUTES):.3g}"
    command = typed(dataset, "advise", dataset.name, "--minutes", minutes, **rows_asked(asked))
    return Advice(dataset.name, asked.label, command, reason=reason, left_out=tuple(left_out))


def _too_few_labels(dataset: DataSet, asked: PlanOptions, view: View, reason: str) -> Advice:
    """Say what to do where no head can be taught: another column, or what to label first."""
    table = view.load()
    label = asked.label or table.label_column
    columns = [one for one in _label_like(table) if one != label]
    if columns:
        of_column = rows_asked(replace(asked, label=columns[0]))
        command = typed(dataset, "advise", dataset.name, **of_column)
        reason = f"{reason}. Column {columns[0]!r} looks like a label"
    elif label is not None and not is_missing(table.column(label)).any():
        command = typed(dataset, "labels", dataset.name, "LABELS.csv", id="item_id")
    else:
        command = typed(dataset, "suggest", dataset.name, "-e", str(view.spec), label=asked.label)
    return Advice(dataset.name, label, command, reason=reason)


def _label_like(table: Embeddings) -> list[str]:
    """Return columns with two classes or more, several items each."""
    found = []
    for name in table.columns:
        if name in ITEMS.names:
            continue
        values = table.column(name)
        known = values[~is_missing(values)].astype(str)
        n_classes = len(np.unique(known))
        if 2 <= n_classes <= min(MOST_CLASSES, len(known) / 4):
            found.append(name)
    return found


def _retraining(study: Study, choice: Choice, dataset: DataSet) -> list[str]:
    """Name the command that tries retraining, where errors are left and labels suffice for it."""
    taken = next((one for one in study.judged if str(one.spec) == choice.taken[0]), None)
    about = METRICS[study.ground.plan.task][study.metric]
    may_gain = about.is_share and about.higher_is_better and choice.value < 1 - HEADROOM
    if taken is None or not may_gain or len(study.ground.plan.ids) < ENOUGH_ROWS:
        return []
    if not can_be_cut(taken):
        return []
    line = typed(
        dataset, "transfer", dataset.name, "-e", str(taken.spec), "--finetune",
        **rows_asked(study.options),
    )  # fmt: skip
    return [f"retraining the upper blocks of {taken.spec.label}, which takes minutes ({line})"]


def _other_labels(dataset: DataSet, label: str) -> list[str]:
    others = [one for one in dataset.label_columns if one != label]
    return [f"labels {', '.join(others)} (--label {others[0]})"] if others else []
