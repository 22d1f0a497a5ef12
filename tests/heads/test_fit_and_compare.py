"""The doors: fit, compare, load_head, list_heads, runs."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.naive_bayes import GaussianNB

import heads
from featurestore.errors import (
    BadName,
    BadSource,
    EncoderMismatch,
    MissingColumn,
    ModalityMismatch,
    NotEnoughData,
    NotTrusted,
    ShapeMismatch,
    StoreCorrupt,
    UnknownHead,
)
from featurestore.storage.files import sha256_of
from heads.saved.card import digest_of

ROW_KEYS = ["encoder", "head", "metric", "value", "low", "high", "seconds"]


def test_importing_heads_imports_no_scikit_learn():
    code = "import heads, sys; assert not {'sklearn', 'scipy', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_submodule_never_hides_the_function_of_its_name():
    """Whatever is imported before: a folder called ``runs`` would hide `heads.runs`."""
    code = (
        "import pkgutil, types, heads\n"
        "for one in pkgutil.walk_packages(heads.__path__, 'heads.'):\n"
        "    __import__(one.name)\n"
        "print([n for n in heads.__all__ if isinstance(getattr(heads, n), types.ModuleType)])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


@pytest.fixture
def split_view(make_view, blobs):
    vectors, labels = blobs(n=150, noise=2)
    return make_view(vectors, labels, split=["train"] * 90 + ["val"] * 10 + ["test"] * 50)


@pytest.mark.parametrize("head", ["logistic", "ridge", "prototype", "knn", "majority"])
def test_a_head_is_fitted_registered_and_loaded(split_view, head):
    fitted = heads.fit(split_view, head)
    loaded = heads.load_head(split_view.dataset, fitted.head_id)
    assert loaded.card == fitted.card == heads.list_heads(split_view.dataset)[0]
    embeddings = split_view.load()
    np.testing.assert_array_equal(loaded.predict(embeddings), fitted.predict(embeddings))
    assert set(loaded.predict(embeddings)) <= {"class 0", "class 1", "class 2"}
    table = pq.read_table(fitted.path / "predictions.parquet").to_pydict()
    assert table["item_id"] == [f"item-{i:03d}" for i in range(100, 150)]
    assert table["predicted"] == fitted.predict(embeddings)[100:].tolist()
    np.testing.assert_allclose(
        table["probabilities"], fitted.predict_proba(embeddings)[100:], atol=1e-6
    )
    assert fitted.card["metrics"]["accuracy"]["value"] == pytest.approx(
        np.mean(np.array(table["predicted"]) == np.array(table["label"]))
    )


def test_the_card_says_what_decided_the_head(split_view):
    card = heads.fit(split_view, "ridge", seed=4, save=False).card
    assert {key: card[key] for key in ("dataset", "encoder", "snapshot", "label", "seed")} == {
        "dataset": "toys",
        "encoder": "timm:x",
        "snapshot": {"items": 3, "view": 1},
        "label": "label",
        "seed": 4,
    }
    assert card["evaluation"] == {
        "on": "test",
        "n_folds": 0,
        "n_repeats": 0,
        "n_train": 90,
        "n_tested": 50,
        "n_leaked": 0,
    }
    assert set(card["chosen"]) == {"normalisation", "alpha"}
    assert card["estimand"] == "these fitted heads, on the test split"
    assert "scikit-learn" in card["versions"]
    json.dumps(card)


def test_nothing_is_written_where_it_is_not_to_be_kept(split_view):
    heads.fit(split_view, "prototype", save=False)
    heads.fit(split_view, "prototype", register=False)  # as it was called up to 0.2
    assert heads.list_heads(split_view.dataset) == []
    assert not split_view.dataset.path.exists()


def test_a_failed_registration_leaves_nothing(split_view, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        heads.fit(split_view, "prototype")
    assert list((split_view.dataset.path / "heads").iterdir()) == []


def test_without_a_split_the_head_learns_all_and_is_tested_by_folds(make_view, blobs):
    vectors, labels = blobs(n=60)
    labels[7] = None
    view = make_view(vectors, labels)
    fitted = heads.fit(view, "prototype")
    assert fitted.card["estimand"] == "the learning procedure, 5 × 5 folds"
    assert (fitted.card["n_items"], fitted.card["n_unlabelled"]) == (59, 1)
    assert fitted.card["notes"] == ["1 item has no label and is not used."]
    table = pq.read_table(fitted.path / "predictions.parquet").to_pydict()
    assert len(table["item_id"]) == 59
    assert sorted(set(table["fold"])) == [0, 1, 2, 3, 4]


def test_test_rows_decide_nothing(make_view, blobs):
    """Other vectors and labels in the test split give the same head."""
    vectors, labels = blobs(n=150, noise=2)
    split = ["train"] * 100 + ["test"] * 50
    shuffled = labels[:100] + labels[:99:-1]
    a = heads.fit(make_view(vectors, labels, split=split), save=False)
    other = vectors.copy()
    other[100:] += 3
    b = heads.fit(make_view(other, shuffled, split=split), save=False)
    np.testing.assert_array_equal(a.estimator.weights_, b.estimator.weights_)


def test_vectors_of_another_encoder_are_refused(split_view, make_view, blobs):
    fitted = heads.fit(split_view, "prototype", save=False)
    vectors, labels = blobs(n=150, noise=2)
    with pytest.raises(EncoderMismatch, match="timm:x"):
        fitted.predict(make_view(vectors, labels, spec="timm:y").load())
    with pytest.raises(ShapeMismatch, match=r"\(n, 12\)"):
        fitted.predict(vectors[:, :5])


class Foreign:
    """A type that no head of ours is made of."""


def test_an_edited_bundle_or_a_foreign_type_is_not_loaded(split_view):
    fitted = heads.fit(split_view, "prototype")
    file = fitted.path / "head.skops"
    fitted.estimator.extra_ = Foreign()
    skops.io.dump(fitted.estimator, file)
    with pytest.raises(StoreCorrupt, match="not what its card describes"):
        heads.load_head(split_view.dataset, fitted.head_id)
    card = json.loads((fitted.path / "card.json").read_text())
    edited = {**card, "head_sha256": sha256_of(file)}
    (fitted.path / "card.json").write_text(json.dumps(edited))
    with pytest.raises(StoreCorrupt, match=r"card.json was edited"):
        heads.load_head(split_view.dataset, fitted.head_id)
    edited["card_sha256"] = digest_of(edited)  # by somebody who knows how
    (fitted.path / "card.json").write_text(json.dumps(edited))
    with pytest.raises(NotTrusted, match=r"the type .*Foreign, which .* --trust"):
        heads.load_head(split_view.dataset, fitted.head_id)
    (fitted.path / "card.json").write_text("{")
    with pytest.raises(StoreCorrupt, match=r"card\.json"):
        heads.load_head(split_view.dataset, fitted.head_id)


def test_an_estimator_of_ones_own_is_calibrated_by_scikit_learn_and_saved(make_view):
    rng = np.random.default_rng(0)
    codes = np.arange(200) % 2
    told = rng.normal(size=(200, 1)) + codes[:, None]
    vectors = told + 0.1 * rng.normal(size=(200, 10))  # naive Bayes counts one hint ten times
    view = make_view(vectors.astype(np.float32), [f"class {c}" for c in codes])
    calibrated = CalibratedClassifierCV(GaussianNB(), method="temperature")
    found = heads.compare(view, [GaussianNB(), calibrated])
    loss = {cell.head: cell.report.scores["log_loss"].mean() for cell in found.heads}
    assert loss["CalibratedClassifierCV"] < 0.7 < 1.3 < loss["GaussianNB"]
    fitted = heads.fit(view, calibrated)
    again = heads.load_head(view.dataset, fitted.head_id)
    table = view.load()
    np.testing.assert_array_equal(again.predict_proba(table), fitted.predict_proba(table))


def test_unknown_names_are_answered_with_known_ones(split_view):
    with pytest.raises(UnknownHead, match="did you mean 'logistic'"):
        heads.fit(split_view, "logistics")
    with pytest.raises(UnknownHead, match="there are none yet"):
        heads.load_head(split_view.dataset, "logistic")
    with pytest.raises(MissingColumn, match="colour"):
        heads.fit(split_view, label="colour")
    with pytest.raises(ValueError, match="balanced_accuracy"):
        heads.compare(split_view, metric="auc")


def test_an_unknown_keyword_is_answered_with_the_nearest(split_view):
    with pytest.raises(TypeError, match="has no keyword 'evaluate': did you mean 'evaluation'"):
        heads.compare(split_view, evaluate="folds")
    with pytest.raises(TypeError, match="has no keyword 'per_clas': did you mean 'per_class'"):
        heads.assess_transfer(split_view, per_clas=(4,))
    with pytest.raises(TypeError, match="has no keyword 'apply_reviews'"):
        heads.assess_transfer(split_view, apply_reviews=True)


def test_a_split_that_leaks_is_noticed(make_view, blobs):
    vectors, labels = blobs(n=60)
    content = [f"h{i}" for i in range(60)]
    content[50:53] = content[:3]
    view = make_view(vectors, labels, split=["train"] * 45 + ["test"] * 15, content_hash=content)
    fitted = heads.fit(view, "prototype", save=False)
    assert fitted.card["evaluation"]["n_leaked"] == 3
    assert fitted.card["notes"][0].startswith(
        "The split leaks: 3 of 15 test items have an exact copy"
    )


def test_compare_has_baselines_intervals_and_one_row_per_head(make_view, blobs):
    vectors, labels = blobs(n=90, noise=2)
    views = [
        make_view(vectors, labels, spec="timm:x"),
        make_view(np.random.default_rng(0).normal(size=(90, 4)), labels, spec="baseline:pixels"),
    ]
    seen = []
    found = heads.compare(views, ["prototype"], progress=lambda *now: seen.append(now))
    rows = found.rows()
    assert all(list(row) == ROW_KEYS for row in rows)
    assert {(row["encoder"], row["head"]) for row in rows} == {
        ("timm:x", "prototype"),
        ("timm:x", "knn"),
        ("baseline:pixels", "prototype"),
        ("baseline:pixels", "knn"),
        ("baseline:majority", "majority"),
    }
    assert [row["value"] for row in rows] == sorted((r["value"] for r in rows), reverse=True)
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    assert all(row["low"] < row["high"] for row in rows)
    assert seen[0] == (0, 125, "2 encoders × 2 heads × 25 fits")
    assert [done for done, _, _ in seen] == list(range(126))
    assert {what for _, _, what in seen[1:]} == {
        f"{row['head']} on {row['encoder']}" for row in rows
    }
    gain = found.difference(("timm:x", "prototype"), ("baseline:pixels", "prototype"))
    assert gain.low > 0
    assert gain.sentence().startswith("prototype on timm:x is better than prototype on baseline:pi")
    back = found.difference(("baseline:pixels", "prototype"), ("timm:x", "prototype"))
    assert (back.value, back.low, back.high) == (-gain.value, -gain.high, -gain.low)
    assert "is worse than" in back.sentence()
    same = found.difference(("timm:x", "knn"), ("timm:x", "knn"))
    assert same.sentence().startswith("No difference between knn on timm:x and knn on timm:x can")
    wide = found.difference(("timm:x", "prototype"), ("baseline:pixels", "prototype"), n_claims=5)
    assert wide.high - wide.low > gain.high - gain.low
    with pytest.raises(UnknownHead, match="prototype"):
        found.difference(("timm:x", "ridge"), ("timm:x", "knn"))


def test_a_stored_comparison_is_drawn_again(split_view):
    first = heads.compare(split_view, ["prototype"])
    second = heads.compare(split_view, ["ridge"], metric="accuracy")
    stored = heads.runs(split_view.dataset)
    assert [run.card["created"] for run in stored] == [
        second.card["created"],
        first.card["created"],
    ]
    assert stored[1].rows() == first.rows()
    assert stored[1].to_json() == first.to_json()
    pair = ("timm:x", "prototype"), ("baseline:majority", "majority")
    assert stored[1].difference(*pair) == first.difference(*pair)
    assert heads.runs(str(split_view.dataset.path))[0].rows() == second.rows()
    heads.compare(split_view, ["prototype"], save=False)
    assert len(heads.runs(split_view.dataset)) == 2


def test_the_same_seed_gives_the_same_table_whatever_the_row_order(make_view, blobs):
    vectors, labels = blobs(n=60, noise=3)
    shuffle = np.random.default_rng(0).permutation(60)
    ids = [f"item-{i:03d}" for i in shuffle]
    content = [f"hash-{i}" for i in shuffle]
    a = heads.compare(make_view(vectors, labels), ["ridge"], save=False)
    b = heads.compare(
        make_view(vectors[shuffle], np.array(labels)[shuffle], ids=ids, content_hash=content),
        ["ridge"],
        save=False,
    )

    def timeless(found):
        return [{**row, "seconds": 0} for row in found.rows()]

    assert timeless(a) == timeless(b)


def test_items_without_a_vector_in_every_view_are_left_out(make_view, blobs):
    vectors, labels = blobs(n=60)
    whole = make_view(vectors, labels)
    part = make_view(
        vectors[10:],
        labels[10:],
        spec="timm:y",
        ids=[f"item-{i:03d}" for i in range(10, 60)],
        content_hash=[f"hash-{i}" for i in range(10, 60)],
    )
    found = heads.compare([whole, part], ["prototype"], save=False)
    assert found.n_items == 50
    assert "10 items lack a vector in some view and are not used." in found.notes
    x, y = (found.cell(spec, "prototype").report for spec in ("timm:x", "timm:y"))
    np.testing.assert_array_equal(x.predicted, y.predicted)


def test_groups_never_part_unless_asked(make_view, blobs):
    vectors, labels = blobs(n=60)
    group = [f"g{i // 6}" for i in range(60)]
    view = make_view(vectors, labels, group=group)
    together = heads.compare(view, ["prototype"], save=False)
    assert together.notes[0].startswith("60 items form 10 independent units; groups are kept")
    apart = heads.compare(view, ["prototype"], save=False, group=False)
    assert not any("groups" in note for note in apart.notes)


def test_texts_have_tfidf_as_their_baseline_fitted_in_each_fold(make_view):
    """The table's row equals a loop that fits the catalogue's pipeline on each fold's texts."""
    from heads.catalogue.table import HEADS
    from heads.labels.plan import make_plan
    from heads.measures.evaluate import evaluate

    rng = np.random.default_rng(0)
    words = np.array(["plate", "crack", "rust", "dent", "scale", "pit", "roll", "edge"])
    labels = ["a", "b"] * 30
    texts = [
        " ".join(rng.choice(words, 6, p=np.roll([0.2, 0.2] + [0.1] * 6, 3 * (x == "a"))))
        for x in labels
    ]
    view = make_view(rng.normal(size=(60, 3)), labels, spec="st:m", texts=texts)
    found = heads.compare(view, ["prototype"], save=False).cell("baseline:tfidf", "logistic")
    plan = make_plan(view.load())
    plain = evaluate(
        lambda: HEADS["tfidf"].classifier(0),
        np.array(texts, dtype=object),
        plan.target,
        plan.parts,
        estimand=plan.estimand,
        groups=plan.block,
    )
    np.testing.assert_array_equal(found.report.repeats, plain.report.repeats)
    # Held-out fits end where float32 does: sharpness to 1 %, on some processors to 1.4.
    np.testing.assert_allclose(
        found.report.scores["log_loss"], plain.report.scores["log_loss"], rtol=3e-2
    )
    same = [a["C"] == b["C"] for a, b in zip(found.chosen, plain.chosen, strict=True)]
    assert sum(same) >= 24  # of 48 rows that can be parted, two large ones may do as well
    fitted = heads.fit(view, "tfidf")
    loaded = heads.load_head(view.dataset, fitted.head_id)
    assert loaded.card["encoder"] == "baseline:tfidf"
    np.testing.assert_array_equal(loaded.predict(texts), fitted.predict(view.load()))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a"] * 20, "one class \\('a'\\)"),
        ([None] * 20, "no label"),
        (["a"] * 19 + ["b"], "class 'b' has 1 item"),
    ],
)
def test_too_few_labels_are_said_clearly(make_view, labels, said):
    with pytest.raises(NotEnoughData, match=said):
        heads.compare(make_view(np.eye(20), labels))


