"""What is wrong with the data: label errors, twins, leaks, outliers; what to label next."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageEnhance

import heads
from featurestore.cli import run
from featurestore.curation.labels import attach
from featurestore.curation.reviews import Action, Review, add_reviews
from featurestore.errors import BadName, MissingColumn, NotEnoughData
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import Store
from featurestore.store.view import View
from heads.experiments.suggest import automatic, choose
from heads.quality.issues import Issues, Kind
from heads.quality.labels import judge_labels, neighbor_votes
from heads.quality.outliers import FAR, mahalanobis, outlier_scores
from heads.twins.duplicates import candidates, clusters, confirmed, text_likeness
from heads.twins.pictures import SAME, likeness, print_of


def label(view: View, changes: dict[str, str]) -> None:
    """Give some items another topic."""
    table = pa.table({"item_id": list(changes), "topic": list(changes.values())})
    attach(view.dataset.folder, table)


# -- labels -----------------------------------------------------------------------------------


def test_flipped_labels_are_found_with_their_class_and_the_neighbours_that_speak_against(
    texts_view: View,
) -> None:
    label(texts_view, {"t00": "music", "t10": "travel"})  # food and music
    found = heads.find_issues(texts_view)
    worst = found.of(Kind.LABEL)[:2]
    assert {(one.item_id, one.label, one.suggested) for one in worst} == {
        ("t00", "music", "food"),
        ("t10", "travel", "music"),
    }
    assert "of the 8 nearest are" in worst[0].reason
    assert len(found.of(Kind.LABEL)) <= 4
    assert len(worst[0].others) == 8
    [stored] = heads.quality_reports(texts_view.dataset)
    assert stored.to_json() == found.to_json()
    assert Issues.from_json(found.to_json()).summary() == found.summary()


def test_the_order_of_the_items_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, 300)
    proba = rng.dirichlet(np.ones(4), 300) + 2 * np.eye(4)[codes]
    proba /= proba.sum(axis=1, keepdims=True)
    codes[:20] = (codes[:20] + 1) % 4
    order = rng.permutation(300)
    found, again = judge_labels(proba, codes), judge_labels(proba[order], codes[order])
    np.testing.assert_allclose(again.doubt, found.doubt[order], atol=1e-12)
    np.testing.assert_array_equal(again.likeliest, found.likeliest[order])
    np.testing.assert_array_equal(again.is_named, found.is_named[order])


def test_the_order_in_which_items_came_does_not_matter_to_the_report(
    empty_store: Store, texts_view: View, tmp_path: Path
) -> None:
    label(texts_view, {"t00": "music", "t10": "travel"})
    table = texts_view.dataset.items(["item_id", "text", "topic"])
    rows = table.take(np.random.default_rng(0).permutation(len(table)))
    path = tmp_path / "shuffled.csv"
    rows.rename_columns(["id", "words", "topic"]).to_pandas().to_csv(path, index=False)
    options = SourceOptions(text="words", label=("topic",), id="id")
    empty_store.embed(
        [path], dataset="other", encoders=["builtin:tiny-text"], source_options=options
    )
    first = heads.find_issues(texts_view, save=False)
    second = heads.find_issues(empty_store.view("other", "builtin:tiny-text"), save=False)
    assert [(one.kind, one.item_id) for one in first.issues] == [
        (one.kind, one.item_id) for one in second.issues
    ]


def test_of_two_equal_doubts_the_one_that_is_often_confused_is_likelier_wrong() -> None:
    """Where class 1 is often labelled 0, a row labelled 0 that looks like 1 is the likelier one."""
    sure = np.eye(3)[np.repeat([0, 1, 2], 100)] * 0.9 + 0.1 / 3
    codes = np.repeat([0, 1, 2], 100)
    codes[100:130] = 0  # rows that are surely 1
    proba = np.vstack([sure, [[0.5, 0.5, 0], [0.5, 0, 0.5]]])
    judged = judge_labels(proba, np.append(codes, [0, 0]))
    assert judged.doubt[300] > 2 * judged.doubt[301]
    assert judged.is_named.nonzero()[0].tolist() == list(range(100, 130))
    assert (judged.likeliest[100:130] == 1).all()


def test_witnesses_that_know_nothing_name_no_label_as_its_own_correction() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 20, 500)
    judged = judge_labels(rng.dirichlet(np.full(20, 5.0), 500), codes)
    assert (judged.likeliest != codes)[judged.is_named].all()


def test_a_vote_hears_no_row_of_the_same_block() -> None:
    rows = np.array([[1, 2], [0, 2], [0, 1]])
    cosines = np.array([[0.9, 0.5], [0.9, 0.5], [0.5, 0.5]], np.float32)
    codes = np.array([0, 0, 1])
    votes = neighbor_votes(rows, cosines, codes, np.array([0, 0, 1]), 2)
    np.testing.assert_allclose(votes, [[0, 1], [0, 1], [1, 0]])
    alone = neighbor_votes(rows, cosines, codes, np.zeros(3, int), 2)
    np.testing.assert_allclose(alone, 0.5)  # nobody to hear: no opinion


def test_without_labels_or_with_one_class_the_rest_is_still_done(texts_view: View) -> None:
    ids = texts_view.load().ids.tolist()
    label(texts_view, dict.fromkeys(ids, "food"))
    path = Path(texts_view.dataset.description.sources["texts.csv"].root) / "texts.csv"
    path.write_text(path.read_text() + "u0,The bread and the apple!,food\n")
    texts_view.dataset.store.embed([path], dataset="texts", encoders=["builtin:tiny-text"])
    found = heads.find_issues(texts_view, save=False)
    assert found.of(Kind.LABEL) == []
    assert any(note.startswith("Labels were not judged: one class") for note in found.notes)
    assert found.found == {"label": 0, "leak": 0, "duplicate": 2, "outlier": 0}
    with pytest.raises(MissingColumn, match="no column 'colour'"):
        heads.find_issues(texts_view, label="colour")


def test_fewer_than_three_items_are_too_few(texts_view: View) -> None:
    from featurestore.curation.slices import Slice

    with pytest.raises(NotEnoughData, match="has 2 items: expected 3 or more"):
        heads.find_issues(texts_view.within(Slice("two", ("t00", "t01"), "")))
    few = texts_view.within(Slice("few", tuple(f"t{n:02d}" for n in range(8)), ""))
    assert heads.find_issues(few, save=False).found[Kind.OUTLIER] == 0  # smaller than k


# -- twins ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    from sklearn.datasets import load_sample_images

    whole = [Image.fromarray(one) for one in load_sample_images().images]
    boxes = [(x, y, x + 200, y + 200) for x in (0, 210, 420) for y in (0, 210)]
    return [one.crop(box) for one in whole for box in boxes]


def saved(picture: Image.Image, quality: int) -> Image.Image:
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=quality)
    return Image.open(sink)


ALTERED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "itself": lambda one: one,
    "cropped": lambda one: one.crop((10, 20, 185, 195)),
    "saved anew": lambda one: saved(one, 50),
    "brightened": lambda one: ImageEnhance.Brightness(one).enhance(1.3),
    "darkened": lambda one: ImageEnhance.Brightness(one).enhance(0.7),
    "smaller": lambda one: one.resize((90, 90)),
}


@pytest.mark.parametrize("how", ALTERED)
def test_an_altered_photo_is_like_its_original_and_like_no_other(
    photos: list[Image.Image], how: str
) -> None:
    originals = [print_of(one) for one in photos]
    altered = [print_of(ALTERED[how](one)) for one in photos]
    like = np.array([[likeness(a, b) for b in altered] for a in originals])
    assert np.diag(like).min() > SAME
    assert like[~np.eye(len(photos), dtype=bool)].max() < SAME


def test_likeness_is_symmetric_and_a_blank_picture_is_like_nothing(
    photos: list[Image.Image],
) -> None:
    a, b = print_of(photos[0]), print_of(ALTERED["cropped"](photos[0]))
    assert likeness(a, b) == pytest.approx(likeness(b, a))
    blank = print_of(Image.new("RGB", (50, 50), "grey"))
    assert likeness(blank, a) == likeness(blank, blank) == 0.0


def test_pairs_are_confirmed_once_and_equal_content_needs_no_proposal() -> None:
    graph = np.array([[1, 2], [0, 2], [0, 1], [4, 0], [3, 0]])
    scores = np.full((5, 2), 0.9, np.float32)
    first, second, n_unseen = candidates(graph, scores)
    assert list(zip(first, second, strict=True)) == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (3, 4)]
    assert n_unseen == 0
    assert candidates(graph, scores, most=2)[2] == 4
    content = np.array(["x", "y", "z", "x", None], dtype=object)
    pairs = confirmed(first, second, content, lambda a, b: 0.8 if (a, b) == (1, 2) else 0.1, 0.7)
    assert list(zip(pairs.first, pairs.second, pairs.likeness, strict=True)) == [
        (0, 3, 1.0),
        (1, 2, 0.8),
    ]
    np.testing.assert_array_equal(clusters(5, pairs), [0, 1, 1, 0, -1])


def test_texts_are_like_whatever_their_case_and_points() -> None:
    like = text_likeness(["Win a prize NOW!!", "win a prize, now", "see you at home", None])
    assert like(0, 1) == 1.0
    assert like(0, 2) < 0.2
    assert like(0, 3) == 0.0


def test_texts_without_letters_are_told_apart_and_empty_ones_are_like_none() -> None:
    like = text_likeness(["😀", "😡", ":)", "", None])
    assert like(0, 1) == like(0, 2) == like(3, 4) == like(0, 3) == 0.0
    assert like(2, 2) == 1.0


def test_twins_across_a_split_are_leaks_and_the_others_duplicates(
    empty_store: Store, tmp_path: Path, photos: list[Image.Image]
) -> None:
    for n, photo in enumerate(photos):
        for split in ("train", "test"):
            folder = tmp_path / "photos" / split / ("a" if n % 2 else "b")
            folder.mkdir(parents=True, exist_ok=True)
            if (split == "train") == (n < 10):
                photo.save(folder / f"{n}.png")
    photos[0].save(tmp_path / "photos/test/a/copy.png")  # equal pixels, equal bytes
    saved(photos[1], 60).save(tmp_path / "photos/test/a/jpeg.png")
    photos[2].crop((5, 5, 190, 190)).save(tmp_path / "photos/train/b/cut.png")
    empty_store.embed([tmp_path / "photos"], dataset="photos", encoders=["builtin:tiny-image"])
    found = heads.find_issues(empty_store.view("photos", "builtin:tiny-image"))
    leaks = {one.item_id: one for one in found.of(Kind.LEAK)}
    assert set(leaks) == {"train/b/0.png", "test/a/copy.png", "train/a/1.png", "test/a/jpeg.png"}
    assert leaks["test/a/copy.png"].reason == "in split test, a twin in train (equal content)"
    assert leaks["test/a/copy.png"].others == ("train/b/0.png",)
    assert {one.item_id for one in found.of(Kind.DUPLICATE)} == {"train/b/2.png", "train/b/cut.png"}
    assert found.found[Kind.LEAK] == 4


def test_comparisons_and_fits_say_what_near_duplicates_across_the_split_are_worth(
    empty_store: Store, tmp_path: Path, photos: list[Image.Image], capsys
) -> None:
    """Two of twelve test pictures stand in the training split, under another label."""
    for n, photo in enumerate(photos):
        split = "train" if n < 10 else "test"
        folder = tmp_path / "photos" / split / ("a" if n % 2 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        photo.save(folder / f"{n}.png")
    photos[1].save(tmp_path / "photos/test/b/copy.png")  # of an "a"
    saved(photos[3], 60).save(tmp_path / "photos/test/b/jpeg.png")
    empty_store.embed([tmp_path / "photos"], dataset="photos", encoders=["builtin:tiny-image"])
    view = empty_store.view("photos", "builtin:tiny-image")
    found = heads.compare(view, ["knn", "majority"])
    twins = found.card["twins"]
    assert (twins["n"], twins["n_test"]) == (2, len(photos) - 8)
    rows = {row["head"]: row for row in found.rows()}
    report = found.cell("builtin:tiny-image", "knn").report
    names = [Path(one).name for one in found.item_ids]
    kept = np.array([one not in ("copy.png", "jpeg.png") for one in names])
    recalls = [
        np.mean(report.predicted[kept & (report.truth == c)] == c) for c in np.unique(report.truth)
    ]
    assert rows["knn"]["without_twins"] == pytest.approx(np.mean(recalls))
    assert rows["knn"]["without_twins"] > rows["knn"]["value"]  # their labels were other ones
    (note,) = [one for one in found.notes if one.startswith("The split leaks: 2 of")]
    assert "near-duplicate (likeness 0." in note
    again = heads.compare(view, ["knn"], twins_together=True)
    assert again.card["twins"] is None
    assert again.n_items == twins["n_test"] - 2
    assert run(["compare", "photos", "--head", "knn", "--store", str(empty_store.path)]) == 0
    table = capsys.readouterr().out
    assert "without twins" in table
    assert "The split leaks: 2 of" in table
    assert run(["train", "photos", "--head", "knn", "--store", str(empty_store.path)]) == 0
    assert (
        "without the test items that have a near-duplicate: balanced accuracy"
        in capsys.readouterr().out
    )
    folds = heads.compare(view, ["knn"], evaluation="folds")
    assert folds.card["twins"] is None


def test_a_leak_names_the_twin_that_lies_beyond_and_how_like_that_one_is(
    empty_store: Store, tmp_path: Path
) -> None:
    """b and c are equal, and both in test; only b's near-copy a is in train."""
    lines = ["id,words,topic,split"]
    said = "the quick brown fox jumps over the lazy dog near the old stone bridge"
    lines += [f"a,{said} now,x,train", f"b,{said} again,x,test", f"c,{said} again,y,test"]
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    for n in range(30):
        words = " ".join("".join(rng.choice(letters, 5)) for _ in range(6))
        lines.append(f"r{n},{words},{'xy'[n % 2]},train")
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines) + "\n")
    options = SourceOptions(text="words", label=("topic",), id="id", split="split")
    empty_store.embed([path], dataset="d", encoders=["builtin:tiny-text"], source_options=options)
    found = heads.find_issues(empty_store.view("d", "builtin:tiny-text"), save=False)
    leaks = {one.item_id: one for one in found.of(Kind.LEAK)}
    assert set(leaks) == {"a", "b", "c"}
    assert leaks["b"].others[0] == "a"
    assert leaks["b"].reason.startswith("in split test, a twin in train (likeness 0.8")
    assert leaks["b"].score < 1


