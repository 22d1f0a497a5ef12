"""Heads that know their classes by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import heads
from featurestore.curation.labels import attach
from featurestore.errors import BadName, EncoderMismatch, ModalityMismatch, UnknownHead
from featurestore.store.store import Store
from featurestore.store.view import View
from featurestore.terms.specs import Modality
from heads.catalogue.table import head_entry
from heads.catalogue.words import class_vectors, prompts_of, read_prompts
from heads.estimators.logistic import LogisticHead
from heads.estimators.softmax import fit_softmax, softmax
from heads.estimators.zero_shot import ZeroShotHead, ZeroShotProbe
from heads.transfer.advice import Way

NAMES = ["ant", "bee", "cat"]


@pytest.fixture
def named(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows around the words of their class, labels, and vectors of those words."""
    words = np.linalg.qr(rng.normal(size=(16, 3)))[0].T
    codes = np.arange(90) % 3
    rows = 2.0 * words[codes] + rng.normal(size=(90, 16)) / 2
    return rows.astype(np.float32), np.array(NAMES)[codes], words.astype(np.float32)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# -- estimators -------------------------------------------------------------------------------


def test_the_closest_words_win_whatever_the_labels_of_the_training_rows(named, rng) -> None:
    X, y, words = named
    head = ZeroShotHead(class_names=NAMES, class_vectors=words).fit(X, y)
    cosines = X / np.linalg.norm(X, axis=1, keepdims=True) @ words.T
    expected = np.array(NAMES)[cosines.argmax(axis=1)]
    np.testing.assert_array_equal(head.predict(X), expected)
    assert (expected == y).mean() > 0.9
    shuffled = ZeroShotHead(class_names=NAMES, class_vectors=words).fit(X, rng.permutation(y))
    np.testing.assert_array_equal(shuffled.predict(X), expected)
    np.testing.assert_allclose(head.predict_proba(X), softmax(head.sharpness_ * cosines), atol=1e-6)


def test_a_class_without_a_training_row_is_predicted_like_the_others(named) -> None:
    X, y, words = named
    head = ZeroShotHead(class_names=NAMES, class_vectors=words).fit(X[y != "bee"], y[y != "bee"])
    assert head.classes_.tolist() == NAMES
    assert (head.predict(X[y == "bee"]) == "bee").mean() > 0.9


def test_it_says_what_it_lacks(named) -> None:
    X, y, words = named
    with pytest.raises(ValueError, match="expected class_names and class_vectors"):
        ZeroShotHead().fit(X, y)
    with pytest.raises(ValueError, match=r"no words for the classes \['cat'\]"):
        ZeroShotHead(class_names=NAMES[:2], class_vectors=words[:2]).fit(X, y)


def test_the_probe_is_the_words_where_rows_may_not_speak_and_logistic_without_words(named) -> None:
    X, y, words = named
    silent = ZeroShotProbe(class_names=NAMES, class_vectors=words, Cs=(1e-9,)).fit(X, y)
    alone = ZeroShotHead(class_names=NAMES, class_vectors=words).fit(X, y)
    # Its intercepts are free, and the rows have a word in them.
    np.testing.assert_allclose(silent.predict_proba(X), alone.predict_proba(X), atol=0.03)
    wordless = ZeroShotProbe(normalisation="centre", Cs=(10.0,)).fit(X, y)
    plain = LogisticHead(normalisation="centre", Cs=(10.0,)).fit(X, y)
    np.testing.assert_allclose(wordless.predict_proba(X), plain.predict_proba(X), atol=5e-3)


def test_with_a_label_a_class_words_help_and_with_many_they_do_no_harm(rng) -> None:
    """Words that are right but for noise, against rows that are noisier still."""
    truth = rng.normal(size=(5, 24))
    words = truth + rng.normal(size=truth.shape) / 2
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    codes = np.arange(2500) % 5
    X = truth[codes] + 2 * rng.normal(size=(2500, 24))
    names = [f"c{n}" for n in range(5)]
    y = np.array(names)[codes]
    given = {"class_names": names, "class_vectors": words}

    def accuracy(head: object, rows: slice) -> float:
        return float((head.fit(X[rows], y[rows]).predict(X[2000:]) == y[2000:]).mean())

    few, many = slice(0, 10), slice(0, 2000)
    assert accuracy(ZeroShotProbe(**given), few) > accuracy(LogisticHead(), few) + 0.05
    assert accuracy(ZeroShotProbe(**given), many) > accuracy(ZeroShotHead(**given), many) + 0.01
    assert accuracy(ZeroShotProbe(**given), many) > accuracy(LogisticHead(), many) - 0.03


def test_an_offset_is_what_the_penalty_draws_to(named) -> None:
    """Given its own scores as offset, a fit has nothing to add."""
    X, y, _ = named
    codes = np.unique(y, return_inverse=True)[1]
    X = X.astype(np.float64)
    W = fit_softmax(X, codes, 3, C=1e6, tol=1e-9)
    more = fit_softmax(X, codes, 3, C=1e-3, offset=X @ W[:-1] + W[-1], tol=1e-9)
    assert np.abs(more[:-1]).max() < 1e-2 * np.abs(W[:-1]).max()


