"""Probable label errors: what a head and the neighbours say, against the label that is given.

Arrays in, probabilities out. Both witnesses are asked out of fold: a head by the other folds,
neighbours by rows that never part from this one left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from heads.estimators.knn import vote_weights

N_VOTES = 10  # neighbours that are heard
# Chosen on benchmarks/quality.py's four data sets, as was the mean of the two witnesses.
_FLOOR = 1e-4  # no class is less likely
_PRIOR = 3.0  # weight of "all errors are alike" against the errors that are seen


def neighbor_votes(
    rows: NDArray[np.integer],
    cosines: NDArray[np.float32],
    codes: NDArray[np.intp],
    block: NDArray[np.intp],
    n_classes: int,
) -> NDArray[np.float64]:
    """Return the share of each class among a row's neighbours, (n, n_classes).

    Parameters
    ----------
    rows, cosines : ndarray of shape (n, k)
        The kNN graph over the same n rows, best first; -1 is nobody.
    codes : ndarray of shape (n,)
        Class numbers as given.
    block : ndarray of shape (n,)
        Neighbours of the row's own block are not heard.
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


def error_probability(
    proba: NDArray[np.float64], codes: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return how likely each given label is wrong, and the likeliest class, each (n,).

    By Bayes: P(true = k | row, given = y) ~ proba[k] · P(given = y | true = k). How labels are
    confused, P(given | true), is counted as in confident learning: a row counts as class k where
    its probability reaches the mean that rows labelled k have. The counts are drawn toward errors
    that are all alike, since few rows say little about which class is taken for which.

    Parameters
    ----------
    proba : ndarray of shape (n, n_classes)
        Out of fold.
    codes : ndarray of shape (n,)
        Class numbers as given; every class occurs.

    References
    ----------
    .. [1] Northcutt, Jiang and Chuang, "Confident learning", JAIR 70, 2021, arXiv:1911.00068.
    """
    n, n_classes = proba.shape
    own = np.arange(n)
    counts = np.bincount(codes, minlength=n_classes)
    limit = np.bincount(codes, proba[own, codes], n_classes) / np.maximum(counts, 1)
    reaches = proba >= limit - 1e-12
    surest = np.where(reaches, proba, -1).argmax(axis=1)
    is_sure = reaches.any(axis=1)
    seen = np.zeros((n_classes, n_classes))  # true, given
    np.add.at(seen, (surest[is_sure], codes[is_sure]), 1)
    n_off = max(1.0, float(seen.sum() - np.trace(seen)))
    alike = np.full((n_classes, n_classes), n_off / max(1, n_classes * (n_classes - 1)))
    np.fill_diagonal(alike, counts)
    confusion = seen + _PRIOR * alike
    confusion /= confusion.sum(axis=1, keepdims=True)
    joint = (proba + _FLOOR) * confusion[:, codes].T
    posterior = joint / joint.sum(axis=1, keepdims=True)
    return 1 - posterior[own, codes], posterior.argmax(axis=1)