def test_a_large_cluster_costs_a_line_each() -> None:
    from heads.quality.find import N_OTHERS, _twin_issues
    from heads.twins.duplicates import Pairs
    from heads.twins.twins import Twins

    n = 3000
    content = np.full(n, "same", dtype=object)
    ids = np.array([f"i{i}" for i in range(n)], dtype=object)
    columns = {"content_hash": content}
    from featurestore.terms.embeddings import Embeddings

    embeddings = Embeddings(ids, np.zeros((n, 2), np.float32), "", columns)
    pairs = Pairs(np.zeros(n - 1, int), np.arange(1, n), np.ones(n - 1))
    twins = Twins(np.zeros(n, int), pairs, 0.7, 0, 0, 0, 0, True)
    found = list(_twin_issues(embeddings, twins))
    assert len(found) == n
    assert max(len(one.others) for one in found) == N_OTHERS
    assert found[0].reason == "2999 twins (equal content)"


def test_twins_together_leave_no_leak_in_folds_nor_in_the_split(
    empty_store: Store, tmp_path: Path
) -> None:
    """Texts that come in pairs of near-copies, each pair with a label of its own kind of noise."""
    rng = np.random.default_rng(0)
    words = [
        "bread",
        "apple",
        "piano",
        "train",
        "guitar",
        "soup",
        "hotel",
        "ship",
        "cake",
        "flute",
        "drum",
        "rice",
    ]
    lines = ["id,words,topic,split"]
    for n in range(60):
        said = " ".join(rng.choice(words, 8))
        topic = ["a", "b"][int(rng.integers(2))]  # nothing in the words tells it
        for copy, split in (("x", "train"), ("y", "test" if n % 2 else "train")):
            lines.append(f"{n}{copy},{said}{'!' if copy == 'y' else ''},{topic},{split}")
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(lines) + "\n")
    options = SourceOptions(text="words", label=("topic",), id="id", split="split")
    empty_store.embed(
        [path], dataset="pairs", encoders=["builtin:tiny-text"], source_options=options
    )
    view = empty_store.view("pairs", "builtin:tiny-text")
    parted = heads.compare(view, ["knn"], evaluation="folds", metric="accuracy")
    together = heads.compare(
        view, ["knn"], evaluation="folds", metric="accuracy", twins_together=True
    )
    knn = ("builtin:tiny-text", "knn")
    assert parted.cell(*knn).report.estimate("accuracy").value > 0.8  # the twin tells the label
    assert together.cell(*knn).report.estimate("accuracy").value < 0.65
    assert together.card["never_part"] == ["content_hash", "group", "twins"]
    assert heads.run_again(view.dataset, together).rows()[0]["value"] == together.rows()[0]["value"]
    with pytest.raises(NotEnoughData, match="every test item has a near-duplicate"):
        heads.compare(view, ["knn"], twins_together=True)


