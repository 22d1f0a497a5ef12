"""Metrics are those of scikit-learn and scipy, also where rows count several times."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sklearn.metrics as theirs
from scipy.stats import spearmanr

import heads
from featurestore.cli.show_results import show_head
from featurestore.errors import NotEnoughData
from heads.experiments.learning_curve import Budget, Curve
from heads.labels.tasks import Task
from heads.measures.evaluate import Report
from heads.measures.metrics import METRICS, Predictions, score
from heads.saved.card import HeadCard


@pytest.fixture(params=[0, 1, 2])
def counted(request):
    """Row weights of one draw, and the rows that they stand for."""
    rng = np.random.default_rng(request.param)
    counts = np.ones(80, dtype=int) if request.param == 0 else rng.multinomial(80, [1 / 80] * 80)
    return counts[None].astype(float), np.repeat(np.arange(80), counts)


def values(task, found, weights):
    return {name: metric.compute(found, weights)[0] for name, metric in METRICS[task].items()}


@pytest.mark.parametrize("n_classes", [2, 4])
def test_of_classes(counted, n_classes):
    weights, rows = counted
    rng = np.random.default_rng(5)
    codes = rng.integers(0, n_classes, 80)
    proba = rng.dirichlet(np.ones(n_classes) + (n_classes == 4), 80).round(2)  # ties
    proba /= proba.sum(axis=1, keepdims=True)
    predicted = proba.argmax(axis=1)
    y, p, said = codes[rows], proba[rows], predicted[rows]
    confidence = p.max(axis=1)
    number = np.minimum((confidence * 15).astype(int), 14)
    bins = [confidence[number == b].mean() - (y == said)[number == b].mean() for b in set(number)]
    shares = [np.mean(number == b) for b in set(number)]
    is_class = y[:, None] == np.arange(n_classes)
    assert values(Task.MULTICLASS, Predictions(codes, predicted, proba), weights) == pytest.approx(
        {
            "balanced_accuracy": theirs.balanced_accuracy_score(y, said),
            "accuracy": theirs.accuracy_score(y, said),
            "macro_f1": theirs.f1_score(y, said, average="macro"),
            "auroc": theirs.roc_auc_score(is_class, p, average="macro"),
            "average_precision": theirs.average_precision_score(is_class, p, average="macro"),
            "log_loss": theirs.log_loss(y, np.clip(p, 1e-6, 1 - 1e-6 * (n_classes == 2))),
            "brier": theirs.brier_score_loss(y, p if n_classes > 2 else p[:, 1]),
            "calibration_error": np.dot(np.abs(bins), shares),
        },
        rel=1e-5,
    )


def test_of_labels(counted):
    weights, rows = counted
    rng = np.random.default_rng(6)
    truth = rng.random((80, 3)) < [0.5, 0.2, 0.1]
    proba = (0.6 * truth + rng.random((80, 3))).round(1) / 1.6
    said = proba > 0.5
    y, p, guess = truth[rows], proba[rows], said[rows]
    assert values(Task.MULTILABEL, Predictions(truth, said, proba), weights) == pytest.approx(
        {
            "macro_f1": theirs.f1_score(y, guess, average="macro"),
            "micro_f1": theirs.f1_score(y, guess, average="micro"),
            "accuracy": theirs.accuracy_score(y, guess),
            "auroc": theirs.roc_auc_score(y, p, average="macro"),
            "average_precision": theirs.average_precision_score(y, p, average="macro"),
            "hamming_loss": theirs.hamming_loss(y, guess),
        }
    )


def test_of_numbers(counted):
    weights, rows = counted
    rng = np.random.default_rng(7)
    truth = rng.normal(size=80).round(1)
    said = (truth + rng.normal(size=80)).round(1)
    y, guess = truth[rows], said[rows]
    assert values(Task.REGRESSION, Predictions(truth, said), weights) == pytest.approx(
        {
            "r2": theirs.r2_score(y, guess),
            "rmse": theirs.root_mean_squared_error(y, guess),
            "mae": theirs.mean_absolute_error(y, guess),
            "spearman": spearmanr(y, guess).statistic,
        }
    )


def test_a_class_without_rows_does_not_count_and_a_head_without_probabilities_has_no_auroc():
    codes, said = np.array([0, 0, 2]), np.array([0, 2, 2])
    found = score(Task.MULTICLASS, Predictions(codes, said))
    assert found == pytest.approx({"balanced_accuracy": 0.75, "accuracy": 2 / 3, "macro_f1": 2 / 3})


# task, metric, an interval beside it, what is left of it
RANGES = [
    (Task.MULTICLASS, "accuracy", (-0.1, 1.2), (0, 1)),
    (Task.MULTICLASS, "log_loss", (-0.1, 30), (0, 30)),
    (Task.MULTICLASS, "brier", (-0.1, 2.5), (0, 2)),
    (Task.MULTILABEL, "hamming_loss", (-0.1, 0.5), (0, 0.5)),
    (Task.REGRESSION, "rmse", (-5, 7), (0, 7)),
    (Task.REGRESSION, "mae", (-5, 7), (0, 7)),
    (Task.REGRESSION, "r2", (-5, 1.5), (-5, 1)),
    (Task.REGRESSION, "spearman", (-1.5, 1.5), (-1, 1)),
]


@pytest.mark.parametrize(("task", "name", "given", "expected"), RANGES)
def test_an_interval_stays_within_the_range_of_its_metric(task, name, given, expected):
    assert METRICS[task][name].within(*given) == expected


@pytest.mark.parametrize(("task", "name", "given", "expected"), RANGES)
def test_estimates_stay_within_it_too(task, name, given, expected):
    truth = np.array([0, 1] * 5) if task is not Task.MULTILABEL else np.eye(2, dtype=bool)
    for scores in ([given[0], given[1]] * 3, [expected[0], expected[0] + 0.01] * 3):
        report = Report(truth, truth, {name: np.array(scores)}, "folds", 0.25, task)
        found = report.estimate(name)
        assert METRICS[task][name].least <= found.low <= found.high <= METRICS[task][name].most


def test_the_bands_of_a_curve_stay_within_it():
    scores = np.array([0.9, 0.99, 0.999, 1.0])
    budget = Budget("e", "ridge", 5, 10, scores)
    curve = Curve("d", "label", "accuracy", Task.MULTICLASS, (budget,), (), None)
    assert budget.band()[1] > 1
    assert curve.rows()[0]["high"] == 1


@pytest.mark.parametrize("truth", [0.0, 0.1, 1e9, -3.7])
@pytest.mark.parametrize("said", [[0.0, 1.0, 2.0], [0.1, 0.1, 0.1]])
def test_r2_of_a_constant_truth_is_undefined(truth, said):
    found = score(Task.REGRESSION, Predictions(np.full(3, truth), np.array(said)))
    assert np.isnan(found["r2"])
    assert np.isfinite([found["rmse"], found["mae"]]).all()


def test_auroc_of_one_class_is_undefined():
    truth = np.zeros(4, dtype=int)
    found = score(Task.MULTICLASS, Predictions(truth, truth, np.full((4, 2), 0.5)))
    assert np.isnan(found["auroc"])
    assert found["accuracy"] == 1


def test_folds_on_which_a_metric_is_undefined_do_not_count():
    truth = np.arange(6.0)
    scores = {"r2": np.array([0.5, np.nan, 0.7, 0.6])}
    report = Report(truth, truth, scores, "folds", 0.25, Task.REGRESSION)
    found = report.estimate("r2")
    assert found.value == pytest.approx(0.6)
    assert found.low < 0.6 < found.high
    none = Report(truth, truth, {"r2": np.full(4, np.nan)}, "folds", 0.25, Task.REGRESSION)
    assert np.isnan(none.estimate("r2").value)
    assert none.estimate("r2").low is None
    with pytest.raises(NotEnoughData, match="r2 is undefined here"):
        none.difference(none, "r2")


def test_a_head_tested_on_equal_numbers_says_so(make_view, capsys):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 4)).astype(np.float32)
    labels = [*(vectors[:40, 0].astype(float) + 0.5).tolist(), *[1.5] * 20]
    view = make_view(vectors, labels, split=["train"] * 40 + ["test"] * 20)
    fitted = heads.fit(view, "ridge", task="regression", save=False)
    assert fitted.card["metrics"]["r2"] == {
        "value": None, "low": None, "high": None, "estimand": fitted.card.estimand,
    }  # fmt: skip
    assert any(note.startswith("r2 is undefined here") for note in fitted.card.notes)
    json.loads(json.dumps(fitted.card), parse_constant=pytest.fail)
    again = HeadCard.from_json(fitted.card.to_json())
    assert again.to_json() == fitted.card.to_json()
    show_head(fitted.card)
    assert "  r2: –\n" in capsys.readouterr().out
    with pytest.raises(NotEnoughData, match="mae is defined"):
        heads.compare([view], ["ridge"], task="regression", save=False)
    found = heads.compare([view], ["ridge"], task="regression", metric="mae", save=False)
    assert all(np.isfinite(row["value"]) for row in found.rows())
