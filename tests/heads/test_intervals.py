"""Intervals agree with published values, and cover what they name."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from featurestore.terms.intervals import wilson
from heads.measures.intervals import (
    bootstrap_interval,
    bootstrap_weights,
    corrected_t,
    mean_recall,
    mean_recall_difference,
    newcombe,
)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 20), (7, 10), (98, 100), (1200, 1200)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_wilson_is_that_of_statsmodels(k, n, level):
    expected = proportion_confint(k, n, alpha=1 - level, method="wilson")
    np.testing.assert_allclose(wilson(k / n, n, level=level), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        # Fagerland, Lydersen, Laake, Stat. Med. 33, 2014: airway hyper-responsiveness.
        ((1, 1, 7, 12), (-0.507, -0.026)),
        # Newcombe, Stat. Med. 17, 1998, table II, method 10.
        ((36, 12, 2, 0), (0.0569, 0.3404)),
    ],
)
def test_newcombe_gives_the_published_values(table, expected):
    both, first, second, neither = table
    n = both + first + second + neither
    found = newcombe(both / n, first / n, second / n, n)
    digits = len(str(expected[0]).split(".")[1])
    assert tuple(round(x, digits) for x in found) == expected


def test_newcombe_turns_round_with_its_heads():
    low, high = newcombe(0.8, 0.07, 0.03, 200)
    mirrored = newcombe(0.8, 0.03, 0.07, 200)
    np.testing.assert_allclose((low, high), (-mirrored[1], -mirrored[0]))


def test_corrected_t_gives_the_worked_example():
    """Five differences at 80/20."""
    differences = np.array([0.01, 0.03, 0.02, -0.01, 0.02])
    found = corrected_t(differences, 0.25)
    np.testing.assert_allclose(found, (-0.014246, 0.042246), atol=1e-6)
    half = (found[1] - found[0]) / 2
    t = differences.mean() / (half / stats.t.ppf(0.975, 4))
    np.testing.assert_allclose(t, 1.376125, atol=1e-6)


def test_corrected_t_does_not_speak_where_nothing_varies():
    assert corrected_t(np.full(25, 0.9), 0.25) is None


def test_one_stratum_is_plain_wilson_and_plain_newcombe():
    first, second = np.arange(50) < 45, np.arange(50) % 10 < 8
    one = np.zeros(50, dtype=int)
    np.testing.assert_allclose(mean_recall(first, one), wilson(0.9, 50))
    both, only_first, only_second = (
        np.mean(x) for x in (first & second, first & ~second, ~first & second)
    )
    np.testing.assert_allclose(
        mean_recall_difference(first, second, one), newcombe(both, only_first, only_second, 50)
    )


@pytest.mark.parametrize("n", [2, 10, 300])
def test_no_interval_is_of_zero_width(n):
    """All right, all wrong, all equal: there may be other rows."""
    strata = np.arange(n) % 2
    for a, b in itertools.product([np.ones(n, bool), np.zeros(n, bool)], repeat=2):
        for interval in (mean_recall(a, strata), mean_recall_difference(a, b, strata)):
            assert interval[1] - interval[0] > 1 / n


def coverage(sizes, recalls, n_draws, seed=0) -> float:
    rng = np.random.default_rng(seed)
    strata = np.repeat(np.arange(len(sizes)), sizes)
    p = np.asarray(recalls)
    draws = rng.random((n_draws, len(strata))) < p[strata]
    intervals = np.array([mean_recall(draw, strata) for draw in draws])
    return float(np.mean((intervals[:, 0] <= p.mean()) & (p.mean() <= intervals[:, 1])))


@pytest.mark.parametrize(
    ("sizes", "recalls"),
    [
        ([200] * 6, [0.99] * 6),
        ([40] * 77, np.linspace(0.8, 1, 77)),  # banking77's test split
        ([200, 20], [0.99, 0.7]),
        ([40] * 6, [1, 1, 0.99, 0.95, 0.9, 0.8]),
    ],
)
def test_balanced_accuracy_is_covered_in_about_95_percent(sizes, recalls):
    """Within Monte-Carlo error of 93 to 97 %; MOVER over classes covers 88 to 92 % here."""
    assert 0.93 - 0.013 < coverage(sizes, recalls, 1000) < 0.97 + 0.013


@pytest.mark.parametrize("n_classes", [1, 6, 77])
def test_equal_heads_are_rarely_called_different(n_classes):
    """Two heads of recall .95, discordant on 6 % of rows: no difference in at least 95 %."""
    rng = np.random.default_rng(1)
    strata = np.repeat(np.arange(n_classes), 40 if n_classes > 1 else 400)
    n_false = 0
    for _ in range(600):
        u = rng.random(len(strata))
        first = u >= 0.05
        second = ((u >= 0.02) & (u < 0.05)) | (u >= 0.08)
        low, high = mean_recall_difference(first, second, strata)
        n_false += low > 0 or high < 0
    assert n_false / 600 < 0.05 + 0.018  # two standard errors


def test_a_difference_that_is_there_is_found():
    """Six classes of 200: .99 against .97, mostly the same errors."""
    rng = np.random.default_rng(2)
    strata = np.repeat(np.arange(6), 200)
    n_found = 0
    for _ in range(200):
        u = rng.random(len(strata))
        low, _ = mean_recall_difference(u >= 0.01, u >= 0.03, strata)
        n_found += low > 0
    assert n_found / 200 > 0.9


def of_blocks(correct, block):
    """Interval of the share that is correct when whole blocks are drawn."""
    weights = np.concatenate(list(bootstrap_weights(block)))
    draws = weights @ correct / weights.sum(axis=1)
    n_units = len(np.unique(block))
    return bootstrap_interval(float(correct.mean()), draws, n_units=n_units, is_share=True)


def test_one_error_in_a_grouped_test_split_leaves_an_interval_that_says_something():
    """It was 0.002 to 1.000; each error more makes the interval lie lower."""
    block, correct, before = np.arange(60) % 18, np.ones(60), 1.0
    for row in (0, 7, 20, 33):
        correct[row] = 0
        low, high = of_blocks(correct, block)
        assert 0.7 < low < correct.mean() < high < 1
        assert low < before
        before = low


@pytest.mark.parametrize(("n_blocks", "size", "p"), [(18, 4, 0.98), (18, 4, 0.9), (40, 5, 0.97)])
def test_shares_of_grouped_rows_are_covered_in_about_95_percent(n_blocks, size, p):
    """Blocks that differ (a beta of intraclass correlation .1); two standard errors of 300."""
    rng, n_covered = np.random.default_rng(5), 0
    block = np.repeat(np.arange(n_blocks), size)
    for _ in range(300):
        of_block = rng.beta(9 * p, 9 * (1 - p), n_blocks)
        low, high = of_blocks((rng.random(len(block)) < of_block[block]).astype(float), block)
        n_covered += low <= p <= high
    assert n_covered / 300 > 0.95 - 0.026


def test_a_share_at_the_very_edge_has_an_interval_within_its_range():
    low, high = bootstrap_interval(1 - 1e-9, np.array([0.2, 1.0]), n_units=2, is_share=True)
    assert 0 <= low < high <= 1