# -- words ------------------------------------------------------------------------------------


def test_prompts_are_templates_or_names() -> None:
    classes = ["old_dog", "cat"]
    image, text = Modality.IMAGE, Modality.TEXT
    assert prompts_of(None, classes, image) == [["a photo of a old dog."], ["a photo of a cat."]]
    assert prompts_of(None, classes, text) == [["old dog"], ["cat"]]
    assert prompts_of(["{}", "no {}"], ["cat"], text) == [["cat", "no cat"]]
    assert prompts_of({"cat": ["a", "b"], "old_dog": "c"}, classes, image) == [["c"], ["a", "b"]]
    with pytest.raises(BadName, match=r"template 'cats': expected \{\} where the class"):
        prompts_of("cats", classes, image)
    with pytest.raises(BadName, match=r"the prompts lack the classes \['old_dog'\]"):
        prompts_of({"cat": "a"}, classes, image)


def test_prompts_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    for prompts in ({"cat": "a cat", "dog": ["a dog", "the dog"]}, ["a {}", "the {}"]):
        path.write_text(json.dumps(prompts))
        assert read_prompts(f"@{path}") == prompts
    assert read_prompts("a {}") == "a {}"
    for bad in ("{", "[]", '{"cat": 3}', "3"):
        path.write_text(bad)
        with pytest.raises(BadName, match=r"prompts\.json: expected"):
            read_prompts(f"@{path}")
    with pytest.raises(BadName, match="absent"):
        head_entry("zero-shot:@absent.json")


def test_a_class_is_the_mean_direction_of_its_prompts(texts_view: View) -> None:
    first, second = texts_view.encode(["bread", "cheese"]).astype(np.float64)
    [found] = class_vectors(texts_view, [["bread", "cheese"]])
    mean = first / np.linalg.norm(first) + second / np.linalg.norm(second)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-6)


# -- on views ---------------------------------------------------------------------------------


def test_topics_are_told_by_their_names_alone(texts_view: View, tmp_path: Path) -> None:
    names = ["zero-shot", "zero-shot+probe", "zero-shot:things of {}"]
    run = heads.compare(texts_view, names)
    values = {row["head"]: row["value"] for row in run.rows()}
    assert values["zero-shot"] > 0.7  # chance is 0.33, and no label taught it
    assert values["zero-shot+probe"] >= values["zero-shot"]
    assert "things of {}" in run.card["search_spaces"]["zero-shot:things of {}"]
    again = heads.run_again(texts_view.dataset, run)
    assert [row["value"] for row in again.rows()] == [row["value"] for row in run.rows()]

    own = ZeroShotHead({"food": "bread", "music": "a violin", "travel": ["a train", "a hotel"]})
    head = heads.fit(texts_view, own)
    bundle = heads.load_bundle(head.save(tmp_path / "bundle"))
    asked = bundle.ask(["the soup and the butter", "the piano and the drum"])
    assert asked.predicted.tolist() == ["food", "music"]


def test_from_the_command_line(texts_view: View, capsys: pytest.CaptureFixture[str]) -> None:
    from featurestore.cli import run

    store = ["--store", str(texts_view.dataset.store.path)]
    assert run(["train", "texts", "--head", "zero-shot:about {}: yes/no", *store]) == 0
    [card] = heads.list_heads(texts_view.dataset)
    assert card["head"] == "zero-shot:about {}: yes/no"
    assert card["head_id"].startswith("zero-shot-about-yes-no-")
    capsys.readouterr()
    assert run(["train", "texts", "--head", "zero-shot:about", *store]) == 1
    assert "expected {} where the class is to stand" in capsys.readouterr().err


def test_few_labels_begin_from_the_words(texts_view: View) -> None:
    found = heads.curve(texts_view, "zero-shot+probe", per_class=[1, 4], n_draws=4)
    plain = heads.curve(texts_view, "ridge", per_class=[1], n_draws=4)

    def mean(curve: heads.Curve, k: int) -> float:
        return next(
            float(b.scores.mean())
            for b in curve.budgets
            if b.per_class == k and b.encoder == "builtin:tiny-text"
        )

    assert mean(found, 1) > mean(plain, 1)


