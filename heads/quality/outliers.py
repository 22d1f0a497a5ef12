"""Outliers: far from the neighbors, and far from every class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from heads.estimators.distance import mahalanobis

FAR = 3.5  # robust standard deviations: Iglewicz and Hoaglin (1993) on modified z-scores
N_NEIGHBORS = 10
_NOWHERE = 1e-6  # a distance that is none, in float32


def outlier_scores(
    vectors: NDArray[np.float32],
    cosines: NDArray[np.float32],
    codes: NDArray[np.intp] | None = None,
) -> NDArray[np.float64]:
    """Return how far out each row lies, (n,): 0 is the middle, above `FAR` an outlier.

    The mean of two modified z-scores of log distances: of the mean distance to the nearest
    neighbors, and of the Mahalanobis distance of the vectors of length 1 to the nearest class
    (or to the middle of all), under one shrunken covariance.

    Parameters
    ----------
    vectors : ndarray of shape (n, dim)
    cosines : ndarray of shape (n, k)
        To the nearest neighbors, best first.
    codes : ndarray of shape (n,), optional
        Class numbers; -1 where there is no label.
    """
    near = 1 - cosines[:, :N_NEIGHBORS].astype(np.float64).mean(axis=1)
    return (_z(near) + _z(mahalanobis(vectors, codes))) / 2


def _z(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return modified z-scores of log distances; 0.6745 makes them those of a normal.

    Rows that lie on others (copies) have no say in what is usual, and are no outliers.
    """
    is_apart = distance > _NOWHERE
    if is_apart.sum() < 3:
        return np.zeros(len(distance))
    log = np.log(np.maximum(distance, _NOWHERE))
    middle = np.median(log[is_apart])
    spread = float(np.median(np.abs(log[is_apart] - middle)))
    if spread < 1e-6:  # more than half are alike
        spread = 0.6745 * float(log[is_apart].std())
    return np.asarray(0.6745 * (log - middle) / max(spread, 1e-6))
