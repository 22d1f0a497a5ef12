"""Verdicts are read off intervals, and err as rarely as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from heads.comparison import ComparedHead
from heads.evaluate import ON_TEST, Report, over_folds
from heads.intervals import corrected_t, mean_recall_difference
from heads.tasks import Task
from heads.transfer.verdict import (
    Kind,
    Verdict,
    attribution,
    decide,
    judge,
    margin_of,
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
    assert found.detectable == pytest.approx(1.43 * (high - low) / 2)
    assert found.rows_needed == np.ceil(200 * (found.detectable / 0.01) ** 2)
    assert "against raw pixels; these fitted heads, on the test split" in found.sentence()
    assert Verdict.from_json(found.to_json()) == found


def test_more_claims_at_once_widen_the_interval():
    codes = np.arange(100) % 2
    a, b = on_test(codes, np.arange(100) < 90), on_test(codes, np.arange(100) < 80)
    one, many = (judge(a, b, "accuracy", margin=0.01, n_claims=n) for n in (1, 10))
    assert many.low < one.low < one.high < many.high


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
        margin=0.01,
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


def test_slices_on_folds_are_corrected_t_of_the_parts_that_have_rows():
    rng = np.random.default_rng(0)
    n, n_folds = 60, 5
    codes = np.arange(n) % 2
    number = np.stack([rng.permutation(np.arange(n) % n_folds) for _ in range(3)])
    parts = [np.flatnonzero(row == f) for row in number for f in range(n_folds)]

    def report(share_right):
        right = rng.random((3, n)) < share_right
        said = np.where(right, codes, 1 - codes)
        return Report(codes, said[0], {}, "folds", 0.25, repeats=said)

    a, b = report(np.where(codes == 0, 0.9, 0.2)), report(0.9)
    slices = {"zero": codes == 0, "one": codes == 1, "first": np.arange(n) == 0}
    found = slice_differences(a, b, slices, parts)
    assert found[0].name == "one"
    assert found[0].value < -0.4
    assert found[0].is_found
    gains = []
    for part, rows in enumerate(parts):
        kept = rows[codes[rows] == 1]
        if len(kept):
            x, y = (r.repeats[part // n_folds][kept] == 1 for r in (a, b))
            gains.append(x.mean() - y.mean())
    assert (found[0].low, found[0].high) == pytest.approx(corrected_t(np.array(gains), 0.25))
    assert not {one.name: one for one in found}["zero"].is_found


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