def test_a_verdict_tries_the_words_and_goes_on_without_the_encoder(
    texts_view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = heads.assess_transfer([texts_view], heads=["prototype"])
    tried = found.alternatives["builtin:tiny-text"]
    (words,) = (one for one in tried if one.way is Way.WORDS)
    assert words.way == Way.WORDS
    assert words.over_encoder.first == ("builtin:tiny-text", "zero-shot+probe")

    def gone(*_: object, **__: object) -> None:
        raise EncoderMismatch("another encoder now")

    monkeypatch.setattr(View, "encode", gone)
    found = heads.assess_transfer([texts_view], heads=["prototype"], save=False)
    tried = [one.way for of_one in found.alternatives.values() for one in of_one]
    assert Way.WORDS not in tried
    said = "Words of the classes were not tried with builtin:tiny-text: another encoder now."
    assert said in found.notes


def test_where_no_words_can_be_had_it_says_so(
    texts_view: View, empty_store: Store, tiny_images: Path
) -> None:
    empty_store.embed([tiny_images], dataset="photos", encoders=["baseline:pixels"])
    with pytest.raises(ModalityMismatch, match="baseline:pixels cannot read texts"):
        heads.fit(empty_store.view("photos", "baseline:pixels"), "zero-shot")
    both = heads.concat([texts_view, texts_view])
    with pytest.raises(ModalityMismatch, match="needs one encoder that reads words"):
        heads.fit(both, "zero-shot")
    with pytest.raises(UnknownHead, match="'zero-shot' cannot do multilabel"):
        heads.fit(texts_view, "zero-shot", task="multilabel")
    with pytest.raises(BadName, match="zero-shot does not judge labels"):
        heads.find_issues(texts_view, head="zero-shot")


def test_pictures_are_told_by_words_through_both_towers(
    empty_store: Store, tiny_images: Path, tiny_clip: Path
) -> None:
    """The network is untrained, so that only the way through it is looked at."""
    spec = f"open_clip:local-dir:{tiny_clip}"
    empty_store.embed([tiny_images], dataset="photos", encoders=[spec])
    view = empty_store.view("photos", spec)
    head = heads.fit(view, "zero-shot")
    names = list(head.card["classes"])
    words = class_vectors(view, [[f"a photo of a {name}."] for name in names])
    loaded = view.load()
    unit = loaded.vectors / np.linalg.norm(loaded.vectors, axis=1, keepdims=True)
    expected = np.array(names)[(unit @ words.T).argmax(axis=1)]
    np.testing.assert_array_equal(head.predict(loaded.vectors), expected)


def test_a_view_without_words_is_left_out_with_a_note(
    empty_store: Store, tiny_images: Path, tiny_clip: Path
) -> None:
    clip = f"open_clip:local-dir:{tiny_clip}"
    empty_store.embed([tiny_images], dataset="photos", encoders=[clip, "baseline:pixels"])
    views = empty_store.dataset("photos").views()
    run = heads.compare(views, ["ridge", "zero-shot"])
    cells = {(row["encoder"], row["head"]) for row in run.rows()}
    assert (clip, "zero-shot") in cells
    assert ("baseline:pixels", "ridge") in cells
    assert ("baseline:pixels", "zero-shot") not in cells
    assert "baseline:pixels does not read words, so zero-shot was not tried on it." in run.notes
    pixels = [view for view in views if view.spec.family == "baseline"]
    with pytest.raises(ModalityMismatch, match="zero-shot: no encoder reads words among"):
        heads.compare(pixels, ["ridge", "zero-shot"])


def test_running_again_notices_other_prompts(texts_view: View, tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"food": "bread", "music": "a song", "travel": "a train"}))
    run = heads.compare(texts_view, [f"zero-shot:@{path}"])
    assert heads.run_again(texts_view.dataset, run).rows()[0]["value"] == run.rows()[0]["value"]
    path.write_text(json.dumps({"food": "a train", "music": "bread", "travel": "a song"}))
    with pytest.raises(BadName, match="the settings to choose from have changed"):
        heads.run_again(texts_view.dataset, run)


def test_an_estimator_keeps_its_settings_and_its_card_names_them(texts_view: View) -> None:
    own = ZeroShotProbe(Cs=(10.0,), normalisation="l2", random_state=5)
    head = heads.fit(texts_view, own, seed=3)
    assert head.estimator.random_state == 5
    assert head.card["search_space"].startswith("as given: ZeroShotProbe(Cs=(10.0,)")


def test_of_few_rows_that_are_all_right_the_sharpness_has_a_bound(named) -> None:
    X, y, words = named
    head = ZeroShotHead(class_names=NAMES, class_vectors=words).fit(X[:3], y[:3])
    assert (head.predict(X[:3]) == y[:3]).all()
    assert 3 < head.sharpness_ < 50


def test_meaningless_names_gain_nothing_over_the_same_head_without_them(texts_view: View) -> None:
    """Judged against `logistic`, not against the weaker head that was asked for."""
    table = texts_view.items().select(["item_id", "topic"])
    codes = {"food": "x1", "music": "x2", "travel": "x3"}
    values = pa.array([codes[topic] for topic in table.column("topic").to_pylist()])
    attach(texts_view.dataset.folder, table.set_column(1, "topic", values))
    found = heads.assess_transfer([texts_view], heads=["prototype"])
    tried = found.alternatives["builtin:tiny-text"]
    (words,) = (one for one in tried if one.way is Way.WORDS)
    assert words.over_encoder.second[1] in ("logistic", "prototype")
    assert not words.wins
