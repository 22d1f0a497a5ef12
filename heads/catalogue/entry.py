"""One entry of the table of heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sklearn.pipeline import Pipeline

from heads.estimators.per_label import PerLabel
from heads.labels.tasks import Task

Build = Callable[[int], Any]  # seed → unfitted estimator


@dataclass(frozen=True)
class HeadEntry:
    """One head that can be asked for by name."""

    search_space: str  # in words, for cards
    classifier: Build | None = None
    regressor: Build | None = None
    per_task: Callable[[Task], Build | None] | None = None  # in place of the two
    # or "texts"; "words": vectors, and words of the classes; "layers": vectors of several layers;
    # "pool": vectors, those of unlabelled items too; "witnessed pool": another encoder's as well;
    # "blocks": several inputs at once; "tap": whole activations at a cut of a network
    reads: str = "vectors"
    tap: str = "auto"  # where a head that reads one cuts, as ``#tap=`` says
    variants: str = ""  # and which it reads of each picture, as ``variants=`` says
    members: tuple[str, ...] = ()  # of a mix: heads by name; none: as `with_members` says
    among: tuple[str, ...] = ()  # heads by name that the best is chosen among
    is_baseline: bool = False  # rows of it are named baseline:… in tables
    is_known: bool = True  # whether the search space says all that decides what it learns

    def builder(self, task: Task) -> Build | None:
        """Return what builds the head for a task; None where it cannot do it."""
        if self.per_task is not None:
            return self.per_task(task)
        if task is Task.REGRESSION:
            return self.regressor
        if task is Task.MULTICLASS or self.classifier is None:
            return self.classifier
        build = self.classifier
        if self.reads == "texts":  # one head a label behind the features, which are learned once
            return lambda seed: per_label_of_texts(build(seed))
        return lambda seed: PerLabel(build(seed))


def per_label_of_texts(head: Pipeline) -> Pipeline:
    """Put one head a label behind text features that are learned once."""
    (_, features), (name, last) = head.steps
    return Pipeline([("features", features), (name, PerLabel(last))])
