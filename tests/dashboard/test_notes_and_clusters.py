"""Tags and notes of comparisons; decisions on whole clusters of twins."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

import heads
from dashboard.page_data import leaderboard, quality
from featurestore.curation.reviews import Action, Review, add_reviews, decisions_on, read_reviews
from featurestore.curation.run_notes import note_run, run_notes
from featurestore.errors import BadName
from featurestore.store.store import Store
from heads.quality.issues import Issue, Kind
from tests.dashboard.test_app import opened, texts_of


@pytest.fixture(autouse=True)
def store(full_store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("FEATURESTORE_STORE", str(full_store.path))
    return full_store


def test_the_latest_note_on_a_run_counts_and_all_stay_in_the_file(store: Store) -> None:
    folder = store.dataset("pictures").folder
    [run] = heads.runs(folder)
    created = str(run.card["created"])
    note_run(folder, created, tags=["old"], who="ann")
    made = note_run(folder, created, tags=[" paper ", "", "paper", "v2"], note="a  b\n", who="bob")
    assert (made.tags, made.note, made.who) == (("paper", "v2"), "a b", "bob")
    assert run_notes(folder) == {created: made}
    path = folder.path / "runs" / "notes.jsonl"
    assert len(path.read_text().splitlines()) == 2
    with path.open("a") as file:
        file.write('{"run": "half')
    assert run_notes(folder) == {created: made}
    with pytest.raises(BadName, match="no comparison of '2020'"):
        note_run(folder, "2020", tags=["x"])

    rows = leaderboard.all_rows([run], run.label, run.metric, run_notes(folder))
    assert {(row["tags"], row["note"]) for row in rows} == {("paper, v2", "a b")}
    assert {"tags", "note"} <= set(leaderboard.columns_of(rows))
    assert "tags" not in leaderboard.columns_of(leaderboard.all_rows([run], run.label, run.metric))
    assert leaderboard.holding(rows, "paper") == rows


def test_tags_are_kept_from_the_page(store: Store) -> None:
    app = opened("heads")
    [tags] = [one for one in app.text_input if one.label == "Tags, with commas between"]
    tags.set_value("draft, best")
    [keep] = [one for one in app.button if one.label == "Keep them with the run"]
    keep.click().run()
    assert not app.exception
    [kept] = run_notes(store.dataset("pictures").folder).values()
    assert kept.tags == ("draft", "best")
    assert any("draft" in said and "best" in said for said in texts_of(app.markdown))


def twin(item: str, *others: str) -> Issue:
    return Issue(Kind.DUPLICATE, item, 1.0, "twins", others=others)


def test_twins_of_twins_are_one_cluster_and_what_is_decided_is_left_out() -> None:
    issues = [twin("b", "a"), twin("c", "b"), twin("x", "y"), twin("p", "q")]
    known = set("abcdxyp")
    decided = {"x": Review("x", Action.EXCLUDE, "label")}
    assert quality.clusters(issues, decided, known) == [["a", "b", "c"]]
    lines = quality.duplicates([["a", "b", "c"]], "label", "together 1")
    assert [(one.item_id, one.action, one.value) for one in lines] == [
        ("b", "duplicate", "a"),
        ("c", "duplicate", "a"),
    ]


def test_a_cluster_is_decided_with_one_press_and_undone_with_one(store: Store) -> None:
    folder = store.dataset("pictures").folder
    [report] = heads.quality_reports(folder)
    known = set(store.view("pictures", "baseline:pixels").load().ids)
    [pair] = quality.clusters(report.of("duplicate"), {}, known)
    assert pair == ["train/black/wrong.png", "train/white/5.png"]
    app = opened("quality", kind="duplicate")
    press(app, "Keep one of each of 1 clusters, mark 1 duplicates")
    [made] = read_reviews(folder)
    assert (made.item_id, made.action, made.value) == (pair[1], "duplicate", pair[0])
    press(app, "Undo my last")
    assert decisions_on(read_reviews(folder), "label") == {}

    three = quality.duplicates([[pair[0], pair[1], "train/grey/5.png"]], "label", "together 2")
    kept = add_reviews(folder, three, who="ann")
    later = add_reviews(folder, [Review("train/grey/6.png", Action.EXCLUDE, "label")], who="ann")
    decided = decisions_on(read_reviews(folder), "label")
    assert quality.to_take_back(decided, "ann") == later
    without = {item: one for item, one in decided.items() if one.note}
    assert quality.to_take_back(without, "ann") == kept
    assert quality.to_take_back(decided, "bob") == []


def press(app: AppTest, label: str) -> None:
    [button] = [one for one in app.button if one.label == label]
    button.click().run()
    assert not app.exception
