from __future__ import annotations

import base64
import io
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

import heads
from dashboard.colors import NEUTRAL, SCALE, colors, contrast
from dashboard.page_data import classes, home, item_rows, leaderboard, overview, wording
from featurestore.errors import UnknownItem
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import Store, open_store
from heads.measures.choice import choose
from tests.test_workers import planned_run

PIXELS = "baseline:pixels"


def test_the_overview_counts_items_vectors_and_failures_of_each_view(small_store: Store) -> None:
    rows = overview.overview(small_store)
    measured = [(row.pop("items/s"), row.pop("last run")) for row in rows]
    on_disk = [(row.pop("MB"), row.pop("snapshot")) for row in rows]
    assert on_disk[0][0] > 30 * 3072 * 4 / 1e6
    assert on_disk[0][1] == str(small_store.view("pictures", PIXELS).snapshot)
    assert all(rate > 0 and "T" in when for rate, when in measured)
    assert rows == [
        {
            "data set": "pictures",
            "holds": "images",
            "items": 31,
            "encoder": PIXELS,
            "embedded": 30,
            "failed": 1,
            "to do": 0,
            "dim": 3072,
        },
        {
            "data set": "texts",
            "holds": "texts",
            "items": 4,
            "encoder": "baseline:hashing",
            "embedded": 4,
            "failed": 0,
            "to do": 0,
            "dim": small_store.view("texts", "baseline:hashing").dim,
        },
    ]


def test_the_stamp_changes_with_the_store_and_only_then(small_store: Store, tmp_path: Path) -> None:
    before = overview.stamp(small_store)
    assert overview.stamp(small_store) == before
    other = Store(shutil.copytree(small_store.path, tmp_path / "other"))
    assert overview.stamp(other) == before
    more = tmp_path / "more.csv"
    more.write_text("name,words,kind\ne,blue car,car\n")
    options = SourceOptions(text="words", label=("kind",), id="name")
    other.embed([more], dataset="texts", encoders=["baseline:hashing"], source_options=options)
    assert overview.stamp(other) != before


def test_failures_say_which_item_failed_where_and_why(small_store: Store) -> None:
    [row] = overview.failures(small_store.dataset("pictures"))
    assert row.pop("when")
    assert row == {
        "item": "train/white/broken.png",
        "file": small_store.dataset("pictures").uri("train/white/broken.png"),
        "stage": "decode",
        "encoder": "any",
        "reason": "not an image that we can read (begins with b'no pictu')",
    }


def test_classes_are_counted_by_split_largest_first(small_store: Store) -> None:
    items = item_rows.browse(small_store.dataset("pictures"))
    assert classes.class_counts(items) == [
        {"label": "white", "split": "train", "items": 8},  # the broken one included
        {"label": "white", "split": "test", "items": 3},
        {"label": "black", "split": "train", "items": 7},
        {"label": "black", "split": "test", "items": 3},
        {"label": "grey", "split": "train", "items": 7},
        {"label": "grey", "split": "test", "items": 3},
    ]
    assert classes.split_sentence(items) == "22 train · 9 test"


def test_items_without_a_label_are_counted_last(small_store: Store) -> None:
    items = item_rows.browse(small_store.dataset("texts"))
    assert classes.class_counts(items) == [
        {"label": "fruit", "split": "no split", "items": 2},
        {"label": "car", "split": "no split", "items": 1},
        {"label": "no label", "split": "no split", "items": 1},
    ]


def test_the_class_figure_draws_each_split_and_keeps_names_as_text() -> None:
    counts = [
        {"label": "<b>", "split": "train", "items": 2},
        {"label": "<b>", "split": "test", "items": 1},
        {"label": "c", "split": "train", "items": 1},
    ]
    figure = classes.class_figure(counts, {"<b>": "#111111", "c": "#222222"})
    assert [(bar.name, bar.y, bar.x, bar.marker.color) for bar in figure.data] == [
        ("train", ("&lt;b&gt;", "c"), (2, 1), ("#111111", "#222222")),
        ("test", ("&lt;b&gt;", "c"), (1, 0), ("#111111", "#222222")),
    ]