def test_views_of_two_data_sets_are_not_compared(make_view, blobs):
    vectors, labels = blobs(n=30)
    views = [make_view(vectors, labels), make_view(vectors, labels, dataset="others")]
    with pytest.raises(BadSource, match="toys@timm:x, others@timm:x"):
        heads.compare(views)


def test_vectors_that_do_not_vary_say_nothing_and_break_nothing(make_view):
    view = make_view(np.ones((30, 4)), ["a", "b", "c"] * 10)
    found = heads.compare(view, save=False)
    assert all(row["low"] <= 1 / 3 <= row["high"] for row in found.rows())


def test_a_class_that_folds_cannot_test_is_left_out_and_named(make_view, blobs):
    vectors, labels = blobs(n=60)
    view = make_view(vectors, [*labels[:58], "rare", "odd"])
    found = heads.compare(view, ("prototype",), save=False)
    assert found.classes == ("class 0", "class 1", "class 2")
    assert found.n_items == 58
    assert (
        "2 classes of 2 items are left out, since each is in one group and folds need two "
        "(odd, rare)." in found.notes
    )


def test_claims_compare_the_best_with_each_other_encoder_and_hold_at_once(make_view, blobs):
    vectors, labels = blobs(n=120, noise=3)
    good = make_view(vectors, labels)
    bad = make_view(vectors[:, :2], labels, spec="timm:y")
    found = heads.compare([good, bad], ("prototype",), save=False)
    first = found.rows()[0]
    claims = found.claims()
    assert [claim.first for claim in claims] == [(first["encoder"], first["head"])] * 2
    assert {claim.second[0] for claim in claims} == {"timm:y", "baseline:majority"}
    assert found.n_pairs == len(found.heads) * (len(found.heads) - 1) / 2
    for claim in claims:
        alone = found.difference(claim.first, claim.second)
        assert claim.value == alone.value
        assert claim.low < alone.low < alone.high < claim.high


