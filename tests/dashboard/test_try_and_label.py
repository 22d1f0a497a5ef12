"""Try it, and the loop of labels, over a real store without a browser."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import heads
from dashboard.page_data import labeling, trying
from featurestore.curation.reviews import Action, Review, add_reviews, read_reviews, undo
from featurestore.errors import BadName, Undecodable
from featurestore.exchange.imports import Incoming, import_vectors
from featurestore.store.store import Store, open_store
from featurestore.store.view import View
from tests.dashboard.test_app import opened, texts_of


@pytest.fixture(autouse=True)
def store(full_store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("FEATURESTORE_STORE", str(full_store.path))
    return full_store


# -- try it -----------------------------------------------------------------------------------


def asked(store: Store, named: dict[str, str | bytes]) -> trying.Tried:
    dataset = store.dataset("pictures")
    head = heads.load_head(dataset, heads.list_heads(dataset)[0].head_id)
    return trying.try_items(head, dataset.views(), named, View.encode)


def test_pictures_are_answered_as_predict_answers_and_a_broken_one_is_named(store: Store) -> None:
    root = Path(store.dataset("pictures").description.sources["pictures"].root)
    names = ("test/black/0.png", "test/white/1.png")
    found = asked(store, {**{n: (root / n).read_bytes() for n in names}, "bad.png": b"no picture"})
    dataset = store.dataset("pictures")
    head = heads.load_head(dataset, heads.list_heads(dataset)[0].head_id)
    expected = head.ask([root / name for name in names])
    assert found.answers.ids.tolist() == [*names]
    assert found.answers.predicted.tolist() == expected.predicted.tolist()
    np.testing.assert_allclose(found.answers.probabilities, expected.probabilities, atol=1e-6)
    assert list(found.failed) == ["bad.png"]
    assert found.vectors is not None
    view = dataset.view("baseline:pixels")
    nearest = view.index().search(found.vectors, k=1)
    assert nearest.ids[:, 0].tolist() == [*names]  # they are items: each is its own nearest
    rows = trying.rows(found.answers)
    assert [(row["item"], row["prediction"]) for row in rows] == [
        (names[0], "black"), (names[1], "white"),
    ]  # fmt: skip
    best, p = trying.most_probable(found.answers, 0)[0]
    assert (best, 100 * p) == ("black", rows[0]["confidence"])
    lines = trying.csv_of(found.answers.to_arrow()).decode().splitlines()
    assert lines[0].startswith('"item_id","predicted","confidence"')
    assert len(lines) == 3
    with pytest.raises(Undecodable):
        asked(store, {"bad.png": b"no picture"})


def test_a_bundle_is_taken_away_whole(store: Store, tmp_path: Path) -> None:
    dataset = store.dataset("pictures")
    head = heads.load_head(dataset, heads.list_heads(dataset)[0].head_id)
    with zipfile.ZipFile(io.BytesIO(trying.bundle_of(head))) as archive:
        archive.extractall(tmp_path)
    taken = heads.load_bundle(tmp_path / head.head_id)
    vectors = dataset.view("baseline:pixels").load().vectors
    np.testing.assert_array_equal(taken.predict_proba(vectors), head.predict_proba(vectors))


def test_lines_are_texts_and_files_of_one_name_stay_apart() -> None:
    assert trying.texts_in(" a \n\nb") == {"text 1": "a", "text 2": "b"}
    both = [("a.png", b"1"), ("a.png", b"2"), ("a.png", b"3")]
    assert trying.named_apart(both) == {"a.png": b"1", "a.png (2)": b"2", "a.png (3)": b"3"}


def test_texts_are_tried_on_the_page(small_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURESTORE_STORE", str(small_store.path))
    [code] = opened("try_it", dataset="texts").code
    assert code.value.startswith("featurestore train texts --head logistic")


def test_a_picture_is_tried_on_the_page(store: Store) -> None:
    root = Path(store.dataset("pictures").description.sources["pictures"].root)
    app = opened("try_it")
    picture = (root / "test/grey/0.png").read_bytes()
    app.file_uploader[0].upload("grey.png", picture, "image/png").run()
    assert not app.exception
    said = texts_of(app.markdown)
    assert "#### grey" in said


# -- labels -----------------------------------------------------------------------------------


def made(tmp_path: Path, n: int = 120) -> Store:
    """A data set of two groups of vectors, without labels."""
    rng = np.random.default_rng(0)
    codes = np.arange(n) % 2
    vectors = (3 * np.eye(8)[codes] + rng.normal(size=(n, 8))).astype(np.float32)
    store = open_store(tmp_path / "store", create=True)
    ids = pa.array([f"i{row:03d}" for row in range(n)])
    columns = pa.table(
        {"text": [f"{'even' if code else 'odd'} {i}" for i, code in enumerate(codes)]}
    )
    import_vectors(store, Incoming(ids, vectors, columns), dataset="made", name="made",
                   origin=tmp_path, text="text")  # fmt: skip
    return store


def test_labels_land_in_reviews_teach_or_test_and_say_when_to_stop(tmp_path: Path) -> None:
    dataset = made(tmp_path).dataset("made")
    with pytest.raises(BadName, match="two classes"):
        labeling.start_column(dataset, "kind", ["a", " "])
    with pytest.raises(BadName, match="have a column 'text'"):
        labeling.start_column(dataset, "text", ["odd", "even"])
    assert labeling.start_column(dataset, " kind ", ["odd", "even", "odd"]) == ("odd", "even")
    assert dataset.items(["kind"]).column("kind").null_count == 120
    view = dataset.views()[0].now()
    base = labeling.base_of(view, "kind")
    assert 10 < base.is_held.sum() < 40

    def now() -> labeling.Labels:
        return labeling.labels_of(base, read_reviews(dataset.folder), "kind", ("odd", "even"))

    first = labeling.train(now())
    assert (first.points, first.n_given, len(first.questions)) == ((), 0, 10)
    assert "0 of 5 held-out items" in labeling.stop_sentence(first)
    tests = [one.item_id for one in first.questions if one.is_test]
    assert len(tests) == 2
    for _ in range(8):
        found = labeling.train(now())
        said = [
            Review(
                one.item_id, Action.RELABEL, "kind", "even" if int(one.item_id[1:]) % 2 else "odd"
            )
            for one in found.questions
        ]
        add_reviews(dataset.folder, said, who="ann")
    labels = now()
    held = set(base.ids[base.is_held].tolist())
    assert len(labels.turns) == 80
    assert not held & {base.ids[row] for row in labels.teaching}  # never teaches
    found = labeling.train(labels)
    assert found.n_tested == len(labels.tested) == 16
    assert found.points[-1].n_labels == len(labels.teaching) == 64
    assert found.points[-1].right > 0.9
    assert found.points[-1].low < found.points[-1].right
    asked = {one.item_id for one in found.questions}
    assert not asked & {base.ids[row] for row in labels.turns}
    undo(dataset.folder, read_reviews(dataset.folder)[-1].id)
    assert len(now().turns) == 79
    assert len(labeling.curve_figure(found.points).data) == 1
    given = labeling.to_keep(now())
    assert labeling.keep(dataset, "kind", given) == len(given) == 79
    assert dataset.items(["kind"]).column("kind").null_count == 41
    fitted = heads.fit(dataset.views()[0], "ridge", label="kind", save=False)
    assert fitted.classes == ["even", "odd"]
    base = labeling.base_of(dataset.views()[0].now(), "kind")
    assert labeling.to_keep(now()) == {}
    assert labeling.curve(now())[-1].n_labels == 79 - len(now().tested)


def test_it_may_stop_when_doubling_adds_little_and_the_score_is_known() -> None:
    def said(*points: tuple[int, float, float]) -> str:
        found = tuple(labeling.Point(n, p, p - w, p + w) for n, p, w in points)
        return labeling.stop_sentence(labeling.Trained(9, found, 60, ()))

    assert said((10, 0.7, 0.04), (20, 0.8, 0.04)) == (
        "Go on: from 10 to 20 labels the score rose by 10.0 points."
    )
    assert said((10, 0.8, 0.04), (20, 0.805, 0.04)) == (
        "You can stop: from 10 to 20 labels the score rose by 0.5 points "
        "(it is known to about ± 4)."
    )
    assert said((10, 0.8, 0.2), (20, 0.8, 0.2)) == (
        "Go on: the score is known to about ± 20 points only."
    )
    assert said((15, 0.8, 0.1), (20, 0.9, 0.1)).startswith("Go on: the labels have not doubled")


def test_two_encoders_that_disagree_are_asked_about(tmp_path: Path) -> None:
    dataset = made(tmp_path).dataset("made")
    labeling.start_column(dataset, "kind", ["odd", "even"])
    base = labeling.base_of(dataset.views()[0].now(), "kind")
    said = [
        Review(f"i{row:03d}", Action.RELABEL, "kind", "even" if row % 2 else "odd")
        for row in range(40)
    ]
    add_reviews(dataset.folder, said)
    labels = labeling.labels_of(base, read_reviews(dataset.folder), "kind")
    turned = base.vectors.copy()
    turned[100] = turned[101]  # the other encoder sees item 100 as item 101
    other = labeling.Base(base.ids, turned, base.own, base.is_held)
    rows = labeling.disagreeing(labels, other, labels.is_open, 3)
    assert rows[0] == 100
    with pytest.raises(BadName, match="second encoder"):
        labeling.disagreeing(labels, None, labels.is_open, 3)


def test_of_many_classes_the_most_probable_have_keys() -> None:
    classes = [f"c{n}" for n in range(12)]
    question = labeling.Question("a", "unsure", guesses=(("c7", 0.9), ("c2", 0.1)))
    assert labeling.keyed(classes, question) == [("1", "c7"), ("2", "c2")]
    assert labeling.keyed(classes[:2], question) == [("1", "c0"), ("2", "c1")]


def test_a_label_given_on_the_page_is_kept_and_the_next_item_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = made(tmp_path)
    dataset = store.dataset("made")
    labeling.start_column(dataset, "kind", ["odd", "even"])
    add_reviews(dataset.folder, [Review("i000", Action.RELABEL, "kind", "odd"),
                                 Review("i001", Action.RELABEL, "kind", "even")])  # fmt: skip
    monkeypatch.setenv("FEATURESTORE_STORE", str(store.path))
    app = opened("label")
    app.text_input("who").set_value("ann").run()
    [odd] = [one for one in app.button if one.label == "odd"]
    asked = str(odd.key).rsplit(" ", 1)[-1]
    odd.click().run()
    assert not app.exception
    last = read_reviews(dataset.folder)[-1]
    assert (last.item_id, last.action, last.label, last.value, last.who) == (
        asked, Action.RELABEL, "kind", "odd", "ann",
    )  # fmt: skip
    assert last.when
    [odd] = [one for one in app.button if one.label == "odd"]
    assert not str(odd.key).endswith(asked)
    [back] = [one for one in app.button if one.label == "Undo my last"]
    back.click().run()
    assert read_reviews(dataset.folder)[-1].action is Action.UNDO
    [odd] = [one for one in app.button if one.label == "odd"]
    assert str(odd.key).endswith(asked)  # it is asked again
