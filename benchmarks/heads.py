"""Heads: as fast as they should be, and as honest as they say.

Run: python -m benchmarks.heads [speed] [honesty] [wide] [data] [words] [unlike] [twins]
[layers] [mix] [propagate] [finetune] [finetune_costs] (all by default)
speed takes some 6 minutes on 2 cores, honesty 30, wide 5, data 15, words 5, unlike 10, twins 20,
layers 20, mix 20, propagate 25 (the last seven need ../shared).
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeClassifierCV
from sklearn.model_selection import PredefinedSplit

import heads
from benchmarks.finetune import finetune, finetune_costs
from benchmarks.layers import layers
from benchmarks.memory import views_of
from benchmarks.mix import mix
from benchmarks.propagate import propagate
from benchmarks.report import Row, at_least, at_most, on_all_cores, run_sections
from benchmarks.twins import twins
from benchmarks.unlike import unlike
from featurestore.terms.intervals import wilson
from heads.catalogue.table import DEFAULT_HEADS, HEADS
from heads.estimators.logistic import CS, LogisticHead
from heads.estimators.normaliser import Normaliser
from heads.estimators.ridge import RidgeHead, indicators, ridge_loo
from heads.labels.folds import make_folds
from heads.labels.tasks import Target, Task
from heads.measures.conformal import misfit, threshold
from heads.measures.evaluate import Report, evaluate

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
    return [*speed_of_logistic(), *speed_of_ridge(), *speed_of_comparison()]


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


def honesty() -> list[Row]:
    """Count false claims of `heads.compare` among exchangeable encoders, and true ones."""
    return [*claims_of("folds"), *claims_of("test"), *coverage(), *conformal_coverage()]


def wide() -> list[Row]:
    """Count them where columns are more than rows, so that axes are found as float32."""
    return claims_of("folds of wide rows", gains=(0.0,), n_draws=50)


def claims_of(where: str, gains: Sequence[float] = (0.0, 0.35), n_draws: int = 1000) -> list[Row]:
    rows = []
    what = {
        "folds": "5 × 5 folds, n = 100",
        "test": "test split of 200",
        "folds of wide rows": f"5 × 5 folds, n = 100, logistic on 300 columns, {n_draws} draws",
    }[where]
    for gain in gains:
        found = on_all_cores(_claimed, [(where, gain, draw) for draw in range(n_draws)])
        claimed, right = np.sum(found, axis=0)
        if gain == 0:
            limit = 0.05 + 2 * (0.05 * 0.95 / n_draws) ** 0.5
            said = f'{what}: a false "better" among three exchangeable encoders'
            rows.append(at_most(said, claimed / n_draws, "share", limit))
        else:
            rows.append(Row(f"{what}: the better one of three is found", right / n_draws, "share"))
    return rows


def _claimed(where: str, gain: float, draw: int) -> tuple[bool, bool]:
    """Compare three encoders, the first better by ``gain``; false and right claims."""
    rng = np.random.default_rng([11, draw])
    n = 300 if where == "test" else 100
    codes = np.arange(n) % 2
    split = ["train"] * 100 + ["test"] * 200 if where == "test" else [None] * n
    head, dim, apart = ("prototype", 4, 0.6) if "wide" not in where else ("logistic", 300, 0.2)
    vectors = {
        f"timm:{name}": rng.normal(size=(n, dim)) + (apart + more) * codes[:, None]
        for name, more in (("a", gain), ("b", 0.0), ("c", 0.0))
    }
    views = list(views_of(vectors, [f"class {c}" for c in codes], split=split).values())
    found = heads.compare(views, (head,), evaluation=where.split()[0], save=False)
    claims = [
        one for one in found.claims() if one.low > 0 and not one.second[0].startswith("baseline")
    ]
    return (
        any(gain == 0 or one.first[0] != "timm:a" for one in claims),
        any(one.first[0] == "timm:a" for one in claims),
    )


def coverage() -> list[Row]:
    """How often 95 % intervals hold what they speak of."""
    cells = [(n, p) for n in (50, 200, 1000) for p in (0.7, 0.9, 0.98)]
    rows = []
    for (n, p), of_folds in zip(cells, on_all_cores(_folds_coverage, cells), strict=True):
        covers = [low <= p <= high for low, high in (wilson(k / n, n) for k in range(n + 1))]
        of_test = float(binom.pmf(np.arange(n + 1), n, p) @ covers)  # no draws: it is known
        rows.append(_covered(f"accuracy of a test split (Wilson), n = {n}, p = {p}", of_test))
        rows.append(_covered(f"accuracy of 5 × 5 folds (corrected t), n = {n}, p = {p}", of_folds))
    return rows


def _covered(what: str, held: float) -> Row:
    return Row(what, float(held), "share", "93 to 97 %", bool(0.93 <= held <= 0.97))


def _folds_coverage(n: int, p: float, n_draws: int = 4000) -> float:
    """Coverage of the expected accuracy of heads that learn from four fifths of n rows.

    Two Gaussian classes; the accuracy of a linear head on them is known in closed form.
    """
    dim = 5
    distance = 2 * norm.ppf(p)  # of the means: the best head is right in p
    shift = np.zeros(dim)
    shift[0] = distance

    def draw(rng: np.random.Generator, size: int) -> tuple[NDArray[Any], NDArray[Any]]:
        codes = np.arange(size) % 2
        return rng.normal(size=(size, dim)) + codes[:, None] * shift, codes

    def true_accuracy(X: NDArray[Any], codes: NDArray[Any]) -> float:
        means = np.stack([X[codes == c].mean(axis=0) for c in (0, 1)])
        w = means[1] - means[0]
        middle = means.mean(axis=0) @ w
        length = np.linalg.norm(w)
        return float((norm.cdf(middle / length) + norm.cdf((shift @ w - middle) / length)) / 2)

    rng = np.random.default_rng([6, n, int(100 * p)])
    truth = np.mean([true_accuracy(*draw(rng, 4 * n // 5)) for _ in range(4000)])
    held = 0
    ids = np.array([f"{i:05d}" for i in range(n)])
    for number in range(n_draws):
        X, codes = draw(rng, n)
        scores = []
        for train, test in make_folds(ids, codes, np.arange(n), seed=number).parts():
            means = np.stack([X[train][codes[train] == c].mean(axis=0) for c in (0, 1)])
            distances = ((X[test][:, None] - means) ** 2).sum(axis=2)
            scores.append(np.mean(distances.argmin(axis=1) == codes[test]))
        report = Report(codes, codes, {"accuracy": np.array(scores)}, "folds", 0.25)
        found = report.estimate("accuracy")
        assert found.low is not None
        assert found.high is not None
        held += found.low <= truth <= found.high
    return float(held) / n_draws


def conformal_coverage() -> list[Row]:
    """Coverage of prediction sets of a real head, the mean over calibration draws."""
    rows = []
    X, y = features(20_000, 20, 6, signal=0.4)
    head = HEADS["lda"].classifier
    assert head is not None
    fitted = head(0).fit(X[:2000], y[:2000])
    proba = fitted.predict_proba(X[2000:])
    scores = misfit(Task.MULTICLASS, y[2000:], proba)
    rng = np.random.default_rng(0)
    for n in (50, 200, 1000):
        covered = []
        for _ in range(400):
            order = rng.permutation(len(scores))
            limit = threshold(scores[order[:n]], 0.9)
            covered.append(np.mean(scores[order[n:]] <= limit))
        mean, error = float(np.mean(covered)), 2 * float(np.std(covered)) / 20
        low, high = 0.9 - error, 0.9 + 1 / (n + 1) + error
        bar = f"{low:.4f} to {high:.4f}"
        what = f"conformal sets at 90 %, {n} calibration rows"
        rows.append(Row(what, mean, "coverage", bar, low <= mean <= high))
    return rows


def data() -> list[Row]:
    """Compare heads × encoders on the ten real data sets, by folds or the given test split."""
    from benchmarks.ten import IMAGES, TEXTS, encoders_of, ten

    store = ten()
    rows = []
    for name in (*IMAGES, *TEXTS):
        views = [store.view(name, spec) for spec in encoders_of(name)]
        for group in (True, False) if name in ("hurricane_damage", "blood_cells") else (True,):
            found = heads.compare(views, group=group)
            print(name, found.n_items, file=sys.stderr, flush=True)
            for row in found.rows():
                encoder = row["encoder"].rpartition("/")[2].replace("model", "MiniLM")
                folds = "" if group else ", random folds"
                what = f"{name}{folds}: {row['head']} on {encoder}"
                unit = f"balanced accuracy ({row['low']:.3f} to {row['high']:.3f})"
                rows.append(Row(what, row["value"], unit))
    return rows


def words() -> list[Row]:
    """Compare zero-shot+probe with logistic at few labels, draw by draw."""
    from benchmarks.ten import encoders_of, ten

    store = ten()
    rows = []
    for name in ("banking77", "snips", "medical_abstracts"):
        views = [store.view(name, spec) for spec in encoders_of(name)]
        found = {}
        for head in ("logistic", "zero-shot+probe", "zero-shot"):
            for one in heads.curve(views, head, per_class=[1, 2, 4, 8, 16], n_draws=10).budgets:
                found[one.encoder, one.head, one.per_class] = one.scores
            print(name, head, file=sys.stderr, flush=True)
        for encoder in (str(view.spec) for view in views):
            short = encoder.rpartition("/")[2].replace("model", "MiniLM")
            value = 100 * found[encoder, "zero-shot", 1].mean()
            rows.append(Row(f"{name}: zero-shot on {short}", value, "% balanced accuracy"))
            for k in (1, 2, 4, 8, 16):
                plain, blend = (found[encoder, one, k] for one in ("logistic", "zero-shot+probe"))
                gain = 100 * (blend - plain)
                half = 2.262 * gain.std(ddof=1) / len(gain) ** 0.5  # t of 9 degrees of freedom
                unit = (
                    f"points ({gain.mean() - half:+.1f} to {gain.mean() + half:+.1f}; "
                    f"logistic {100 * plain.mean():.1f} %)"
                )
                what = f"{name}, {k} labels a class: zero-shot+probe − logistic on {short}"
                rows.append(Row(what, gain.mean(), unit))
    return rows


SECTIONS = {
    "speed": speed,
    "honesty": honesty,
    "wide": wide,
    "data": data,
    "words": words,
    "unlike": unlike,
    "twins": twins,
    "mix": mix,
    "layers": layers,
    "propagate": propagate,
    "finetune": finetune,
    "finetune_costs": finetune_costs,
}


if __name__ == "__main__":
    sys.exit(run_sections("heads", SECTIONS, sys.argv[1:]))