def test_tfidf_on_pictures_or_without_words_says_so(make_view, blobs):
    vectors, labels = blobs(n=60)
    with pytest.raises(ModalityMismatch, match="tfidf reads texts, but 'toys' holds pictures"):
        heads.fit(make_view(vectors, labels), "tfidf")
    with pytest.raises(NotEnoughData, match="TF-IDF finds no word"):
        heads.compare(make_view(vectors, labels, texts=["a"] * 60), ("prototype",))


def test_fractions_are_no_classes(make_view, blobs):
    vectors, _ = blobs(n=30)
    with pytest.raises(BadName, match="numbers with fractions"):
        heads.fit(make_view(vectors, [i / 7 for i in range(30)]), task="multiclass")


def test_folds_that_would_teach_one_class_are_refused_in_words(make_view):
    labels, groups = list("ababba"), list("033220")
    with pytest.raises(NotEnoughData, match=r"3 groups are too few .*--ignore-groups"):
        heads.compare(make_view(np.eye(6), labels, group=groups), ("prototype",), save=False)


def test_many_pairs_on_a_test_split_are_allowed_for_by_their_joint_draws(make_view):
    """Eight copies of one encoder and noise: 28 pairs and more, hardly more than a few claims."""
    rng = np.random.default_rng(0)
    codes = np.arange(400) % 2
    labels = [f"class {c}" for c in codes]
    split = ["train"] * 200 + ["test"] * 200
    base = rng.normal(size=(400, 5)) + 0.5 * codes[:, None]
    views = [
        make_view(base + 0.02 * rng.normal(size=(400, 5)), labels, spec=f"timm:{i}", split=split)
        for i in range(8)
    ]
    found = heads.compare(views, ["prototype"], save=False)
    assert found.allowance == "max-statistic"
    assert 1 < found.n_claims < found.n_pairs
    # Claims that share nothing cost what Bonferroni asks.
    apart = [
        make_view(rng.normal(size=(400, 5)) + 0.5 * codes[:, None], labels, spec=f"timm:{i}",
                  split=split)
        for i in range(3)
    ]  # fmt: skip
    loose = heads.compare(apart, ["prototype"], save=False)
    assert loose.n_claims / loose.n_pairs > found.n_claims / found.n_pairs
    by_loss = heads.compare(views, ["prototype"], metric="log_loss", save=False)
    assert 1 < by_loss.n_claims < by_loss.n_pairs
    folds = heads.compare(views[:2], ["prototype"], evaluation="folds", save=False)
    assert folds.allowance == "Bonferroni"
    assert folds.n_claims == folds.n_pairs


