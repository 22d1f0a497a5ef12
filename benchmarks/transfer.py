"""Verdicts: how often they err, what they say of ten real data sets, and what scores cost.

Run: python -m benchmarks.transfer [errors] [folds] [planted] [scores] [layers] [ten] [curves]
(all by default). layers, ten and curves need ../shared and keep a store in featurestore-data-bench
(FEATURESTORE_BENCH).
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

import heads
from benchmarks.heads import features
from benchmarks.report import Row, at_least, at_most, median_s, on_all_cores, run_sections
from benchmarks.ten import IMAGES, TEXTS, encoders_of, mobilenet, ten
from heads.estimators.prototype import PrototypeHead
from heads.experiments.learning_curve import laws_of
from heads.labels.estimands import ON_TEST, over_folds
from heads.labels.folds import make_folds
from heads.labels.tasks import Target, Task
from heads.measures.comparison import ComparedHead
from heads.measures.evaluate import Report, evaluate
from heads.transfer.scores import gbc, h_score, knn_loo, logme, prototype_loo, ridge_loo
from heads.transfer.verdict import LEAST_ITEMS, Kind, Verdict, judge

MARGIN = 0.01
SCORES = {
    "ridge_loo": ridge_loo, "prototype_loo": prototype_loo, "logme": logme, "h_score": h_score,
    "gbc": gbc, "knn_loo": knn_loo,
}  # fmt: skip


def errors() -> list[Row]:
    """Operating characteristics through `judge`: a test split, and repeated folds."""
    rows = []
    for metric, about in (
        ("accuracy", "accuracy"),
        ("balanced_accuracy", "balanced accuracy of classes 9 : 1"),
    ):
        for n in (200, 500, 1000, 2000, 5000, 10_000):
            for delta in (0.0, -0.01, -0.02, -0.05):
                seed = [n, round(-100 * delta), len(metric)]
                found = [
                    _simulated(n, delta, metric, np.random.default_rng([*seed, draw]))
                    for draw in range(N_SIMULATED)
                ]
                rows += _shares(f"test split, {about}, n = {n:,}, ", delta, found)
    for delta in (0.0, -0.05):
        found = [_of_groups(delta, np.random.default_rng([5, i])) for i in range(N_GROUPED)]
        rows += _shares("test split, accuracy, n = 1,000 in groups of five, ", delta, found)
    needed = [_simulated(500, 0.0, "accuracy", np.random.default_rng([3, i])) for i in range(200)]
    n = round(float(np.median([verdict.rows_needed for verdict in needed])))
    settled = [_simulated(n, 0.0, "accuracy", np.random.default_rng([4, i])) for i in range(2000)]
    share = sum(one.kind is Kind.NEUTRAL for one in settled) / len(settled)
    rows.append(Row(f"Δ = 0 with the {n:,} rows that 500 said would decide: neutral", share,
                    "share (meant: 0.8)"))  # fmt: skip
    return rows


N_SIMULATED, N_GROUPED = 4000, 1000
FOLDS_OF = ((20, 1000), (30, 1000), (40, 1000), (60, 1000), (200, 1000), (1000, 400))  # rows, draws


def _shares(name: str, delta: float, found: list[Verdict]) -> list[Row]:
    """Return how often each verdict was given, against 5 % and two Monte-Carlo errors."""
    shares = {kind: sum(one.kind is kind for one in found) / len(found) for kind in Kind}
    name += f"Δ = {100 * delta:g} points, 10 % discordant"
    if delta == 0:
        claimed = shares[Kind.POSITIVE] + shares[Kind.NEGATIVE]
        limit = _within_error(len(found))
        return [
            at_most(f"{name}: positive or negative", claimed, "share", limit),
            Row(f"{name}: neutral", shares[Kind.NEUTRAL], "share"),
        ]
    rows = [Row(f"{name}: negative", shares[Kind.NEGATIVE], "share")]
    if -delta >= MARGIN:  # a difference of the margin or more is not neutral
        limit = _within_error(len(found), 0.025)
        rows.append(at_most(f"{name}: neutral", shares[Kind.NEUTRAL], "share", limit))
    return rows


def _within_error(n_draws: int, rate: float = 0.05) -> float:
    """Return a rate and two Monte-Carlo standard errors."""
    return float(rate + 2 * (rate * (1 - rate) / n_draws) ** 0.5)


def _simulated(n: int, delta: float, metric: str, rng: np.random.Generator) -> Verdict:
    """Judge two heads of which each is right where the other is not in some 5 % of rows."""
    first, second = (0.1 + delta) / 2, (0.1 - delta) / 2
    kind = rng.choice(4, n, p=[first, second, 0.8, 0.1])
    is_rare = np.arange(n) < (n // 10 if metric == "balanced_accuracy" else 0)
    return judge(
        _on_test(np.isin(kind, [0, 2]), is_rare), _on_test(np.isin(kind, [1, 2]), is_rare),
        metric, margin=MARGIN,
    )  # fmt: skip


def _on_test(right: NDArray[np.bool_], is_rare: NDArray[np.bool_]) -> ComparedHead:
    codes = is_rare.astype(np.intp)
    recalls = [right[codes == c].mean() for c in np.unique(codes)]
    scores = {
        "accuracy": np.array([right.mean()]), "balanced_accuracy": np.array([np.mean(recalls)]),
    }  # fmt: skip
    said = np.where(right, codes, 1 - codes)
    return ComparedHead("e", "best", Report(codes, said, scores, ON_TEST), 0.0)


def _of_groups(delta: float, rng: np.random.Generator) -> Verdict:
    """Judge heads whose rows stand and fall by groups of five."""
    kind = rng.choice(4, 200, p=[(0.1 + delta) / 2, (0.1 - delta) / 2, 0.8, 0.1])
    kind = np.where(rng.random((200, 5)) < 0.8, kind[:, None], 2).ravel()
    codes, group, rows = np.arange(1000) % 2, np.repeat(np.arange(200), 5), np.arange(1000)
    cells = []
    for wins in ([0, 2], [1, 2]):
        said = np.where(np.isin(kind, wins), codes, 1 - codes)
        report = evaluate(
            lambda said=said: Told(said), rows[:, None],  # type: ignore[misc]
            Target(Task.MULTICLASS, codes, ("0", "1")), [(rows, rows)], estimand=ON_TEST,
            groups=group,
        ).report  # fmt: skip
        cells.append(ComparedHead("e", "best", report, 0.0))
    return judge(cells[0], cells[1], "accuracy", margin=MARGIN)


class Told:
    """Says what it was told to, by row number."""

    classes_ = np.array(["0", "1"])

    def __init__(self, said: NDArray[np.intp]) -> None:
        self.said = said

    def fit(self, X: Any, y: Any) -> Told:
        return self

    def predict(self, X: Any) -> Any:
        return self.classes_[self.said[X[:, 0]]]


def folds_errors() -> list[Row]:
    """Two encoders drawn from one distribution, 5 × 5 folds, heads really trained."""
    rows = []
    for n, n_draws in FOLDS_OF:
        for delta, name in ((0.0, "exchangeable encoders"), (0.5, "the second one better")):
            found = on_all_cores(_folds_verdict, [(n, delta, [7, n, i]) for i in range(n_draws)])
            kinds, values = [one.kind for one in found], [one.value for one in found]
            claimed = np.mean([kind in (Kind.POSITIVE, Kind.NEGATIVE) for kind in kinds])
            what = f"5 × 5 folds, n = {n}, {name}"
            if delta == 0 and n < LEAST_ITEMS:  # why there is a limit
                what += f", were claims made below {LEAST_ITEMS} items"
                rows.append(Row(f"{what}: positive or negative", float(claimed), "share"))
            elif delta == 0:
                error = 2 * (0.05 * 0.95 / n_draws) ** 0.5
                rows.append(
                    at_most(f"{what}: positive or negative", claimed, "share", 0.05 + error)
                )
            else:
                mean = -100 * float(np.mean(values))
                share = kinds.count(Kind.NEGATIVE) / n_draws
                rows.append(Row(f"{what} by {mean:.1f} points: found", share, "share"))
    return rows


def _folds_verdict(n: int, delta: float, seed: list[int]) -> Verdict:
    rng = np.random.default_rng(seed)
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
    return judge(
        cells[0], cells[1], "balanced_accuracy", margin=MARGIN, n_blocks=max(n, LEAST_ITEMS)
    )


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
    for seed in range(400):
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
        if seed % 100 == 99:
            print(seed + 1, "permuted", np.mean(permuted), file=sys.stderr, flush=True)
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
        last = max(values, key=lambda spec: int(spec.rpartition("layer=")[2]))
        best = max((one for one in values if one != last), key=values.__getitem__)
        gain = compared.difference((best, "logistic"), (last, "logistic"), n_claims=len(values) - 1)
        rows.append(
            Row(
                f"{name}: best earlier depth {best.rpartition('layer=')[2]} less the last, low end",
                100 * gain.low,
                f"points ({100 * gain.value:+.1f})",
            )
        )
        for score, tau in found.items():
            taus.setdefault(score, []).append(tau)
    for score, found_taus in taus.items():
        low, high = _t_interval(np.array(found_taus))
        rows.append(
            Row(
                f"Kendall's τ over 5 depths of MobileNetV2, mean of 6 data sets: {score}",
                float(np.mean(found_taus)),
                f"τ (least {min(found_taus):.2f}; 95 % over data sets {low:.2f} to {high:.2f})",
            )
        )
    return rows


def _t_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(max(-1.0, values.mean() - half)), float(min(1.0, values.mean() + half))


def _network() -> Any:
    from featurestore.terms.specs import EncoderSpec

    return EncoderSpec.parse(mobilenet()).network


def _ranking(views: list[Any], values: dict[str, float]) -> dict[str, float]:
    from heads.labels.options import PlanOptions
    from heads.labels.plan import make_plan
    from heads.transfer.rank import agreement, rank_encoders

    tables = {str(view.spec): view.load() for view in views}
    plan = make_plan(next(iter(tables.values())), PlanOptions(evaluation="folds"))
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


def curves() -> list[Row]:
    """Do a quarter of the labels foretell the rest? Learning curves of the ten data sets.

    Laws through the budgets of at most a quarter of the labels
    (`heads.experiments.learning_curve.laws_of`); their 80 % interval is to hold the mean error with
    half of every class, the most that is drawn.
    """
    store = ten()
    rows = []
    held: dict[str, list[bool]] = {}
    for name in (*IMAGES, *TEXTS):
        views = [store.view(name, spec) for spec in encoders_of(name)]
        found = heads.curve(views)
        for spec in found.encoders:
            budgets = [one for one in found.of(spec) if one.per_class > 1]
            n = np.array([one.n_labels for one in budgets], dtype=np.float64)
            error = 1 - np.stack([one.scores for one in budgets])
            early = n <= n[-1] / 4
            label = spec.rpartition("/")[2]
            if early.sum() < 3:
                rows.append(Row(f"{name}, {label}: budgets of at most a quarter",
                                float(early.sum()), "too few to foretell"))  # fmt: skip
                continue
            foretold = [law.error(n[-1]) for law in laws_of(n[early], error[early])]
            low, high = np.quantile(foretold, [0.1, 0.9])
            truth = float(error[-1].mean())
            kind = "baselines" if spec.startswith("baseline:") else "encoders"
            held.setdefault(kind, []).append(bool(low <= truth <= high))
            if spec == str(views[0].spec):
                held.setdefault("first", []).append(held[kind][-1])
            rows.append(
                Row(
                    f"{name}, {label}: error with {n[-1]:,.0f} labels, foretold from "
                    f"{n[early][-1]:,.0f}: {100 * low:.1f} to {100 * high:.1f}",
                    100 * truth,
                    f"% ({'held' if held[kind][-1] else 'missed'})",
                )
            )
            print(rows[-1].what, rows[-1].value, rows[-1].unit, file=sys.stderr, flush=True)
    for kind, hits in held.items():
        what = f"80 % intervals that held what was foretold, of {len(hits)}"
        if kind == "first":
            rows.append(at_least(f"{what} data sets (MobileNetV2, MiniLM)", sum(hits), "sets", 7))
        else:
            rows.append(Row(f"{what} {kind}", sum(hits), "curves"))
    return rows


SECTIONS = {
    "errors": errors, "folds": folds_errors, "planted": planted, "scores": scores,
    "layers": layers, "ten": verdicts, "curves": curves,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_sections("transfer", SECTIONS, sys.argv[1:]))
