"""What one value of a label column means: a class name, several labels, or nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# The canonical order of options in a spec: two spellings of one encoder are one view.
MOST_CLASSES = 20  # more whole numbers than that in a column of floats are a quantity
SEPARATOR = "|"  # between the labels of an item that has several


def class_name(value: Any) -> str:
    """Return the name of a class; a whole number is one, however it is stored.

    >>> class_name(2.0), class_name("cat")
    ('2', 'cat')
    """
    return (
        str(int(value)) if isinstance(value, (float, np.floating)) and not value % 1 else str(value)
    )


def is_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark None, NaN and empty text, shape (n,)."""
    return np.array([v is None or v == "" or v != v for v in values], dtype=bool)
