"""Learning curves over few labels: each encoder trained on few labels, drawn again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadName, NotEnoughData, TimeIsUp
from featurestore.terms.words import counted
from heads.catalogue.entry import HeadEntry
from heads.catalogue.retraining import retraining_among
from heads.catalogue.table import MIX, head_entries, reads_several
from heads.experiments.cells import Progress, Runner, cell_cache, keep_run, run_folder
from heads.experiments.compare import cells_of, check_metric
from heads.experiments.inputs import Cell, baselines, ngrams_of
from heads.experiments.learning_curve import Budget, Curve, CurveCard
from heads.experiments.on_taps import ground_on_taps
from heads.labels.options import LabelKeywords, PlanOptions, options_from
from heads.labels.plan import Plan
from heads.labels.tasks import Task
from heads.labels.views import AnyDataset
from heads.saved.ground import Ground
from heads.saved.mixed import MixView
from heads.saved.provenance import library_versions, machine

if TYPE_CHECKING:
    from featurestore.store.view import View

N_DRAWS = 10
PER_CLASS = (1, 2, 4, 8, 16, 32, 64, 128)
Draws = list[tuple[NDArray[np.intp], NDArray[np.intp]]]  # training and test rows of each draw


def curve(
    views: View | Sequence[View],
    head: str | Any = "logistic",
    *,
    metric: str | None = None,
    per_class: Sequence[int] = PER_CLASS,
    n_draws: int = N_DRAWS,
    progress: Progress | None = None,
    minutes: float | None = None,
    save: bool = True,
    **of_label: Unpack[LabelKeywords],
) -> Curve:
    """Draw few labels again and again, train on them, and test on rows that are none of them.

    All encoders learn from the same draws. At most half of a class's rows are drawn, so that
    draws differ; the test rows are the test split, or another fold for each draw.

    Parameters
    ----------
    views : View or sequence of View
        Of one data set.
    head : str or estimator
        ``mix`` has one curve: of all inputs together.
    per_class : sequence of int
        Labels per class; for numbers and several labels, five times as many rows in all.
    n_draws : int
        At least 2; 10 or more for bands that mean something.
    minutes : float, optional
        Stop after so long, with the budgets that were done for every encoder, smallest first.
    metric, label, task, seed, progress, save
        As of `heads.compare`.

    Raises
    ------
    NotEnoughData
        If not even the smallest budget can be drawn.
    TimeIsUp
        If the minutes were too few for the smallest budget; what was done is kept.
    """
    _check_draws(n_draws, per_class)
    views = list(views) if isinstance(views, Sequence) else [views]
    own = ("head", "metric", "per_class", "n_draws", "progress", "minutes", "save")
    options = options_from(PlanOptions, of_label, "heads.curve", *own)
    seed, ground = options.seed, ground_on_taps(views, options, None, retraining_among([head]))
    metric = check_metric(metric, ground.plan.task)
    ((name, entry),) = head_entries([head], ground.plan.task).items()
    _check_inputs(views, name, entry)
    ngrams = ngrams_of(ground)
    cells, mute_notes = cells_of(ground, {name: entry}, seed, ngrams=ngrams, hides=True)
    cells += [cell for cell in baselines(ground, ngrams) if cell[1] != "majority"]
    drawn = _drawn(ground.plan, per_class, n_draws, seed)
    cache = cell_cache(views[0].dataset) if save else None
    runner = Runner(seed, cache, progress, minutes=minutes)
    runner.begin(
        len(drawn) * len(cells) * n_draws,
        f"{counted(len(cells), 'encoder')} × {counted(len(drawn), 'budget')} × {n_draws} draws",
    )
    budgets, stopped = _budgets(cells, drawn, ground.plan, metric, runner)
    curve = Curve(
        views[0].dataset.name,
        ground.plan.label,
        metric,
        ground.plan.task,
        budgets,
        (*_notes(ground, drawn, per_class, n_draws), *mute_notes, *stopped),
        CurveCard(
            created=datetime.now(UTC).isoformat(),
            seed=seed,
            n_draws=n_draws,
            per_class=list(per_class),
            head=name,
            search_space=entry.search_space,
            views=ground.read_views(),
            machine=machine(),
            versions=library_versions(),
        ),
    )
    if save:
        keep_run(views[0].dataset, "curve", curve.to_json())
    return curve


def _check_inputs(views: Sequence[View], head: str, entry: HeadEntry) -> None:
    if entry.reads == "texts":
        raise BadName(f"{head} reads texts: its curve is drawn beside those of all encoders")
    several = any(isinstance(view, MixView) for view in views)
    if several and not reads_several(head, is_several=True):
        raise BadName(f"{head} reads one input, and there are several: {MIX} weighs heads on each")


def _check_draws(n_draws: int, per_class: Sequence[int]) -> None:
    if n_draws < 2 or min(per_class, default=0) < 1:
        raise BadName(
            f"{n_draws} draws of {list(per_class)} labels a class: expected 2 and 1 or more"
        )


def curves(dataset: AnyDataset) -> list[Curve]:
    """Return the stored learning curves of a data set (or of its folder), newest first."""
    return [Curve.from_json(card) for card in run_folder(dataset).runs("curve")]


def _drawn(plan: Plan, per_class: Sequence[int], n_draws: int, seed: int) -> dict[int, Draws]:
    """Return the draws of each budget that can be drawn, smallest first."""
    drawn = {
        k: draws
        for k in sorted(set(per_class))
        if (draws := draw_labels(plan, k, n_draws, seed)) is not None
    }
    if not drawn:
        raise NotEnoughData(
            f"no class has {2 * min(per_class)} labels, twice the smallest budget: label more"
        )
    return drawn


def _budgets(
    cells: Sequence[Cell], drawn: Mapping[int, Draws], plan: Plan, metric: str, runner: Runner
) -> tuple[tuple[Budget, ...], list[str]]:
    """Return the budgets of each encoder, and a note where there was no time for all."""
    found: dict[str, list[Budget]] = {material.encoder: [] for material, _, _ in cells}
    notes: list[str] = []
    for k, draws in drawn.items():  # budget by budget: what is stopped has the small ones of all
        n_labels = round(float(np.mean([len(train) for train, _ in draws])))
        try:
            rows = runner.cells(cells, replace(plan, draws=tuple(draws)))
        except TimeIsUp:
            rows = []
        if len(rows) < len(cells):
            if not notes and not any(found.values()):
                raise TimeIsUp(
                    f"{runner.minutes:g} minutes were too few for the smallest budget; what was "
                    "done is kept: the same command goes on from there"
                )
            left = ", ".join(str(one) for one in drawn if one >= k)
            notes.append(
                f"Stopped after {runner.minutes:g} minutes: left out are {left} labels a class; "
                "what was done is kept, and the same command goes on from there."
            )
            break
        for (_, head, _), row in zip(cells, rows, strict=True):
            found[row.encoder].append(
                Budget(row.encoder, head, k, n_labels, row.report.scores[metric])
            )
    return tuple(budget for of_encoder in found.values() for budget in of_encoder), notes


def draw_labels(plan: Plan, per_class: int, n_draws: int, seed: int) -> Draws | None:
    """Draw training rows ``n_draws`` times; None if half of every class is fewer than asked.

    A class with fewer rows gives half of them. With folds, draw r learns from the training rows
    of part r and is tested on its test rows.

    Returns
    -------
    list of (train, test)
        Positions in the plan, each of shape (n_rows,), ascending.
    """
    draws = []
    for r in range(n_draws):
        pool, test = plan.parts[r % len(plan.parts)]
        rng = np.random.default_rng([seed, per_class, r])
        if plan.task is Task.MULTICLASS:
            codes = plan.target.values[pool]
            order = rng.permutation(len(pool))
            rank = np.empty(len(pool), dtype=np.intp)
            sizes = np.bincount(codes, minlength=len(plan.classes))
            for c in range(len(plan.classes)):
                own = order[codes[order] == c]
                rank[own] = np.arange(len(own))
            most = np.maximum(1, sizes // 2)
            if most.max() < per_class:
                return None
            rows = pool[rank < np.minimum(per_class, most)[codes]]
        else:
            n = 5 * per_class
            if len(pool) // 2 < n:
                return None
            rows = rng.permutation(pool)[:n]
        draws.append((np.sort(rows), test))
    return draws


def _notes(
    ground: Ground, drawn: Mapping[int, Any], per_class: Sequence[int], n_draws: int
) -> tuple[str, ...]:
    notes = ground.notes()
    left = sorted(set(per_class) - set(drawn))
    if left:
        notes.append(
            f"{', '.join(map(str, left))} labels of each class were not drawn: half of the items "
            "that may teach are fewer, so the draws would be nearly the same."
        )
    notes.append(
        f"The band shows where 95 % of new draws of labels are expected (from {n_draws} draws)."
    )
    return tuple(notes)
