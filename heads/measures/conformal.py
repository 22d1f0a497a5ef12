"""Split-conformal prediction sets, whose coverage is known whatever the head.

The rows that calibrate must have taught the head nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heads.labels.tasks import Task


def threshold(scores: NDArray[np.float64], coverage: float) -> float:
    """Return the score that a new row stays within with probability ``coverage`` or more.

    The ``⌈(n + 1) coverage⌉``-th smallest of n scores [1]_: over draws of calibration rows the
    coverage lies between ``coverage`` and ``coverage + 1 / (n + 1)``. Infinite where n is too
    small to promise it.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        How badly the truth fits the prediction, of the calibration rows.

    References
    ----------
    .. [1] Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005; Sadinle, Lei,
       Wasserman, JASA 114, 2019 (least ambiguous sets).
    """
    rank = math.ceil((len(scores) + 1) * coverage - 1e-12)
    if rank > len(scores):
        return math.inf
    return float(np.partition(scores, rank - 1)[rank - 1])


def misfit(task: Task, truth: NDArray[Any], said: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how badly the truth fits: 1 less its probability, or the distance of numbers.

    Parameters
    ----------
    truth : ndarray of shape (n,)
        Class numbers, or numbers.
    said : ndarray of shape (n, n_classes), or (n,)
        Probabilities, or numbers.
    """
    if task is Task.REGRESSION:
        return np.abs(truth - said)
    return np.asarray(1 - said[np.arange(len(truth)), truth])


def sets(
    proba: NDArray[np.float64], limit: float, *, allow_empty: bool = False
) -> NDArray[np.bool_]:
    """Return which classes are in the set of each row, (n, n_classes).

    A set that would be empty holds the most probable class, unless ``allow_empty``: its row fits
    no class as well as the calibration rows did. Sets only grow by it, so the coverage holds.
    """
    is_in = np.asarray(1 - proba <= limit + 1e-12)
    if not allow_empty and proba.size:
        none = ~is_in.any(axis=1)
        is_in[none, proba[none].argmax(axis=1)] = True
    return is_in
