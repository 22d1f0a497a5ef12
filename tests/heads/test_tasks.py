"""Classes, several labels and numbers: each from its column to a registered head."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score, r2_score
from sklearn.svm import SVR, LinearSVC

import heads
from featurestore.errors import BadName, NotEnoughData, UnknownHead
from featurestore.storage.dataset_file import task_of
from heads.labels.tasks import Target, Task, guess_task, read_target


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


@pytest.mark.parametrize(
    "values",
    [
        ["a", "b"], ["a", "a|b"], [1, 2, 3], [0.5, 2.0], [0.0, 1.0, None], [0.0, 1.0, float("nan")],
        [float(i) for i in range(20)], [float(i) for i in range(21)], [1.0, float("inf")],
        [True, False], [-0.5, -2.0], ["", "a"],
    ],
)  # fmt: skip
def test_dataset_json_records_the_task_that_heads_would_guess(values):
    known = column(*(value for value in values if value is not None and value == value))
    assert task_of(pa.chunked_array([values])) == guess_task(known, "y")[0]


def test_targets_of_each_task():
    classes = read_target(column(2.0, 10.0, 2.0), Task.MULTICLASS, "y")
    assert (classes.classes, classes.values.tolist()) == (("10", "2"), [1, 0, 1])
    labels = read_target(column("cat|dog|", [], ["dog"]), Task.MULTILABEL, "y")
    assert labels.classes == ("cat", "dog")
    assert labels.values.tolist() == [[True, True], [False, False], [False, True]]
    blanks = read_target(column("cat| dog", "dog"), Task.MULTILABEL, "y")
    assert blanks.classes == (" dog", "cat", "dog")
    numbers = read_target(column("1.5", 2, 3.0), Task.REGRESSION, "y")
    assert numbers.values.tolist() == [1.5, 2, 3]


@pytest.mark.parametrize(
    ("values", "task", "error", "said"),
    [
        (column("a", "b"), Task.REGRESSION, BadName, "not a column of numbers"),
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
    found = heads.fit(numbers_view, "ridge", save=False).card["metrics"]["r2"]["value"]
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
    fitted = heads.fit(view, "tfidf", save=False)
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
    by_name = heads.fit(view, "python:sklearn.svm:LinearSVC", save=False)
    assert by_name.card["metrics"]["accuracy"]["value"] > 0.5
    assert heads.fit(numbers_view, SVR(), save=False).card["task"] == "regression"


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (
            "logistic",
            "cannot do regression; these can: ridge, layers, knn, majority, tfidf, finetune, mix",
        ),
        ("python:sklearn.svm:Nothing", "cannot be imported"),
        ("python:numpy:array", "needs arguments"),
        ("python:numpy:pi", "expected python:module:object of an estimator"),
    ],
)
def test_heads_that_cannot_are_said_clearly(numbers_view, head, said):
    with pytest.raises(UnknownHead, match=said):
        heads.fit(numbers_view, head)


def test_one_group_of_test_rows_claims_nothing(make_view):
    """A single patient: no interval of zero width, and none that excludes 0."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(120, 5))
    y = (vectors @ np.arange(5) + rng.normal(size=120)).tolist()
    columns = {"split": ["train"] * 70 + ["test"] * 50, "group": [None] * 70 + ["patient"] * 50}
    a = make_view(vectors, y, spec="timm:a", **columns)
    b = make_view(vectors + 0.2 * rng.normal(size=(120, 5)), y, spec="timm:b", **columns)
    found = heads.compare([a, b], ["ridge"], save=False)
    gain = found.difference(("timm:a", "ridge"), ("timm:b", "ridge"))
    assert (gain.low, gain.high) == (-np.inf, np.inf)
    assert "cannot be compared: the tested items are of one group" in gain.sentence()


def test_metrics_that_were_not_drawn_have_no_interval_on_a_test_split(make_view, blobs):
    vectors, labels = blobs(n=150, noise=4)
    view = make_view(vectors, labels, split=["train"] * 100 + ["test"] * 50)
    report = heads.compare(view, ["prototype"], save=False).cell("timm:x", "prototype").report
    assert report.estimate("auroc").low is None
    with pytest.raises(ValueError, match="auroc was not drawn"):
        report.difference(report, "auroc")
    drawn = heads.compare(view, ["prototype"], metric="auroc", save=False)
    assert drawn.rows()[0]["low"] is not None


def test_several_labels_by_heads_without_probabilities(labels_view):
    found = heads.compare(labels_view, [LinearSVC()], save=False)
    assert {row["head"] for row in found.rows()} == {"LinearSVC", "knn", "majority"}


def test_choices_that_are_arrays_do_not_reach_the_card(make_view, blobs):
    from sklearn.linear_model import LogisticRegressionCV

    vectors, labels = blobs(n=60)
    head = LogisticRegressionCV(
        Cs=3, cv=3, l1_ratios=(0,), use_legacy_attributes=False, scoring="accuracy"
    )
    assert heads.fit(make_view(vectors, labels), head).card["head"] == "LogisticRegressionCV"


def test_seeds_reach_estimators_within_estimators(make_view, blobs):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    vectors, labels = blobs(n=60, noise=6)
    head = make_pipeline(StandardScaler(), RandomForestClassifier(n_estimators=5))
    view = make_view(vectors, labels)
    a, b = (heads.fit(view, head, seed=3, save=False) for _ in range(2))
    np.testing.assert_array_equal(a.predict_proba(view.load()), b.predict_proba(view.load()))


def test_an_estimator_of_ones_own_is_not_read_from_what_another_found(make_view, blobs, tmp_path):
    vectors, labels = blobs(n=60)
    view = make_view(vectors, labels)
    heads.compare(view, [LogisticRegression()])
    kept = [path.read_text() for path in (tmp_path / "toys" / "cache" / "heads").glob("*.json")]
    assert kept
    assert not any("LogisticRegression" in text for text in kept)


def test_the_task_that_the_data_set_records_counts(tmp_path):
    import json

    from featurestore.sources.listing import SourceOptions
    from featurestore.store.store import open_store

    rows = [
        {"text": f"word{i % 7} number {i}", "price": i % 30, "grade": float(i % 3), "tags": [t]}
        for i in range(90)
        for t in ("x", None)
    ]
    table = tmp_path / "t.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    store = open_store(tmp_path / "store", create=True)
    options = SourceOptions(text="text", label=("grade", "price", "tags"))
    store.embed([table], dataset="d", source_options=options)
    dataset = store.dataset("d")
    tasks = {name: facts["task"] for name, facts in dataset.description.labels.items()}
    assert tasks == {"grade": "multiclass", "price": "multiclass", "tags": "multiclass"}
    view = dataset.views()[0]
    notes = heads.compare(view, ["prototype"], label="price", save=False).notes
    assert any("task regression takes them as a quantity" in note for note in notes)


def test_groups_larger_than_the_columns_are_left_out_alike(blobs):
    """Through the small matrix, as through the large one."""
    from heads.estimators.ridge import ridge_loo

    vectors, labels = blobs(n=90, dim=6, noise=3)
    targets = (np.array(labels)[:, None] == np.unique(labels)).astype(float)
    group = np.arange(90) % 4  # of 22 or 23 rows, six columns
    found = ridge_loo(vectors, targets, (0.5,), group)
    Z = vectors.astype(np.float64)
    for g in range(4):
        out = group == g
        head = Ridge(0.5).fit(Z[~out], targets[~out])
        np.testing.assert_allclose(found.scores[out], head.predict(Z[out]), atol=1e-8)
