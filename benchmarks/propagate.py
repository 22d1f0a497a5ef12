"""What unlabelled items teach: propagate against the best of logistic, ridge and lda.

Run: python -m benchmarks.heads propagate   (some 20 minutes on 2 cores)
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score

from benchmarks.report import Row, at_least, at_most
from benchmarks.ten import encoders_of, ten
from featurestore.store.store import Store
from heads.estimators.lda import LdaHead
from heads.estimators.logistic import LogisticHead
from heads.estimators.propagate import PropagateHead
from heads.estimators.ridge import RidgeHead
from heads.labels.folds import blocks
from heads.labels.unlabelled import Pooled

MOST_ROWS = {
    "neu_steel": 1200, "snips": 2000, "sign_digits": 800, "blood_cells": 1082, "banking77": 4000,
}  # fmt: skip
BUDGETS = (1, 2, 4, 8)
N_DRAWS = 5
MOST_TESTS = 1000
RIVALS = {"logistic": LogisticHead, "ridge": RidgeHead, "lda": LdaHead}
ROWS_TIMED = 20_000
HARM = -1.0  # points


@dataclass(frozen=True, eq=False)
class Items:
    """One data set: what two encoders say of it, classes and blocks."""

    X: NDArray[np.float32]
    other: NDArray[np.float32]  # of the witness
    y: NDArray[np.intp]
    block: NDArray[np.intp]

    @classmethod
    def of(cls, store: Store, name: str) -> Items:
        first, second = (store.view(name, spec).load() for spec in encoders_of(name)[:2])
        assert (first.ids == second.ids).all()
        kept = np.sort(np.random.default_rng(0).permutation(len(first))[: MOST_ROWS[name]])
        labels = first.columns[str(first.label_column)][kept].astype(str)
        keys = [first.columns[key][kept] for key in ("content_hash", "group")]
        y = np.unique(labels, return_inverse=True)[1]
        return cls(first.vectors[kept], second.vectors[kept], y, blocks(*keys))

    def draw(
        self, per_class: int, is_skewed: bool, seed: int
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
        """Return labelled, unlabelled and test rows: whole blocks apart.

        Skewed classes have from all to a tenth of their rows, in a geometric row.
        """
        rng = np.random.default_rng([seed, per_class, is_skewed])
        drawn = rng.permutation(self.block.max() + 1)
        is_test = np.isin(self.block, drawn[: int(0.3 * len(drawn))])
        test = rng.permutation(np.flatnonzero(is_test))[:MOST_TESTS]
        rest = rng.permutation(np.flatnonzero(~is_test))
        n_classes = self.y.max() + 1
        share = np.ones(n_classes)
        if is_skewed:
            share = 10 ** -(rng.permutation(n_classes) / (n_classes - 1))
        labelled, unlabelled = [], []
        for c in range(n_classes):
            own = rest[self.y[rest] == c]
            own = own[: max(per_class + 1, round(len(own) * share[c]))]
            n = min(per_class, max(1, len(own) // 2))
            labelled.append(own[:n])
            unlabelled.append(own[n:])
        return np.concatenate(labelled), np.concatenate(unlabelled), test


def propagate() -> list[Row]:
    """Measure gains, harmful decisions and seconds."""
    store = ten()
    rows: list[Row] = []
    default: list[float] = []
    strict: list[float] = []
    for name in MOST_ROWS:
        items = Items.of(store, name)
        for is_skewed in (False, True):
            for per_class in BUDGETS:
                found = [_scores(items, per_class, is_skewed, seed) for seed in range(N_DRAWS)]
                rows.append(_row(name, per_class, is_skewed, found, default, strict))
                print(rows[-1].what, f"{rows[-1].value:+.1f}", rows[-1].unit, file=sys.stderr)
                sys.stderr.flush()
    n = len(default)
    harmful, by_strict = (100 * float(np.mean(np.array(d) < HARM)) for d in (default, strict))
    rows += [
        Row(f"all {n} draws: propagate − the best of three", float(np.mean(default)), "points"),
        at_most("… harmful (below −1 point)", harmful, "% of draws", 10),
        Row(f"all {n} draws: propagate:strict − the best", float(np.mean(strict)), "points"),
        at_most("… harmful", by_strict, "% of draws", 2),
        _seconds(store),
    ]
    return rows


def _scores(items: Items, per_class: int, is_skewed: bool, seed: int) -> dict[str, float]:
    """Return the balanced accuracy of each head on one draw, in per cent."""
    rows, others, test = items.draw(per_class, is_skewed, seed)
    X, y, at = items.X, items.y, np.concatenate([rows, others])
    pooled = Pooled.of(X[rows], X[others], items.block[at], other=items.other[at])
    heads = {name: rival() for name, rival in RIVALS.items()}
    fitted = {name: head.fit(X[rows], y[rows]) for name, head in heads.items()}
    strict = fitted["propagate:strict"] = PropagateHead(strict=True).fit(pooled, y[rows])
    # Where the witness agrees the two heads are the same.
    fitted["propagate"] = strict if strict.used_ else PropagateHead().fit(pooled, y[rows])
    truth = y[test]
    return {
        name: 100 * float(balanced_accuracy_score(truth, head.predict(X[test])))
        for name, head in fitted.items()
    }


def _row(
    name: str,
    per_class: int,
    is_skewed: bool,
    found: list[dict[str, float]],
    default: list[float],
    strict: list[float],
) -> Row:
    """Make the row of one cell; note its draws."""
    best = max(RIVALS, key=lambda rival: np.mean([one[rival] for one in found]))
    gains = [one["propagate"] - one[best] for one in found]
    by_strict = [one["propagate:strict"] - one[best] for one in found]
    default += gains
    strict += by_strict
    score = np.mean([one[best] for one in found])
    drawn, too = (" ".join(f"{gain:+.1f}" for gain in gs) for gs in (gains, by_strict))
    unit = f"points over {best} {score:.1f} % (draws {drawn}; strict {too})"
    classes = "10 : 1" if is_skewed else "1 : 1"
    what = f"{name}, {per_class} labels a class, classes {classes}: propagate"
    bar = 0.0 if (name, per_class) == ("banking77", 4) else HARM
    if per_class == 1 and not is_skewed and name in ("neu_steel", "snips"):
        bar = 10.0
    return at_least(what, float(np.mean(gains)), unit, bar)


def _seconds(store: Store) -> Row:
    """Time a fit beside 20,000 unlabelled items against the search for their neighbors."""
    views = [store.view(name, encoders_of(name)[0]).load() for name in ("snips", "banking77")]
    X = np.concatenate([one.vectors for one in views])
    labels = views[0].columns[str(views[0].label_column)].astype(str)
    rows = np.concatenate([np.flatnonzero(labels == c)[:8] for c in np.unique(labels)])
    others = np.setdiff1d(np.arange(len(X)), rows)[:ROWS_TIMED]
    pooled = Pooled.of(X[rows], X[others], np.arange(len(rows) + len(others)))
    begin = time.perf_counter()
    pooled.neighbors(1)
    graph_s = time.perf_counter() - begin
    begin = time.perf_counter()
    PropagateHead().fit(pooled, labels[rows])
    fit_s = time.perf_counter() - begin
    unit = f"× ({fit_s:.1f} s beside {graph_s:.1f} s for the neighbors of {ROWS_TIMED:,} items)"
    return at_most("propagate beside 20,000 items over the kNN graph", fit_s / graph_s, unit, 0.5)
