"""What a report tells: results that are kept and still hold, and those that are missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from featurestore.errors import NotEnoughData, TimeIsUp
from featurestore.store.default_view import default_view
from heads.advice.advice import Advice
from heads.advice.advise import advise
from heads.advice.next_step import typed
from heads.catalogue.table import default_heads
from heads.experiments.cells import Progress
from heads.experiments.compare import runs
from heads.experiments.curve import curve, curves
from heads.experiments.learning_curve import Curve
from heads.labels.options import PlanOptions
from heads.labels.views import slice_facts
from heads.measures.card import ReadView, RunCard
from heads.measures.comparison import Comparison
from heads.quality.find import find_issues, quality_reports
from heads.quality.issues import Issues
from heads.transfer.assessment import Assessment
from heads.transfer.views import PIXELS

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet
    from featurestore.store.view import View

Result = TypeVar("Result", Comparison, Curve, Issues)
UNTIL_ADVISED, UNTIL_LOOKED = 0.6, 0.8  # shares of the time


@dataclass(frozen=True)
class Found:
    """All that is known of one label of a data set; None where it was not looked at."""

    dataset: DataSet
    advice: Advice
    comparison: Comparison | None = None
    assessment: Assessment | None = None
    curve: Curve | None = None
    issues: Issues | None = None
    left_out: tuple[str, ...] = ()  # for time
    not_made: tuple[str, ...] = ()  # for another reason, which is said
    options: PlanOptions = field(default_factory=PlanOptions)  # as asked
    metric: str | None = None

    @property
    def label(self) -> str | None:
        """The label column."""
        return self.advice.label


def look(
    dataset: DataSet,
    options: PlanOptions,
    *,
    metric: str | None,
    minutes: float,
    progress: Progress | None,
    save: bool,
) -> Found:
    """Read what was found before and still holds, and run what is missing within the time."""
    clock = _Clock(minutes, time.monotonic(), progress)
    advice = advise(
        dataset.store, dataset, minutes=UNTIL_ADVISED * minutes, metric=metric, progress=progress,
        save=save, label=options.label, task=options.task, evaluation=options.evaluation,
        group=options.group, seed=options.seed,
    )  # fmt: skip
    views = dataset.views()
    if not views:
        return Found(dataset, advice, options=options, metric=metric)
    left_out: list[str] = []
    not_made: list[str] = []
    label, seed = advice.label, options.seed
    at = next((one for one in views if str(one.spec) == advice.encoder), None)
    view = at or default_view(dataset, label)[0] or views[0]
    typed_at = {"label": label, "seed": seed or None}

    def find() -> Issues:
        return find_issues(view, label=label, seed=seed, progress=clock.guard(UNTIL_LOOKED),
                           save=save)  # fmt: skip

    name = "what may be wrong with the data"
    command = typed(dataset, "quality", dataset.name, "-e", str(view.spec), **typed_at)
    issues = _held([one for one in quality_reports(dataset) if one.label == label], views)
    if issues is None:
        issues = _in_time(find, f"{name} (`{command}`)", clock, UNTIL_LOOKED, left_out, not_made)
    drawn = None
    if advice.choice is not None and label is not None:
        shown = [one for one in views if str(one.spec) in (str(view.spec), PIXELS)]
        head = _head_of(advice)

        def draw() -> Curve:
            return curve(shown, head, label=label, task=options.task, metric=metric, seed=seed,
                         progress=progress,
                         minutes=clock.left(1.0), save=save)  # fmt: skip

        kept = [one for one in curves(dataset) if one.label == label]
        drawn = _held([one for one in kept if str(view.spec) in one.encoders], views)
        command = typed(dataset, "curve", dataset.name, "--head", head, **typed_at)
        if drawn is None:
            what = f"the learning curve (`{command}`)"
            drawn = _in_time(draw, what, clock, 1.0, left_out, not_made)
    comparison = _best_comparison(dataset, advice, views)
    return Found(
        dataset, advice, comparison, advice.assessment, drawn, issues, tuple(left_out),
        tuple(not_made), options, metric,
    )  # fmt: skip


def _best_comparison(dataset: DataSet, advice: Advice, views: Sequence[View]) -> Comparison | None:
    """Return the comparison behind the advice, or a kept one of the same rows with more heads."""
    ours = advice.comparison
    kept = [one for one in runs(dataset) if one.label == advice.label and holds(one.card, views)]
    if ours is None or advice.choice is None:
        return kept[0] if kept else ours
    same = [
        one
        for one in kept
        if (one.metric, one.estimand, one.item_ids) == (ours.metric, ours.estimand, ours.item_ids)
        and (one.card.never_part, one.card.seed) == (ours.card.never_part, ours.card.seed)
        and one.card.apply_reviews == ours.card.apply_reviews
        and advice.choice.taken in [(row.encoder, row.head) for row in one.heads]
    ]
    return max([ours, *same], key=lambda one: len(one.heads))


def _held(results: Sequence[Result], views: Sequence[View]) -> Result | None:
    """Return the first result whose views are still as they were read."""
    return next((one for one in results if holds(one.card, views)), None)


def holds(card: RunCard, views: Sequence[View]) -> bool:
    """Whether the views that a run read are still as they were."""
    now = [ReadView(str(v.spec), v.fingerprint, v.snapshot, **slice_facts(v)) for v in views]
    return all(read in now for read in card.views)


def _head_of(advice: Advice) -> str:
    """Return the head whose curve is drawn: the one that is taken, if it reads vectors."""
    assert advice.comparison is not None
    usual = default_heads(advice.comparison.task)
    return advice.head if advice.head in usual else usual[0]


@dataclass(frozen=True)
class _Clock:
    """Minutes that may be used, and since when."""

    minutes: float
    begin: float  # of time.monotonic, in seconds
    progress: Progress | None

    def left(self, share: float) -> float:
        """Return the minutes until a share of the time is used."""
        return share * self.minutes - (time.monotonic() - self.begin) / 60

    def guard(self, share: float) -> Progress:
        """Return a progress callback that stops work once a share of the time is used."""

        def hear(n_done: int, n: int, what: str) -> None:
            if self.progress is not None:
                self.progress(n_done, n, what)
            if self.left(share) < 0:
                raise TimeIsUp(what)

        return hear


Made = TypeVar("Made")


def _in_time(
    work: Callable[[], Made],
    what: str,
    clock: _Clock,
    share: float,
    left_out: list[str],
    not_made: list[str],
) -> Made | None:
    """Do work if there is time for it; else say that it is left out, or why it cannot be done."""
    try:
        if clock.left(share) > 0:
            return work()
        left_out.append(what)
    except TimeIsUp:
        left_out.append(what)
    except NotEnoughData as error:
        not_made.append(f"{what}: {error}")
    return None


def plain(value: Any) -> str:
    """Write a value of a label: a class, several labels, or a number."""
    if isinstance(value, (list, tuple)):
        return " + ".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
