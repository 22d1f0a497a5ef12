"""Scores are those of scikit-learn; reports say what their intervals speak of."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics
from sklearn.dummy import DummyClassifier

from featurestore.terms.intervals import wilson
from heads.estimators.prototype import PrototypeHead
from heads.estimators.ridge import RidgeHead
from heads.labels.estimands import ON_TEST, over_folds
from heads.labels.folds import make_folds
from heads.labels.tasks import Target, Task
from heads.measures.evaluate import Report, evaluate
from heads.measures.intervals import corrected_t, mean_recall, mean_recall_difference


def test_on_a_test_split_accuracy_is_wilsons():
    codes = np.arange(40) % 2
    predicted = np.where(np.arange(40) < 30, codes, 1 - codes)
    report = Report(codes, predicted, {"accuracy": np.array([0.75])}, ON_TEST)
    found = report.estimate("accuracy")
    assert (found.value, found.estimand) == (0.75, "these fitted heads, on the test split")
    assert (found.low, found.high) == pytest.approx(wilson(0.75, 40))


def folds_report(codes, predicted, scores):
    return Report(
        codes, predicted, {"balanced_accuracy": np.array(scores)}, over_folds(5, 5), test_ratio=0.25
    )


def test_an_interval_over_folds_that_do_not_vary_holds_the_value():
    """Each fold scores 0.5, and folds of other majorities make the rows of one repeat worse."""
    codes = np.repeat([0, 1], [30, 20])
    predicted = np.where(np.arange(50) % 3, 1 - codes, codes)
    found = folds_report(codes, predicted, [0.5] * 25).estimate("balanced_accuracy")
    assert (codes == predicted).mean() < 0.4
    assert found.low < 0.5 < found.high


def test_over_folds_intervals_are_corrected_t_of_scores_and_of_paired_gains():
    rng = np.random.default_rng(0)
    codes = np.arange(20) % 2
    a, b = 0.8 + 0.05 * rng.random(25), 0.7 + 0.05 * rng.random(25)
    first, second = folds_report(codes, codes, a), folds_report(codes, codes, b)
    found = first.estimate("balanced_accuracy")
    assert (found.low, found.high) == corrected_t(a, 0.25)
    assert found.estimand == "the learning procedure, 5 × 5 folds"
    gain = first.difference(second, "balanced_accuracy")
    assert (gain.low, gain.high) == corrected_t(a - b, 0.25)


def test_folds_that_all_agree_still_leave_room_for_doubt():
    codes = np.arange(20) % 2
    right, half = folds_report(codes, codes, [1.0] * 25), folds_report(codes, 0 * codes, [0.5] * 25)
    found = right.estimate("balanced_accuracy")
    assert (found.low, found.high) == mean_recall(np.ones(20, bool), codes)
    assert found.low < 1
    gain = right.difference(half, "balanced_accuracy")
    assert (gain.low, gain.high) == mean_recall_difference(np.ones(20, bool), codes == 0, codes)
    same = right.difference(right, "balanced_accuracy")
    assert same.low < 0 < same.high


def test_heads_on_other_rows_cannot_be_paired():
    codes = np.arange(20) % 2
    a, b = folds_report(codes, codes, [1.0] * 25), folds_report(1 - codes, codes, [1.0] * 25)
    with pytest.raises(ValueError, match="same rows"):
        a.difference(b, "balanced_accuracy")


def test_evaluate_scores_each_part_with_a_head_that_did_not_see_it(blobs):
    """The same as a plain loop over folds."""
    vectors, labels = blobs(n=60, noise=4)
    classes, codes = np.unique(labels, return_inverse=True)
    folds = make_folds(np.array([f"{i:02d}" for i in range(60)]), codes, np.arange(60), n_repeats=2)
    found = evaluate(
        PrototypeHead,
        vectors,
        Target(Task.MULTICLASS, codes, tuple(classes.tolist())),
        folds.parts(),
        estimand="e",
    )
    expected, first_repeat = [], np.empty(60, dtype=int)
    for i, (train, test) in enumerate(folds.parts()):
        head = PrototypeHead().fit(vectors[train], codes[train])
        guess = head.predict(vectors[test])
        expected.append(metrics.balanced_accuracy_score(codes[test], guess))
        if i < 5:
            first_repeat[test] = guess
    np.testing.assert_allclose(found.report.scores["balanced_accuracy"], expected)
    np.testing.assert_array_equal(found.report.predicted, first_repeat)
    assert found.report.test_ratio == pytest.approx(0.25)


def test_a_class_that_training_lacks_is_always_wrong():
    codes = np.array([0, 1, 0, 1, 2, 0])
    found = evaluate(
        lambda: DummyClassifier(strategy="prior"),
        np.zeros((6, 1)),
        Target(Task.MULTICLASS, codes, ("a", "b", "c")),
        [(np.arange(4), np.array([4, 5]))],
        estimand=ON_TEST,
    )
    assert found.report.predicted.tolist() == [0, 0]
    assert found.probabilities.tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0]]
    assert found.report.confusion(3).tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("on", ["folds", "test"])
def test_exchangeable_encoders_are_rarely_called_different(on):
    """Two views of equally informative noise: a difference is claimed in 5 % at most."""
    rng = np.random.default_rng(0)
    n_false, n_draws = 0, 30
    n = 60 if on == "folds" else 160
    codes = np.arange(n) % 2
    ids = np.array([f"{i:03d}" for i in range(n)])
    parts = [(np.arange(60), np.arange(60, n))]
    for draw in range(n_draws):
        if on == "folds":
            parts = list(make_folds(ids, codes, np.arange(n), seed=draw).parts())
        reports = [
            evaluate(
                lambda: RidgeHead("centre", alphas=(1.0,)),
                rng.normal(size=(n, 4)) + 0.5 * codes[:, None],
                Target(Task.MULTICLASS, codes, ("a", "b")),
                parts,
                estimand=on,
            ).report
            for _ in range(2)
        ]
        gain = reports[0].difference(reports[1], "balanced_accuracy")
        n_false += gain.low > 0 or gain.high < 0
    assert n_false <= 4  # P(more than 4 of 30) = 2 % at a true rate of 5 %
