"""Learning curves: fair draws, honest bands, and extrapolation only where it has been right."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_rel

import heads
from featurestore.cli import run
from featurestore.errors import BadName, NotEnoughData
from heads.experiments.curve import draw_labels
from heads.experiments.learning_curve import Budget, PowerLaw, backtest, labels_needed, laws_of
from heads.labels.plan import make_plan


@pytest.fixture
def view(make_view, blobs):
    vectors, labels = blobs(n=240, noise=5)
    return make_view(vectors, labels)


def test_draws_are_balanced_different_and_apart_from_the_test_rows(view):
    plan = make_plan(view.load())
    draws = draw_labels(plan, 8, 10, 0)
    assert len(draws) == 10
    for train, test in draws:
        assert np.bincount(plan.target.values[train]).tolist() == [8, 8, 8]
        assert not set(train) & set(test)
        assert not set(plan.block[train]) & set(plan.block[test])
    assert len({tuple(train) for train, _ in draws}) == 10
    assert [train.tolist() for train, _ in draw_labels(plan, 8, 10, 0)] == [
        train.tolist() for train, _ in draws
    ]
    assert draw_labels(plan, 64, 10, 0) is None  # more than half of each class


def test_a_rare_class_gives_half_of_its_rows(make_view, blobs):
    vectors, _ = blobs(n=110)
    labels = ["common"] * 100 + ["rare"] * 10
    plan = make_plan(make_view(vectors, labels).load())
    for train, _ in draw_labels(plan, 16, 5, 0):
        assert np.bincount(plan.target.values[train]).tolist() == [16, 4]  # half of 8 in the pool


def test_all_encoders_learn_from_the_same_draws(view, make_view):
    found = heads.curve([view, view_like(view)], "prototype", per_class=(1, 4, 16), save=False)
    a, b = (found.of(encoder) for encoder in found.encoders)
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
    assert [one.n_labels for one in a] == [3, 12, 48]
    assert a[0].mean < a[-1].mean
    assert heads.Curve.from_json(found.to_json()).rows() == found.rows()


def view_like(view):
    from dataclasses import replace

    from featurestore.terms.specs import EncoderSpec

    return replace(view, spec=EncoderSpec.parse("timm:twin"))


def test_gains_are_paired_over_the_draws(view, make_view, blobs):
    vectors, labels = blobs(n=240, noise=5)
    rng = np.random.default_rng(0)
    other = make_view(rng.normal(size=vectors.shape), labels, spec="baseline:pixels")
    found = heads.curve([view, other], "prototype", per_class=(1, 8, 16), save=False)
    gains = found.gains("timm:x", "baseline:pixels")
    a, b = found.of("timm:x")[-1], found.of("baseline:pixels")[-1]
    interval = ttest_rel(a.scores, b.scores).confidence_interval(0.95)
    assert gains[-1].value == pytest.approx(a.mean - b.mean)
    assert (gains[-1].low, gains[-1].high) == pytest.approx((interval.low, interval.high))
    assert gains[-1].is_found
    same = found.gains("timm:x", "timm:x")
    assert not any(one.is_found for one in same)


def test_the_band_is_for_one_new_draw():
    """It covers a new draw as often as it says, where an interval of the mean would not."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        drawn = rng.normal(0.8, 0.05, 11)
        low, high = Budget("e", "h", 1, 1, drawn[:10]).band()
        inside += low <= drawn[10] <= high
    assert inside == pytest.approx(950, abs=25)


def power_budgets(a=1.0, b=0.5, c=0.05, noise=0.003, n_draws=10, seed=0, sizes=None):
    rng = np.random.default_rng(seed)
    sizes = sizes or [2, 4, 8, 16, 32, 64, 128]
    return [
        Budget("e", "h", k, 5 * k, 1 - (a * (5 * k) ** -b + c) - noise * rng.normal(size=n_draws))
        for k in sizes
    ]


def test_labels_needed_on_a_curve_that_is_a_power_law():
    budgets = power_budgets()
    wanted = 0.05 + 1.0 * 1500**-0.5  # the error at 1,500 labels; 640 were seen
    n, low, high = labels_needed(budgets, wanted)
    assert low <= 1500
    assert n == pytest.approx(1500, rel=0.4)
    assert high is None or high >= 1500