def test_where_all_are_alike_a_twin_must_be_liker_still(empty_store: Store, tmp_path: Path) -> None:
    """Reports that share most of their words are no twins; one that was typed twice is."""
    rng = np.random.default_rng(0)
    words = np.array(["".join(rng.choice(list("bcdfgklmnprstaeiou"), 6)) for _ in range(300)])
    said = "the patient was seen in the morning and the scan of the chest shows that the left"
    texts = [f"{said} {' '.join(rng.choice(words, 4))}" for _ in range(80)]
    lines = [f"r{n:02d},{text},{'xy'[n % 2]}" for n, text in enumerate(texts)]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["id,words,topic", *lines, f"twin,{texts[0].upper()}!,x"]) + "\n")
    options = SourceOptions(text="words", label=("topic",), id="id")
    empty_store.embed([path], dataset="d", encoders=["builtin:tiny-text"], source_options=options)
    found = heads.find_issues(empty_store.view("d", "builtin:tiny-text"), save=False)
    assert {one.item_id for one in found.of(Kind.DUPLICATE)} == {"r00", "twin"}
    assert found.card["thresholds"]["duplicate"] > 0.73  # more than for any texts
    assert "2 of 81 items (2%) have one." in " ".join(found.notes)


def test_pictures_that_are_too_small_are_twins_of_equal_ones_alone(
    empty_store: Store, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for n in range(30):
        folder = tmp_path / "tiny" / "ab"[n % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8), 100 + n % 5, np.uint8)
        pixels[2:6, 3:5] = rng.integers(0, 256, (4, 2))
        Image.fromarray(pixels).save(folder / f"{n}.png")
    (tmp_path / "tiny/a/copy.png").write_bytes((tmp_path / "tiny/b/1.png").read_bytes())
    empty_store.embed([tmp_path / "tiny"], dataset="tiny", encoders=["baseline:pixels"])
    found = heads.find_issues(empty_store.view("tiny", "baseline:pixels"), save=False)
    assert {one.item_id for one in found.of(Kind.DUPLICATE)} == {"a/copy.png", "b/1.png"}
    assert any("31 pictures of less than 32 pixels" in note for note in found.notes)


