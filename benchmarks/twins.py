"""Heads beside their twins of scikit-learn: what a user would write in place of each.

Run: python -m benchmarks.heads twins   (some 20 minutes on 2 cores)
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.report import Row, at_least
from benchmarks.ten import IMAGES, TEXTS, encoders_of, ten
from featurestore.terms.embeddings import Embeddings
from heads.catalogue.table import HEADS
from heads.labels.folds import blocks, make_folds
from heads.labels.tasks import Target, Task
from heads.measures.evaluate import evaluate

ROWS = 700  # of each data set
MOST_BEHIND = 0.5  # points of balanced accuracy that lda may lie behind its twin
TWINS: dict[str, Callable[[], Any]] = {
    "lda": lambda: LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
    "ridge": lambda: make_pipeline(
        StandardScaler(), RidgeClassifierCV(alphas=10 ** np.linspace(0, 5, 11))
    ),
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    "prototype": NearestCentroid,
    "knn": lambda: KNeighborsClassifier(10, metric="cosine", weights="distance"),
}


def twins() -> list[Row]:
    """Compare each head with its twin: the same 25 folds, groups kept together.

    Of the first encoder of each data set, on rows that are drawn with one seed.
    """
    store = ten()
    rows = []
    for name in (*IMAGES, *TEXTS):
        begun = time.perf_counter()
        found = _against_twins(name, store.view(name, encoders_of(name)[0]).load())
        for row in found:
            print(row.what, f"{row.value:+.2f}", row.unit, file=sys.stderr)
        print(f"{time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        rows += found
    return rows


def _against_twins(name: str, found: Embeddings) -> list[Row]:
    label = found.columns[str(found.label_column)]
    known = [i for i, one in enumerate(label) if one is not None]
    kept = np.sort(np.random.default_rng(0).permutation(known)[:ROWS])
    X, ids = np.asarray(found.vectors[kept]), found.ids[kept].astype(str)
    classes, y = np.unique(label[kept].astype(str), return_inverse=True)
    keys = [found.columns["group"][kept]] if "group" in found.columns else []
    block = blocks(np.unique(X, axis=0, return_inverse=True)[1].astype(str), *keys)
    parts = list(make_folds(ids, y, block, classes=list(classes)).parts())
    target = Target(Task.MULTICLASS, y, tuple(classes.tolist()))
    rows = []
    for head, twin in TWINS.items():
        build = HEADS[head].builder(Task.MULTICLASS)
        assert build is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's, of constant columns
            ours, theirs = (
                evaluate(one, X, target, parts, estimand="folds", groups=block).report
                for one in (lambda: build(0), twin)  # noqa: B023
            )
        gain = ours.difference(theirs, "balanced_accuracy")
        low, high = (100 * (gain.value if end is None else end) for end in (gain.low, gain.high))
        score = 100 * theirs.estimate("balanced_accuracy").value
        unit = f"points ({low:+.1f} to {high:+.1f}; twin {score:.1f} %)"
        what = f"{name}, {len(kept):,} rows: {head} − its twin of scikit-learn"
        is_held = head == "lda"
        value = 100 * gain.value
        rows.append(
            at_least(what, value, unit, -MOST_BEHIND) if is_held else Row(what, value, unit)
        )
    return rows
