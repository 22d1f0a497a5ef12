"""Stored runs, run again: equal libraries give equal numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, overload

from featurestore.encoders.trust import PYTHON, Trust, check_trusted, either
from featurestore.errors import BadName
from featurestore.terms.specs import ALL_TOGETHER
from heads.catalogue.table import head_entries
from heads.experiments.cells import Progress
from heads.experiments.compare import compare
from heads.experiments.curve import curve
from heads.experiments.learning_curve import Curve
from heads.labels.tasks import Task
from heads.measures.card import RunCard
from heads.measures.comparison import ComparedHead, Comparison

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet
    from featurestore.store.view import View


@overload
def run_again(
    dataset: DataSet, run: Comparison, *, progress: Progress | None = None, trust: Trust = False
) -> Comparison: ...
@overload
def run_again(
    dataset: DataSet, run: Curve, *, progress: Progress | None = None, trust: Trust = False
) -> Curve: ...
def run_again(
    dataset: DataSet,
    run: Comparison | Curve,
    *,
    progress: Progress | None = None,
    trust: Trust = False,
) -> Comparison | Curve:
    """Run a stored comparison or learning curve again, on the versions that it names.

    Equal libraries give equal numbers. Heads that were given as objects are not known by name.
    ``progress`` is called as that of `heads.compare`. Heads and encoders that are code
    (``python:``) run where ``trust`` allows it, or the store was opened with it.

    Raises
    ------
    UnknownView, UnknownSnapshot, UnknownHead
        If a view, its version, or a head is no more.
    BadName
        If its slice, the reviews that it applied, or what its heads choose among are others now.
    NotTrusted
        If a head or an encoder is code that nobody asked for.
    """
    own = str(ALL_TOGETHER)
    encoders = {row["encoder"] for row in run.rows()}
    if isinstance(run, Comparison) and run.card.with_columns is not None:
        encoders -= run.card.with_columns.encoders.keys()
    if any(one.startswith(("concat:", "mix:")) and one != own for one in encoders):
        raise BadName("a run with views side by side, or mixed, is run again from its views")
    trust = either(dataset.store.trust, trust)
    names = [run.card.head] if isinstance(run, Curve) else _names_of(run)
    for name in names:
        if name.startswith(PYTHON):
            check_trusted(name, trust, where="the run card", what="head")
    views = [replace(view, trust=trust) for view in _views(dataset, run.card)]
    if isinstance(run, Comparison):
        return _compare_again(views, run, progress)
    return _draw_again(views, run, progress)


def _views(dataset: DataSet, card: RunCard) -> list[View]:
    views = []
    for read in card.views:
        view = dataset.view(read.encoder)
        if read.slice:
            view = view.within(read.slice)
            if view.slice_ is None or view.slice_.digest != read.slice_digest:
                raise BadName(f"slice {read.slice!r} holds other items than in that run")
        views.append(view.as_of(read.snapshot) if read.snapshot else view)
    return views


def _compare_again(views: list[View], run: Comparison, progress: Progress | None) -> Comparison:
    card = run.card
    names = _names_of(run)
    _check_spaces(card.search_spaces, names, run.task)
    comparison = compare(
        views,
        names,
        metric=run.metric,
        progress=progress,
        save=False,
        rows=card.rows,
        columns=() if card.with_columns is None else card.with_columns.columns,
        label=run.label,
        task=run.task,
        evaluation=card.evaluation,
        seed=card.seed,
        group="group" in card.never_part,
        apply_reviews=card.apply_reviews,
        twins_together="twins" in card.never_part,
        repeats=card.n_repeats or None,
    )
    if comparison.card.reviews != card.reviews:
        raise BadName("reviewers have decided more since: that comparison cannot be run again")
    return comparison


def _draw_again(views: list[View], run: Curve, progress: Progress | None) -> Curve:
    card = run.card
    _check_spaces({card.head: card.search_space}, [card.head], run.task)
    return curve(
        views,
        card.head,
        label=run.label,
        task=run.task,
        metric=run.metric,
        per_class=card.per_class or sorted({budget.per_class for budget in run.budgets}),
        n_draws=card.n_draws,
        seed=card.seed,
        progress=progress,
        save=False,
    )


def _names_of(run: Comparison) -> list[str]:
    cells = (cell.head for cell in run.heads if _is_plain(cell))
    return run.card.heads or list(dict.fromkeys(cells))


def _check_spaces(then: Mapping[str, str], names: Sequence[str], task: Task) -> None:
    now = head_entries(names, task)
    changed = [
        name for name in names if not then.get(name, "").endswith(now[name].search_space or "?")
    ]
    if changed:
        raise BadName(
            f"{', '.join(changed)}: the settings to choose from have changed since that run "
            "(prompts, grids)"
        )


def _is_plain(cell: ComparedHead) -> bool:
    return not cell.encoder.startswith("baseline:majority") and cell.encoder != "baseline:tfidf"
