"""The nearest class mean."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featurestore.terms.vectors import class_sums
from heads.estimators.base import ScoreHead
from heads.estimators.normaliser import Normaliser
from heads.estimators.softmax import fit_sharpness
from heads.labels.matrix import Matrix


class PrototypeHead(ScoreHead):
    """Nearest class mean of centred vectors of length 1 (SimpleShot's CL2N [1]_).

    The score of a class is minus half the squared distance to its mean. Probabilities are
    a softmax over scores, sharpened to be most likely when each training row is scored
    against means without itself.

    References
    ----------
    .. [1] Wang et al., SimpleShot, 2019, arXiv:1911.04623.
    """

    def fit(self, X: Matrix, y: NDArray[Any]) -> Self:
        """Learn the class means from X of shape (n, dim) and labels y of shape (n,)."""
        X, codes = self._begin_fit(X, y)
        self.normaliser_ = Normaliser("l2").fit(X)
        Z = self.normaliser_.transform(X).astype(np.float64)
        sums, counts = class_sums(Z, codes, len(self.classes_))
        self.means_ = sums / counts[:, None]
        held_out = counts[codes] > 1  # the only row of a class has no mean without it
        self.sharpness_ = 1.0
        if held_out.any():
            self.sharpness_ = fit_sharpness(
                self._leave_one_out(Z, codes)[held_out], codes[held_out]
            )
        return self

    def _leave_one_out(
        self, Z: NDArray[np.float64], codes: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """Score each training row against class means without that row.

        Without z, the mean m of n rows becomes m - (z - m) / (n - 1), so that the distance
        to it grows by the factor n / (n - 1).
        """
        scores = _half_distances(Z, self.means_)
        n = np.bincount(codes)[codes]
        rows = np.arange(len(Z))
        scores[rows, codes] *= (n / np.maximum(n - 1, 1)) ** 2
        return scores

    def _scores(self, X: Matrix) -> NDArray[np.float64]:
        return _half_distances(self.normaliser_.transform(X).astype(np.float64), self.means_)


def _half_distances(Z: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return -|z - m|² / 2, shape (n, n_classes)."""
    squares = (Z**2).sum(axis=1)[:, None] + (means**2).sum(axis=1)
    return np.asarray(Z @ means.T - squares / 2)