def test_what_was_seen_is_not_extrapolated_and_what_is_too_far_is_not_told():
    budgets = power_budgets()
    assert labels_needed(budgets, 0.2) == (80, 80, 80)
    assert "More than 2,560 labels would be needed" in labels_needed(budgets, 0.051)
    assert "Too few points" in labels_needed(budgets[:4], 0.01)


def test_a_curve_that_bends_is_not_believed():
    budgets = power_budgets(noise=0.001)
    bent = [
        Budget("e", "h", b.per_class, b.n_labels, b.scores - (0.1 if b.per_class == 128 else 0))
        for b in budgets
    ]
    assert "too uneven" in labels_needed(bent, 0.02)
    n = np.array([b.n_labels for b in budgets], dtype=float)
    errors = 1 - np.stack([b.scores for b in budgets])
    assert backtest(n, errors)
    assert len(laws_of(n, errors)) == 400


def test_a_law_inverts():
    law = PowerLaw(2.0, 0.5, 0.1)
    assert law.labels_for(law.error(300)) == pytest.approx(300)
    assert law.labels_for(0.1) == math.inf


def test_bad_budgets_are_said_clearly(view):
    with pytest.raises(BadName, match="expected 2 and 1 or more"):
        heads.curve(view, per_class=(0, 1))
    with pytest.raises(NotEnoughData, match="no class has 200 labels, twice the smallest budget"):
        heads.curve(view, per_class=(100,))


def test_numbers_have_a_curve_too(make_view):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 5))
    y = (vectors @ np.arange(5) + rng.normal(size=200)).tolist()
    found = heads.curve(make_view(vectors, y), "ridge", per_class=(1, 2, 4, 8), save=False)
    assert [one.n_labels for one in found.of("timm:x")] == [5, 10, 20, 40]
    assert found.metric == "r2"


def test_the_command_prints_the_table_and_the_labels_needed(tiny_store, capsys):
    arguments = ["curve", "texts", "--store", tiny_store, "--per-class"]
    assert run([*arguments, "1,2,4", "--target", "90"]) == 0
    out = capsys.readouterr().out
    assert "labels in all" in out
    assert "builtin:tiny-text: 2 labels are enough for 90 % balanced accuracy: 100.0 % on" in out
    assert "\nType next: featurestore train texts -e builtin:tiny-text --head logistic" in out
    assert run([*arguments, "many"]) == 2


def test_a_curve_says_what_enough_means_and_what_to_do_where_it_is_not_reached(view):
    def drawn(*means, spread=0.0):
        budgets = tuple(
            Budget("timm:x", "ridge", 2**i, 10 * 2**i, mean + spread * np.array([-1.0, 0, 1]))
            for i, mean in enumerate(means)
        )
        found = heads.curve(view, "ridge", per_class=(1, 2), n_draws=2, save=False)
        return replace(found, budgets=budgets)

    flat = drawn(0.3, 0.4, 0.45)
    assert flat.labels_needed("timm:x", 0.6) == (
        "60 % balanced accuracy was not reached: 45.0 % with all 40 labels. Too few points to "
        "extrapolate: label about 40 more and ask again"
    )
    assert flat.reached("timm:x", 0.6) is None
    assert flat.enough("timm:x") == (
        "45.0 % with 40 labels on average, and still rising: more labels help"
    )
    assert drawn(0.3, 0.695, 0.7).enough("timm:x") == (
        "70.0 % with 40 labels on average; 20 labels are within a point of that"
    )
    steady = drawn(0.3, 0.65, 0.7)
    assert steady.labels_needed("timm:x", 0.6).startswith("20 labels are enough for 60 % balanced")
    assert steady.reached("timm:x", 0.6).n_labels == 20
    uneven = drawn(0.3, 0.65, 0.7, spread=0.1)  # the band of three draws is wide
    assert uneven.reached("timm:x", 0.6) is None
    said = uneven.labels_needed("timm:x", 0.6)
    assert said.startswith("60 % balanced accuracy is reached with 20 labels on average (65.0 %)")
    assert "but one draw of labels may give 15.3 %; with all 40 it may give 20.3 %" in said


@pytest.fixture
def tiny_store(tmp_path):
    import json

    rows = [
        {"text": f"{word} number {i}", "kind": kind}
        for i in range(12)
        for word, kind in (("goat", "animal"), ("dumpling", "food"))
    ]
    table = tmp_path / "texts.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    store = str(tmp_path / "store")
    arguments = ["embed", str(table), "--dataset", "texts", "--text", "text", "--label", "kind"]
    assert run([*arguments, "--store", store]) == 0
    return store
