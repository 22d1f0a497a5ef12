"""Explore, Search, One head, Compare two, Quality: each over a real store, without a browser."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

import heads
from dashboard.colors import NEUTRAL
from dashboard.page_data import (
    classes,
    coloring,
    head_details,
    leaderboard,
    quality,
    selection,
    two_rows,
)
from dashboard.page_data import explore as shown
from featurestore.curation.reviews import (
    Action,
    Review,
    add_reviews,
    contested_sentences,
    read_reviews,
    standing,
)
from featurestore.curation.slices import read_slice
from featurestore.errors import BadQuery
from featurestore.maps.projection import project
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import Store, open_store
from heads.quality.issues import Issue, Kind
from tests.dashboard.test_app import cards, opened, texts_of


@pytest.fixture(autouse=True)
def store(full_store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("FEATURESTORE_STORE", str(full_store.path))
    return full_store


def map_of(app: AppTest, drawing: str = "pca") -> dict[str, object]:
    """Return what the map's component was given."""
    found: dict[str, object] = json.loads(app.get_by_key(f"map {drawing}").proto.json)
    return found


def floats(text: object) -> np.ndarray:
    return np.frombuffer(base64.b64decode(str(text)), "<f4")


# -- explore ----------------------------------------------------------------------------------


def test_the_map_shows_every_vector_in_the_color_of_its_class(store: Store) -> None:
    app = opened("explore")
    view = store.view("pictures", "baseline:pixels")
    found = map_of(app)
    np.testing.assert_allclose(floats(found["points"]).reshape(-1, 2), project(view))
    labels = view.items().column("label").to_pylist()
    names = [line["name"] for line in found["legend"]]  # type: ignore[attr-defined]
    assert found["names"] == [*names]
    assert [names[int(code)] for code in floats(found["codes"])] == labels
    assert found["name"] == "Map of 32 items of pictures by baseline:pixels, colored by label"
    assert "**32 items on the map**" in texts_of(app.markdown)


def test_an_outline_in_the_address_selects_what_lies_within(store: Store) -> None:
    view = store.view("pictures", "baseline:pixels")
    xy = project(view)
    outline = "pca:-1,-1;0,-1;0,1;-1,1"
    app = opened("explore", lasso=outline)
    inside = view.items().column("item_id").to_numpy()[xy[:, 0] < 0]
    assert f"**{len(inside)} items selected**" in texts_of(app.markdown)
    assert {card["id"] for card in cards(app, "items")} == set(inside[:24])
    assert map_of(app)["lasso"] == [[-1, -1], [0, -1], [0, 1], [-1, 1]]
    app = opened("explore", lasso=outline.replace("pca", "umap"))  # drawn on another map
    assert "**32 items on the map**" in texts_of(app.markdown)
    app = opened("explore", lasso="nonsense")
    assert len(app.error) == 1
    assert "lasso" not in dict(app.query_params)


def test_a_filter_leaves_what_fulfils_it_and_a_wrong_one_says_the_columns() -> None:
    app = opened("explore", where="split = 'test' and label = 'black'")
    assert "**3 items on the map**" in texts_of(app.markdown)
    app = opened("explore", where="shade > 3")
    [error] = texts_of(app.error)
    assert "shade" in error
    assert any(said.startswith("Columns: item_id, ") for said in texts_of(app.caption))
    app = opened("explore", where="1 = 2")
    assert texts_of(app.info) == ["No item fulfills the filter."]


@pytest.mark.parametrize(
    "where",
    [
        "true) from items; copy items to '{path}'; select (true",
        "true; copy (select 1) to '{path}'",
        "item_id in (select content from read_text('/etc/passwd'))",
        "(select count(*) from '/etc/passwd') > 0",
        "true) as x from items; attach '{path}' as x; select (true",
        "true --",
        "'; drop table items; --",
    ],
)
@pytest.mark.parametrize("page", ["explore", "search"])
def test_a_filter_is_a_condition_and_nothing_else(page: str, where: str, tmp_path: Path) -> None:
    path = tmp_path / "written"
    app = opened(page, where=where.format(path=path), item="train/white/5.png")
    if where == "true --":  # a comment is none of ours to forbid: it hides nothing of the rest
        assert not app.error
    else:
        assert len(app.error) == 1
        assert "root:" not in str(texts_of(app.error))
    assert not path.exists()


