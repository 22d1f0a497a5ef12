"""The nearest class mean."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heads.estimators.base import ScoreHead
from heads.estimators.normaliser import MANY_ROWS, LazyRows, normalised, normalised_late
from heads.estimators.softmax import fit_sharpness, softmax
from heads.estimators.weights import Rows, class_means, taken
from heads.labels.fitting import Request, asked
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

    def fit(self, X: Matrix, y: NDArray[Any], sample_weight: ArrayLike | None = None) -> Self:
        """Learn the class means from X of shape (n, dim), labels y and weights of shape (n,)."""
        rows = self._begin_weighted_fit(X, y, None, sample_weight)
        codes, weights = rows.y, rows.weights
        request = asked(self)
        is_late = len(codes) > MANY_ROWS and request is None
        held_out = np.bincount(codes)[codes] > 1  # the only row of a class has no mean without it
        self.sharpness_ = 1.0
        if is_late:
            self.normaliser_, late = normalised_late("l2", rows.X, weights)
            self.means_ = _late_means(late, codes, len(self.classes_), weights)
        else:
            self.normaliser_, Z = normalised("l2", rows.X, weights)
            self.means_, _ = class_means(Z, codes, len(self.classes_), weights)
        if held_out.any():
            self.sharpness_ = fit_sharpness(
                self._leave_one_out(late if is_late else Z, codes, weights)[held_out],
                codes[held_out],
                weights=taken(weights, held_out),
            )
        if request is not None:
            self._answer(request, Z, rows)
        return self

    def _answer(self, request: Request, Z: NDArray[Any], whole: Rows) -> None:
        """Score what is asked for against means without it: of whole groups, unlike one row."""
        n = len(whole.y)
        rows, parts = request.parts(whole.source, n)
        scores = np.zeros((n, len(self.classes_)))
        for train, test in parts:
            learned = rows[train]
            counts = taken(whole.weights, learned)
            means, _ = class_means(Z[learned], whole.y[learned], len(self.classes_), counts)
            scores[rows[test]] = _half_distances(Z[rows[test]], means)
        tested = np.concatenate([rows[test] for _, test in parts]) if parts else rows[:0]
        request.answer(tested, softmax(self.sharpness_ * scores[tested]), whole.source, n)

    def _leave_one_out(
        self,
        Z: NDArray[Any] | LazyRows,
        codes: NDArray[np.intp],
        weights: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Score each training row against class means without that row.

        Without z of weight w, the mean m of rows of weight n in all becomes
        m - (z - m) w / (n - w), so that the distance to it grows by the factor n / (n - w).
        """
        if isinstance(Z, LazyRows):
            parts = [_half_distances(Z[some], self.means_) for some in Z.blocks()]
            scores = np.concatenate(parts)
        else:
            scores = _half_distances(Z, self.means_)
        w = np.ones(len(Z)) if weights is None else weights
        n = np.bincount(codes, weights=w)[codes]
        is_alone = np.bincount(codes)[codes] == 1
        scores[np.arange(len(Z)), codes] *= (n / np.where(is_alone, n, n - w)) ** 2
        return scores

    def _scores(self, X: Matrix) -> NDArray[np.float64]:
        return _half_distances(self.normaliser_.apply(X), self.means_)


def _late_means(
    Z: LazyRows, codes: NDArray[np.intp], n_classes: int, weights: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return the mean of each class, (n_classes, dim), of rows that are made block by block."""
    sums = np.zeros((n_classes, Z.shape[1]))
    totals = np.zeros(n_classes)
    for some in Z.blocks():
        means, of_block = class_means(Z[some], codes[some], n_classes, taken(weights, some))
        sums += means * of_block[:, None]
        totals += of_block
    return np.asarray(sums / np.where(totals > 0, totals, 1)[:, None])


def _half_distances(Z: NDArray[Any], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return -|z - m|² / 2, shape (n, n_classes)."""
    squares = np.einsum("ij,ij->i", Z, Z, dtype=np.float64)[:, None] + (means**2).sum(axis=1)
    return np.asarray(Z @ means.T.astype(Z.dtype) - squares / 2)
