"""Prediction sets of a head: rows that are kept for them, and what is learned from those."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadName
from featurestore.terms.intervals import wilson
from heads.labels.folds import make_folds
from heads.labels.plan import Plan
from heads.labels.tasks import Task
from heads.measures.conformal import misfit, sets, threshold
from heads.measures.fits import predictions
from heads.saved.card import Conformal, CoverageOnTest

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

    from featurestore.terms.activations import Activations
    from heads.labels.blocks import Blocks
    from heads.labels.matrix import Matrix


def set_aside(plan: Plan, coverage: float | None, seed: int) -> tuple[Plan, NDArray[np.intp]]:
    """Return the plan without its calibration rows among the training rows, and those rows."""
    nobody = np.empty(0, dtype=np.intp)
    if coverage is None:
        return plan, nobody
    if not 0 < coverage < 1:
        raise BadName(f"coverage {coverage}: expected a share between 0 and 1, such as 0.9")
    if plan.task is Task.MULTILABEL:
        raise BadName("prediction sets are for one class or a number an item, not several labels")
    is_val = plan.split == "val"
    if plan.reviewed is not None:
        is_val &= plan.reviewed.teaches & plan.reviewed.is_tested
    val = np.flatnonzero(is_val)
    val = val[~np.isin(plan.block[val], plan.block[plan.train])]
    if plan.folds is None and len(val):
        return plan, val
    strata = plan.target.values if plan.task is Task.MULTICLASS else plan.target.strata
    train = plan.train
    folds = make_folds(
        plan.ids[train], strata[train], plan.block[train], classes=plan.classes, n_repeats=1,
        seed=seed,
    )  # fmt: skip
    teach, calibrate = next(folds.parts())
    return replace(plan, train=train[teach]), train[calibrate]


def calibrated_sets(
    estimator: BaseEstimator,
    X: Matrix | Blocks | Activations,
    plan: Plan,
    rows: NDArray[np.intp],
    coverage: float | None,
) -> Conformal | None:
    """Calibrate prediction sets on rows of a plan, and say how they do on a test split.

    None where no coverage is asked for.
    """
    if coverage is None:
        return None

    def said(rows: NDArray[np.intp]) -> Any:
        predicted = predictions(estimator, X[rows], plan.target.take(rows))
        if plan.task is Task.REGRESSION:
            return predicted.predicted
        if predicted.proba is None:
            raise BadName("prediction sets need a head with probabilities (predict_proba)")
        return predicted.proba

    truth = plan.target.values
    limit = threshold(misfit(plan.task, truth[rows], said(rows)), coverage)
    calibrated = Conformal(coverage, len(rows), None if limit == np.inf else limit)
    if not len(plan.test):
        return calibrated
    on_test = said(plan.test)
    is_held = misfit(plan.task, truth[plan.test], on_test) <= limit + 1e-12
    mean_size = None
    if plan.task is Task.MULTICLASS:
        in_set = sets(on_test, limit)  # as predict gives them
        is_held = in_set[np.arange(len(plan.test)), truth[plan.test]]
        mean_size = float(in_set.sum(axis=1).mean())
    low, high = wilson(float(is_held.mean()), len(is_held))
    return replace(calibrated, on_test=CoverageOnTest(float(is_held.mean()), low, high, mean_size))