def test_the_largest_of_many_differences_is_as_rare_as_it_says(make_view):
    """Six exchangeable heads that err on shared rows: over all pairs, none is claimed in 95 %."""
    from heads.labels.estimands import ON_TEST
    from heads.labels.tasks import Task
    from heads.measures.comparison import ComparedHead, Comparison
    from heads.measures.evaluate import Report

    claimed = by_bonferroni = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        truth = np.arange(300) % 2
        ease = rng.normal(size=300)
        cells = []
        for name in "abcdef":
            right = ease + 0.7 * rng.normal(size=300) > -0.8
            said = np.where(right, truth, 1 - truth)
            recalls = [right[truth == c].mean() for c in (0, 1)]
            report = Report(
                truth, said, {"balanced_accuracy": np.array([np.mean(recalls)])}, ON_TEST
            )
            cells.append(ComparedHead(f"timm:{name}", "ridge", report, 0.0))
        run = Comparison(
            "d", "label", "balanced_accuracy", ON_TEST, Task.MULTICLASS, ("0", "1"),
            tuple(map(str, range(300))), tuple(cells), (), {},
        )  # fmt: skip
        pairs = [
            ((f"timm:{a}", "ridge"), (f"timm:{b}", "ridge"))
            for i, a in enumerate("abcdef") for b in "abcdef"[i + 1 :]
        ]  # fmt: skip
        for n_claims in (run.n_claims, run.n_pairs):
            found = [run.difference(*pair, n_claims=n_claims) for pair in pairs]
            is_claimed = any(one.low > 0 or one.high < 0 for one in found)
            claimed += is_claimed and n_claims == run.n_claims
            by_bonferroni += is_claimed and n_claims == run.n_pairs
    limit = 0.05 * 100 + 3 * (0.05 * 0.95 * 100) ** 0.5
    assert by_bonferroni <= claimed <= limit
