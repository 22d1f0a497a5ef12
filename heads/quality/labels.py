"""Probable label errors: what a head and the neighbors say, against the label that is given.

Arrays in, probabilities out. Both are out of fold: the head learned from the other folds, and
neighbors of the row's own block have no vote.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from heads.estimators.knn import vote_weights

N_VOTES = 10  # neighbors that vote
# Chosen on benchmarks/quality.py's four data sets.
_FLOOR = 1e-3  # of all classes together: none is less likely than its share of that
_ALIKE = 0.1  # how far the witnesses' weights are drawn toward equal ones
_PRIOR = 3.0  # weight of "all errors are alike" against the errors that are seen


def neighbor_votes(
    rows: NDArray[np.integer],
    cosines: NDArray[np.float32],
    codes: NDArray[np.intp],
    block: NDArray[np.intp],
    n_classes: int,
) -> NDArray[np.float64]:
    """Return the share of each class among a row's neighbors, (n, n_classes).

    Parameters
    ----------
    rows, cosines : ndarray of shape (n, k)
        The kNN graph over the same n rows, best first; -1 is nobody.
    codes : ndarray of shape (n,)
        Class numbers as given.
    block : ndarray of shape (n,)
        Neighbors of the row's own block have no vote.
    """
    n = len(codes)
    heard = (rows >= 0) & (block[rows] != block[:, None])
    heard &= heard.cumsum(axis=1) <= N_VOTES
    weight = vote_weights(np.where(heard, cosines, -np.inf).astype(np.float64)) if n else heard
    weight = np.where(heard, np.nan_to_num(weight), 0.0)
    votes = np.zeros((n, n_classes))
    np.add.at(votes, (np.repeat(np.arange(n), rows.shape[1]), codes[rows].ravel()), weight.ravel())
    total = votes.sum(axis=1, keepdims=True)
    return np.where(total > 0, votes / np.maximum(total, 1e-300), 1 / n_classes)


def pooled(
    said: NDArray[np.float64], votes: NDArray[np.float64], codes: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return one opinion of two witnesses, (n, n_classes) each, weighed by how right they are.

    The linear pool under which the given labels are likeliest [1]_, with weights drawn a little
    toward equal ones: where a head is sure and right, votes add noise; elsewhere they add what
    it does not know.

    References
    ----------
    .. [1] Genest and Zidek, "Combining probability distributions", Statistical Science 1, 1986.
    """
    own = np.arange(len(codes))
    floor = _FLOOR / said.shape[1]
    a, b = (one[own, codes] + floor for one in (said, votes))
    best = minimize_scalar(
        lambda weight: -np.log(weight * a + (1 - weight) * b).sum(), bounds=(0, 1), method="bounded"
    )
    weight = (1 - _ALIKE) * float(best.x) + _ALIKE / 2
    return np.asarray(weight * said + (1 - weight) * votes)


@dataclass(frozen=True, eq=False)
class Judgement:
    """What is thought of the given labels, row by row."""

    doubt: NDArray[np.float64]  # (n,), the order: how likely each label is wrong
    likeliest: NDArray[np.intp]  # (n,), the class that the witnesses prefer
    is_named: NDArray[np.bool_]  # (n,), among as many as there are likely to be errors

    def __len__(self) -> int:
        return len(self.doubt)


def judge_labels(proba: NDArray[np.float64], codes: NDArray[np.intp]) -> Judgement:
    """Judge given labels by probabilities that are out of fold.

    The order is by Bayes: P(true = k | row, given = y) ~ proba[k] · P(given = y | true = k). How
    labels are confused, P(given | true), is counted as in confident learning [1]_: a row counts
    as class k where its probability reaches the mean that rows labelled k have. The counts are
    drawn toward errors that are all alike, since few rows say little about which class is taken
    for which. Rows are named down that order until there are as many as the counts say that
    there are errors, and only where the witnesses prefer another class.

    Parameters
    ----------
    proba : ndarray of shape (n, n_classes)
    codes : ndarray of shape (n,)
        Class numbers as given.

    References
    ----------
    .. [1] Northcutt, Jiang and Chuang, "Confident learning", JAIR 70, 2021, arXiv:1911.00068.
    """
    n, n_classes = proba.shape
    own = np.arange(n)
    counts = np.bincount(codes, minlength=n_classes)
    limit = np.bincount(codes, proba[own, codes], n_classes) / np.maximum(counts, 1)
    reaches = (proba >= limit - 1e-12) & (counts > 0)
    surest = np.where(reaches, proba, -1).argmax(axis=1)
    is_sure = reaches.any(axis=1)
    seen = np.zeros((n_classes, n_classes))  # true, given
    np.add.at(seen, (surest[is_sure], codes[is_sure]), 1)
    n_off = float(seen.sum() - np.trace(seen))
    alike = np.full((n_classes, n_classes), max(1.0, n_off) / max(1, n_classes * (n_classes - 1)))
    np.fill_diagonal(alike, counts)
    confusion = seen + _PRIOR * alike
    confusion /= np.maximum(confusion.sum(axis=1, keepdims=True), 1e-12)
    joint = (proba + _FLOOR / n_classes) * confusion[:, codes].T
    doubt = 1 - joint[own, codes] / joint.sum(axis=1)
    likeliest = proba.argmax(axis=1)
    n_errors = round(n_off / max(1.0, float(seen.sum())) * n)
    differs = np.flatnonzero(likeliest != codes)
    named = np.zeros(n, dtype=bool)
    named[differs[np.argsort(-doubt[differs], kind="stable")][:n_errors]] = True
    return Judgement(doubt, likeliest, named)
