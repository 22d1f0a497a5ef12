"""What is predicted: one class, several labels, or a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadName, NotEnoughData
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.labels import SEPARATOR, class_name, is_missing, is_number, likely_task

N_BINS = 5  # of numbers, to spread them over folds
_LISTS = (list, tuple, np.ndarray)


class Task(StrEnum):
    """The kinds of target."""

    MULTICLASS = "multiclass"
    MULTILABEL = "multilabel"
    REGRESSION = "regression"


@dataclass(frozen=True, eq=False)
class Target:
    """What is to be predicted of n rows."""

    task: Task
    values: NDArray[Any]  # (n,) class numbers; (n, n_labels) bool; (n,) float64
    classes: tuple[str, ...] = ()  # names of class numbers or of label columns

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: NDArray[Any]) -> Target:
        """Return some rows, given as positions or as a mask of shape (n,)."""
        return Target(self.task, self.values[rows], self.classes)

    @property
    def lesson(self) -> NDArray[Any]:
        """What ``fit`` takes as y: names (n,), indicators (n, n_labels), or numbers (n,)."""
        if self.task is Task.MULTICLASS:
            return np.asarray(np.array(self.classes)[self.values])
        return self.values

    @property
    def strata(self) -> NDArray[np.bool_]:
        """What folds spread evenly, shape (n, n_strata).

        The classes; the labels, and having none of them; fifths of the numbers.
        """
        if self.task is Task.MULTILABEL:
            return np.column_stack([self.values, ~self.values.any(axis=1)])
        if self.task is Task.REGRESSION:
            edges = np.unique(np.quantile(self.values, np.linspace(0, 1, N_BINS + 1)[1:-1]))
            numbers = np.searchsorted(edges, self.values, side="right")
            return np.asarray(numbers[:, None] == np.arange(len(edges) + 1))
        return np.asarray(self.values[:, None] == np.arange(len(self.classes)))


def guess_task(values: NDArray[Any], name: str) -> tuple[Task, str | None]:
    """Return the task of known label values, (n,), and a note when the guess is not obvious.

    The rule is `likely_task`, by which dataset.json records a column's task, too.
    """
    task = Task(likely_task(values))
    floats = {value for value in values if is_number(value)}
    if task is Task.MULTILABEL and not any(isinstance(value, _LISTS) for value in values):
        return task, (
            f"Label {name!r} holds {SEPARATOR!r}, taken as standing between several labels: task "
            "multiclass takes each text as one."
        )
    if task is Task.MULTICLASS and floats:
        return task, (
            f"Label {name!r} holds {len(floats)} whole numbers, taken as classes: "
            "task regression takes them as a quantity."
        )
    if task is Task.REGRESSION and not any(value % 1 for value in floats):
        return task, (
            f"Label {name!r} holds many different whole numbers, taken as a quantity: "
            "task multiclass takes them as classes."
        )
    return task, None


def read_target(values: NDArray[Any], task: Task, name: str) -> Target:
    """Turn known label values (n,) into a target.

    Raises
    ------
    BadName
        If a value does not fit the task.
    NotEnoughData
        Fewer than two classes, no label, or numbers that do not vary.
    """
    if task is Task.REGRESSION:
        numbers = _numbers(values, name)
        if len(numbers) < 2 or np.ptp(numbers) == 0:
            raise NotEnoughData(f"column {name!r} holds fewer than two different numbers")
        return Target(task, numbers)
    if task is Task.MULTILABEL:
        sets = [_labels(value, name) for value in values]
        known = sorted(set().union(*sets)) if sets else []
        if not known:
            raise NotEnoughData(f"no item has a label in column {name!r}")
        place = {label: column for column, label in enumerate(known)}
        members = np.zeros((len(sets), len(known)), dtype=bool)
        for row, labels in enumerate(sets):
            members[row, [place[label] for label in labels]] = True
        return Target(task, members, tuple(known))
    if any(isinstance(value, _LISTS) for value in values):
        raise BadName(f"label {name!r} holds lists: its task is multilabel")
    fractions = [value for value in values if is_number(value) and value % 1]
    if fractions:
        raise BadName(
            f"label {name!r} holds numbers with fractions such as {fractions[0]}, so it holds "
            "no classes: its task is regression"
        )
    texts = [class_name(value) for value in values]
    names, codes = np.unique(np.array(texts, dtype=str), return_inverse=True)
    if len(names) < 2:
        found = f"one class ({str(names[0])!r})" if len(names) else "no label"
        raise NotEnoughData(f"{found} in column {name!r}: heads need two classes or more")
    return Target(task, codes.astype(np.intp), tuple(str(c) for c in names))


def _numbers(values: Sequence[Any] | NDArray[Any], name: str) -> NDArray[np.float64]:
    try:
        numbers = np.array([float(value) for value in values])
    except (TypeError, ValueError) as error:
        raise BadName(f"label {name!r} is not a column of numbers: {error}") from None
    if not np.isfinite(numbers).all():
        raise BadName(f"label {name!r} holds an infinite number: expected finite ones")
    return numbers


def _labels(value: object, name: str) -> set[str]:
    if isinstance(value, str):
        return {part for part in value.split(SEPARATOR) if part}
    if isinstance(value, _LISTS):
        return {str(one) for one in value if one is not None}
    raise BadName(
        f"label {name!r} holds {value!r}: several labels are a list, or a text with "
        f"{SEPARATOR!r} between them"
    )


def texts_of(embeddings: Embeddings) -> NDArray[Any]:
    """Return the items' texts, shape (n,); an item without one has an empty text."""
    texts = embeddings.column("text")
    return np.where(is_missing(texts), "", texts)
