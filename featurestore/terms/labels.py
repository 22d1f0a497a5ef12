"""What one value of a label column means: a class name, several labels, or nothing."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_CLASSES = 20  # more whole numbers than that in a column of floats are a quantity
SEPARATOR = "|"  # between the labels of an item that has several


def class_name(value: Any) -> str:
    """Return the name of a class; a whole number is one, however it is stored.

    >>> class_name(2.0), class_name("cat")
    ('2', 'cat')
    """
    return str(int(value)) if is_number(value) and not value % 1 else str(value)


def is_number(value: object) -> bool:
    """Whether a value is of a type of numbers with fractions."""
    return isinstance(value, (float, np.floating, Decimal))


def is_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark None, NaN and empty text, shape (n,)."""
    return np.array([v is None or v == "" or v != v for v in values], dtype=bool)


def likely_task(values: Collection[Any]) -> str:
    """Return the task that the values of a label column suggest; missing ones do not count.

    Lists, and texts with ``|`` in them, are several labels (``multilabel``). Floats and decimals
    are numbers (``regression``), unless they are at most `MOST_CLASSES` whole ones: a program that
    writes a gap between class numbers makes them floats. All else is ``multiclass``.

    >>> likely_task(["cat", "cat|dog"]), likely_task([0.0, 1.0, None]), likely_task([0.5, 1.0])
    ('multilabel', 'multiclass', 'regression')
    """
    if any(isinstance(value, (list, tuple, np.ndarray)) for value in values):
        return "multilabel"
    if any(isinstance(value, str) and SEPARATOR in value for value in values):
        return "multilabel"
    floats = {value for value in values if is_number(value)}
    numbers = {value for value in floats if value == value}  # NaN is a gap
    are_classes = len(numbers) <= MOST_CLASSES and all(value % 1 == 0 for value in numbers)
    return "multiclass" if are_classes else "regression"
