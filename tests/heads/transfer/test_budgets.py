"""The verdict with few labels: the interval by simulation, and planted encoders."""

from __future__ import annotations

import json

import numpy as np
import pytest

import heads
from dashboard.page_data.transfer import more_sentences
from featurestore.errors import BadName, NotEnoughData
from heads.measures.evaluate import Report
from heads.transfer.budgets import gain_of_draws
from heads.transfer.verdict import Kind

HEADS = ("ridge", "prototype")


@pytest.fixture
def crossing():
    """A thing of two dimensions that few labels find, in noise that many labels see through."""
    rng = np.random.default_rng(0)
    n = 600
    codes = np.arange(n) % 2
    compact = rng.normal(size=(n, 2)) + 2.0 * codes[:, None]
    rich = rng.normal(size=(n, 400)) + 0.27 * codes[:, None]
    return rich, compact, [f"class {c}" for c in codes]


def test_an_encoder_may_help_with_few_labels_and_harm_with_many(family, crossing):
    rich, compact, labels = crossing
    views = family({"baseline:pixels": rich, "timm:x": compact}, labels)
    found = heads.assess_transfer(views["timm:x"], heads=HEADS, per_class=(2, 100), blend=False)
    few, more = found.budgets["timm:x"]
    assert (few.n_labels, more.n_labels) == (4, 200)
    assert few.kind is Kind.POSITIVE
    assert few.low > 0
    assert few.value > more.value
    assert found.verdict("timm:x").kind is Kind.NEGATIVE
    assert any(
        line.startswith("It depends on the labels: with 4") for line in found.advice["timm:x"]
    )
    (said,) = found.budget_sentences()
    assert said.startswith("timm:x minus raw pixels with few labels, points: 4 labels +")
    assert said in more_sentences(found)  # the dashboard's
    (stored,) = heads.assessments(views["timm:x"].dataset)
    again, once = (json.loads(json.dumps(one.to_json())) for one in (stored, found))
    assert again == once


def test_budgets_are_judged_on_a_test_split_too(family, crossing):
    """Of the same items, half of them held out; what cannot be drawn is said."""
    rich, compact, labels = crossing
    split = ["train"] * 300 + ["test"] * 300
    views = family({"baseline:pixels": rich, "timm:x": compact}, labels, split=split)
    found = heads.assess_transfer(
        views["timm:x"], heads=("prototype",), budgets=(2, 60, 500), blend=False, save=False
    )
    few, more = found.budgets["timm:x"]
    assert (few.n_labels, more.n_labels) == (4, 120)
    assert few.low > 0
    assert few.kind is Kind.POSITIVE
    assert "No verdict with 500 labels a class: no class has twice as many." in found.notes


@pytest.mark.parametrize(("options", "said"), [
    ({"budgets": (0,)}, "1 label a class or more"),
    ({"budgets": (4,), "metric": "log_loss"}, "not by log_loss of multiclass"),
])  # fmt: skip
def test_what_cannot_be_judged_is_said(options, said, family, crossing):
    rich, compact, labels = crossing
    views = family({"baseline:pixels": rich, "timm:x": compact}, labels)
    with pytest.raises(BadName, match=said):
        heads.assess_transfer(views["timm:x"], heads=HEADS, save=False, **options)


def test_budgets_beyond_half_of_the_rows_are_refused(family, crossing):
    rich, compact, labels = crossing
    views = family({"baseline:pixels": rich, "timm:x": compact}, labels)
    with pytest.raises(NotEnoughData, match="no class has 2000 labels"):
        heads.assess_transfer(views["timm:x"], heads=HEADS, save=False, per_class=(1000,))


@pytest.mark.parametrize(("n_classes", "n_each", "of_block"), [
    (2, 40, "rows"), (2, 40, "across"), (40, 1, "rows"), (20, 2, "rows"), (10, 3, "rows"),
    (4, 20, "class"), (2, 40, "half a class"), (2, 40, "all"),
])  # fmt: skip
def test_the_interval_holds_for_other_labels_and_other_items(n_classes, n_each, of_block):
    """Two heads that are equally good on all items, each draw and each item with its luck.

    t over draws alone forgets that all draws share the items, and claims in a third of cases.
    """
    claims = alone = 0
    n, n_draws, n_trials = n_classes * n_each, 10, 300
    classes = np.arange(n) // n_each
    block = {
        "rows": np.arange(n), "across": np.arange(n) % 20, "class": classes,
        "half a class": np.arange(n) // (n_each // 2), "all": np.zeros(n, int),
    }[of_block] if n_each > 1 else np.arange(n)  # fmt: skip
    n_blocks = int(block.max()) + 1
    for seed in range(n_trials):
        rng = np.random.default_rng(seed)
        truth = classes
        ease = rng.normal(0, 1.0, (2, n_blocks))[:, block]  # of an item, for each head
        luck = rng.normal(0, 0.5, (2, n_draws, 1))
        right = ease[:, None, :] + luck + rng.normal(0, 0.5, (2, n_draws, n)) > -0.5
        reports = []
        for one in right:
            said = np.where(one, truth, (truth + 1) % n_classes)
            recalls = one.reshape(n_draws, n_classes, n_each).mean(axis=2)
            scores = {"balanced_accuracy": recalls.mean(axis=1)}
            reports.append(Report(truth, said[0], scores, "draws", repeats=said))
        value, low, high, p = gain_of_draws(*reports, "balanced_accuracy", block)
        assert low <= value <= high
        assert (p <= 0.05) == (low > 0 or high < 0)
        claims += p <= 0.05
        gains = reports[0].scores["balanced_accuracy"] - reports[1].scores["balanced_accuracy"]
        alone += abs(gains.mean()) > 2.262 * gains.std(ddof=1) / np.sqrt(n_draws)
    assert claims <= 0.05 * n_trials + 3 * (0.05 * 0.95 * n_trials) ** 0.5
    if of_block == "rows":
        assert alone > 3 * claims
    if of_block == "all":
        assert claims == 0
