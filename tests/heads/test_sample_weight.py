"""Sample weights: a weight of two is two equal rows, a weight of zero is no row."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn
from scipy.sparse import csr_array
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import AdaBoostClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.validation import has_fit_parameter

from heads.catalogue.best_of import ChosenHead
from heads.estimators.knn import KnnHead
from heads.estimators.lda import LdaHead
from heads.estimators.logistic import LogisticHead
from heads.estimators.normaliser import Normaliser
from heads.estimators.per_label import PerLabel
from heads.estimators.prototype import PrototypeHead
from heads.estimators.regression import KnnRegressor, RidgeRegressor
from heads.estimators.ridge import RidgeHead, ridge_loo
from heads.estimators.zero_shot import ZeroShotHead, ZeroShotProbe

WORDS = np.eye(3, 20, dtype=np.float32)
CLASSIFIERS = [
    LogisticHead(),
    LogisticHead(class_weight="balanced"),
    LogisticHead(class_weight={"a": 3.0}),
    RidgeHead(),
    LdaHead(),
    PrototypeHead(),
    ZeroShotProbe(class_names=["a", "b", "c"], class_vectors=WORDS),
    ZeroShotHead(class_names=["a", "b", "c"], class_vectors=WORDS),
    PerLabel(LdaHead()),
]


def rows(n=90, dim=20, seed=0):
    rng = np.random.default_rng(seed)
    y = np.array(list("abc"))[rng.integers(3, size=n)]
    X = 0.5 * rng.normal(size=(3, dim))[np.searchsorted(list("abc"), y)]
    return X + rng.normal(size=(n, dim)), y, rng.integers(0, 4, size=n)


@pytest.mark.parametrize("head", CLASSIFIERS, ids=repr)
@pytest.mark.parametrize("grouped", [False, True])
def test_integer_weights_are_repeated_rows(head, grouped):
    """Also where penalties, normalisation and sharpness are chosen; 0 is a row that is dropped."""
    X, y, weights = rows()
    groups = np.arange(len(y)) // 3
    takes = grouped and has_fit_parameter(head, "groups")
    given = {"groups": groups} if takes else {}
    again = {"groups": groups.repeat(weights)} if takes else {}
    weighted = sklearn.clone(head).fit(X, y, sample_weight=weights, **given)
    repeated = sklearn.clone(head).fit(X.repeat(weights, axis=0), y.repeat(weights), **again)
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-9)
    plain = sklearn.clone(head).fit(X, y, **given)
    assert np.abs(plain.predict_proba(X) - weighted.predict_proba(X)).max() > 1e-4
    ones = sklearn.clone(head).fit(X, y, sample_weight=np.ones(len(y)), **given)
    np.testing.assert_array_equal(plain.predict_proba(X), ones.predict_proba(X))


@pytest.mark.parametrize("is_sparse", [False, True])
def test_integer_weights_are_repeated_rows_for_numbers(is_sparse):
    X, _, weights = rows()
    X = csr_array(np.maximum(X, 0)) if is_sparse else X
    t = X[:, [0]].toarray()[:, 0] if is_sparse else X[:, 0]
    t = t + np.random.default_rng(1).normal(size=len(t))
    again = np.arange(len(t)).repeat(weights)
    weighted = RidgeRegressor().fit(X, t, sample_weight=weights)
    repeated = RidgeRegressor().fit(X[again], t[again])
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X))


@pytest.mark.parametrize("head", [LdaHead(by_class=(0.5,)), LdaHead(by_class=(1.0,)),
                                  PrototypeHead(), RidgeHead("l2", alphas=(0.1,)),
                                  LogisticHead("l2", Cs=(10.0,))], ids=repr)  # fmt: skip
def test_weights_count_within_the_fit_as_rows_that_nearly_repeat_do(head):
    """Rows that differ by 1e-9 are not merged: what weights do is compared with what rows do."""
    X, y, weights = rows()
    near = X.repeat(weights, axis=0)
    near += 1e-9 * np.random.default_rng(2).normal(size=near.shape)
    weighted = sklearn.clone(head).fit(X, y, sample_weight=weights)
    repeated = sklearn.clone(head).fit(near, y.repeat(weights))
    name = "means_" if isinstance(head, PrototypeHead) else "weights_"
    found, expected = getattr(weighted, name), getattr(repeated, name)
    tolerance = 5e-3 if isinstance(head, LogisticHead) else 1e-5
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("class_weight", [None, "balanced", {"a": 4.0, "c": 0.5}])
def test_weights_and_class_weights_combine_as_in_scikit_learn(class_weight):
    X, y, weights = rows()
    X = Normaliser("centre").fit_transform(X)
    ours = LogisticHead("none", Cs=(3.0,), class_weight=class_weight)
    theirs = LogisticRegression(C=3.0, class_weight=class_weight, tol=1e-8, max_iter=5000)
    np.testing.assert_allclose(
        ours.fit(X, y, sample_weight=weights).predict_proba(X),
        theirs.fit(X, y, sample_weight=weights).predict_proba(X),
        atol=5e-3,
    )


@pytest.mark.parametrize("groups", [None, np.arange(40) // 4])
def test_weighted_leave_one_out_equals_explicit_refits(groups):
    rng = np.random.default_rng(0)
    Z, T, w = rng.normal(size=(40, 8)), rng.normal(size=(40, 2)), rng.random(40) + 0.1
    found = ridge_loo(Z, T, (0.3,), groups, w)
    expected = np.empty_like(T)
    for g in np.arange(40) if groups is None else set(groups):
        out = np.arange(40) == g if groups is None else groups == g
        expected[out] = Ridge(0.3).fit(Z[~out], T[~out], sample_weight=w[~out]).predict(Z[out])
    np.testing.assert_allclose(found.scores, expected, atol=1e-9)
    assert found.loss == pytest.approx(np.average((T - expected) ** 2, axis=0, weights=w).mean())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(89), r"shape \(89,\): expected \(90,\)"),
        (np.ones((90, 2)), r"expected \(90,\), one number for each row"),
        (np.r_[np.ones(3), -1, np.ones(86)], r"sample_weight\[3\] is -1: expected a finite"),
        (np.r_[np.nan, np.ones(89)], r"sample_weight\[0\] is nan"),
        (np.r_[np.ones(89), np.inf], r"sample_weight\[89\] is inf"),
        (np.zeros(90), "every sample weight is zero"),
        (["much"] * 90, "expected one number for each row"),
    ],
)
@pytest.mark.parametrize("head", [LdaHead(), RidgeRegressor(), Normaliser()], ids=repr)
def test_weights_that_are_none_are_refused(head, weights, message):
    X, y, _ = rows()
    target = np.arange(90.0) if isinstance(head, RidgeRegressor) else y
    with pytest.raises(ValueError, match=message):
        sklearn.clone(head).fit(X, target, sample_weight=weights)


def test_shares_say_how_rows_compare():
    """AdaBoost passes weights whose sum is 1: all rows together still count as so many."""
    X, y, weights = rows()
    shares = weights / weights.sum()
    scaled = weights * np.count_nonzero(weights) / weights.sum()
    np.testing.assert_allclose(
        RidgeHead().fit(X, y, sample_weight=shares).predict_proba(X),
        RidgeHead().fit(X, y, sample_weight=scaled).predict_proba(X),
    )


@pytest.mark.parametrize("head", [KnnHead(), KnnRegressor(), ChosenHead(())], ids=repr)
def test_heads_without_weights_say_so_in_their_signature(head):
    assert not has_fit_parameter(head, "sample_weight")


@pytest.mark.parametrize("head", CLASSIFIERS[:6], ids=repr)
def test_ensembles_of_scikit_learn_take_our_heads(head):
    X, y, weights = rows(n=150)
    weights = weights + 1
    boosted = AdaBoostClassifier(head, n_estimators=2, random_state=0)
    calibrated = CalibratedClassifierCV(head, method="temperature", cv=2)
    voting = VotingClassifier([("ours", head), ("theirs", LogisticRegression())], voting="soft")
    for one in (boosted, calibrated, voting):
        assert one.fit(X, y, sample_weight=weights).score(X, y) > 0.6


def test_weights_and_groups_are_routed():
    X, y, weights = rows(n=150)
    with sklearn.config_context(enable_metadata_routing=True):
        ours = LdaHead().set_fit_request(sample_weight=True, groups=True)
        theirs = LogisticRegression().set_fit_request(sample_weight=True)
        voting = VotingClassifier([("ours", ours), ("theirs", theirs)], voting="soft")
        voting.fit(X, y, sample_weight=weights, groups=np.arange(150) // 3)
    alone = LdaHead().fit(X, y, sample_weight=weights, groups=np.arange(150) // 3)
    np.testing.assert_array_equal(
        voting.named_estimators_["ours"].predict_proba(X), alone.predict_proba(X)
    )