def test_a_head_colors_by_right_and_wrong(store: Store) -> None:
    [card] = heads.list_heads(store.dataset("pictures"))
    found = map_of(opened("explore", map_head=card["head_id"], color="head: outcome"))
    predictions = heads.read_predictions(store.dataset("pictures"), card["head_id"])
    n_right = sum(
        a == b
        for a, b in zip(
            predictions.column("label").to_pylist(),
            predictions.column("predicted").to_pylist(),
            strict=True,
        )
    )
    counts = {line["name"]: line["n"] for line in found["legend"]}  # type: ignore[attr-defined]
    assert counts["right"] == n_right
    assert counts["not tested"] == 32 - len(predictions)


def test_a_selection_becomes_a_slice_that_heads_can_use(store: Store) -> None:
    app = opened("explore", where="split = 'test'")
    app.text_input("slice name ").set_value("tests")
    [form] = [one for one in app.button if one.label.startswith("Keep")]
    form.click().run()
    assert not app.exception
    kept = read_slice(store.dataset("pictures").folder, "tests")
    assert len(kept.item_ids) == 10
    assert kept.origin["where"] == "split = 'test'"
    assert store.view("pictures", "baseline:pixels").within("tests").n_rows == 10


def test_what_is_exported_holds_the_chosen_items_and_their_vectors(store: Store) -> None:
    import io

    import pyarrow.parquet as pq

    view = store.view("pictures", "baseline:pixels")
    ids = view.load().ids[:3].tolist()
    table = pq.read_table(io.BytesIO(selection.exported(view, ids, "parquet")))
    assert table.column("item_id").to_pylist() == ids
    vectors = np.array(table.column("vector").to_pylist(), np.float32)
    np.testing.assert_array_equal(vectors, view.load().vectors[:3])
    order = [ids[2], ids[0], "gone"]
    scores = pa.table({"item_id": [*reversed(order)], "rank": [3, 2, 1]})
    lines = selection.exported(view, order, "csv", scores).decode().splitlines()
    found = [(line.split(",")[0].strip('"'), line.split(",")[-1]) for line in lines]
    assert found == [("item_id", '"rank"'), (ids[2], "1"), (ids[0], "2")]


def test_an_outline_is_read_as_it_is_written_and_nonsense_is_refused() -> None:
    corners = [(0.1, -0.25), (1.0, 0.5), (-0.125, 0.75)]
    assert shown.parse_outline(shown.outline_text("pca", corners)) == ("pca", corners)
    tiny = [(0.12345, 1e-7), (0.12346, 2e-7), (0.12347, 0.0)]
    assert shown.parse_outline(shown.outline_text("umap", tiny)) == ("umap", tiny)
    for bad in ("", "pca:1,2", "pca:a,b;c,d;e,f", "pca:1,2;3,4;nan,0", "1,2;3,4;5,6",
                "pca:" + ";".join(["0,0"] * 501)):  # fmt: skip
        with pytest.raises(BadQuery, match="is not an outline"):
            shown.parse_outline(bad)


def test_points_within_an_outline_are_those_of_the_even_odd_rule() -> None:
    star = [(0, 1), (0.6, -0.8), (-0.95, 0.3), (0.95, 0.3), (-0.6, -0.8)]
    xy = np.array([[0, 0], [0, 0.8], [0.9, 0.9], [0.7, 0.25], [0, -0.6]], np.float32)
    assert shown.inside(xy, star).tolist() == [False, True, False, True, False]


