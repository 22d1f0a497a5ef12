"""Decisions of reviewers: an append-only history, files of it, and heads that learn from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import heads
from featurestore.cli import run
from featurestore.curation.labels import attach
from featurestore.curation.reviews import (
    Action,
    Review,
    add_reviews,
    applicable,
    contested,
    read_reviews,
    standing,
    undo,
)
from featurestore.errors import BadName, BadSource, NotEnoughData, UnknownItem
from featurestore.exchange import review_files
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import Store
from featurestore.store.view import View
from featurestore.upkeep.erase import erase, select_ids


@pytest.fixture
def view(texts_view: View) -> View:
    return texts_view


def relabel(item: str, value: str, who: str = "ann") -> Review:
    return Review(item, Action.RELABEL, "topic", value, who)


def test_a_decision_keeps_who_when_and_what_was_looked_at(view: View) -> None:
    folder = view.dataset.folder
    [made] = add_reviews(folder, [Review("t01", Action.CONFIRM, "topic")], who="ann")
    hashes = dict(zip(view.load().ids, view.load().content_hashes, strict=True))
    assert (made.who, made.content_hash) == ("ann", hashes["t01"])
    assert made.when.endswith("+00:00")
    assert read_reviews(folder) == [made]


def test_of_two_people_the_later_one_counts_and_both_are_kept(view: View) -> None:
    folder = view.dataset.folder
    add_reviews(folder, [relabel("t01", "food", "ann")])
    add_reviews(folder, [relabel("t01", "travel", "bob")])
    reviews = read_reviews(folder)
    assert [one.who for one in reviews] == ["ann", "bob"]
    assert standing(reviews)[("t01", "topic")].value == "travel"
    assert [one.who for one in contested(reviews)[("t01", "topic")]] == ["ann", "bob"]


def test_an_undo_lets_the_decision_before_stand_again(view: View) -> None:
    folder = view.dataset.folder
    add_reviews(folder, [relabel("t01", "food")])
    [second] = add_reviews(folder, [relabel("t01", "travel")])
    undo(folder, second.id)
    assert standing(read_reviews(folder))[("t01", "topic")].value == "food"
    assert len(read_reviews(folder)) == 3
    with pytest.raises(BadName, match="undone already"):
        undo(folder, second.id)
    with pytest.raises(BadName, match="no review 'nobody'"):
        undo(folder, "nobody")


@pytest.mark.parametrize(
    ("review", "error", "said"),
    [
        (Review("gone", Action.CONFIRM, "topic"), UnknownItem, "no item 'gone' to review"),
        (Review("t01", Action.RELABEL, "topic"), BadName, "does not say which label"),
        (Review("t01", Action.DUPLICATE, "topic", "t01"), UnknownItem, "no other item"),
        (Review("t01", Action.DUPLICATE, "topic", "gone"), UnknownItem, "no other item"),
        (Review("t01", Action.CONFIRM, ""), BadName, "is about label ''"),
        (Review("t01", Action.CONFIRM, "tpic"), BadName, "did you mean 'topic'"),
        (Review("t01", Action.CONFIRM, "topic", when="today"), BadName, "is not a time"),
    ],
)
def test_bad_decisions_are_refused_and_nothing_is_kept(
    view: View, review: Review, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        add_reviews(view.dataset.folder, [relabel("t02", "food"), review])
    assert read_reviews(view.dataset.folder) == []


def test_a_line_that_a_kill_cut_off_costs_itself_alone(view: View) -> None:
    folder = view.dataset.folder
    add_reviews(folder, [relabel("t01", "food")])
    path = folder.path / "reviews" / "reviews.jsonl"
    with path.open("a") as file:
        file.write('{"item_id": "t02", "act')
    add_reviews(folder, [relabel("t03", "food")])
    assert [one.item_id for one in read_reviews(folder)] == ["t01", "t03"]


DECIDE = """
import sys
from pathlib import Path
from featurestore.curation.reviews import Action, Review, add_reviews
from featurestore.storage.dataset_folder import DatasetFolder
for n in range(20):
    one = Review(f"t{n:02d}", Action.RELABEL, "topic", "food", sys.argv[2])
    add_reviews(DatasetFolder(Path(sys.argv[1])), [one])
