"""Unlabelled items teach where they help, and no test item is ever seen."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits, make_moons
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import heads
from featurestore.cli import run
from featurestore.errors import UnknownHead
from heads.estimators.propagate import K, PropagateHead, surer_half
from heads.estimators.ridge import RidgeHead
from heads.experiments import inputs
from heads.labels.unlabelled import K_KEPT, Pooled, Unlabelled


@parametrize_with_checks([PropagateHead(heads=[RidgeHead()])])
def test_keeps_the_contract_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    """Vectors, class names, and an order in which the classes take turns."""
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(y))[:900]
    return X[rows].astype(np.float32), y[rows].astype(str)


def few(y, k):
    """Return k rows of each class, and the others."""
    rows = np.concatenate([np.flatnonzero(y == c)[:k] for c in np.unique(y)])
    return rows, np.setdiff1d(np.arange(len(y)), rows)


def pooled(X, rows, others, **options):
    block = np.arange(len(rows) + len(others))
    return Pooled.of(X[rows], X[others], options.pop("block", block), **options)


def test_labels_follow_two_moons():
    X, y = make_moons(400, noise=0.04, random_state=0)
    # Beside two columns that say where a point lies on a circle, so that cosines tell.
    grid = np.random.default_rng(0).normal(size=(2, 200)) * 3
    Z = np.sqrt(2 / 200) * np.cos(X @ grid + np.random.default_rng(1).uniform(0, 6.28, 200))
    rows, others = few(y, 2)
    plain = PropagateHead().fit(Z[rows], y[rows])
    head = PropagateHead().fit(pooled(Z, rows, others), y[rows])
    assert head.used_
    assert not plain.used_
    before, after = (balanced_accuracy_score(y, one.predict(Z)) for one in (plain, head))
    assert after > before + 0.02


@pytest.mark.parametrize(("k", "gain"), [(1, 0.03), (4, 0.01)])
def test_unlabelled_digits_save_labels(digits, k, gain):
    X, y = digits
    test, rest = np.arange(300), np.arange(300, 900)
    rows, others = (rest[one] for one in few(y[rest], k))
    head = PropagateHead().fit(pooled(X, rows, others), y[rows])
    plain = PropagateHead().fit(X[rows], y[rows])
    ours, theirs = (balanced_accuracy_score(y[test], h.predict(X[test])) for h in (head, plain))
    assert ours > theirs + gain
    p = head.predict_proba(X[test])
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_array_equal(head.classes_[p.argmax(axis=1)], head.predict(X[test]))
    assert f"{600 - 10 * k} unlabelled items were looked at" in head.note_


def test_rows_that_are_cut_out_see_no_item_of_the_others(digits):
    X, _ = digits
    block = np.r_[np.arange(20) // 2, np.arange(30) % 12]  # pool items of blocks 0 to 11
    found = pooled(X[:50], np.arange(20), np.arange(20, 50), block=block)
    taken = found[np.arange(10)]  # blocks 0 to 4
    assert set(taken.blocks[10:].tolist()) == {0, 1, 2, 3, 4, 10, 11}
    assert set(taken[:4].blocks[4:].tolist()) == {0, 1, 10, 11}
    assert set(taken[np.arange(10) < 4].blocks[4:].tolist()) == {0, 1, 10, 11}
    part = found.part(np.arange(4), np.arange(10, 20))  # rows 4 to 9 are in neither
    assert part.shape == (4, 64)
    assert set(part.blocks.tolist()) == {0, 1, 2, 3, 4, 10, 11}
    assert len(part.pool) == len(taken.pool) + 6
    barred = pooled(X[:50], np.arange(20), np.arange(20, 50), block=block, barred=np.arange(4, 10))
    assert set(barred.part(np.arange(4), np.arange(10, 20)).blocks.tolist()) == {0, 1, 10, 11}
    np.testing.assert_array_equal(np.asarray(taken), X[:10])


@pytest.mark.parametrize("n_kept", [None, 3, K_KEPT])
def test_neighbors_are_those_of_a_search_in_sight(digits, n_kept):
    X, _ = digits
    kept = {}
    if n_kept is not None:
        unit = X / np.linalg.norm(X, axis=1, keepdims=True)
        cosines = unit @ unit.T - 3 * np.eye(len(X))
        kept = {"kept": lambda: np.argsort(-cosines, axis=1)[:, :n_kept]}
    found = pooled(X, np.arange(400), np.arange(400, 900), **kept)
    part = found.part(np.arange(20), np.arange(100, 400))
    near, cosines = part.neighbors(K)
    seen = np.r_[X[:20], X[20:100], X[400:]].astype(np.float64)
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    exact = seen @ seen.T - 3 * np.eye(len(seen))
    np.testing.assert_allclose(cosines, -np.sort(-exact, axis=1)[:, :K], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(exact, near, axis=1), cosines, atol=1e-5)


def test_copies_and_group_mates_of_test_items_move_nothing(make_view, digits):
    """Planted with the labels that they would teach: scores are equal to the last bit."""
    X, y = digits
    rng = np.random.default_rng(0)
    n = 360
    split = np.array(["train"] * 60 + ["test"] * 120 + [None] * 180, dtype=object)
    labels = [*y[:180], *[None] * 180]
    planted = np.repeat(np.arange(60, 180), 3)  # copies, and others of the same group
    near = X[planted] + rng.normal(size=(len(planted), 64)).astype(np.float32)
    groups = [f"group {i}" for i in range(n)]
    clean = make_view(X[:n], labels, split=split, group=groups)
    hashes = [f"hash-{i}" for i in range(n)]
    full = make_view(
        np.concatenate([X[:n], X[planted], near]),
        [*labels, *[None] * 2 * len(planted)],
        split=[*split, *[None] * 2 * len(planted)],
        group=[*groups, *[None] * len(planted), *[groups[i] for i in planted]],
        content_hash=[*hashes, *[hashes[i] for i in planted], *[f"n{i}" for i in range(360)]],
    )
    loose = make_view(
        np.concatenate([X[:n], X[planted], near]),
        [*labels, *[None] * 2 * len(planted)],
        split=[*split, *[None] * 2 * len(planted)],
    )
    alone, beside, seen = (
        heads.compare(view, ["propagate"], save=False).cell("timm:x", "propagate").report
        for view in (clean, full, loose)
    )
    np.testing.assert_array_equal(alone.predicted, beside.predicted)
    assert {m: v.tolist() for m, v in alone.scores.items()} == {
        m: v.tolist() for m, v in beside.scores.items()
    }
    assert (alone.predicted != seen.predicted).any()  # they would have moved it


def test_what_is_kept_apart_stays_apart_through_chains():
    keys = (
        np.array(["a", "b", "b", "c", "d"], dtype=object),
        np.array(["x", "x", "y", "y", "z"], dtype=object),
    )
    found = Unlabelled(np.array([1, 2, 4]), keys)
    block = found.blocks_with(np.array([0, 3]), np.array([2, 4]))
    assert block[0] == block[1] == block[2] != block[3]  # 0 - 1 - 2 - 3, though 1 is not drawn
    assert found.sample(2, 0).tolist() == found.sample(2, 0).tolist()
    assert len(found.sample(2, 0)) == 2


def test_the_surer_half_of_each_class_teaches():
    spread = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.1, 0.9]])
    assert surer_half(spread).tolist() == [0, 1, 3]


@pytest.mark.parametrize("n_pool", [0, 1, 49])
def test_too_few_unlabelled_items_teach_nobody(digits, n_pool):
    X, y = digits
    rows, others = few(y, 3)
    head = PropagateHead().fit(pooled(X, rows, others[:n_pool]), y[rows])
    plain = PropagateHead().fit(X[rows], y[rows])
    said = {0: "there are none", 1: "1 unlabelled item is too few for 10 classes"}
    assert said.get(n_pool, "the 49 unlabelled items here are too few") in head.note_
    np.testing.assert_array_equal(head.predict(X), plain.predict(X))


def test_bad_input_gives_numbers_or_an_error(digits):
    X, y = digits
    rows, others = few(y, 2)
    with pytest.raises(ValueError, match="two classes or more, found 1 class"):
        PropagateHead().fit(pooled(X, rows, others), np.repeat("a", len(rows)))
    Z = X.copy()
    Z[others[:300]] = 0  # no direction at all
    Z[others[300:600]] = Z[rows[0]]  # copies, whose heads are certain
    head = PropagateHead().fit(pooled(Z, rows, others), y[rows])
    p = head.predict_proba(1e6 * Z)
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)


def test_ridge_is_left_out_of_many_classes():
    X = np.repeat(np.random.default_rng(0).normal(size=(24, 30)), 2, axis=0)
    head = PropagateHead().fit(X, np.repeat(np.arange(24), 2))
    assert [type(one).__name__ for one in head.heads_] == ["LogisticHead", "LdaHead"]


def test_strict_asks_another_encoder(digits):
    X, y = digits
    rows, others = few(y, 1)
    truth = np.eye(10)[y.astype(int)]
    alone = np.eye(10)[PropagateHead().fit(X[rows], y[rows]).predict(X).astype(int)]
    order = np.r_[rows, others]
    no_one = PropagateHead(strict=True).fit(pooled(X, rows, others), y[rows])
    assert "no other encoder" in no_one.note_
    asked = [
        PropagateHead(strict=True).fit(pooled(X, rows, others, other=said[order]), y[rows])
        for said in (truth, alone)
    ]
    assert asked[0].used_
    assert not asked[1].used_  # it sees what the heads see, so it agrees with them
    assert "another encoder agrees with" in asked[1].note_


TOPICS = {
    "sea": ["wave", "salt", "tide", "ship", "reef", "gull", "sail", "coast"],
    "kitchen": ["oven", "flour", "spoon", "pan", "butter", "stove", "recipe", "dough"],
}


@pytest.fixture
def half_labelled(embed):
    rng = np.random.default_rng(0)
    rows = [
        {
            "text": " ".join(rng.choice(TOPICS[topic], 4)),
            "topic": topic if i < 24 else "",
            "split": "test" if 12 <= i < 24 else "train",
        }
        for i in range(60)
        for topic in [list(TOPICS)[i % 2]]
    ]
    return embed(rows)


def test_train_says_what_taught_and_a_bundle_answers_new_items(half_labelled, tmp_path, capsys):
    where = ["--store", str(half_labelled.path)]
    assert run(["train", "texts", "--head", "propagate", *where]) == 0
    out = capsys.readouterr().out
    assert "propagate looks at" in out
    assert "unlabelled items were looked at" in out
    assert run(["suggest", "texts", "-n", "2", "--strategy", "typiclust", *where]) == 0
    said = capsys.readouterr().err
    assert "featurestore train texts -e builtin:tiny-text --head propagate" in said
    assert "learns from the others too" in said
    view = half_labelled.view("texts")
    head = heads.fit(view, "propagate:strict")  # n-grams of the texts are the witness
    again = heads.load_bundle(head.save(tmp_path / "bundle"))
    new = ["a gull above the wave", "flour and butter in a pan"]
    assert again.predict(new).tolist() == ["sea", "kitchen"]
    np.testing.assert_array_equal(again.predict_proba(new), head.predict_proba(new))
    n_bytes = sum(file.stat().st_size for file in (tmp_path / "bundle").iterdir())
    assert n_bytes < 60 * view.load().dim * 8  # no item is in it


def test_a_curve_hides_the_labels_that_were_not_drawn(make_view, digits):
    X, y = digits
    view = make_view(X[:500], y[:500].tolist())
    drawn = {
        name: heads.curve(view, name, per_class=(1, 2), n_draws=3, save=False)
        for name in ("propagate", "logistic")
    }
    ours, theirs = (one.of("timm:x")[0].mean for one in drawn.values())
    assert ours > theirs + 0.05
    assert any("whose labels were not drawn" in note for note in drawn["propagate"].notes)


def test_of_many_unlabelled_items_a_sample_is_looked_at(make_view, digits, monkeypatch):
    X, y = digits
    monkeypatch.setattr(inputs, "MOST_ITEMS", 100)
    view = make_view(X[:400], [*y[:40], *[None] * 360])
    found = heads.compare(view, save=False)  # of its own accord: 3 labels a class
    assert "propagate" in found.card.heads
    assert any("looks at 100 of the 360 unlabelled items" in note for note in found.notes)
    whole = make_view(X[:60], y[:60].tolist())
    notes = heads.compare(whole, ["propagate"], save=False).notes
    assert any("No item is without a label" in note for note in notes)


def test_it_is_for_one_class_an_item(make_view, digits):
    X, y = digits
    with pytest.raises(UnknownHead, match="cannot do regression"):
        heads.compare(
            make_view(X[:60], y[:60].astype(float).tolist()), ["propagate"], task="regression"
        )