def test_a_filter_changes_no_color(small_store: Store) -> None:
    items = item_rows.browse(small_store.dataset("pictures"))
    assert classes.class_colors(items) == {
        "black": "#0072B2",
        "grey": "#C38600",
        "white": "#009E73",
        "no label": NEUTRAL,
    }
    assert colors(["white", "grey", "black"]) == colors(["black", "grey", "white"])


def test_marks_have_a_contrast_of_3_with_light_and_with_dark_pages() -> None:
    hues = {*colors(map(str, range(24))).values(), *SCALE, NEUTRAL}
    assert len(hues) == 24 + len(SCALE) + 1
    pages = "#FFFFFF", "#171614"  # Streamlit's
    assert contrast("#000000", "#FFFFFF") == 21
    assert min(contrast(hue, page) for hue in hues for page in pages) >= 3


def test_rows_come_in_the_order_of_the_ids(small_store: Store) -> None:
    items = item_rows.browse(small_store.dataset("texts"))
    ids = ["c", "a"]
    assert [row["item_id"] for row in item_rows.rows_of(items, ids)] == ids
    with pytest.raises(UnknownItem, match=r"there is no item 'z'"):
        item_rows.rows_of(items, ["a", "z"])


def test_neighbors_from_a_kept_index_are_those_of_the_view(
    small_store: Store, picture_id: str
) -> None:
    view = small_store.view("pictures", PIXELS)
    expected = view.neighbors(picture_id, k=7)
    found = item_rows.neighbors(view.index(), picture_id, k=7)
    assert found == list(zip(expected.ids[0], expected.scores[0], strict=True))
    with pytest.raises(UnknownItem, match=r"no vector of .*broken\.png"):
        item_rows.neighbors(view.index(), "train/white/broken.png", k=7)


@pytest.mark.parametrize(
    ("label", "others", "said"),
    [
        ("a", ["a", "b", "a", None], "2 of 4 neighbors have the same label (50%)"),
        (None, ["a"], None),
        ("a", [], None),
    ],
)
def test_agreement_counts_equal_labels(
    label: str | None, others: list[str | None], said: str | None
) -> None:
    assert item_rows.agreement(label, others) == said


def test_a_picture_is_the_thumbnail_or_the_reason_why_there_is_none(
    small_store: Store, picture_id: str
) -> None:
    dataset = small_store.dataset("pictures")
    found = item_rows.picture(dataset, picture_id, size_px=16)
    content = base64.b64decode(found["image"].removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(content)).size == (16, 16)
    assert item_rows.picture(dataset, "train/white/broken.png") == {
        "image": None,
        "reason": "not an image that we can read (begins with b'no pictu')",
    }


def test_a_card_names_label_score_and_text() -> None:
    row = {"item_id": "a", "text": "red", "label": None, "split": None}
    assert item_rows.card(row, {}, {"no label": NEUTRAL}, 0.98765) == {
        "id": "a",
        "text": "red",
        "label": "no label",
        "color": NEUTRAL,
        "score": "0.988",
    }


def test_the_leaderboard_is_the_stored_comparison_in_percent(small_store: Store) -> None:
    dataset = small_store.dataset("pictures")
    [run] = heads.runs(dataset)
    rows = leaderboard.leaderboard(run)
    assert [(row["head"], row["encoder"]) for row in rows] == [
        ("prototype", PIXELS),
        ("knn", PIXELS),
        ("majority", "baseline:majority"),
    ]
    for shown, stored in zip(rows, run.rows(), strict=True):
        for key in ("value", "low", "high"):
            assert shown[key] == 100 * stored[key]
    palette = leaderboard.encoder_colors(dataset, run)
    assert palette == {PIXELS: "#0072B2", "baseline:majority": NEUTRAL}
    assert not leaderboard.is_outdated(dataset, run)

    figure = leaderboard.interval_figure(run, palette)
    drawn = {
        name: (x, x - low, x + high)
        for trace in figure.data
        for name, x, low, high in zip(
            trace.y, trace.x, trace.error_x.arrayminus, trace.error_x.array, strict=True
        )
    }
    assert drawn == {
        f"{row['head']} on {row['encoder']}": pytest.approx((row["value"], row["low"], row["high"]))
        for row in rows
    }


def test_a_command_can_be_typed_as_it_is() -> None:
    assert (
        wording.command(
            Store(Path("/tmp/my store")), "compare", "cells", "-e", "baseline:pixels#size=8"
        )
        == "featurestore compare cells -e 'baseline:pixels#size=8' --store '/tmp/my store'"
    )


