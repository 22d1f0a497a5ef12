"""The best of several heads, chosen within the training rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from featurestore.errors import NotEnoughData
from heads.labels.fitting import asked, asking, fit_head
from heads.labels.folds import make_folds
from heads.labels.matrix import Matrix
from heads.labels.tasks import Target, Task
from heads.measures.fits import predictions
from heads.measures.metrics import METRICS

FEW_ROWS = 300  # below, a fifth of the rows is too few to choose on: all five inner folds


class ChosenHead(BaseEstimator):  # type: ignore[misc]
    """Tries each candidate on held-out training rows, and fits the best on all of them.

    What it predicts is what somebody would get who compares heads and keeps the winner, so an
    evaluation of it is free of the winner's luck. Whole groups are held out: one inner fold
    of five, with fewer than 300 rows all five.

    Parameters
    ----------
    candidates : sequence of (name, estimator)
        The first of equals wins.
    task : Task
    metric : str
        Of the task.
    random_state : int or None
    """

    def __init__(
        self,
        candidates: Sequence[tuple[str, Any]],
        task: str = Task.MULTICLASS,
        metric: str = "balanced_accuracy",
        random_state: int | None = 0,
    ):
        self.candidates = candidates
        self.task = task
        self.metric = metric
        self.random_state = random_state

    def fit(self, X: Matrix, y: NDArray[Any], groups: NDArray[Any] | None = None) -> Self:
        """Learn from X (n, dim), y as the task wants it and, optionally, groups (n,)."""
        block = np.arange(len(y))
        if groups is not None:
            block = np.unique(np.asarray(groups), return_inverse=True)[1]
        task = Task(self.task)
        names = [name for name, _ in self.candidates]
        chosen = 0
        if len(names) > 1:
            scores = self._held_out(X, y, block, task)
            chosen = int(np.argmax(scores)) if scores is not None else 0
        self.chosen_ = names[chosen]
        head, request = clone(self.candidates[chosen][1]), asked(self)
        if request is None:
            self.head_ = fit_head(head, X, y, block)
        else:
            with asking(head, request.fold) as passed_on:
                self.head_ = fit_head(head, X, y, block)
            request.said = passed_on.said
        if task is Task.MULTICLASS:
            self.classes_ = self.head_.classes_
        return self

    def _held_out(
        self, X: Matrix, y: NDArray[Any], block: NDArray[Any], task: Task
    ) -> NDArray[np.float64] | None:
        """Return each candidate's mean score, higher is better; None if nothing can be held out."""
        if task is Task.MULTICLASS:
            classes, values = np.unique(y, return_inverse=True)
            target = Target(task, values, tuple(classes.tolist()))
        else:
            target = Target(task, y)
        parts = _inner_parts(target, block, self.random_state or 0)
        if not parts:
            return None
        metric = METRICS[task][self.metric]
        sign = 1 if metric.higher_is_better else -1
        scores = np.zeros((len(self.candidates), len(parts)))
        for p, (train, test) in enumerate(parts):
            for c, (_, head) in enumerate(self.candidates):
                fitted = fit_head(clone(head), X[train], y[train], block[train])
                found = predictions(fitted, X[test], target.take(test))
                scores[c, p] = sign * metric.compute(found, np.ones((1, len(test))))[0]
        return np.asarray(scores.mean(axis=1))

    def predict(self, X: Matrix) -> NDArray[Any]:
        """Return what the chosen head predicts."""
        check_is_fitted(self)
        return np.asarray(self.head_.predict(X))

    @available_if(lambda self: hasattr(self.head_, "predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Matrix) -> NDArray[np.float64]:
        """Return the chosen head's probabilities."""
        return np.asarray(self.head_.predict_proba(X))


ChosenHead.__module__ = "heads.chosen"  # the name that bundles on disk have for it


def _inner_parts(
    target: Target, block: NDArray[Any], seed: int
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return training and held-out rows; none where nothing can be held out.

    A class that lies in one block always teaches: it cannot be held out, and must not keep the
    others from being so.
    """
    rows = np.arange(len(target))
    if target.task is Task.MULTICLASS:
        pairs = np.unique(np.column_stack([target.values, block]), axis=0)
        n_blocks = np.bincount(pairs[:, 0], minlength=len(target.classes))
        rows = np.flatnonzero(n_blocks[target.values] > 1)
    if len(rows) == 0:
        return []
    apart = np.setdiff1d(np.arange(len(target)), rows)
    strata = target.values if target.task is Task.MULTICLASS else target.strata
    try:
        folds = make_folds(
            np.char.zfill(rows.astype(str), 12), strata[rows], block[rows], n_repeats=1, seed=seed
        )
    except NotEnoughData:  # a single group
        return []
    parts = [
        (np.union1d(rows[teach], apart[~np.isin(block[apart], block[rows[test]])]), rows[test])
        for teach, test in folds.parts()
    ]
    if target.task is Task.MULTICLASS:
        parts = [part for part in parts if len(np.unique(target.values[part[0]])) > 1]
    return parts[: None if len(target) < FEW_ROWS else 1]
