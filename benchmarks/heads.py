"""Heads: as fast as they should be, and as honest as they say.

Run: python -m benchmarks.heads [speed] [honesty] [data]   (all by default)
speed takes some 6 minutes on 2 cores, honesty 5, data 15 (it needs ../shared).
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeClassifierCV
from sklearn.model_selection import PredefinedSplit

from benchmarks.report import Row, at_least, at_most, finish
from heads.catalogue import DEFAULT_HEADS, HEADS
from heads.estimators.logistic import CS, LogisticHead
from heads.estimators.normaliser import Normaliser
from heads.estimators.ridge import RidgeHead, indicators, ridge_loo
from heads.evaluate import evaluate
from heads.folds import make_folds
from heads.tasks import Target, Task

REPEATS = 3


def features(
    n: int, dim: int, n_classes: int, *, signal: float, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Make vectors with a spectrum as embeddings have: a few strong directions, many weak.

    The signal is such that a good head is right in four to nine rows of ten.
    """
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(n) % n_classes)
    scale = (1 + np.arange(dim)) ** -0.5
    means = rng.normal(size=(n_classes, dim)) * scale * signal
    return (means[codes] + rng.normal(size=(n, dim)) * scale).astype(np.float32), codes


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    found = run()
    return time.perf_counter() - begin, found


def against(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int = REPEATS) -> Any:
    """Time both, interleaved; return median seconds of each and what they gave last."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        s, a = timed(ours)
        seconds[0].append(s)
        s, b = timed(theirs)
        seconds[1].append(s)
    return median(seconds[0]), median(seconds[1]), a, b


def speed() -> list[Row]:
    rows = [*speed_of_logistic(), *speed_of_ridge(), *speed_of_comparison()]
    return rows


def speed_of_logistic() -> list[Row]:
    X, y = features(60_000, 512, 100, signal=0.18)
    X, y, held, held_y = X[:50_000], y[:50_000], X[50_000:], y[50_000:]
    head = LogisticHead("standardise")
    Z = Normaliser("standardise").fit(X)
    rng = np.random.default_rng(0)
    fold = np.where(rng.random(len(y)) < 0.2, 0, -1)

    def theirs() -> Any:
        return LogisticRegressionCV(
            Cs=np.array(CS), cv=PredefinedSplit(fold), scoring="neg_log_loss", max_iter=500,
            l1_ratios=(0,), use_legacy_attributes=False,
        ).fit(Z.transform(X), y)  # fmt: skip

    ours_s, theirs_s, a, b = against(lambda: head.fit(X, y), theirs, 1)
    ours = float(np.mean(a.predict(held) == held_y))
    plain = float(np.mean(b.predict(Z.transform(held)) == held_y))
    return [
        Row("logistic, 50k × 512 × 100, C chosen: ours", ours_s, "s"),
        Row("LogisticRegressionCV, one PredefinedSplit, the same grid", theirs_s, "s"),
        at_least("… theirs over ours", theirs_s / ours_s, "ratio", 3),
        Row("accuracy on 10k others: ours", ours, "share"),
        Row("… theirs", plain, "share"),
        at_least("… ours less theirs", ours - plain, "share", -0.003),
    ]


def speed_of_ridge() -> list[Row]:
    X, y = features(50_000, 512, 100, signal=0.18)
    alphas = tuple(float(a) for a in 10 ** np.linspace(-3, 3, 20))
    Z = Normaliser("centre").fit_transform(X)
    ours_s, theirs_s, _, _ = against(
        lambda: RidgeHead("centre", alphas).fit(X, y),
        lambda: RidgeClassifierCV(alphas=alphas).fit(Z, y),
    )
    part, codes = Z[:400].astype(np.float64), y[:400]
    targets = indicators(codes, 100)
    found = ridge_loo(part, targets, (0.3,))
    worst = 0.0
    for out in range(0, 400, 40):
        kept = np.arange(400) != out
        again = ridge_loo(part[kept], targets[kept], (0.3,)).weights
        worst = max(
            worst, float(np.abs(part[out] @ again[:-1] + again[-1] - found.scores[out]).max())
        )
    return [
        Row("ridge, 50k × 512 × 100, 20 alphas, exact leave-one-out: ours", ours_s, "s"),
        Row("RidgeClassifierCV, the same alphas", theirs_s, "s"),
        at_least("… theirs over ours", theirs_s / ours_s, "ratio", 3),
        at_most("leave-one-out against explicit refits", worst, "largest error", 1e-6),
    ]


def speed_of_comparison() -> list[Row]:
    X, y = features(10_000, 512, 10, signal=0.14)
    ids = np.array([f"{i:05d}" for i in range(len(y))])
    parts = list(make_folds(ids, y, np.arange(len(y)), n_repeats=1).parts())
    target = Target(Task.MULTICLASS, y, tuple(str(c) for c in range(10)))

    def ours() -> None:
        for name in DEFAULT_HEADS:
            build = HEADS[name].builder(Task.MULTICLASS)
            assert build is not None
            evaluate(lambda: build(0), X, target, parts, estimand="folds")  # noqa: B023

    def plain() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in DEFAULT_HEADS:
                for train, _test in parts:
                    LogisticRegression().fit(X[train], y[train])

    ours_s, plain_s, _, _ = against(ours, plain)
    rows = []
    for name in DEFAULT_HEADS:
        build = HEADS[name].builder(Task.MULTICLASS)
        assert build is not None
        seconds, _ = timed(lambda: evaluate(lambda: build(0), X, target, parts, estimand="f"))  # noqa: B023
        rows.append(Row(f"… of it {name}", seconds, "s"))
    return [
        Row(
            f"{len(DEFAULT_HEADS)} heads × 5 folds, 10k × 512 × 10, choices and scores: ours",
            ours_s,
            "s",
        ),
        *rows,
        Row("25 plain LogisticRegression().fit", plain_s, "s"),
        at_most("… ours over theirs", ours_s / plain_s, "ratio", 1.0),
    ]


def main() -> int:
    sections = {"speed": speed}
    wanted = sys.argv[1:] or list(sections)
    return finish("heads", [row for name in wanted for row in sections[name]()])


if __name__ == "__main__":
    sys.exit(main())