def test_splits_of_the_users_own_names_are_shown() -> None:
    items = pa.table({"label": ["a", "a", "b"], "split": ["fold0", "train", None]})
    assert classes.class_counts(items) == [
        {"label": "a", "split": "train", "items": 1},
        {"label": "a", "split": "fold0", "items": 1},
        {"label": "b", "split": classes.NO_SPLIT, "items": 1},
    ]
    assert classes.split_sentence(items) == f"1 train · 1 fold0 · 1 {classes.NO_SPLIT}"
    assert (
        len(classes.class_figure(classes.class_counts(items), classes.class_colors(items)).data)
        == 3
    )


def test_home_says_where_a_data_set_stands_and_what_nobody_did_yet(full_store: Store) -> None:
    found = home.summary(full_store.dataset("pictures"))
    [run] = heads.runs(full_store.dataset("pictures"))
    choice = choose(run)
    encoder, head = choice.taken
    assert found.facts().startswith("33 images · 3 classes: black, ")
    assert (found.best, found.n_failed, encoder) == (f"{head} on {PIXELS}", 1, PIXELS)
    assert found.score == choice.score  # as advise names it
    assert (found.verdict, found.step.command) == (None, "transfer")
    assert found.n_issues
    labels = {row["item_id"]: row["label"] for row in
              item_rows.browse(full_store.dataset("pictures")).to_pylist()}  # fmt: skip
    assert {labels[item] for item in found.shown[:3]} == {"black", "grey", "white"}


def test_in_a_mixture_the_classes_take_turns() -> None:
    labels = ["a"] * 5 + ["b"] * 2 + [None]
    order = home.mixed(pa.array(labels))
    assert sorted(order) == list(range(8))
    assert [labels[row] for row in order] == ["a", "b", None, "a", "b", "a", "a", "a"]
    assert home.mixed(pa.array([], pa.string())).tolist() == []


def test_what_stands_in_a_strip_is_text_and_no_markup() -> None:
    made = home.strip_html([{"id": "<a>", "image": None, "label": "<b>", "text": "<script>"}])
    assert "<script>" not in made
    assert "&lt;script&gt;" in made


def test_all_runs_stand_in_one_table_and_a_better_one_of_before_is_named(
    full_store: Store,
) -> None:
    dataset = full_store.dataset("pictures")
    [run] = heads.runs(dataset)
    earlier = replace(run, card=replace(run.card, created="2025-01-02T03:04:05+00:00"))
    rows = leaderboard.all_rows([run, earlier], run.label, run.metric)
    assert len(rows) == 2 * len(run.heads)
    values = [row["value"] for row in rows]
    assert values == sorted(values, reverse=True)
    assert leaderboard.all_rows([run], "another", run.metric) == []
    found = leaderboard.holding(rows, "RIDGE 2025-01")
    assert [(row["head"], row["run"]) for row in found] == [("ridge", earlier.card.created)]
    assert leaderboard.better_before(rows, run) is None  # as good is not better
    rows[0] = {**rows[0], "value": 101.0, "run": "2025", "when": "2025-01-02 03:04"}
    said = str(leaderboard.better_before(rows, run))
    assert said.startswith("The best row of all runs is of 2025-01-02 03:04 UTC: ")
    shown = leaderboard.columns_of(rows)
    assert shown == ["head", "encoder", "value", "low", "high", "when", "items", "tested on"]
    assert {row["tested on"] for row in rows} == {"the test split"}
    lines = leaderboard.csv_of(rows).decode().splitlines()
    assert lines[0] == "head,encoder,value,low,high,when,items,tested on,slice,tags,note,run"
    assert len(lines) == len(rows) + 1


def test_home_says_what_is_planned_of_a_data_set_that_is_empty_so_far(
    small_store: Store, tmp_path: Path
) -> None:
    store = open_store(tmp_path / "store", create=True)
    root = small_store.dataset("pictures").description.sources["pictures"].root
    planned_run(store, Path(root))
    found = home.summary(store.dataset("d"))
    assert (found.n_items, found.best, found.step.page) == (0, None, "run")
    assert found.planned == ("planned: 31 items for baseline:pixels#size=4, 0 of 8 parts done",)