# -- outliers ---------------------------------------------------------------------------------


def test_what_lies_far_from_every_class_is_an_outlier() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 32))
    vectors = (centres[rng.integers(0, 3, 400)] + 0.2 * rng.normal(size=(400, 32))).astype("f4")
    vectors[:4] = rng.normal(size=(4, 32))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = -np.sort(-(unit @ unit.T - 2 * np.eye(400)), axis=1)[:, :20]
    scores = outlier_scores(vectors, cosines.astype("f4"))
    assert set(np.flatnonzero(scores > FAR)) == {0, 1, 2, 3}


def test_copies_make_nobody_an_outlier() -> None:
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(1, 8)), 200, axis=0).astype(np.float32)
    vectors[:50] = rng.normal(size=(50, 8))
    cosines = np.full((200, 20), 1.0, np.float32)
    cosines[:50] = rng.uniform(0.4, 0.6, (50, 20))
    assert outlier_scores(vectors, cosines).max() < FAR


def test_mahalanobis_agrees_with_scikit_learn_for_one_class() -> None:
    from sklearn.covariance import LedoitWolf

    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 6)).astype(np.float32) + 1
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float64)
    theirs = LedoitWolf().fit(unit).mahalanobis(unit)
    np.testing.assert_allclose(mahalanobis(vectors), theirs, rtol=1e-4)


