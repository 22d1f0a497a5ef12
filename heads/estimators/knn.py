"""Weighted votes of the nearest training vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from heads.estimators.base import ScoreHead
from heads.estimators.normaliser import normalised
from heads.labels.fitting import asked
from heads.labels.matrix import Matrix

TEMPERATURE = 0.07  # of DINO's k-NN evaluation: facebookresearch/dinov2, eval/knn.py
TEMPERATURES = (TEMPERATURE, 0.02, 0.2)  # first the one that is kept where none is better
CHUNK_ROWS = 1024
MOST_AT_ONCE = 2000  # vectors that are compared with each other at once
CHOICE_ROWS = 1000  # on which k and the temperature are chosen
KS = (1, 3, 5, 10, 20, 50)


class KnnChoices:
    """What kNN chooses from, for classes and for numbers."""

    # Of heads that were saved before there was a choice.
    temperatures: Sequence[float] = (TEMPERATURE,)
    temperature_ = TEMPERATURE

    def __init__(
        self,
        ks: Sequence[int] = KS,
        random_state: int | None = 0,
        temperatures: Sequence[float] = TEMPERATURES,
    ):
        self.ks = ks
        self.temperatures = temperatures
        self.random_state = random_state

    def _check_choices(self) -> None:
        """Raise ValueError unless there are values to choose from, all above 0."""
        for name in ("ks", "temperatures"):
            values = getattr(self, name)
            if not len(values) or not all(0 < value < np.inf for value in values):
                raise ValueError(f"{name}={values}: expected one number above 0 or more")


class KnnHead(KnnChoices, ScoreHead):
    """k nearest neighbours by cosine of centred vectors, votes weighted by exp(cosine / T).

    Probabilities are the shares of the votes.

    Parameters
    ----------
    ks : sequence of int
        Numbers of neighbours to choose from, by leave-one-out balanced accuracy on 1,000
        training rows at most; the smallest of equals is kept.
    temperatures : sequence of float
        T to choose from for that k, by the leave-one-out Brier score: it says little of who
        wins, and much of how sure that looks. k is chosen with the first of them.
    random_state : int or None
        Draws those rows.
    """

    def fit(self, X: Matrix, y: NDArray[Any], groups: NDArray[Any] | None = None) -> Self:
        """Keep X of shape (n, dim); a row's own group (n,) has no vote while k and T are chosen."""
        X, codes, _ = self._begin_fit(X, y)
        self._check_choices()
        self.normaliser_, self.vectors_ = normalised("l2", X)
        self.codes_ = codes
        block = np.arange(len(codes)) if groups is None else np.asarray(groups)
        rng = np.random.default_rng(self.random_state)
        request, rows = asked(self), rng.permutation(len(codes))
        rows = (rows if request is None else request.first(rows))[:CHOICE_ROWS]
        nearest, cosines = nearest_others(self.vectors_, rows, max(self.ks), block)
        class_sizes = np.bincount(codes[rows], minlength=len(self.classes_))
        recall_weights = 1 / class_sizes[codes[rows]]
        right = []
        for k in self.ks:
            said = self._votes(nearest[:, :k], cosines[:, :k], self.temperatures[0]).argmax(axis=1)
            right.append(recall_weights @ (said == codes[rows]))
        self.k_ = k = self.ks[int(np.argmax(right))]
        truth = np.eye(len(self.classes_))[codes[rows]]
        losses = [
            np.mean((self._votes(nearest[:, :k], cosines[:, :k], t) - truth) ** 2)
            for t in self.temperatures
        ]
        self.temperature_ = self.temperatures[int(np.argmin(losses))]
        if request is not None:
            said = self._votes(nearest[:, :k], cosines[:, :k], self.temperature_)
            request.answer(rows, said, None, len(codes))
        return self

    def _votes(
        self, rows: NDArray[np.intp], cosines: NDArray[Any], temperature: float
    ) -> NDArray[np.float64]:
        """Return the share of the votes for each class, shape (n_queries, n_classes)."""
        n, n_classes = len(rows), len(self.classes_)
        cell = np.arange(n)[:, None] * n_classes + self.codes_[rows]
        weights = vote_weights(cosines, temperature)
        votes = np.bincount(cell.ravel(), weights.ravel(), n * n_classes).reshape(n, n_classes)
        return np.asarray(votes / np.maximum(votes.sum(axis=1, keepdims=True), 1e-300))

    def _scores(self, X: Matrix) -> NDArray[np.float64]:
        found = nearest_rows(self.normaliser_.apply(X), self.vectors_, self.k_)
        return self._votes(*found, self.temperature_)

    def _probabilities(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return scores  # shares of the votes


def nearest_others(
    vectors: NDArray[Any], rows: NDArray[np.intp], k: int, block: NDArray[Any]
) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """Return what `nearest_rows` does for some of the vectors, each without its own block."""
    if len(rows) <= len(vectors) / 2 or len(vectors) > MOST_AT_ONCE:
        return nearest_rows(vectors[rows], vectors, k, block[rows], block)
    return _nearest((vectors @ vectors.T)[rows], k, block[rows], block)  # half the products


def nearest_rows(
    queries: NDArray[Any],
    vectors: NDArray[Any],
    k: int,
    query_block: NDArray[Any] | None = None,
    block: NDArray[Any] | None = None,
) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """Return rows and inner products of the k nearest vectors, best first; -inf where barred.

    A query has no neighbour of its own block. Both results have shape (n_queries, min(k, n)).
    """
    rows, cosines = [], []
    for begin in range(0, len(queries), CHUNK_ROWS):
        chunk = slice(begin, begin + CHUNK_ROWS)
        own = None if query_block is None else query_block[chunk]
        found, score = _nearest(queries[chunk] @ vectors.T, k, own, block)
        rows.append(found)
        cosines.append(score)
    return np.concatenate(rows), np.concatenate(cosines)


def _nearest(
    cosine: NDArray[Any], k: int, query_block: NDArray[Any] | None, block: NDArray[Any] | None
) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """Return the columns and values of the k largest of each row, best first."""
    if query_block is not None and block is not None:
        cosine[query_block[:, None] == block] = -np.inf
    found = _largest(cosine, min(k, cosine.shape[1]))
    score = np.take_along_axis(cosine, found, axis=1)
    order = np.argsort(-score, axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(score, order, axis=1)


def vote_weights(cosines: NDArray[Any], temperature: float = TEMPERATURE) -> NDArray[Any]:
    """Return exp(cosine / temperature), (n, k), scaled to 1 for the best of each row.

    Rows whose cosines, best first, are all -inf get zeros.
    """
    best = cosines[:, :1]
    return np.asarray(np.exp((cosines - np.where(np.isfinite(best), best, 0)) / temperature))


def _largest(values: NDArray[Any], k: int) -> NDArray[np.intp]:
    """Return the columns of the k largest values of each row, in no order, (n_rows, k).

    Finding the k-th value and then who reaches it is several times faster than
    ``argpartition``; rows where others tie with it take the slow way.
    """
    at = values.shape[1] - k
    least = np.partition(values, at, axis=1)[:, at]
    reaches = values >= least[:, None]
    is_tied = reaches.sum(axis=1) > k
    if not is_tied.any():
        return np.nonzero(reaches)[1].reshape(len(values), k)
    found = np.empty((len(values), k), dtype=np.intp)
    found[~is_tied] = np.nonzero(reaches[~is_tied])[1].reshape(-1, k)
    found[is_tied] = np.argpartition(-values[is_tied], k - 1, axis=1)[:, :k]
    return found
