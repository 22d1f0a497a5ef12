"""A head that learns from some of many rows, drawn evenly; it predicts all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone

from heads.labels.fitting import fit_head, last_step
from heads.labels.matrix import Matrix
from heads.labels.sampling import fair_rows

SAMPLED_ROWS = 50_000
_AT_ONCE = 5_000  # rows that are predicted at once


class SampledHead(MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """Fit another head on at most so many rows: whole groups, and of each class its share.

    Parameters
    ----------
    head : estimator
    n_rows : int
    random_state : int or None
        Draws the rows.
    """

    def __init__(
        self, head: BaseEstimator, n_rows: int = SAMPLED_ROWS, random_state: int | None = 0
    ):
        self.head = head
        self.n_rows = n_rows
        self.random_state = random_state

    def fit(self, X: Matrix, y: NDArray[Any], groups: NDArray[Any] | None = None) -> Self:
        """Learn from X of shape (n, dim); y and groups have shape (n,)."""
        y = np.asarray(y)
        block = np.arange(len(y)) if groups is None else np.asarray(groups)
        rows = fair_rows(_strata(y), block, self.n_rows, self.random_state)
        within = None if groups is None else block[rows]
        self.head_ = fit_head(clone(self.head), X[rows], y[rows], within)
        return self

    def __getattr__(self, name: str) -> Any:
        """Do what the fitted head does, of what this one lacks; it predicts part by part."""
        if name.startswith("__") or name == "steps" or "head_" not in self.__dict__:
            raise AttributeError(name)
        head = self.head_
        is_plain = hasattr(head, "predict_proba") and not hasattr(head, "predict_both")
        if name == "predict_both" and is_plain and getattr(head.classes_, "ndim", 0) == 1:
            return partial(_in_parts, self._predict_both)  # features of texts are made once
        found = getattr(head if hasattr(head, name) else last_step(head), name)
        return partial(_in_parts, found) if name.startswith("predict") else found

    def _predict_both(self, X: Matrix) -> tuple[NDArray[Any], NDArray[np.float64]]:
        proba = self.head_.predict_proba(X)
        return self.head_.classes_[proba.argmax(axis=1)], proba


def _in_parts(predict: Callable[[Matrix], Any], X: Matrix) -> Any:
    found = [predict(X[at : at + _AT_ONCE]) for at in range(0, X.shape[0], _AT_ONCE)]
    if isinstance(found[0], tuple):
        return tuple(np.concatenate(one) for one in zip(*found, strict=True))
    return np.concatenate(found)


def _strata(y: NDArray[Any]) -> NDArray[np.intp]:
    """Return what is spread evenly, (n,): classes, combinations of labels, tenths of numbers."""
    if y.ndim == 1 and y.dtype.kind == "f":
        edges = np.quantile(y, np.linspace(0, 1, 11)[1:-1])
        return np.asarray(np.searchsorted(edges, y, side="right"))
    return np.asarray(np.unique(y, axis=0, return_inverse=True)[1]).reshape(-1)