# -- the command line -------------------------------------------------------------------------


def test_the_commands_find_review_learn_and_suggest(
    texts_view: View, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """quality, review, train --apply-reviews, show, suggest, slices: the loop as people type it."""
    from featurestore.cli import run

    store = ["--store", str(texts_view.dataset.store.path)]
    label(texts_view, {"t00": "music"})
    assert run(["quality", "texts", *store]) == 0
    assert "labelled music, likelier food" in capsys.readouterr().out
    decide = ["review", "texts", "--item", "t00", "--relabel", "food", "--who", "ann"]
    assert run([*decide, *store]) == 0
    assert "t00: relabel food" in capsys.readouterr().err
    assert run(["review", "texts", *store]) == 0
    assert "ann" in capsys.readouterr().out
    table = str(tmp_path / "reviews.csv")
    assert run(["review", "texts", "--export", table, *store]) == 0
    assert run(["review", "texts", "--import", table, *store]) == 0
    assert "0 decisions from" in capsys.readouterr().err
    assert run(["train", "texts", "--head", "ridge", "--apply-reviews", *store]) == 0
    out = capsys.readouterr().out
    assert "1 relabelled, 0 left out" in out
    assert "with the labels of reviewers (1 items differ)" in out
    assert run(["show", "texts", "latest", *store]) == 0
    assert "probable label errors" in capsys.readouterr().out
    assert run(["slices", "texts", "--save", "food", "--where", "topic = 'food'", *store]) == 0
    assert run(["compare", "texts", "--slice", "food", *store]) == 1
    assert "heads need two classes or more" in capsys.readouterr().err
    assert run(["suggest", "texts", *store]) == 1
    assert "there is nothing to suggest" in capsys.readouterr().err
    assert run(["review", "texts", "--item", "t00", *store]) == 2
    assert run(["review", "texts", "--undo", "nothing", *store]) == 1


# -- what to label next -------------------------------------------------------------------------


def test_only_what_has_no_label_is_suggested_and_reviews_count(texts_view: View) -> None:
    ids = texts_view.load().ids.tolist()
    with pytest.raises(NotEnoughData, match="nothing to suggest"):
        heads.suggest(texts_view)
    bare = ids[12:]
    attach(
        texts_view.dataset.folder, pa.table({"item_id": bare, "topic": pa.nulls(48, pa.string())})
    )
    found = heads.suggest(texts_view, 5)
    assert len(found) == 5
    assert {one.item_id for one in found} <= set(bare)
    assert found[0].reason == "a head is unsure between two classes"
    decided = [
        Review(found[0].item_id, Action.RELABEL, "topic", "food"),
        Review(found[1].item_id, Action.EXCLUDE, "topic"),
    ]
    add_reviews(texts_view.dataset.folder, decided)
    left = {one.item_id for one in heads.suggest(texts_view, 100)}
    assert left == set(bare) - {found[0].item_id, found[1].item_id}
    with pytest.raises(BadName, match="no strategy 'magic'"):
        heads.suggest(texts_view, 5, "magic")


@pytest.mark.parametrize("strategy", ["uncertainty", "typiclust", "coreset", "random"])
def test_each_strategy_takes_open_rows_once(strategy: str) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(80, 8)).astype(np.float32)
    codes = np.full(80, -1)
    codes[:10] = np.arange(10) % 2
    is_open = codes < 0
    is_open[70:] = False
    rows, scores = choose(vectors, codes, is_open, 12, strategy)
    assert len(set(rows.tolist())) == 12 == len(scores)
    assert is_open[rows].all()
    assert len(choose(vectors, codes, is_open, 500, strategy)[0]) == 60


def test_with_no_label_the_first_suggestions_cover_the_clusters() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 300)
    vectors = (5 * np.eye(5)[truth] + rng.normal(size=(300, 5))).astype(np.float32)
    codes = np.full(300, -1)
    assert automatic(codes) == "typiclust"  # two labels of two classes come first
    rows, _ = choose(vectors, codes, codes < 0, 5, "typiclust")
    assert set(truth[rows]) == {0, 1, 2, 3, 4}
    with pytest.raises(NotEnoughData, match="labels of two classes"):
        choose(vectors, codes, codes < 0, 5, "uncertainty")


def test_coreset_is_the_greedy_k_centre() -> None:
    vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0], [0.7, 0.7]], np.float32)
    codes = np.array([0, -1, -1, -1, -1])
    rows, scores = choose(vectors, codes, codes < 0, 2, "coreset")
    assert rows.tolist() == [3, 2]
    np.testing.assert_allclose(scores, [2, 1], atol=1e-6)