"""


def test_a_tear_within_a_letter_costs_its_line_alone(view: View) -> None:
    folder = view.dataset.folder
    add_reviews(folder, [relabel("t01", "café\u2028und\x85mehr")])
    path = folder.path / "reviews" / "reviews.jsonl"
    with path.open("ab") as file:
        file.write('{"item_id": "é'.encode()[:-1])
    add_reviews(folder, [relabel("t03", "food")])
    found = read_reviews(folder)
    assert [one.value for one in found] == ["café\u2028und\x85mehr", "food"]


def test_two_processes_at_once_lose_no_decision(view: View) -> None:
    folder = view.dataset.folder
    command = [sys.executable, "-c", DECIDE, str(folder.path)]
    others = [subprocess.Popen([*command, who]) for who in ("ann", "bob")]
    assert [one.wait(60) for one in others] == [0, 0]
    reviews = read_reviews(folder)
    assert sorted((one.who, one.item_id) for one in reviews) == sorted(
        (who, f"t{n:02d}") for who in ("ann", "bob") for n in range(20)
    )
    assert len({one.id for one in reviews}) == 40


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_what_is_exported_comes_back(view: View, tmp_path: Path, suffix: str) -> None:
    folder = view.dataset.folder
    made = add_reviews(
        folder,
        [
            relabel("t01", 'a "new", class'),
            Review("t02", Action.CONFIRM, "topic", who="bob"),
            Review("t03", Action.EXCLUDE, "topic", who="bob", note="blurred\nand dark"),
            Review("t04", Action.DUPLICATE, "topic", "t05", who="ann"),
        ],
    )
    path = tmp_path / f"reviews{suffix}"
    review_files.write(path, made, view.dataset)
    back = review_files.read(path, "other")
    assert back == made  # who, when and which content included
    assert add_reviews(folder, back) == []  # they are there already
    assert read_reviews(folder) == made


def test_label_studio_choices_of_its_own_become_relabels(tmp_path: Path) -> None:
    task = {
        "data": {"item_id": "t01"},
        "annotations": [
            {"result": [{"from_name": "topic", "value": {"choices": ["food"]}}],
             "completed_by": {"email": "ann@x"}, "was_cancelled": False}
        ],
    }  # fmt: skip
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps([task]))
    [one] = review_files.read(path, "topic")
    assert (one.item_id, one.action, one.value, one.who) == ("t01", "relabel", "food", "ann@x")
    task["annotations"][0]["result"][0] |= {  # type: ignore[index]
        "from_name": "choice", "value": {"choices": ["food", "drink"]},
    }  # fmt: skip
    path.write_text(json.dumps([task]))
    [one] = review_files.read(path, "topic", ["topic", "other"])
    assert (one.label, one.value) == ("topic", "food|drink")


def test_label_studio_gets_what_it_shows_and_the_label_as_a_choice(
    view: View, tmp_path: Path
) -> None:
    made = add_reviews(view.dataset.folder, [Review("t01", Action.CONFIRM, "topic"),
                                             Review("t02", Action.EXCLUDE, "topic")])  # fmt: skip
    path = tmp_path / "tasks.json"
    gone = Review("gone", Action.CONFIRM, "topic", id="x")
    assert review_files.write(path, [*made, gone], view.dataset) == 2
    first, second = json.loads(path.read_text())
    assert first["data"]["text"].startswith("the piano and the")
    assert first["annotations"][0]["result"][0]["value"]["choices"] == ["music"]
    assert second["annotations"][0]["was_cancelled"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "item,action\nx,confirm\n", "lacks the column item_id"),
        ("a.csv", "item_id,action\nx,comfirm\n", "line 2: no action 'comfirm': did you mean"),
        ("a.json", "[{}]", "not an export of Label Studio"),
        ("a.json", "{", "not an export of Label Studio"),
    ],
)
def test_files_that_hold_no_decisions_are_refused(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(BadSource, match=said):
        review_files.read(path, "topic")


def test_decisions_on_items_that_are_gone_or_changed_are_not_applied(
    view: View, tmp_path: Path
) -> None:
    folder = view.dataset.folder
    add_reviews(folder, [relabel("t01", "food"), relabel("t02", "food"), relabel("t03", "food")])
    select = select_ids(folder, ["t01"])
    from featurestore.upkeep.erase import delete

    delete(folder, select)
    path = folder.path / "reviews" / "reviews.jsonl"
    old = next(one.content_hash for one in read_reviews(folder) if one.item_id == "t02")
    path.write_text(path.read_text().replace(str(old), "0" * 64))
    found, notes = applicable(folder, "topic")
    assert list(found) == ["t03"]
    assert notes == [
        "1 reviewed items, or their originals, are gone: not applied.",
        "1 reviewed items have other content now: not applied.",
    ]


def test_erasing_an_item_takes_it_out_of_the_history(view: View) -> None:
    folder = view.dataset.folder
    add_reviews(folder, [relabel("t01", "food"), Review("t02", Action.DUPLICATE, "topic", "t01"),
                         relabel("t03", "food"), relabel("t04", "t01 too")])  # fmt: skip
    erase(folder, select_ids(folder, ["t01"]))
    assert [one.item_id for one in read_reviews(folder)] == ["t03", "t04"]
    assert '"t01"' not in (folder.path / "reviews" / "reviews.jsonl").read_text()


# -- heads ------------------------------------------------------------------------------------


def learned(view: View, **options: object) -> np.ndarray:
    fitted = heads.fit(view, "ridge", save=False, **options)  # type: ignore[arg-type]
    return fitted.predict_proba(view.load())


def test_a_review_undone_restores_the_head_bit_for_bit(view: View) -> None:
    folder = view.dataset.folder
    before = learned(view, apply_reviews=True)
    [made] = add_reviews(folder, [relabel("t00", "music")])
    np.testing.assert_array_equal(learned(view), before)  # unless asked, nothing changes
    assert not np.array_equal(learned(view, apply_reviews=True), before)
    undo(folder, made.id)
    np.testing.assert_array_equal(learned(view, apply_reviews=True), before)


def test_reviews_change_training_rows_alone_and_both_scores_are_shown(view: View) -> None:
    """A split where every label of the test split is right, and a reviewer says otherwise."""
    import pyarrow as pa

    folder = view.dataset.folder
    ids = view.load().ids
    split = ["test" if n % 4 == 0 else "train" for n in range(len(ids))]
    attach(folder, pa.table({"item_id": ids.tolist(), "split": split}), are_labels=False)
    test_item = "t00"
    plain = heads.fit(view, "prototype", save=False).card
    assert "as_reviewed" not in plain
    add_reviews(folder, [relabel(test_item, "music")])
    card = heads.fit(view, "prototype", save=False, apply_reviews=True).card
    assert card["metrics"] == plain["metrics"]  # the reviewed row teaches nothing: it is tested
    assert card["as_reviewed"]["n_changed"] == 1
    n = sum(one == "test" for one in split)
    gap = card["metrics"]["accuracy"]["value"] - card["as_reviewed"]["metrics"]["accuracy"]
    assert gap == pytest.approx(1 / n)
    said = "Reviews applied to training rows: 0 relabelled, 0 left out, 0 added that had no label."
    assert said in card["notes"]


def test_what_was_excluded_teaches_nothing(view: View) -> None:
    folder = view.dataset.folder
    ids = [f"t{n:02d}" for n in range(0, 60, 3)][:10]  # of food
    add_reviews(folder, [Review(one, Action.EXCLUDE, "topic") for one in ids[:-1]])
    add_reviews(folder, [Review(ids[-1], Action.DUPLICATE, "topic", "t30")])
    fitted = heads.fit(view, "knn", save=False, apply_reviews=True)
    said = "Reviews applied to training rows: 0 relabelled, 10 left out, 0 added that had no label."
    assert said in fitted.card["notes"]
    assert len(fitted.estimator[-1].X_ if hasattr(fitted.estimator, "steps") else
               fitted.estimator.codes_) == 50  # fmt: skip


def test_a_label_that_only_a_reviewer_gave_teaches_and_is_not_tested(view: View) -> None:
    import pyarrow as pa

    folder = view.dataset.folder
    attach(folder, pa.table({"item_id": ["t00", "t01"], "topic": pa.nulls(2, pa.string())}))
    assert heads.fit(view, "ridge", save=False).card["n_items"] == 58
    add_reviews(folder, [relabel("t00", "food")])
    card = heads.fit(view, "ridge", save=False, apply_reviews=True).card
    assert card["n_items"] == 59
    assert card["evaluation"]["n_tested"] == 58
    assert any(note.endswith("1 added that had no label.") for note in card["notes"])
    run = heads.compare(view, ["prototype"], apply_reviews=True)
    assert "t00" not in run.item_ids


def test_a_comparison_with_reviews_is_its_own_and_runs_again(view: View) -> None:
    folder = view.dataset.folder
    plain = heads.compare(view, ["prototype"])
    add_reviews(folder, [relabel(f"t{n:02d}", "music") for n in range(0, 30, 3)])
    applied = heads.compare(view, ["prototype"], apply_reviews=True)
    assert heads.compare(view, ["prototype"]).rows()[0]["value"] == plain.rows()[0]["value"]
    assert applied.rows()[0]["value"] < plain.rows()[0]["value"]
    assert applied.rows()[0]["as_reviewed"] != applied.rows()[0]["value"]
    stored = heads.runs(view.dataset)[-2]
    assert stored.rows() == applied.rows()
    assert heads.run_again(view.dataset, applied).rows()[0]["value"] == applied.rows()[0]["value"]
    add_reviews(folder, [relabel("t59", "music")])
    with pytest.raises(BadName, match="decided more since"):
        heads.run_again(view.dataset, applied)


def test_of_twins_that_are_called_duplicates_of_each_other_one_teaches(view: View) -> None:
    folder = view.dataset.folder
    add_reviews(folder, [
        Review("t00", Action.DUPLICATE, "topic", "t03"),
        Review("t03", Action.DUPLICATE, "topic", "t00"),
        Review("t06", Action.DUPLICATE, "topic", "t03"),
    ])  # fmt: skip
    card = heads.fit(view, "ridge", save=False, apply_reviews=True).card
    assert any("2 left out" in note for note in card["notes"])
    # What leads into the circle is no member of it, however early its name.
    add_reviews(folder, [Review("t00", Action.CONFIRM, "topic")])
    add_reviews(folder, [Review("t00", Action.DUPLICATE, "topic", "t03"),
                         Review("t03", Action.DUPLICATE, "topic", "t09"),
                         Review("t09", Action.DUPLICATE, "topic", "t03")])  # fmt: skip
    card = heads.fit(view, "ridge", save=False, apply_reviews=True).card
    assert any("3 left out" in note for note in card["notes"])  # t03 stays: t00, t06, t09 go


def test_a_duplicate_of_what_is_gone_teaches(view: View) -> None:
    from featurestore.upkeep.erase import delete

    folder = view.dataset.folder
    add_reviews(folder, [Review("t00", Action.DUPLICATE, "topic", "t03")])
    delete(folder, select_ids(folder, ["t03"]))
    card = heads.fit(view, "ridge", save=False, apply_reviews=True).card
    assert any("0 left out" in note for note in card["notes"])
    assert "1 reviewed items, or their originals, are gone: not applied." in card["notes"]


def test_suggested_labelled_by_reviewers_trained(view: View) -> None:
    """The loop: most items, the whole test split among them, have no label of their own."""
    import pyarrow as pa

    folder = view.dataset.folder
    ids = view.load().ids.tolist()
    truth = dict(zip(ids, view.load().labels.tolist(), strict=True))
    split = pa.table({"item_id": ids, "split": ["test"] * 20 + ["train"] * 40})
    attach(folder, split, are_labels=False)
    bare = ids[:20] + ids[29:]
    attach(folder, pa.table({"item_id": bare, "topic": pa.nulls(len(bare), pa.string())}))
    add_reviews(folder, [relabel(one, truth[one]) for one in bare])
    card = heads.fit(view, "ridge", save=False, apply_reviews=True).card
    assert card["evaluation"]["on"] == "folds"  # nothing in the test split can be tested
    assert card["evaluation"]["n_tested"] == 9
    attach(folder, pa.table({"item_id": ids, "topic": pa.nulls(len(ids), pa.string())}))
    with pytest.raises(NotEnoughData, match="reviewers alone gave labels"):
        heads.fit(view, "ridge", apply_reviews=True)


def test_excluding_a_whole_class_is_said_in_words(view: View) -> None:
    two = [f"t{n:02d}" for n in range(60) if n % 3 == 2]
    folder = view.dataset.folder
    import pyarrow as pa

    attach(folder, pa.table({"item_id": two, "topic": pa.nulls(20, pa.string())}))
    one = [f"t{n:02d}" for n in range(0, 60, 3)]
    add_reviews(folder, [Review(item, Action.EXCLUDE, "topic") for item in one])
    with pytest.raises(NotEnoughData, match="two classes"):
        heads.fit(view, "ridge", apply_reviews=True)


def test_the_mended_label_of_a_class_of_one_item_teaches(view: View) -> None:
    import pyarrow as pa

    folder = view.dataset.folder
    attach(folder, pa.table({"item_id": ["t00"], "topic": ["fod"]}))
    add_reviews(folder, [relabel("t00", "food")])
    card = heads.fit(view, "ridge", save=False, apply_reviews=True).card
    assert card["n_items"] == 60
    assert any("1 added that had no label" in note for note in card["notes"])


def test_a_data_set_takes_decisions_and_gives_them_back(view: View) -> None:
    dataset = view.dataset
    [made] = dataset.add_reviews([relabel("t01", "food")], who="bob")
    undone = dataset.undo_review(made.id, who="bob")
    assert dataset.reviews() == [made, undone] == read_reviews(dataset.folder)
    assert (made.who, undone.action, undone.value) == ("ann", Action.UNDO, made.id)


@pytest.mark.parametrize(
    ("written", "said", "kept"),
    [
        (["cat", "dog"], "dog", "dog"),
        (["cat", "dog"], "dgo", None),
        ([True, False], "true", "True"),
        ([True, False], "yes", None),
        ([1, 2], "2.0", "2"),
        ([1.0, 2.0], "3", None),
        (["a|b", "c"], "c|a", "c|a"),
        (["a|b", "c"], "a|d", None),
    ],
)
def test_a_relabel_is_a_class_that_there_is(
    written: list[object], said: str, kept: str | None, empty_store: Store, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "t.jsonl"
    rows = [{"id": f"i{n}", "text": f"word {n}", "label": one} for n, one in enumerate(written)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = SourceOptions(text="text", id="id", label=("label",))
    empty_store.embed(
        [path], dataset="d", encoders=["baseline:hashing#size=16"], source_options=options
    )
    words = ["review", "d", "--item", "i0", "--relabel", said, "--store", str(empty_store.path)]
    assert run(words) == (0 if kept else 1)
    decided = [one.value for one in read_reviews(empty_store.dataset("d").folder)]
    assert decided == ([kept] if kept else [])
    if not kept:
        assert "--new-class makes one" in capsys.readouterr().err
        assert run([*words, "--new-class"]) == 0


def test_where_nothing_was_decided_there_is_nothing_to_export(view: View, tmp_path: Path) -> None:
    out = tmp_path / "decided.csv"
    store = str(view.dataset.store.path)
    assert run(["review", view.dataset.name, "--export", str(out), "--store", store]) == 1
    assert not out.exists()
