"""A mix weighs its members by rows that they did not learn from, and does no harm."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_digits
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from featurestore.errors import BadName, ShapeMismatch
from heads.catalogue.best_of import ChosenHead
from heads.estimators.knn import KnnHead
from heads.estimators.lda import LdaHead
from heads.estimators.logistic import LogisticHead
from heads.estimators.mix import MixHead, MixRegressor
from heads.estimators.per_label import PerLabel
from heads.estimators.pool import fit_linear_pool, fit_pool, log_floored
from heads.estimators.prototype import PrototypeHead
from heads.estimators.regression import KnnRegressor, RidgeRegressor
from heads.estimators.ridge import RidgeHead
from heads.estimators.tfidf import text_features
from heads.labels.blocks import Blocks
from heads.labels.fitting import IDLE, TEACHES, asking, deal_folds, fit_head, held_out


@parametrize_with_checks(
    [
        MixHead([("near", "", PrototypeHead()), ("ridge", "", RidgeHead())]),
        MixHead([("bayes", "", GaussianNB())]),
        MixRegressor([("near", "", KnnRegressor()), ("ridge", "", RidgeRegressor())]),
    ]
)
def test_keeps_the_contract_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    """Pixels of real digits, and their edges: two inputs that know different things."""
    pixels, y = load_digits(return_X_y=True)
    pixels = pixels.astype(np.float32)
    picture = pixels.reshape(-1, 8, 8)
    edges = np.abs(np.diff(picture, axis=1)).reshape(len(pixels), -1)
    order = np.random.default_rng(0).permutation(len(y))
    return Blocks({"pixels": pixels[order], "edges": edges[order]}), y[order]


def two(head=RidgeHead):
    return [("pixels", "pixels", head()), ("edges", "edges", head())]


def test_blocks_are_taken_by_rows_and_read_by_name(digits):
    X, _ = digits
    assert len(X) == 1797
    assert X.shape == (1797, 64 + 56)
    assert X.nbytes == 4 * 1797 * 120
    np.testing.assert_array_equal(X[np.array([3, 1])].block("edges"), X.block("edges")[[3, 1]])
    assert X[:5].names == ("pixels", "edges")
    with pytest.raises(BadName, match="no block 'sound' among the inputs: there are 'pixels'"):
        X.block("sound")
    with pytest.raises(ShapeMismatch, match="'a' has 3, 'b' has 2"):
        Blocks({"a": np.zeros((3, 1)), "b": np.zeros((2, 1))})


def test_a_mix_is_as_good_as_its_better_member_and_says_who_counts(digits):
    X, y = digits
    mix = MixHead(two()).fit(X[:200], y[:200])
    test, truth = X[700:], y[700:]
    right = [
        np.mean(h.predict(test.block(n)) == truth)
        for h, n in zip(mix.members_, X.names, strict=True)
    ]
    said, p = mix.predict_both(test)
    assert np.mean(said == truth) >= max(right) - 0.005
    losses = [
        log_loss(truth, h.predict_proba(test.block(n)))
        for h, n in zip(mix.members_, X.names, strict=True)
    ]
    assert log_loss(truth, p) < min(losses) - 0.01
    assert mix.weights_.sum() == pytest.approx(1)
    assert (mix.left_out_loss_ > 0).all()
    np.testing.assert_array_equal(np.argsort(mix.left_out_loss_), np.argsort(mix.weights_))
    np.testing.assert_allclose(p.sum(axis=1), 1)
    again = pickle.loads(pickle.dumps(mix)).predict_proba(test)
    np.testing.assert_array_equal(again, p)
    np.testing.assert_array_equal(clone(mix).fit(X[:200], y[:200]).weights_, mix.weights_)


def test_a_member_that_knows_nothing_and_is_sure_of_it_does_no_harm(digits):
    X, y = digits
    noise = np.random.default_rng(1).normal(size=(len(y), 20)).astype(np.float32)
    both = Blocks({"pixels": X.block("pixels"), "noise": noise})
    members = [("ridge", "pixels", RidgeHead()), ("bayes", "noise", GaussianNB())]
    mix = MixHead(members).fit(both[:200], y[:200])
    alone = mix.members_[0].predict(both[700:].block("pixels"))
    assert mix.weights_[1] < 0.25
    assert mix.left_out_loss_[1] < 0.01 < 1 < mix.left_out_loss_[0]
    assert np.mean(mix.predict(both[700:]) != alone) < 0.01


def test_a_pool_is_where_the_loss_and_its_prior_are_least():
    rng = np.random.default_rng(0)
    codes = rng.integers(3, size=60)
    scores = rng.normal(size=(2, 60, 3)) + np.array([2.0, 0.7])[:, None, None] * np.eye(3)[codes]
    logs = log_floored(np.exp(scores), 1e-3)

    def loss(w, prior):
        pooled = np.einsum("i,irk->rk", w, logs)
        own = pooled[np.arange(60), codes]
        counts = np.bincount(codes)[codes] ** -0.5
        losses = counts / counts.mean() * (np.log(np.exp(pooled).sum(axis=1)) - own)
        return losses.sum() - prior * np.log(w).sum()

    for prior in (1.0, 5.0):
        w = fit_pool(logs, codes, prior).weights
        other = [loss(w + step, prior) for step in ((1e-3, -1e-3), (-1e-3, 1e-3))]
        assert loss(w, prior) < min(other)
    alike = fit_pool(np.stack([logs[0], logs[0]]), codes)
    np.testing.assert_allclose(alike.weights, 0.5)
    nothing = fit_pool(logs[:, :0], codes[:0])
    np.testing.assert_allclose([*nothing.weights, nothing.sharpness], [0.5, 0.5, 1])


def test_a_linear_pool_weighs_by_the_inverse_of_the_variance():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=20_000)
    said = truth + np.array([1.0, 2.0])[:, None] * rng.normal(size=(2, 20_000))
    np.testing.assert_allclose(fit_linear_pool(said, truth).weights, [0.8, 0.2], atol=0.01)


def test_folds_keep_blocks_whole_and_leave_every_class_a_teacher():
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2, 3], [60, 30, 2, 1])
    block = np.where(codes < 2, rng.integers(25, size=93), 100 + np.arange(93))
    fold = deal_folds(codes[:, None] == np.arange(4), block, are_classes=True)
    assert set(fold[codes == 3]) == {TEACHES}
    assert all(len(set(fold[block == one])) == 1 for one in block)
    assert set(fold[codes == 0]) == {0, 1, 2, 3, 4}
    for number in range(5):
        assert set(codes[fold != number]) == {0, 1, 2, 3}
    many = deal_folds(
        np.eye(2, dtype=bool)[rng.integers(2, size=5000)], np.arange(5000), are_classes=True
    )
    assert ((many >= 0).sum(), (many == IDLE).sum()) == (400, 3000)


def test_groups_are_held_out_whole(digits):
    """Copies of rows under one group do not flatter the head that knows them by heart."""
    X, y = digits
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(60), 4)
    pixels = X.block("pixels")[rows] + rng.normal(size=(240, 64)).astype(np.float32) / 100
    by_heart = np.eye(60, dtype=np.float32)[rows] + rng.normal(size=(240, 60)) / 100
    both = Blocks({"pixels": pixels, "heart": by_heart})
    members = [("pixels", "pixels", RidgeHead()), ("heart", "heart", RidgeHead())]
    assert MixHead(members).fit(both, y[rows]).weights_[1] > 0.3
    assert MixHead(members).fit(both, y[rows], groups=rows).weights_[1] < 0.1


def test_what_cannot_be_held_out_is_averaged(digits):
    X, y = digits
    rows = np.array([np.flatnonzero(y == digit)[0] for digit in range(10)])
    mix = MixHead(two()).fit(X[rows], y[rows])
    assert mix.n_held_out_ == 0
    np.testing.assert_allclose(mix.weights_, 0.5)
    np.testing.assert_array_equal(mix.predict(X[rows]), y[rows])


class Broken(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        raise ValueError("the sensor is off")


def test_a_member_that_fails_is_left_out_and_named(digits):
    X, y = digits
    members = [("broken", "edges", Broken()), *two()]
    mix = MixHead(members).fit(X[:150], y[:150])
    plain = MixHead(two()).fit(X[:150], y[:150])
    assert mix.failed_ == {"broken": "ValueError: the sensor is off"}
    np.testing.assert_allclose(mix.weights_, [0, *plain.weights_])
    np.testing.assert_array_equal(mix.predict_proba(X[150:]), plain.predict_proba(X[150:]))
    with pytest.raises(ValueError, match="the sensor is off"):
        MixHead([("broken", "edges", Broken())]).fit(X, y)


def test_bad_members_and_one_class_are_said(digits):
    X, y = digits
    with pytest.raises(BadName, match="no block 'sound'"):
        MixHead([("a", "sound", RidgeHead())]).fit(X, y)
    with pytest.raises(BadName, match="names of their own, got a, a"):
        MixHead([("a", "pixels", RidgeHead())] * 2).fit(X, y)
    with pytest.raises(BadName, match="expected one member or more"):
        MixHead([]).fit(X, y)
    with pytest.raises(ValueError, match="needs two classes or more"):
        MixHead(two()).fit(X, np.zeros(len(y)))


def test_any_classifier_can_be_a_member(digits):
    """Without probabilities, and with classes that an inner fold lacks."""
    X, y = digits
    rows = np.concatenate([np.arange(80), np.flatnonzero(y == 9)[-2:]])
    X, y = X[rows], np.where((y[rows] == 9) & (rows < 80), 8, y[rows]).astype(str)
    members = [("svm", "pixels", LinearSVC()), ("lr", "edges", LogisticRegression())]
    mix = MixHead(members).fit(X, y)
    assert mix.n_held_out_ == 82
    assert np.mean(mix.predict(X) == y) > 0.97


def test_several_labels_are_weighed_one_by_one(digits):
    X, y = digits
    noise = np.random.default_rng(1).normal(size=(len(y), 20)).astype(np.float32)
    both = Blocks({"pixels": X.block("pixels"), "noise": noise})
    labels = np.stack([y < 5, y % 2 == 0, noise[:, 0] > 0, np.zeros(len(y), bool)], axis=1)
    plain = PerLabel(LogisticHead())
    mix = MixHead([(n, n, plain) for n in both.names]).fit(both[:300], labels[:300])
    assert mix.label_weights_.shape == (4, 2)
    assert (mix.label_weights_[:2, 0] > 0.75).all()
    assert mix.label_weights_[2, 1] > 0.75
    np.testing.assert_allclose(mix.weights_, mix.label_weights_.mean(axis=0))
    said, p = mix.predict_both(both[700:])
    assert (np.mean(said == labels[700:], axis=0) > 0.85).all()
    np.testing.assert_array_equal(said, p > 0.5)


def test_numbers_are_mixed_linearly(digits):
    X, y = digits
    mix = MixRegressor().fit(X[:300], y[:300].astype(float))
    pooled = mix.predict(X[700:])
    parts = [h.predict(X[700:].block(n)) for h, n in zip(mix.members_, X.names, strict=True)]
    np.testing.assert_allclose(pooled, mix.weights_ @ parts)
    errors = [np.mean((one - y[700:]) ** 2) for one in (pooled, *parts)]
    assert errors[0] < min(errors[1:])


def test_texts_are_a_block():
    texts = np.array([f"{word} {n}" for n in range(20) for word in ("good day", "bad night")])
    y = np.array(["up", "down"] * 20)
    noise = np.random.default_rng(0).normal(size=(40, 5))
    tfidf = make_pipeline(text_features(), LogisticHead("none"))
    mix = MixHead([("words", "words", tfidf), ("noise", "noise", LdaHead())])
    mix.fit(Blocks({"words": texts, "noise": noise}), y)
    assert mix.weights_[0] > 0.6
    new = Blocks({"words": np.array(["good good", "bad"]), "noise": noise[:2]})
    assert mix.predict(new).tolist() == ["up", "down"]


@pytest.mark.parametrize("head", [LogisticHead, RidgeHead, LdaHead, PrototypeHead, KnnHead])
def test_a_head_tells_of_rows_that_it_held_out(digits, head):
    """What it answers is what it would say of them had it never seen them."""
    X, y = digits
    X, y = X.block("pixels")[:300], y[:300]
    groups = np.arange(300) // 2
    fold = deal_folds(y[:, None] == np.arange(10), groups, are_classes=True)
    with asking(one := head(), fold) as request:
        fit_head(one, X, y, groups)
    assert request.said.shape == (300, 10)
    assert np.isfinite(request.said[fold >= 0]).all()
    again = held_out(
        fold,
        10,
        lambda train, test: fit_head(clone(one), X[train], y[train], groups[train]).predict_proba(
            X[test]
        ),
    )
    told, found = (log_floored(p[fold >= 0], 1e-2) for p in (request.said, again))
    own = np.arange(len(told)), y[fold >= 0]
    assert np.mean(told.argmax(axis=1) == found.argmax(axis=1)) > 0.9
    assert abs(told[own].mean() - found[own].mean()) < 0.12
    with asking(head(), fold) as request:  # another one than is fitted
        fit_head(head(), X, y, groups)
    assert request.said is None


def test_copies_are_answered_for_like_the_row_that_they_became(digits):
    X, y = digits
    rows = np.concatenate([np.arange(100), [7, 7, 50]])
    X, y = X.block("pixels")[rows], y[rows]
    fold = deal_folds(y[:, None] == np.arange(10), np.arange(103), are_classes=True)
    for head in (RidgeHead(), LogisticHead(), LdaHead(), PrototypeHead()):
        with asking(head, fold) as request:
            head.fit(X, y)
        told = request.said
        np.testing.assert_array_equal(told[[7, 7, 50]], told[100:])
        assert np.mean(told[:100].argmax(1) == y[:100]) < 0.98  # none was judged by its own copy


def test_a_mix_costs_little_more_than_its_members(digits):
    """Fitted with the same folds: held-out predictions cost nothing, weights next to nothing."""
    X, y = digits
    count = []

    class Counted(RidgeHead):
        def fit(self, X, y, groups=None, sample_weight=None):
            count.append(len(y))
            return super().fit(X, y, groups, sample_weight)

    members = [("a", "pixels", Counted()), ("best", "edges", ChosenHead([("one", Counted())]))]
    MixHead(members).fit(X[:200], y[:200])
    assert count == [200, 200]
    labels = np.stack([y[:200] < 5, y[:200] > 7], axis=1)
    MixHead([("a", "pixels", PerLabel(Counted()))]).fit(X[:200], labels)
    assert count == [200] * 4


def test_several_heads_read_a_block_where_rows_are_enough_to_tell_them_apart(digits):
    X, y = digits
    wide = np.tile(X.block("edges"), 40)
    both = Blocks(
        {"pixels": X.block("pixels"), "wide": wide, "texts": np.char.add("no ", y.astype(str))}
    )
    few, more = (MixHead().fit(both[:n], y[:n]) for n in (99, 100))
    assert few.names_ == ["logistic on pixels", "logistic on wide", "tfidf on texts"]
    assert more.names_ == [
        *("logistic on pixels", "lda on pixels", "ridge on pixels"),
        *few.names_[1:],
    ]
    assert more.blocks_ == ["pixels"] * 3 + ["wide", "texts"]
    ours = MixHead([("a", "pixels", RidgeHead()), ("b", "pixels", LdaHead())], few_rows=0)
    assert ours.fit(both[:50], y[:50]).names_ == ["a", "b"]


class Certain(ClassifierMixin, BaseEstimator):
    """Says 1 and 0 alone, and is right in four rows of five."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        wrong = np.arange(len(X)) % 5 == 0
        return np.eye(len(self.classes_))[(X[:, 0].astype(int) + wrong) % len(self.classes_)]


