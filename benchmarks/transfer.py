"""Verdicts: how often they err, what they say of ten real data sets, and what scores cost.

Run: python -m benchmarks.transfer [errors] [planted] [scores] [layers] [ten]   (all by default)
layers and ten need ../shared and keep a store in featurestore-data-bench (FEATURESTORE_BENCH).
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

import heads
from benchmarks.heads import features
from benchmarks.report import Row, at_least, at_most, median_s, run_sections
from benchmarks.ten import IMAGES, TEXTS, encoders_of, mobilenet, ten
from heads.comparison import ComparedHead
from heads.estimators.prototype import PrototypeHead
from heads.evaluate import ON_TEST, Report, evaluate, over_folds
from heads.folds import make_folds
from heads.tasks import Target, Task
from heads.transfer.scores import gbc, h_score, knn_loo, logme, prototype_loo, ridge_loo
from heads.transfer.verdict import Kind, Verdict, judge

MARGIN = 0.01
SCORES = {
    "ridge_loo": ridge_loo, "prototype_loo": prototype_loo, "logme": logme, "h_score": h_score,
    "gbc": gbc,
}  # fmt: skip


def errors() -> list[Row]:
    """Operating characteristics through `judge`: a test split, and repeated folds."""
    rows = []
    for n in (200, 1000, 5000, 10_000):
        for delta in (0.0, -0.02, -0.05):
            n_draws = 2000 if n <= 1000 else 600
            kinds = [
                _simulated(n, delta, np.random.default_rng([n, draw])) for draw in range(n_draws)
            ]
            shares = {kind: kinds.count(kind) / n_draws for kind in Kind}
            claimed = shares[Kind.POSITIVE] + shares[Kind.NEGATIVE]
            name = f"test split, n = {n:,}, Δ = {100 * delta:g} points, 10 % discordant"
            if delta == 0:
                error = 2 * (0.05 * 0.95 / n_draws) ** 0.5
                rows.append(
                    at_most(f"{name}: positive or negative", claimed, "share", 0.05 + error)
                )
                rows.append(Row(f"{name}: neutral", shares[Kind.NEUTRAL], "share"))
            else:
                rows.append(Row(f"{name}: negative", shares[Kind.NEGATIVE], "share"))
    rows += folds_errors()
    return rows


def _within_error(n_draws: int) -> float:
    """Return 5 % and two Monte-Carlo standard errors."""
    return float(0.05 + 2 * (0.05 * 0.95 / n_draws) ** 0.5)


def _simulated(n: int, delta: float, rng: np.random.Generator) -> Kind:
    first, second = (0.1 + delta) / 2, (0.1 - delta) / 2
    kind = rng.choice(4, n, p=[first, second, 0.8, 0.1])
    verdict = judge(
        _on_test(np.isin(kind, [0, 2])), _on_test(np.isin(kind, [1, 2])), "accuracy", margin=MARGIN
    )
    inside = verdict.low > -MARGIN and verdict.high < MARGIN
    assert verdict.kind is not Kind.NEUTRAL or inside, "neutral beyond what the interval supports"
    return verdict.kind


def _on_test(right: NDArray[np.bool_]) -> ComparedHead:
    codes = np.zeros(len(right), dtype=np.intp)
    scores = {"accuracy": np.array([right.mean()])}
    return ComparedHead("e", "best", Report(codes, np.where(right, 0, 1), scores, ON_TEST), 0.0)


def folds_errors() -> list[Row]:
    """Two encoders drawn from one distribution, 5 × 5 folds, heads really trained."""
    rows = []
    for n in (60, 200):
        n_draws = 400
        for delta, name in ((0.0, "exchangeable encoders"), (0.5, "the second one better")):
            kinds = []
            values = []
            for draw in range(n_draws):
                verdict = _folds_verdict(n, delta, np.random.default_rng([7, n, draw]))
                kinds.append(verdict.kind)
                values.append(verdict.value)
            claimed = np.mean([kind in (Kind.POSITIVE, Kind.NEGATIVE) for kind in kinds])
            what = f"5 × 5 folds, n = {n}, {name}"
            if delta == 0:
                error = 2 * (0.05 * 0.95 / n_draws) ** 0.5
                rows.append(
                    at_most(f"{what}: positive or negative", claimed, "share", 0.05 + error)
                )
            else:
                found = kinds.count(Kind.NEGATIVE) / n_draws
                mean = -100 * float(np.mean(values))
                rows.append(Row(f"{what} by {mean:.1f} points: found", found, "share"))
    return rows


def _folds_verdict(n: int, delta: float, rng: np.random.Generator) -> Verdict:
    codes = np.arange(n) % 2
    ids = np.array([f"{i:04d}" for i in range(n)])
    parts = list(make_folds(ids, codes, np.arange(n), seed=int(rng.integers(2**31))).parts())
    cells = []
    for strength in (0.7, 0.7 + delta):
        X = rng.normal(size=(n, 4)) + strength * codes[:, None]
        report = evaluate(
            PrototypeHead, X, Target(Task.MULTICLASS, codes, ("a", "b")), parts,
            estimand=over_folds(5, 5),
        ).report  # fmt: skip
        cells.append(ComparedHead("e", "best", report, 0.0))
    return judge(cells[0], cells[1], "balanced_accuracy", margin=MARGIN)


def planted() -> list[Row]:
    """Negative transfer that is there by construction: pooling removes what tells the classes."""
    from benchmarks.memory import views_of

    rows = []
    for n in (100, 200, 400):
        found = []
        for seed in range(20):
            rng = np.random.default_rng([n, seed])
            codes = np.arange(n) % 2
            maps = rng.normal(size=(n, 6, 16))  # channels × places
            maps[np.arange(n), 0, np.where(codes == 0, 3, 12)] += 2.5  # only the place tells
            raw, pooled = maps.reshape(n, -1), maps.max(axis=2)
            labels = [f"class {c}" for c in codes]
            views = views_of({"baseline:pixels": raw, "timm:x": pooled}, labels)
            verdict = heads.assess_transfer(
                [views["timm:x"]], heads=("ridge", "prototype"), blend=False, save=False
            ).verdicts[0]
            found.append(verdict.kind)
        share = found.count(Kind.NEGATIVE) / len(found)
        what = f"planted negative transfer, n = {n}: found"
        rows.append(at_least(what, share, "share", 0.8) if n == 400 else Row(what, share, "share"))
    permuted = []
    for seed in range(100):
        rng = np.random.default_rng([99, seed])
        labels = [f"class {c}" for c in rng.permutation(np.arange(120) % 3)]
        views = views_of(
            {"baseline:pixels": rng.normal(size=(120, 10)), "timm:x": rng.normal(size=(120, 5))},
            labels,
        )
        verdict = heads.assess_transfer(
            [views["timm:x"]], heads=("ridge", "prototype"), blend=False, save=False
        ).verdicts[0]
        permuted.append(verdict.kind in (Kind.POSITIVE, Kind.NEGATIVE))
    share = float(np.mean(permuted))
    limit = _within_error(len(permuted))
    rows.append(at_most("labels permuted: positive or negative", share, "share", limit))
    return rows


def scores() -> list[Row]:
    """Seconds of each score on 50k × 512 × 100, over those of one SVD of the vectors."""
    X, y = features(50_000, 512, 100, signal=0.18)
    F = X.astype(np.float64)
    svd = median_s(lambda: np.linalg.svd(F, full_matrices=False), 1)
    rows = [Row("one SVD of 50k × 512 (float64)", svd, "s")]
    for name, compute in SCORES.items():
        rows.append(Row(f"{name} over the SVD", median_s(lambda: compute(F, y), 1) / svd, "ratio"))  # noqa: B023
    few, codes = F[:5000], y[:5000]
    rows.append(Row("knn_loo on 5,000 rows", median_s(lambda: knn_loo(few, codes), 1), "s"))
    return rows


def layers() -> list[Row]:
    """Kendall's τ of each score with real heads over the depths of one pretrained network."""
    store = ten()
    taus: dict[str, list[float]] = {}
    rows = []
    depths = "1+2+3+4+5"
    for name in (
        "neu_steel",
        "hurricane_damage",
        "blood_cells",
        "sign_digits",
        "mednist",
        "cifar10",
    ):
        store.embed([], dataset=name, encoders=[mobilenet(f"#layer={depths}")])
        dataset = store.dataset(name)
        views = [v for v in dataset.views() if v.spec.network == _network() and v.spec.options]
        compared = heads.compare(views, ("logistic",), evaluation="folds")
        values = {r["encoder"]: r["value"] for r in compared.rows() if r["head"] == "logistic"}
        found = _ranking(views, values)
        best = max(values, key=values.__getitem__)
        last = max(values, key=lambda spec: int(spec.rpartition("layer=")[2]))
        gain = compared.difference((best, "logistic"), (last, "logistic"), n_claims=len(values) - 1)
        rows.append(
            Row(
                f"{name}: best depth {best.rpartition('layer=')[2]} less the last, low end",
                100 * gain.low,
                f"points ({100 * gain.value:+.1f})",
            )
        )
        for score, tau in found.items():
            taus.setdefault(score, []).append(tau)
    for score, found_taus in taus.items():
        rows.append(
            Row(
                f"Kendall's τ over 5 depths of MobileNetV2, mean of 6 data sets: {score}",
                float(np.mean(found_taus)),
                f"τ (least {min(found_taus):.2f})",
            )
        )
    return rows