def test_numbers_are_colored_in_steps_and_gaps_are_grey() -> None:
    found = coloring.coloring(pa.chunked_array([[float(n) for n in range(30)] + [None]]))
    assert found.codes.tolist() == [n // 3 for n in range(30)] + [10]
    assert found.names[0] == "0 to 2.9"
    assert found.legend()[-1] == {
        "name": "nothing",
        "color": NEUTRAL,
        "n": 1,
        "code": len(found.names) - 1,
    }
    named = coloring.coloring(pa.chunked_array([["b", None, "a", "b"]]))
    assert [line["name"] for line in named.legend()] == ["b", "a", "nothing"]
    assert named.codes.tolist() == [0, 2, 1, 0]


def test_colors_stay_under_a_filter_and_very_many_values_share_one() -> None:
    values = pa.chunked_array([["a", "b", "c", "c"]])
    whole = coloring.coloring(values)
    part = whole.take(np.array([0, 1]))
    hues = {line["name"]: line["color"] for line in whole.legend()}
    assert {line["name"]: line["color"] for line in part.legend()} == {
        "a": hues["a"], "b": hues["b"],
    }  # fmt: skip
    many = coloring.coloring(pa.chunked_array([[f"v{n:04d}" for n in range(5000)]]))
    assert len(many.names) == coloring.MOST_NAMES
    assert many.legend()[-1]["name"] == "4,941 others"


def test_more_points_than_a_map_bears_are_a_stated_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = shown.sampled(np.arange(1000), 100)
    assert len(set(rows.tolist())) == 100
    assert (np.diff(rows) > 0).all()
    monkeypatch.setattr(shown.sampled, "__defaults__", (10,))
    app = opened("explore")
    assert "A sample of 10 of 32 items, drawn evenly." in texts_of(app.caption)


def test_the_points_are_sent_once_and_again_when_the_browser_lost_them() -> None:
    app = opened("explore")
    assert map_of(app)["points"] is not None
    app.run()
    assert map_of(app)["points"] is None
    app.session_state["sent pca"] = None
    app.run()
    assert map_of(app)["points"] is not None


def test_no_choice_of_one_page_or_box_breaks_another(store: Store) -> None:
    """What another box or page has made impossible gives way; only an address is an error."""
    [card] = heads.list_heads(store.dataset("pictures"))
    app = opened("explore", map_head=card["head_id"], color="head: outcome")
    app.selectbox("map_head box").set_value("none").run()
    assert not app.error
    assert map_of(app)["name"].endswith("colored by label")  # type: ignore[attr-defined]
    for page in ("one_head", "explore", "compare", "search", "quality", "heads", "one_head"):
        app.switch_page(f"screens/{page}.py").run()
        assert not app.exception
        assert not app.error, page
    app.switch_page("screens/compare.py").run()
    app.selectbox("first box").set_value("knn on baseline:pixels").run()
    assert not app.error


def test_a_map_needs_no_labels_and_no_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("id,words\n" + "".join(f"t{n},word {n}\n" for n in range(5)))
    store = open_store(tmp_path / "store", create=True)
    options = SourceOptions(text="words", id="id")
    store.embed([path], dataset="texts", encoders=["baseline:hashing"], source_options=options)
    monkeypatch.setenv("FEATURESTORE_STORE", str(store.path))
    assert map_of(opened("explore"))["names"] == ["items"]
    for page in ("overview", "search", "heads", "one_head", "compare", "quality"):
        assert not opened(page).error


def test_a_data_set_made_anew_under_its_name_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATURESTORE_STORE", str(tmp_path / "store"))
    options = SourceOptions(text="words", id="id")
    for word in ("old", "new"):
        path = tmp_path / "texts.csv"
        path.write_text("id,words\n" + "".join(f"{word}{n},{word} {n}\n" for n in range(5)))
        store = open_store(tmp_path / "store", create=True)
        store.embed([path], dataset="texts", encoders=["baseline:hashing"], source_options=options)
        app = opened("search", item=f"{word}0")
        assert not app.error
        assert {one["text"].split()[0] for one in cards(app, f"item card {word}0")} == {word}
        store.drop("texts")


# -- search -----------------------------------------------------------------------------------


def test_search_names_encoder_and_score_and_respects_the_filter(store: Store) -> None:
    app = opened("search", item="train/white/5.png", where="label = 'white'", k="5")
    view = store.view("pictures", "baseline:pixels")
    found = view.neighbors("train/white/5.png", k=5, where="label = 'white'")
    shown_cards = cards(app, f"found by {view.slug}")
    assert [one["id"] for one in shown_cards] == found.ids[0].tolist()
    assert {one["label"] for one in shown_cards} == {"white"}


def test_search_by_words_asks_the_encoder(
    small_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATURESTORE_STORE", str(small_store.path))
    app = opened("search", dataset="texts", look="text", q="green apple", k="5")
    view = small_store.view("texts", "baseline:hashing")
    shown_cards = cards(app, f"found by {view.slug}")
    assert shown_cards[0]["text"] == "green apple"
    assert shown_cards[0]["score"] == "1.000"


# -- heads ------------------------------------------------------------------------------------


def test_one_head_shows_its_metrics_classes_and_confusions(store: Store) -> None:
    [card] = heads.list_heads(store.dataset("pictures"))
    app = opened("one_head", head=card["head_id"])
    metrics, classes, confusion = (one.value for one in app.dataframe)
    assert metrics["metric"][0] == "balanced accuracy (%)"
    assert metrics["value"][0] == pytest.approx(100 * card["metrics"]["balanced_accuracy"]["value"])
    assert sorted(classes["class"]) == ["black", "grey", "white"]
    np.testing.assert_array_equal(confusion.to_numpy(), card["confusion"])


def test_a_cell_in_the_address_shows_its_items(store: Store) -> None:
    [card] = heads.list_heads(store.dataset("pictures"))
    predictions = heads.read_predictions(store.dataset("pictures"), card["head_id"])
    classes, counts = head_details.confusion(predictions)
    row, column = (int(one[0]) for one in np.nonzero(counts))
    app = opened("one_head", head=card["head_id"], cell=f"{classes[row]}\t{classes[column]}")
    expected = head_details.confused_ids(predictions, classes[row], classes[column])
    assert [one["id"] for one in cards(app, "confused")] == expected[:24]
    query = {"cell": f"{classes[row]}\t{classes[column]}", "item": expected[0]}
    app = opened("one_head", head=card["head_id"], **query)
    grid = json.loads(app.get_by_key("confused").proto.json)
    assert grid["selected"] == expected[0]  # marked for eyes and screen readers


def test_class_rows_and_reliability_count_what_the_predictions_say() -> None:
    predictions = pa.table(
        {
            "item_id": list("abcdef"),
            "label": ["x", "x", "x", "x", "y", "y"],
            "predicted": ["x", "x", "x", "y", "y", "x"],
            "confidence": [0.95, 0.92, 0.55, 0.61, 0.99, 0.64],
        }
    )
    y, x = head_details.class_rows(predictions)
    assert (y["class"], y["recall"], y["precision"], y["F1"]) == ("y", 50, 50, 50)
    assert (x["class"], x["recall"], x["precision"], x["F1"]) == ("x", 75, 75, 75)
    assert y["from"] == pytest.approx(9.45, abs=0.01)  # Wilson, 1 of 2
    bins = head_details.reliability(predictions)
    assert [(one["items"], one["right"]) for one in bins] == [(1, 1), (2, 0), (3, 1)]
    assert head_details.confused_ids(predictions, "x", "y") == ["d"]


def test_compare_two_says_the_sentence_and_who_alone_is_right(store: Store) -> None:
    app = opened("compare", first="ridge on baseline:pixels", second="knn on baseline:pixels")
    [run] = heads.runs(store.dataset("pictures"))
    pair = ("baseline:pixels", "ridge"), ("baseline:pixels", "knn")
    sentence = run.difference(*pair, n_claims=run.n_claims).sentence()
    assert any(sentence in said for said in texts_of(app.markdown))
    only = two_rows.only_right(run, *pair)
    a, b = (run.cell(*one).report for one in pair)
    expected = [
        item
        for item, truth, x, y in zip(run.item_ids, a.truth, a.predicted, b.predicted, strict=True)
        if x == truth != y
    ]
    assert only == expected
    table = app.dataframe[0].value
    assert set(table["part"]) == {"black", "grey", "white"}
    assert (table["only the first"].sum(), table["only the second"].sum()) == (
        len(expected),
        len(two_rows.only_right(run, *reversed(pair))),
    )


def test_training_from_the_page_registers_a_head(store: Store) -> None:
    before = {card["head_id"] for card in heads.list_heads(store.dataset("pictures"))}
    app = opened("heads")
    offered = app.selectbox("train head")
    assert {"ridge", "best", "propagate"} < set(offered.options)
    assert "layers" not in offered.options  # each view here is of one layer
    offered.set_value("ridge")
    [button] = [one for one in app.button if one.label == "Train this head"]
    button.click().run()
    assert not app.exception
    new = [c for c in heads.list_heads(store.dataset("pictures")) if c["head_id"] not in before]
    assert [card["head"] for card in new] == ["ridge"]
    assert any(new[0]["head_id"] in said for said in texts_of(app.success))
    shutil.rmtree(store.dataset("pictures").path / "heads" / new[0]["head_id"])


# -- quality ----------------------------------------------------------------------------------


def test_the_worst_comes_first_and_a_decision_moves_on(store: Store) -> None:
    folder = store.dataset("pictures").folder
    app = opened("quality", kind="leak")
    [report] = heads.quality_reports(store.dataset("pictures"))
    first, second = (one.item_id for one in report.of(Kind.LEAK)[:2])
    assert {first, second} == {"train/grey/4.png", "test/grey/twin.png"}
    assert cards(app, f"item card {first}")[0]["id"] == first
    assert [one["id"] for one in cards(app, "others")] == [second]
    app.text_input("who").set_value("ann").run()
    [button] = [one for one in app.button if one.label == "A duplicate"]
    button.click().run()
    [decided] = read_reviews(folder)
    assert (decided.item_id, decided.action, decided.value, decided.who) == (
        first, Action.DUPLICATE, second, "ann",
    )  # fmt: skip
    assert "Nothing of this kind is left to decide." in texts_of(app.success)  # its twin stays
    [undo] = [one for one in app.button if one.label == "Undo my last"]
    undo.click().run()
    assert standing(read_reviews(folder)) == {}
    assert cards(app, f"item card {first}")[0]["id"] == first
    (folder.path / "reviews" / "reviews.jsonl").unlink()


def test_issues_are_exported_with_score_and_reason(store: Store) -> None:
    [report] = heads.quality_reports(store.dataset("pictures"))
    leaks = report.of(Kind.LEAK)
    view = store.view("pictures", "baseline:pixels")
    table = quality.issue_table(leaks)
    lines = selection.exported(view, [one.item_id for one in leaks], "csv", table).decode()
    assert lines.splitlines()[0].endswith('"score","reason","suggested"')
    assert leaks[0].reason in lines.splitlines()[1]
    labels = [one.label for one in opened("quality", kind="leak").button]
    assert "Keep 2 items as a slice" in labels


def test_a_queue_leaves_out_what_is_decided_or_gone_and_puts_off_what_was_skipped() -> None:
    issues = [Issue(Kind.LABEL, item, score, "") for item, score in zip("abcd", (4, 3, 2, 1),
                                                                        strict=True)]  # fmt: skip
    left = quality.queue(
        issues,
        decided={"b": Review("b", Action.CONFIRM, "label")},
        skipped=["a"],
        known={"a", "b", "c"},
    )
    assert [one.item_id for one in left] == ["c", "a"]


def test_history_marks_what_stands_and_says_who_disagreed() -> None:
    reviews = [
        Review("a", Action.CONFIRM, "label", None, "ann", "2026-11-26T10:00", id="1"),
        Review("a", Action.RELABEL, "label", "dog", "bob", "2026-11-26T11:00", id="2"),
    ]
    rows = quality.history_rows(reviews)
    assert [(row["who"], row["stands"]) for row in rows] == [("bob", True), ("ann", False)]
    assert contested_sentences(reviews) == [
        "a was decided differently (ann: confirm; bob: relabel dog): the latest stands."
    ]
    assert quality.decision_words(reviews[1]) == "relabeled dog by bob, 2026-11-26 11:00 UTC"


def test_the_reviewers_name_is_kept_when_the_page_is_left(store: Store) -> None:
    folder = store.dataset("pictures").folder
    app = opened("quality", kind="leak")
    app.text_input("who").set_value("ann").run()
    app.switch_page("screens/heads.py").run()
    app.switch_page("screens/quality.py").run()
    app.query_params.update({"kind": "leak"})
    app.run()
    assert app.text_input("who").value == "ann"
    next(one for one in app.button if one.label == "Exclude").click().run()
    [decided] = read_reviews(folder)
    assert decided.who == "ann"
    (folder.path / "reviews" / "reviews.jsonl").unlink()


def test_a_button_decides_the_item_that_it_was_drawn_for(store: Store) -> None:
    """So that a key that comes too early reaches nothing."""
    [report] = heads.quality_reports(store.dataset("pictures"))
    item = report.of(Kind.LEAK)[0].item_id
    app = opened("quality", kind="leak")
    keys = {one.label: one.key for one in app.button if one.key}
    for name in ("Label is right", "A duplicate", "Exclude", "Later"):
        assert keys[name].endswith(item)


def test_a_neighbor_that_is_clicked_is_shown_with_its_own(store: Store) -> None:
    app = opened("quality", kind="leak", item="train/black/3.png")
    [report] = heads.quality_reports(store.dataset("pictures"))
    first = report.of(Kind.LEAK)[0].item_id
    assert cards(app, f"item card {first}")[0]["id"] == first
    assert cards(app, "item card looked at train/black/3.png")[0]["id"] == "train/black/3.png"
    assert len(cards(app, "neighbors looked at")) == 10


def test_without_labels_items_can_still_be_left_out(
    store: Store, tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    noise = np.random.default_rng(0)
    for number in range(8):
        write_image(tmp_path / "bare" / f"{number}.png", tuple(noise.integers(0, 255, 3)), size=40)
    shutil.copy(tmp_path / "bare" / "1.png", tmp_path / "bare" / "copy.png")
    store.embed([tmp_path / "bare"], dataset="bare", encoders=["baseline:pixels"])
    dataset = store.dataset("bare")
    assert not dataset.label_columns
    heads.find_issues(store.view("bare", "baseline:pixels"))
    app = opened("quality", dataset="bare", kind="duplicate")
    names = [one.label for one in app.button]
    assert "Label is right" not in names
    next(one for one in app.button if one.label == "A duplicate").click().run()
    [decided] = read_reviews(dataset.folder)
    assert (decided.action, decided.label) == (Action.DUPLICATE, "")
    assert "Nothing of this kind is left to decide." in texts_of(app.success)
    store.drop("bare")


def test_names_of_splits_are_text(store: Store, tmp_path: Path) -> None:
    evil = "![x](http://localhost:1/leak.png)"
    path = tmp_path / "evil.csv"
    path.write_text(f'id,text,part\na,one,"{evil}"\nb,two,"<b>{evil}</b>"\n')
    options = SourceOptions(text="text", split="part", id="id")
    store.embed([path], dataset="evil", encoders=["baseline:hashing"], source_options=options)
    app = opened("overview", dataset="evil")
    said = [one.value for one in app.markdown]
    assert not any(evil in one for one in said)
    assert any(evil in one.replace("\\", "").replace(":small[]", "") for one in said)
    table = store.dataset("evil").items().append_column("label", pa.array(["a", "b"]))
    figure = classes.class_figure(classes.class_counts(table), classes.class_colors(table))
    assert all("<b>" not in trace.name + trace.hovertemplate for trace in figure.data)
    store.drop("evil")


def test_what_reviewers_say_stands_beside_the_scores(store: Store) -> None:
    dataset = store.dataset("pictures")
    add_reviews(dataset.folder, [Review("test/black/0.png", Action.RELABEL, "label", "white")])
    view = store.view("pictures", "baseline:pixels")
    run = heads.compare(view, ["prototype"], apply_reviews=True, save=False)
    rows = leaderboard.leaderboard(run)
    assert all(row["as reviewed"] != row["value"] for row in rows if row["head"] != "majority")
    head = heads.fit(view, "prototype", apply_reviews=True, save=False)
    shown_rows = head_details.metric_rows(head.card)
    accuracy = next(row for row in shown_rows if row["metric"].startswith("accuracy"))
    assert accuracy["as reviewed"] == 100 * head.card["as_reviewed"]["metrics"]["accuracy"]
    (dataset.path / "reviews" / "reviews.jsonl").unlink()


# -- uploads, and a data set that grows meanwhile ---------------------------------------------


def test_an_uploaded_picture_finds_its_like_and_a_bad_one_is_named(store: Store) -> None:
    root = Path(store.dataset("pictures").description.sources["pictures"].root)
    app = opened("search", look="upload")
    content = (root / "test" / "black" / "0.png").read_bytes()
    app.file_uploader[0].set_value(("mine.png", content, "image/png")).run()
    assert not app.exception
    slug = store.view("pictures", "baseline:pixels").slug
    first = cards(app, f"found by {slug}")[0]
    assert (first["id"], first["score"]) == ("test/black/0.png", "1.000")
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    for bad, reason in ((b"no picture", "Not an image"), (bomb.getvalue(), "limit of")):
        app.file_uploader[0].set_value(("bad.png", bad, "image/png")).run()
        assert not app.exception
        assert reason in " ".join(texts_of(app.error))


def test_two_tabs_see_what_a_running_embed_adds(
    store: Store, tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    for number in range(4):
        write_image(tmp_path / "grows" / "a" / f"{number}.png", (number, 0, 0))
    store.embed([tmp_path / "grows"], dataset="grows", encoders=["baseline:pixels"])
    tabs = [opened("overview", dataset="grows"), opened("search", dataset="grows")]
    assert {one.label: one.value for one in tabs[0].metric}["Items"] == "4"
    assert len(cards(tabs[1], "items")) == 4
    write_image(tmp_path / "grows" / "b" / "0.png", (0, 9, 0))
    store.embed([tmp_path / "grows"], dataset="grows", encoders=["baseline:pixels"])
    for tab in tabs:
        tab.run()
        assert not tab.exception
    assert {one.label: one.value for one in tabs[0].metric}["Items"] == "5"
    assert len(cards(tabs[1], "items")) == 5
    store.drop("grows")
