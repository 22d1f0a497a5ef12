"""Heads on many rows: from sums, on samples, in one round of folds; equal to what few rows get."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import heads
from benchmarks.memory import views_of
from heads.estimators import normaliser, prototype, ridge, ridge_sums
from heads.estimators.prototype import PrototypeHead
from heads.estimators.ridge import ALPHAS, RidgeHead, ridge_loo
from heads.estimators.sampled import SampledHead
from heads.labels import plan as plans
from heads.labels.sampling import fair_rows


def drawn(n: int = 400, dim: int = 7, seed: int = 0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, dim)) + 3
    return X, X @ rng.standard_normal((dim, 3)) + rng.standard_normal((n, 3)), rng


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("grouped", [None, "small", "large"])
@pytest.mark.parametrize("block", [1, 50, 100_000])
def test_ridge_from_sums_is_ridge(monkeypatch, weighted, grouped, block) -> None:
    X, targets, rng = drawn()
    sizes = {None: 400, "small": 150, "large": 3}[grouped]
    groups = None if grouped is None else rng.integers(sizes, size=400)
    weights = rng.integers(1, 4, size=400).astype(float) if weighted else None
    whole = ridge_loo(X, targets, ALPHAS, groups, weights)
    monkeypatch.setattr(ridge, "MANY_ROWS", 0)
    monkeypatch.setattr(ridge_sums, "BLOCK_FLOATS", block)
    parts = ridge_loo(X, targets, ALPHAS, groups, weights)
    assert parts.alpha == whole.alpha
    np.testing.assert_allclose(parts.weights, whole.weights, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(parts.scores, whole.scores, rtol=1e-6, atol=1e-8)
    assert parts.loss == pytest.approx(whole.loss)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("head", [RidgeHead(), PrototypeHead()], ids=["ridge", "prototype"])
def test_heads_from_sums_predict_the_same(monkeypatch, head, weighted) -> None:
    X, targets, rng = drawn()
    y = targets.argmax(axis=1)
    X32 = X.astype(np.float32)
    weights = rng.integers(1, 4, size=400) if weighted else None
    before = head.fit(X32, y, sample_weight=weights).predict_proba(X32)
    for module in (ridge, prototype):
        monkeypatch.setattr(module, "MANY_ROWS", 0)
    monkeypatch.setattr(normaliser, "LAZY_AT_ONCE", 64)
    late = head.fit(X32, y, sample_weight=weights).predict_proba(X32)
    np.testing.assert_allclose(late, before, atol=1e-4)


@pytest.mark.parametrize("n", [1, 100, 1000, 4000])
def test_a_fair_sample_has_whole_blocks_and_each_class_in_its_share(n: int) -> None:
    rng = np.random.default_rng(1)
    block = rng.integers(1500, size=5000)
    classes = np.array([0] * 1200 + [1] * 285 + [2] * 15)[block]  # of its block
    rows = fair_rows(classes, block, n, seed=3)
    assert (np.diff(rows) > 0).all()
    assert set(classes[rows]) == {0, 1, 2}
    inside = np.isin(block, block[rows])
    assert inside.sum() == len(rows)  # no block is parted
    if n >= 100:
        wanted = np.bincount(classes) * n / 5000
        assert np.abs(np.bincount(classes[rows]) - wanted).max() <= np.bincount(block).max()
    again = fair_rows(classes, block, n, seed=3)
    assert (again == rows).all()
    assert (fair_rows(classes, block, 5000) == np.arange(5000)).all()


def test_a_sampled_head_learns_from_whole_groups_and_predicts_all() -> None:
    X, targets, rng = drawn(2000)
    y = np.array(["a", "b", "c"])[(targets - targets.mean(axis=0)).argmax(axis=1)]
    head = SampledHead(LogisticRegression(), n_rows=300).fit(X, y, rng.integers(500, size=2000))
    assert set(head.classes_) == {"a", "b", "c"}
    assert head.predict_proba(X).shape == (2000, 3)
    assert (head.predict(X) == y).mean() > 0.5
    with pytest.raises(AttributeError):
        SampledHead(LogisticRegression()).classes_  # noqa: B018


@pytest.fixture
def view():
    X, targets, rng = drawn(1500)
    label = np.array(["a", "b", "c"])[(targets - targets.mean(axis=0)).argmax(axis=1)]
    group = [f"g{i}" for i in rng.integers(500, size=1500)]
    return next(iter(views_of({"builtin:x": X}, list(label), group=group).values()))


def test_many_rows_get_one_round_of_folds_and_samples_that_are_said(view, monkeypatch) -> None:
    few = heads.compare(view, ["ridge", "knn"], save=False)
    assert few.estimand == "the learning procedure, 5 × 5 folds"
    for module in (plans, heads.experiments.large):
        monkeypatch.setattr(module, "LARGE_ROWS", 1000)
    monkeypatch.setattr(heads.experiments.large, "SAMPLED_ROWS", 200)
    monkeypatch.setattr(heads.experiments.large, "PROBE_ROWS", (100, 300))
    said: list[str] = []
    many = heads.compare(
        view, ["ridge", "knn"], save=False, progress=lambda done, of, what: said.append(what)
    )
    assert many.estimand == "the learning procedure, 1 × 5 folds"
    assert said[0].startswith("1 encoder × 2 heads × 5 fits on 1,500 items: about ")
    notes = " ".join(many.notes)
    assert "knn learned from 200 items of each training part" in notes
    assert "dealt once, not 5 times" in notes
    values = {row["head"]: row["value"] for row in many.rows()}
    before = {row["head"]: row["value"] for row in few.rows()}
    assert values["ridge"] == pytest.approx(before["ridge"], abs=0.02)
    assert before["knn"] - 0.2 < values["knn"] < before["knn"]
    assert all(
        row["low"] < row["value"] < row["high"] for row in many.rows() if row["head"] != "majority"
    )


def test_rows_draws_whole_groups_fairly_and_says_so(view) -> None:
    found = heads.compare(view, ["ridge"], save=False, rows=300)
    assert abs(found.n_items - 300) < 10
    assert found.card.rows == 300
    assert any("drawn at random" in one and "of 1,500 labelled items" in one for one in found.notes)
    whole = view.embeddings
    taken = np.isin(whole.ids, found.item_ids)
    groups = whole.groups
    assert set(groups[taken]).isdisjoint(groups[~taken])
    share = [(whole.labels[taken] == one).mean() for one in "abc"]
    np.testing.assert_allclose(share, [(whole.labels == one).mean() for one in "abc"], atol=0.02)
    assert heads.compare(view, ["ridge"], save=False, rows=300).item_ids == found.item_ids
    assert heads.compare(view, ["ridge"], save=False, rows=300, seed=1).item_ids != found.item_ids
    assert heads.compare(view, ["ridge"], save=False, rows=9999).n_items == 1500
