"""Prediction sets hold the truth as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

import heads
from featurestore.errors import BadName
from heads.labels.tasks import Task
from heads.measures.conformal import misfit, sets, threshold
from heads.saved.serve import answer


def test_the_limit_is_the_rank_that_the_theorem_names():
    scores = np.arange(1.0, 20.0)  # 19 scores: (19 + 1) × 0.9 = 18
    assert threshold(np.random.default_rng(0).permutation(scores), 0.9) == 18
    assert threshold(np.arange(8.0), 0.9) == math.inf  # ⌈9 × 0.9⌉ = 9 of 8 scores


def test_sets_and_misfits():
    proba = np.array([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25]])
    assert misfit(Task.MULTICLASS, np.array([0, 2]), proba) == pytest.approx([0.3, 0.75])
    assert sets(proba, 0.65).tolist() == [[True, False, False], [True, True, False]]
    assert misfit(Task.REGRESSION, np.array([1.0]), np.array([3.0])).tolist() == [2]


@pytest.mark.parametrize("n", [19, 99])
def test_the_coverage_over_calibration_draws_is_the_promised_one(n):
    """The mean coverage over draws lies in [c, c + 1/(n + 1)] within Monte-Carlo error."""
    rng = np.random.default_rng(n)
    coverage = []
    for _ in range(2000):
        limit = threshold(rng.random(n), 0.9)
        coverage.append(limit)  # of uniform scores, the share below the limit
    error = 3 * np.std(coverage) / math.sqrt(len(coverage))
    assert 0.9 - error <= np.mean(coverage) <= 0.9 + 1 / (n + 1) + error


def test_a_head_with_sets_says_so_and_keeps_its_promise_on_the_test_split(make_view, blobs):
    vectors, labels = blobs(n=1200, noise=5)
    split = ["train"] * 400 + ["val"] * 300 + ["test"] * 500
    view = make_view(vectors, labels, split=split)
    fitted = heads.fit(view, "lda", coverage=0.8, save=False)
    found = fitted.card["conformal"]
    assert (found["coverage"], found["n_calibration"]) == (0.8, 300)
    assert found["on_test"]["low"] - 0.05 < 0.8 < found["on_test"]["high"] + 0.05
    assert fitted.card["evaluation"]["n_train"] == 400  # val taught nothing anyway


def test_without_a_val_split_a_fifth_of_the_training_rows_is_set_aside(make_view, blobs):
    vectors, labels = blobs(n=100)
    fitted = heads.fit(make_view(vectors, labels), "prototype", coverage=0.9, save=False)
    assert fitted.card["conformal"]["n_calibration"] == 20
    numbers = heads.fit(
        make_view(vectors, vectors[:, 0].astype(float).tolist()), "ridge", coverage=0.9,
        save=False,
    )  # fmt: skip
    assert numbers.card["conformal"]["n_calibration"] == 20


def test_too_few_rows_to_promise_put_every_class_into_the_set(make_view, blobs):
    vectors, labels = blobs(n=30)
    fitted = heads.fit(make_view(vectors, labels), "prototype", coverage=0.95, save=False)
    assert fitted.card["conformal"]["limit"] is None


def test_a_share_that_is_none_is_refused(make_view, blobs):
    with pytest.raises(BadName, match="between 0 and 1"):
        heads.fit(make_view(*blobs(n=30)), "prototype", coverage=90, save=False)


# probabilities, limit, set, set where it may be empty
SETS = [
    ([0.7, 0.2, 0.1], 0.65, [True, False, False], [True, False, False]),
    ([0.5, 0.3, 0.2], 0.4, [True, False, False], [False, False, False]),
    ([0.2, 0.3, 0.5], 0.0, [False, False, True], [False, False, False]),
    ([0.4, 0.4, 0.2], 0.1, [True, False, False], [False, False, False]),
    ([0.4, 0.4, 0.2], math.inf, [True, True, True], [True, True, True]),
]


@pytest.mark.parametrize(("proba", "limit", "full", "may_be_empty"), SETS)
def test_a_set_is_empty_only_where_it_may_be(proba, limit, full, may_be_empty):
    assert sets(np.array([proba]), limit).tolist() == [full]
    assert sets(np.array([proba]), limit, allow_empty=True).tolist() == [may_be_empty]


def test_no_rows_have_no_sets():
    assert sets(np.empty((0, 3)), 0.5).shape == (0, 3)


def test_an_item_that_fits_no_class_has_a_set_of_one_unless_asked(make_view, blobs):
    vectors, labels = blobs(n=300)
    split = ["train"] * 100 + ["val"] * 100 + ["test"] * 100
    view = make_view(vectors, labels, split=split)
    fitted = heads.fit(view, "prototype", coverage=0.5, save=False)
    between = np.mean(vectors, axis=0, keepdims=True)
    ids = np.array(["x"], dtype=object)
    assert answer(fitted, ids, between).in_set.sum() == 1
    assert answer(fitted, ids, between, allow_empty=True).in_set.sum() == 0
    found = fitted.card.conformal
    assert found.on_test.mean_size >= 1
    said = found.sentence()
    assert "on average over calibration draws, for items like these" in said
    assert f"measured on the test split: {found.on_test.coverage:.1%}" in said
