"""Linear discriminant analysis with one shrunken covariance within classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heads.estimators.base import ScoreHead
from heads.estimators.normaliser import normalised
from heads.estimators.shrinkage import Shrunk, shrunk_by_class, shrunk_together
from heads.estimators.softmax import fit_sharpness, log_loss, softmax
from heads.estimators.weights import Rows, class_means, taken
from heads.labels.fitting import asked, inner_parts
from heads.labels.matrix import Matrix

CHOICE_ROWS = 5000  # what is chosen are two numbers: more rows do not make them better
BY_CLASS = (0.5, 0.0, 1.0)  # first the one that is kept where none is better


class LdaHead(ScoreHead):
    """Gaussian classes that share one covariance, shrunk by the rule of Ledoit and Wolf [1]_.

    The covariance is shrunk in two ways: that of all classes together towards a multiple of the
    identity, which serves few rows a class; and that of each class towards its own diagonal, as
    ``LinearDiscriminantAnalysis(shrinkage="auto")`` does, which serves columns of unlike scale
    and classes of unlike spread. How much of the second there is, none, half or all, is chosen
    by held-out log loss, and probabilities are sharpened on the same rows: with many columns
    Gaussian ones are far too sure. Held out are whole groups: one inner fold of five where that
    is 200 rows or more, else as many as make 200.

    Parameters
    ----------
    random_state : int or None
        Draws the rows that are held out.
    by_class : sequence of float
        Shares of the second way to choose from, in [0, 1]. The first of equals is kept, also
        where nothing can be held out.

    References
    ----------
    .. [1] Ledoit and Wolf, Journal of Multivariate Analysis 88, 2004, 365-411.
    """

    by_class: Sequence[float] = (0.0,)  # of heads that were saved before there was a choice

    def __init__(self, random_state: int | None = 0, by_class: Sequence[float] = BY_CLASS):
        self.random_state = random_state
        self.by_class = by_class

    def fit(
        self,
        X: Matrix,
        y: NDArray[Any],
        groups: NDArray[Any] | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn from X of shape (n, dim); labels y, groups and weights have shape (n,)."""
        if not len(self.by_class) or not all(0 <= share <= 1 for share in self.by_class):
            raise ValueError(f"by_class={self.by_class}: expected one number in [0, 1] or more")
        rows = self._begin_weighted_fit(X, y, groups, sample_weight)
        self.normaliser_, Z = normalised("centre", rows.X, rows.weights)
        n_classes = len(self.classes_)
        self._choose(Z, rows)
        whole = _Gaussians.of(Z, rows.y, n_classes, rows.weights)
        self.weights_, self.shrinkage_ = whole.discriminant(self.by_class_)
        return self

    def _choose(self, Z: NDArray[Any], whole: Rows) -> None:
        """Learn ``by_class_`` and ``sharpness_`` from held-out rows."""
        codes, weights = whole.y, whole.weights
        self.by_class_, self.sharpness_ = float(self.by_class[0]), 1.0
        request = asked(self)
        rows, inner = inner_parts(
            codes, len(self.classes_), whole.groups, request, whole.source,
            seed=self.random_state, n_rows=CHOICE_ROWS,
        )  # fmt: skip
        if not inner:
            return
        parts = [(rows[train], rows[test]) for train, test in inner]
        scores: dict[float, list[NDArray[np.float64]]] = {float(s): [] for s in self.by_class}
        for train, test in parts:
            tested = Z[test].astype(np.float64)
            fitted = _Gaussians.of(
                Z[train], codes[train], len(self.classes_), taken(weights, train)
            )
            for share, found in scores.items():
                W, _ = fitted.discriminant(share)
                found.append(tested @ W[:-1] + W[-1])
        held_out = np.concatenate([test for _, test in parts])
        truth, counts = codes[held_out], taken(weights, held_out)
        least = np.inf
        for share, found in scores.items():
            said = np.concatenate(found)
            sharpness = fit_sharpness(said, truth, weights=counts)
            loss = log_loss(sharpness * said, truth, counts)
            if loss < least:
                least, self.by_class_, self.sharpness_ = loss, share, sharpness
                if request is not None:
                    answer = softmax(sharpness * said)
                    request.answer(held_out, answer, whole.source, len(codes))

    def _scores(self, X: Matrix) -> NDArray[np.float64]:
        Z = self.normaliser_.apply(X)
        return np.asarray(Z @ self.weights_[:-1] + self.weights_[-1])


@dataclass(frozen=True, eq=False)
class _Gaussians:
    """Class means and shares, and the residuals with their covariance in both ways."""

    means: NDArray[np.float64]  # (n_classes, dim)
    log_shares: NDArray[np.float64]  # (n_classes,)
    residuals: NDArray[Any]  # (n, dim)
    together: Shrunk
    by_class: Shrunk

    @classmethod
    def of(
        cls,
        Z: NDArray[Any],
        codes: NDArray[np.intp],
        n_classes: int,
        weights: NDArray[np.float64] | None,
    ) -> Self:
        means, totals = class_means(Z, codes, n_classes, weights)
        least = 0.5 * (1.0 if weights is None else float(weights.mean()))
        residuals = Z - means[codes].astype(Z.dtype)
        return cls(
            means,
            # A class that is not here is unlikely.
            np.log(np.where(totals > 0, totals, least) / totals.sum()),
            residuals,
            shrunk_together(residuals, weights),
            shrunk_by_class(residuals, codes, weights),
        )

    def discriminant(self, by_class: float) -> tuple[NDArray[np.float64], float]:
        """Return log-posterior weights (dim + 1, n_classes), intercepts last, and the shrinkage.

        With mean m and share p of a class and covariance S within classes, the score of z is
        ``z S⁻¹ m - m S⁻¹ m / 2 + log p``.
        """
        covariance = self.together.blend(self.by_class, by_class)
        W = covariance.solve(self.residuals, self.means.T)
        intercepts = self.log_shares - (self.means.T * W).sum(axis=0) / 2
        return np.vstack([W, intercepts]), covariance.shrinkage