def _network() -> Any:
    from featurestore.values import EncoderSpec

    return EncoderSpec.parse(mobilenet()).network


def _ranking(views: list[Any], values: dict[str, float]) -> dict[str, float]:
    from heads.plan import make_plan
    from heads.transfer.rank import agreement, rank_encoders

    tables = {str(view.spec): view.load() for view in views}
    plan = make_plan(next(iter(tables.values())), evaluation="folds")
    vectors = {spec: table.vectors[plan.rows] for spec, table in tables.items()}
    return agreement(rank_encoders(vectors, plan.target, groups=plan.block, head_values=values))


def verdicts() -> list[Row]:
    """Judge the ten real data sets."""
    store = ten()
    rows = []
    for name in (*IMAGES, *TEXTS):
        views = [store.view(name, spec) for spec in encoders_of(name)]
        found = heads.assess_transfer(views)
        for verdict in found.verdicts:
            encoder = verdict.encoder.rpartition("/")[2]
            encoder = "MiniLM" if encoder == "model" else encoder
            low, high = 100 * verdict.low, 100 * verdict.high
            what = (
                f"{name}, {encoder} against {verdict.reference} ({verdict.encoder_value:.3f}, "
                f"{verdict.reference_value:.3f}): {verdict.kind.upper()}, {low:+.1f} to {high:+.1f}"
            )
            rows.append(Row(what, 100 * verdict.value, "points"))
            print(rows[-1].what, file=sys.stderr, flush=True)
    return rows


SECTIONS = {
    "errors": errors, "planted": planted, "scores": scores, "layers": layers, "ten": verdicts,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_sections("transfer", SECTIONS, sys.argv[1:]))
