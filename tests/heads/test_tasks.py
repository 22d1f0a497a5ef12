"""Classes, several labels and numbers: each from its column to a registered head."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score, r2_score
from sklearn.svm import SVR, LinearSVC

import heads
from featurestore.errors import BadName, NotEnoughData, UnknownHead
from heads.tasks import Target, Task, guess_task, read_target


def column(*values):
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


@pytest.mark.parametrize(
    ("values", "task", "is_said"),
    [
        (column("a", "b"), Task.MULTICLASS, False),
        (column(1, 2), Task.MULTICLASS, False),
        (column(0.5, 2.0), Task.REGRESSION, False),
        (column(0.0, 1.0, 1.0), Task.MULTICLASS, True),  # whole numbers next to a gap
        (column(*np.arange(30.0).tolist()), Task.REGRESSION, True),
        (column(["a"], ["a", "b"]), Task.MULTILABEL, False),
        (column("a", "a|b"), Task.MULTILABEL, True),
    ],
)
def test_the_task_is_told_from_the_values(values, task, is_said):
    found, remark = guess_task(values, "y")
    assert (found, remark is not None) == (task, is_said)


def test_targets_of_each_task():
    classes = read_target(column(2.0, 10.0, 2.0), Task.MULTICLASS, "y")
    assert (classes.classes, classes.values.tolist()) == (("10", "2"), [1, 0, 1])
    labels = read_target(column("cat| dog", [], ["dog"]), Task.MULTILABEL, "y")
    assert labels.classes == ("cat", "dog")
    assert labels.values.tolist() == [[True, True], [False, False], [False, True]]
    numbers = read_target(column("1.5", 2, 3.0), Task.REGRESSION, "y")
    assert numbers.values.tolist() == [1.5, 2, 3]


@pytest.mark.parametrize(
    ("values", "task", "error", "said"),
    [
        (column("a", "b"), Task.REGRESSION, BadName, "no column of numbers"),
        (column(1.0, float("inf")), Task.REGRESSION, BadName, "infinite"),
        (column(3.0, 3.0), Task.REGRESSION, NotEnoughData, "fewer than two different"),
        (column(0.5, 1.0), Task.MULTICLASS, BadName, "its task is regression"),
        (column(["a"], ["b"]), Task.MULTICLASS, BadName, "its task is multilabel"),
        (column([], []), Task.MULTILABEL, NotEnoughData, "no item has a label"),
        (column(3, 4), Task.MULTILABEL, BadName, "several labels are a list"),
    ],
)
def test_labels_that_do_not_fit_are_said_clearly(values, task, error, said):
    with pytest.raises(error, match=said):
        read_target(values, task, "y")


def test_strata_spread_numbers_and_rows_without_labels():
    numbers = Target(Task.REGRESSION, np.arange(10.0))
    assert numbers.strata.sum(axis=0).tolist() == [2, 2, 2, 2, 2]
    labels = Target(Task.MULTILABEL, np.array([[True, False], [False, False]]), ("a", "b"))
    assert labels.strata.tolist() == [[True, False, False], [False, False, True]]


@pytest.fixture
def numbers_view(make_view):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 8))
    weight = vectors @ np.arange(8) + rng.normal(size=200)
    return make_view(vectors, weight.tolist(), split=["train"] * 120 + ["test"] * 80)


@pytest.mark.parametrize("head", ["ridge", "knn", "majority"])
def test_a_head_for_numbers(numbers_view, head):
    fitted = heads.fit(numbers_view, head)
    loaded = heads.load_head(numbers_view.dataset, fitted.head_id)
    embeddings = numbers_view.load()
    said = loaded.predict(embeddings)
    table = pq.read_table(fitted.path / "predictions.parquet").to_pydict()
    np.testing.assert_allclose(table["predicted"], said[120:])
    found = fitted.card["metrics"]["r2"]
    assert found["value"] == pytest.approx(r2_score(embeddings.labels[120:], said[120:]))
    if head == "majority":
        assert found["value"] < 0
    else:
        assert found["low"] < found["value"] < found["high"]
    assert (fitted.card["task"], fitted.classes) == ("regression", [])
    assert set(fitted.card["metrics"]) == {"r2", "rmse", "mae", "spearman"}


def test_ridge_on_numbers_is_as_good_as_the_best_plain_one(numbers_view):
    found = heads.fit(numbers_view, "ridge", register=False).card["metrics"]["r2"]["value"]
    e = numbers_view.load()
    y = e.labels.astype(float)
    plain = [
        r2_score(y[120:], Ridge(a).fit(e.vectors[:120], y[:120]).predict(e.vectors[120:]))
        for a in (0.1, 1, 10)
    ]
    assert found > max(plain) - 0.01


def test_heads_for_numbers_are_compared(numbers_view):
    found = heads.compare(numbers_view, evaluation="folds")
    rows = {row["head"]: row["value"] for row in found.rows()}
    assert (found.metric, list(rows)) == ("r2", ["ridge", "knn", "majority"])
    sentence = found.difference(("timm:x", "ridge"), ("baseline:majority", "majority")).sentence()
    assert "ridge on timm:x is better than majority on baseline:majority by" in sentence
    assert "in r2" in sentence
    by_error = heads.compare(numbers_view, metric="rmse")
    assert [row["head"] for row in by_error.rows()] == ["ridge", "knn", "majority"]
    assert "is better than" in by_error.claims()[0].sentence()


@pytest.fixture
def labels_view(make_view):
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(240, 6))
    logits = 3 * vectors[:, :3] + rng.normal(size=(240, 3)) - [0, 1, 3]
    labels = [[f"tag {c}" for c in np.flatnonzero(row > 0)] for row in logits]
    return make_view(vectors, column(*labels), split=["train"] * 160 + ["test"] * 80)


def test_a_head_for_several_labels(labels_view):
    fitted = heads.fit(labels_view, "logistic")
    loaded = heads.load_head(labels_view.dataset, fitted.head_id)
    embeddings = labels_view.load()
    said = loaded.predict(embeddings)
    table = pq.read_table(fitted.path / "predictions.parquet").to_pydict()
    assert table["predicted"] == said[160:].tolist()
    assert table["label"] == embeddings.labels[160:].tolist()
    truth = read_target(embeddings.labels, Task.MULTILABEL, "y").values[160:]
    guess = np.array([[name in row for name in fitted.classes] for row in said[160:]])
    found = fitted.card["metrics"]["macro_f1"]
    assert found["value"] == pytest.approx(f1_score(truth, guess, average="macro"))
    assert found["value"] > 0.75
    assert found["low"] < found["value"] < found["high"]


def test_heads_for_several_labels_are_compared_with_the_most_frequent(labels_view):
    found = heads.compare(labels_view, ["logistic", "ridge"], evaluation="folds")
    rows = found.rows()
    assert [row["head"] for row in rows][-1] == "majority"
    assert {"logistic", "ridge", "knn", "majority"} == {row["head"] for row in rows}
    assert heads.runs(labels_view.dataset)[0].rows() == rows


def test_numbers_of_texts_have_tfidf_as_their_baseline(make_view):
    rng = np.random.default_rng(0)
    words = np.array(["plate", "crack", "rust", "dent", "scale", "pit"])
    texts = [" ".join(rng.choice(words, 8)) for _ in range(120)]
    cost = [text.count("crack") + 0.1 * rng.normal() for text in texts]
    view = make_view(rng.normal(size=(120, 3)), cost, spec="st:m", texts=texts)
    found = heads.compare(view, ["ridge"], evaluation="folds")
    best = found.rows()[0]
    assert (best["encoder"], best["head"]) == ("baseline:tfidf", "ridge")
    assert best["value"] > 0.8
    fitted = heads.fit(view, "tfidf", register=False)
    assert fitted.predict(["crack crack crack"])[0] > fitted.predict(["rust rust rust"])[0] + 1


def test_estimators_of_the_users_own(make_view, blobs, numbers_view):
    vectors, labels = blobs(n=100, noise=2)
    view = make_view(vectors, labels)
    found = heads.compare(view, ["prototype", LinearSVC(C=0.1)])
    assert {row["head"] for row in found.rows()} >= {"LinearSVC", "prototype"}
    assert "log_loss" not in found.cell("timm:x", "LinearSVC").report.scores
    fitted = heads.fit(view, LogisticRegression(C=2.0))
    assert "C=2.0" in fitted.card["search_space"]
    assert heads.load_head(view.dataset, fitted.head_id).predict(view.load())[0] in labels
    by_name = heads.fit(view, "python:sklearn.svm:LinearSVC", register=False)
    assert by_name.card["metrics"]["accuracy"]["value"] > 0.5
    assert heads.fit(numbers_view, SVR(), register=False).card["task"] == "regression"


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("logistic", "none for regression; those that are: ridge, knn, majority, tfidf"),
        ("python:sklearn.svm:Nothing", "cannot be imported"),
        ("python:numpy:array", "needs arguments"),
        ("python:numpy:pi", "expected python:module:object of an estimator"),
    ],
)
def test_heads_that_cannot_are_said_clearly(numbers_view, head, said):
    with pytest.raises(UnknownHead, match=said):
        heads.fit(numbers_view, head)
