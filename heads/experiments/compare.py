"""Encoders × heads on the same rows, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import BadName, ModalityMismatch, nearest
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.remote import as_path
from heads.catalogue.entry import HeadEntry
from heads.catalogue.table import default_heads, head_entries
from heads.catalogue.words import reads_words
from heads.experiments.cells import run_cell
from heads.experiments.inputs import Material, baselines, of_views
from heads.experiments.leaks import Leak, find_leak
from heads.labels.options import PlanOptions
from heads.labels.tasks import Task
from heads.measures.comparison import ComparedHead, Comparison, cell_name
from heads.measures.metrics import METRICS
from heads.saved.common_items import Ground, ground_of
from heads.saved.provenance import library_versions, machine

if TYPE_CHECKING:
    from featurestore.store.view import View


def compare(
    views: View | Sequence[View],
    heads: Sequence[str | Any] | None = None,
    *,
    label: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    evaluation: str = "auto",
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
    save: bool = True,
    group: bool = True,
    apply_reviews: bool = False,
    twins_together: bool = False,
) -> Comparison:
    """Compare heads on the encoders of one data set.

    The table always holds the baselines: knn, majority, and for texts TF-IDF + logistic.
    All rows share the items that every view has a vector of, and the same folds. Near-duplicates
    across a given split are counted, and each row has its metric without them beside it. What an
    equal run has found before is read, so that an interrupted one goes on.

    Parameters
    ----------
    views : View or sequence of View
        Of one data set; `heads.concat` puts several into one.
    heads : sequence of str or estimator, optional
        Names from `heads.catalogue`, ``python:module:object``, or unfitted scikit-learn
        estimators; by default all that do the task.
    label : str, optional
        Label column; default the data set's main label.
    task : {"multiclass", "multilabel", "regression"}, optional
        Default what the labels look like.
    metric : str, optional
        One of `heads.measures.metrics.METRICS` of the task; default balanced accuracy, macro F1 for
        several labels, R² for numbers.
    evaluation : {"auto", "test", "folds"}
        ``auto``: the test split where there is one, else 5 × 5 folds.
    seed : int
        Of folds and of every drawing within heads.
    progress : callable, optional
        Called with fits done, fits in all, and what is being fitted.
    save : bool
        Keep it in the data set's ``runs/``, and each row in its ``cache/heads/``.
    group : bool
        Whether items of one group stay together (items of equal content always do).
    apply_reviews : bool
        Let reviewers' decisions change the training rows. Where they concern test rows, each row
        has a second value, ``as_reviewed``.
    twins_together : bool
        Let near-duplicates never part (`heads.quality.twins`, by the first view): folds keep
        them together, and test items with a twin in the training split are left out.

    Raises
    ------
    UnknownHead, MissingColumn, NotEnoughData, BadName
    BadSource
        If the views are of different data sets.
    """
    views = list(views) if isinstance(views, Sequence) else [views]
    created = datetime.now(UTC)
    options = PlanOptions(label, task, evaluation, group, seed, apply_reviews, twins_together)
    ground = ground_of(views, options)
    plan = ground.plan
    metric = check_metric(metric, plan.task)
    entries = chosen_heads(heads, plan.task)
    jobs, without_words = cells_of(ground, entries)
    jobs += baselines(ground)
    never_part = ["content_hash", *(["group"] if group else []), *(["twins"] * twins_together)]
    n_fits = len(plan.parts) * len(jobs)
    n_done = 0

    def count(what: str, n: int = 1) -> None:
        nonlocal n_done
        n_done += n
        if progress is not None:
            progress(n_done, n_fits, what)

    compared = []
    for material, name, entry in jobs:
        what = f"{name} on {material.encoder}"
        count(what, 0)
        compared.append(
            run_cell(
                material,
                name,
                entry,
                plan,
                seed=seed,
                intervals_of=(metric,),
                on_fit=partial(count, what),
                cache_in=found_in(views[0].dataset) if save else None,
            )
        )
    leak, leak_notes = (None, []) if twins_together else find_leak(views, plan)
    comparison = Comparison(
        views[0].dataset.name,
        plan.label,
        metric,
        plan.estimand,
        plan.task,
        plan.classes,
        tuple(str(i) for i in plan.ids[plan.tested]),
        tuple(compared),
        (*_notes(ground, compared, metric), *without_words, *leak_notes),
        {
            "created": created.isoformat(),
            "seed": seed,
            "heads": list(entries),
            "evaluation": "folds" if plan.folds else "test",
            "n_folds": plan.folds.n_folds if plan.folds else 0,
            "n_repeats": plan.folds.n_repeats if plan.folds else 0,
            "never_part": never_part,
            "search_spaces": {name: entry.search_space for _, name, entry in jobs},
            "views": ground.card(),
            "n_train": len(plan.train) if plan.folds is None else None,
            "n_unlabelled": plan.n_unlabelled,
            "n_without_vector": ground.n_apart,
            "n_leaked": plan.n_leaked,
            "twins": None if leak is None else _card_of_leak(leak, compared, metric),
            "apply_reviews": apply_reviews,
            "reviews": None if plan.reviewed is None else plan.reviewed.digest,
            "machine": machine(),
            "versions": library_versions(),
        },
    )
    if save:
        runs_folder(views[0].dataset).write_run("compare", comparison.to_json())
    return comparison


def _card_of_leak(leak: Leak, cells: Sequence[ComparedHead], metric: str) -> dict[str, Any]:
    return {
        "n": leak.n_twins,
        "n_test": len(leak.is_twin),
        "likeness": leak.likeness,
        "without": [leak.without(cell.report, metric) for cell in cells],
    }


def cells_of(
    ground: Ground, entries: Mapping[str, HeadEntry]
) -> tuple[list[tuple[Material, str, HeadEntry]], list[str]]:
    """Return each view with each head that it can have, and notes on those that it cannot.

    Raises
    ------
    ModalityMismatch
        If a head that knows classes by name is wanted, and no encoder reads words.
    """
    named = [name for name, entry in entries.items() if entry.reads == "words"]
    mute = [view for view in ground.views if named and not reads_words(view)]
    if len(mute) == len(ground.views):
        specs = ", ".join(str(view.spec) for view in mute)
        raise ModalityMismatch(f"{', '.join(named)}: no encoder reads words among {specs}")
    found = [
        (material, name, entry)
        for view, material in zip(ground.views, of_views(ground), strict=True)
        for name, entry in entries.items()
        if not (name in named and view in mute)
    ]
    return found, [f"{view.spec} reads no words: without {', '.join(named)}." for view in mute]


def check_metric(metric: str | None, task: Task) -> str:
    """Return the metric to compare by, the task's main one where none is named.

    Raises
    ------
    BadName
        If it is no metric of the task.
    """
    if metric is None:
        return next(iter(METRICS[task]))
    if metric not in METRICS[task]:
        raise BadName(f"no metric {metric!r} of {task}: {nearest(metric, METRICS[task])}")
    return metric


def chosen_heads(heads: Sequence[str | Any] | None, task: Task) -> dict[str, HeadEntry]:
    """Return the heads to compare by name; kNN is always among them, baselines come apart.

    Raises
    ------
    UnknownHead
        If there is no such head, or it does not do the task.
    """
    wanted = default_heads(task) if heads is None else (*heads, "knn")
    found = head_entries(wanted, task)
    return {name: entry for name, entry in found.items() if not entry.is_baseline}


def runs(dataset: Any) -> list[Comparison]:
    """Return the stored comparisons of a data set (or of its folder), newest first."""
    return [Comparison.from_json(card) for card in runs_folder(dataset).runs("compare")]


def runs_folder(dataset: Any) -> DatasetFolder:
    """Return the folder that keeps a data set's runs."""
    return DatasetFolder(as_path(getattr(dataset, "path", dataset)))


def found_in(dataset: Any) -> Path:
    """Return where the results of single heads are kept; derived, so it may be deleted."""
    return runs_folder(dataset).local / "cache" / "heads"


def _notes(ground: Ground, compared: Sequence[ComparedHead], metric: str) -> tuple[str, ...]:
    notes = ground.notes()
    about = METRICS[ground.plan.task][metric]
    sign = 1 if about.higher_is_better else -1
    best = max(compared, key=lambda cell: sign * cell.report.estimate(metric).value)
    notes.append(
        f"{cell_name((best.encoder, best.head))} is the best of {len(compared)} rows; the best of "
        "many tends to look better than it is."
    )
    return tuple(notes)
