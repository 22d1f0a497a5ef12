"""What may be asked of a plan, checked once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import wraps
from typing import ParamSpec, TypedDict, TypeVar

from featurestore.errors import BadName, nearest
from heads.labels.tasks import Task

EVALUATIONS = ("auto", "test", "folds")
MOST_REPEATS = 100


@dataclass(frozen=True)
class PlanOptions:
    """Which label is learned, and how the rows are divided.

    Raises
    ------
    BadName
        No such task or evaluation.
    """

    label: str | None = None  # column; None: the data set's main label
    task: str | None = None  # None: what dataset.json says, else what the labels look like
    evaluation: str = "auto"  # auto: the test split where there is one, else folds
    group: bool = True  # items of one group stay together; equal content always does
    seed: int = 0  # of the folds
    apply_reviews: bool = False  # reviewers' decisions change what rows teach
    twins_together: bool = False  # near-duplicates stay together
    repeats: int | None = None  # of the folds; None: 5, or 1 where a head retrains a network

    def __post_init__(self) -> None:
        if self.evaluation not in EVALUATIONS:
            raise BadName(
                f"no evaluation {self.evaluation!r}: {nearest(self.evaluation, EVALUATIONS)}"
            )
        if self.task is not None and self.task not in list(Task):
            raise BadName(f"no task {self.task!r}: {nearest(self.task, list(Task))}")
        if self.repeats is not None and not 1 <= self.repeats <= MOST_REPEATS:
            raise BadName(f"{self.repeats} repeats of the folds: expected 1 to {MOST_REPEATS}")


DEFAULT = PlanOptions()


class LabelKeywords(TypedDict, total=False):
    """Keywords of every door on what is learned; see `PlanOptions`."""

    label: str | None
    task: str | None
    seed: int


class RowKeywords(LabelKeywords, total=False):
    """Keywords on which rows teach and test as well; see `PlanOptions`."""

    evaluation: str
    group: bool


class PlanKeywords(RowKeywords, total=False):
    """The fields of `PlanOptions`, as keywords."""

    apply_reviews: bool
    twins_together: bool
    repeats: int | None


Options = TypeVar("Options")
P = ParamSpec("P")
T = TypeVar("T")


def options_from(
    kind: type[Options], keywords: Mapping[str, object], function: str, *own: str
) -> Options:
    """Make an options value from the keywords of a function that has ``own`` ones besides.

    Raises
    ------
    TypeError
        If there is no such keyword, with the nearest one.
    """
    known = [one.name for one in fields(kind)]  # type: ignore[arg-type]
    for name in keywords:
        if name not in known:
            close = nearest(name, [*known, *own], n=len(known) + len(own))
            raise TypeError(f"{function}() has no keyword {name!r}: {close}")
    return kind(**keywords)


def renamed(**new_of: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let a function go on taking what its keywords were called before: ``old="new"``."""

    def wrap(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def call(*args: P.args, **keywords: P.kwargs) -> T:
            given = {new_of.get(name, name): value for name, value in keywords.items()}
            return function(*args, **given)  # type: ignore[arg-type]

        return call

    return wrap