def test_probabilities_of_exactly_0_veto_nothing(digits):
    X, y = digits
    both = Blocks({"pixels": X.block("pixels"), "label": y[:, None].astype(float)})
    members = [("ridge", "pixels", RidgeHead()), ("certain", "label", Certain())]
    mix = MixHead(members).fit(both[:300], y[:300])
    assert mix.floors_[0, 1] == 0.1
    said, p = mix.predict_both(both[700:])
    assert np.mean(said == y[700:]) > 0.94
    assert ((p > 0) & np.isfinite(p)).all()


def test_rows_that_knn_chooses_on_are_those_that_are_asked_for():
    """It looks at 1,000 rows of 5,000, and has an answer for each that others hold out."""
    X = np.random.default_rng(0).normal(size=(5000, 5))
    groups = np.arange(5000) // 2
    fold = deal_folds(np.stack([X[:, 0] > 0, X[:, 0] <= 0], axis=1), groups, are_classes=False)
    with asking(head := KnnRegressor(), fold) as request:
        head.fit(X, X[:, 0], groups=groups)
    assert 390 < (fold >= 0).sum() < 410
    assert np.isfinite(request.said[fold >= 0]).all()
    assert np.isfinite(request.said).sum() == 1000


def test_a_step_that_chose_columns_by_labels_is_held_out_with_its_head():
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    noise = rng.normal(size=(120, 2000)).astype(np.float32)
    signal = (np.eye(3)[y] * 2 + rng.normal(size=(120, 3))).astype(np.float32)
    members = [
        ("chosen noise", "noise", make_pipeline(SelectKBest(k=20), RidgeHead())),
        ("signal", "signal", RidgeHead()),
    ]
    mix = MixHead(members).fit(Blocks({"noise": noise, "signal": signal}), y)
    assert mix.weights_[0] < 0.1  # by rows whose labels chose the columns it had 0.7
