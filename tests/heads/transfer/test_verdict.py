"""Verdicts are read off intervals, and err as rarely as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, t

from heads.labels.estimands import ON_TEST, over_folds
from heads.labels.tasks import Target, Task
from heads.measures.choice import margin_of
from heads.measures.comparison import ComparedHead
from heads.measures.evaluate import Report, evaluate
from heads.measures.intervals import corrected_t, mean_recall_difference
from heads.transfer.verdict import (
    Kind,
    Verdict,
    attribution,
    decide,
    judge,
    slice_differences,
)


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [
        (-0.05, -0.001, Kind.NEGATIVE),
        (0.001, 0.05, Kind.POSITIVE),
        (0.001, 0.005, Kind.POSITIVE),  # however little
        (-0.009, 0.009, Kind.NEUTRAL),
        (-0.009, 0.011, Kind.INCONCLUSIVE),
        (-0.010, 0.009, Kind.INCONCLUSIVE),  # the margin itself is not inside
        (0.0, 0.2, Kind.INCONCLUSIVE),
        (0.0, 0.0, Kind.NEUTRAL),  # identical encoders
    ],
)
def test_the_verdict_is_where_the_interval_lies(low, high, kind):
    assert decide(low, high, 0.01) is kind


def on_test(codes, right, encoder="timm:x"):
    """A head on a test split of two classes, right where it is said."""
    predicted = np.where(right, codes, 1 - codes)
    scores = {"accuracy": np.array([np.mean(right)])}
    return ComparedHead(encoder, "best", Report(codes, predicted, scores, ON_TEST), 0.1)


def test_on_a_test_split_the_interval_is_newcombes_and_says_what_it_is_for():
    rng = np.random.default_rng(0)
    codes = np.arange(200) % 2
    a, b = rng.random(200) < 0.9, rng.random(200) < 0.8
    found = judge(
        on_test(codes, a), on_test(codes, b, "baseline:pixels"), "accuracy", margin=0.01,
        reference_name="raw pixels",
    )  # fmt: skip
    low, high = mean_recall_difference(a, b, np.zeros(200, dtype=int))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert (found.encoder_value, found.reference_value) == pytest.approx((a.mean(), b.mean()))
    assert found.kind is decide(low, high, 0.01)
    assert found.detectable == pytest.approx((1.96 + 0.84) / 1.96 * (high - low) / 2, rel=1e-2)
    assert found.rows_word == "test items"
    half = (1.959964 + 1.281552) / 1.959964 * (high - low) / 2  # both ends inside in 80 %
    assert found.rows_needed == pytest.approx(200 * (half / 0.01) ** 2, abs=1)
    assert found.sentence() == (
        "timm:x likely helps: +7.0 points over raw pixels (-0.7 to +14.6); at worst 0.7 points "
        "worse"
    )
    assert Verdict.from_json(found.to_json()) == found


def test_more_claims_at_once_widen_the_interval():
    codes = np.arange(100) % 2
    a, b = on_test(codes, np.arange(100) < 90), on_test(codes, np.arange(100) < 80)
    one, many = (judge(a, b, "accuracy", margin=0.01, n_claims=n) for n in (1, 10))
    assert many.low < one.low < one.high < many.high
    assert many.detectable / (many.high - many.low) < one.detectable / (one.high - one.low)


def folds(scores, task=Task.MULTICLASS, metric="balanced_accuracy", encoder="timm:x"):
    codes = np.arange(20) % 2
    return ComparedHead(
        encoder,
        "best",
        Report(
            codes if task is Task.MULTICLASS else codes.astype(float),
            codes if task is Task.MULTICLASS else codes.astype(float),
            {metric: np.asarray(scores)},
            over_folds(5, 5),
            0.25,
            task,
        ),
        0.1,
    )


def test_where_lower_is_better_the_sign_is_turned():
    rng = np.random.default_rng(0)
    good, bad = 1 + 0.1 * rng.random(25), 2 + 0.1 * rng.random(25)
    found = judge(
        folds(good, Task.REGRESSION, "rmse"), folds(bad, Task.REGRESSION, "rmse"), "rmse",
        margin=0.01, n_blocks=30,
    )  # fmt: skip
    assert found.kind is Kind.POSITIVE
    low, high = corrected_t(good - bad, 0.25)
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(bad - good), -high, -low))
    truth = np.array([0.0, 4.0])
    assert margin_of(Task.REGRESSION, "rmse", truth) == pytest.approx(0.02)
    assert margin_of(Task.REGRESSION, "r2", truth) == 0.01


def test_attribution_is_to_the_mean_of_the_seeds_never_to_the_best():
    rng = np.random.default_rng(0)
    own = 0.9 + 0.01 * rng.random(25)
    seeds = [folds(x + 0.01 * rng.random(25)) for x in (0.5, 0.6, 0.95)]
    value, low, high = attribution(folds(own), seeds, "balanced_accuracy")
    mean = np.mean([one.report.scores["balanced_accuracy"] for one in seeds], axis=0)
    assert value == pytest.approx(np.mean(own - mean))
    assert (low, high) == pytest.approx(corrected_t(own - mean, 0.25))


def rates(n, delta, n_draws, discordant=0.1, seed=0):
    """Shares of verdicts over simulated test splits with a known Δ."""
    rng = np.random.default_rng(seed)
    codes = np.zeros(n, dtype=int)
    first, second = (discordant + delta) / 2, (discordant - delta) / 2
    counts = dict.fromkeys(Kind, 0)
    for _ in range(n_draws):
        kind = rng.choice(4, n, p=[first, second, 0.8, 0.2 - discordant])
        a, b = np.isin(kind, [0, 2]), np.isin(kind, [1, 2])
        counts[judge(on_test(codes, a), on_test(codes, b), "accuracy", margin=0.01).kind] += 1
    return {kind: count / n_draws for kind, count in counts.items()}


def test_without_a_difference_a_claim_is_made_in_one_of_twenty():
    for n in (200, 1000):
        found = rates(n, 0.0, 600, seed=n)
        claimed = found[Kind.POSITIVE] + found[Kind.NEGATIVE]
        assert binomtest(round(600 * claimed), 600, 0.05, alternative="greater").pvalue > 0.01
        assert found[Kind.NEUTRAL] == 0  # the interval cannot lie within a point at this size


def test_a_difference_is_found_as_often_as_the_size_allows():
    assert rates(2000, -0.02, 200)[Kind.NEGATIVE] == pytest.approx(0.81, abs=0.1)
    assert rates(500, -0.05, 200)[Kind.NEGATIVE] == pytest.approx(0.95, abs=0.05)
    assert rates(10_000, 0.0, 40)[Kind.NEUTRAL] > 0.6


def folds_of(n, n_repeats=5, n_folds=5, seed=0):
    rng = np.random.default_rng(seed)
    number = np.stack([rng.permutation(np.arange(n) % n_folds) for _ in range(n_repeats)])
    return [np.flatnonzero(row == f) for row in number for f in range(n_folds)]


def folds_head(codes, share_right, rng, n_repeats=5):
    """A head that is right on a row in all repeats or in none, as heads mostly are."""
    right = np.tile(rng.random(len(codes)) < share_right, (n_repeats, 1))
    said = np.where(right, codes, 1 - codes)
    return Report(codes, said[0], {}, "folds", 0.25, repeats=said)


def test_slices_over_folds_pass_the_wider_of_two_intervals():
    rng = np.random.default_rng(0)
    codes = np.arange(80) % 2
    parts = folds_of(80)
    a = folds_head(codes, np.where(codes == 0, 0.9, 0.2), rng)
    b = folds_head(codes, 0.9, rng)
    found = slice_differences(a, b, {"zero": codes == 0, "one": codes == 1}, parts)
    assert [one.name for one in found] == ["one", "zero"]
    assert found[0].value < -0.4
    assert [one.is_found for one in found] == [True, False]
    gains = (a.repeats == codes).astype(float) - (b.repeats == codes)
    of_parts = [gains[p // 5, rows[codes[rows] == 1]].mean() for p, rows in enumerate(parts)]
    low, high = corrected_t(np.array(of_parts), 0.25)
    rows = gains[:, codes == 1].mean(axis=0)
    half = t.ppf(0.975, 39) * rows.std(ddof=1) / np.sqrt(40)
    assert found[0].high - found[0].value == pytest.approx(max(half, (high - low) / 2))


def test_a_slice_of_a_few_rows_is_never_found():
    """Three rows over five repeats are three witnesses, not fifteen."""
    rng = np.random.default_rng(0)
    codes = np.arange(60) % 2
    a, b = folds_head(codes, 0.0, rng), folds_head(codes, 1.0, rng)
    mask = np.arange(60) < 3
    (found,) = slice_differences(a, b, {"few": mask}, folds_of(60))
    assert (found.value, found.p, found.is_found) == (-1.0, 1.0, False)
    assert -1 <= found.low <= found.high <= 1
    group = np.zeros(60, dtype=int)  # and one group is one witness
    (found,) = slice_differences(a, b, {"all": np.ones(60, bool)}, folds_of(60), block=group)
    assert not found.is_found


def test_exchangeable_encoders_seldom_show_a_slice():
    found = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        codes = np.arange(120) % 2
        slices = {str(k): np.arange(120) % 24 == k for k in range(24)}
        a, b = folds_head(codes, 0.7, rng), folds_head(codes, 0.7, rng)
        rows = slice_differences(a, b, slices, folds_of(120, seed=seed))
        found += any(one.is_found for one in rows)
    assert found <= 7  # P(more than 7 of 60) = 2 % at a true rate of 5 %


def test_grouped_test_rows_are_drawn_as_groups():
    """Twenty patients with effects of their own: independent rows would err in a third."""
    claims = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(20), 25)
        codes = np.arange(500) % 2
        cells = []
        for _ in range(2):
            share = np.clip(0.75 + 0.15 * rng.normal(size=20), 0, 1)[group]
            said = np.where(rng.random(500) < share, codes, 1 - codes)
            found = evaluate(
                lambda said=said: Oracle(said), np.arange(500)[:, None],
                Target(Task.MULTICLASS, codes, ("0", "1")), [(np.arange(500), np.arange(500))],
                estimand=ON_TEST, groups=group,
            )  # fmt: skip
            cells.append(ComparedHead("e", "best", found.report, 0.0))
        verdict = judge(cells[0], cells[1], "accuracy", margin=0.01)
        claims += verdict.kind in (Kind.POSITIVE, Kind.NEGATIVE)
    assert claims <= 10  # P(more than 10 of 100) = 1 % at a true rate of 5 %


class Oracle:
    """Says what it was told to, by row number."""

    def __init__(self, said):
        self.said = said
        self.classes_ = np.array(["0", "1"])

    def fit(self, X, y):
        return self

    def predict(self, X):
        return self.classes_[self.said[X[:, 0]]]


def test_slices_on_a_test_split_are_newcombes_with_mcnemars_p():
    codes = np.arange(100) % 2
    a = on_test(codes, np.arange(100) >= 30).report
    b = on_test(codes, np.arange(100) >= 2).report
    mask = np.arange(100) < 40
    (found,) = slice_differences(a, b, {"early": mask}, [np.arange(100)])
    assert found.value == pytest.approx(-28 / 40)
    assert found.p == pytest.approx(2 * 0.5**28)
    assert found.is_found
    assert found.n_rows == 40
