"""Cards of heads and runs: typed, the same on disk as before, and listed in docs/format.md."""

import json
import pickle
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

import heads
from featurestore.errors import StoreCorrupt
from heads.saved.card import HeadCard

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "tests" / "data"
HEAD_CARDS = sorted(KEPT.rglob("card.json"))
RUN_CARDS = sorted((KEPT / "store-rooms").rglob("runs/*.json"))
OF_RESULTS = [path for path in RUN_CARDS if not path.stem.endswith("-embed")]
PAGE = (ROOT / "docs" / "format.md").read_text().split("## Cards")[1]
OF_HEADS, OF_RUNS = PAGE.split("### Run cards")
RUN_KINDS = {
    "compare": heads.Comparison,
    "curve": heads.Curve,
    "transfer": heads.Assessment,
    "quality": heads.Issues,
}


def keys_in(text):
    return re.findall(r"`(\w+)`", text)


def rows_of(table):
    cells = [line.strip("| ").split("|") for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in cells[2:]]


@pytest.mark.parametrize("path", HEAD_CARDS, ids=lambda path: path.parent.name)
def test_a_head_card_is_written_as_it_was_read(path):
    data = json.loads(path.read_text())
    card = HeadCard.from_json(data)
    later = dict.fromkeys(("slice", "slice_digest", "conformal", "reviews", "twins"))
    if "task" not in data:  # a card of 0.1
        assert card.to_json() == data | later | {"task": "multiclass"}
        return
    assert card.to_json() == data
    assert list(card.to_json()) == list(data)


def test_a_head_card_is_a_value_and_a_dict():
    data = json.loads((KEPT / "store-rooms" / "bundle-best" / "card.json").read_text())
    card = HeadCard.from_json(data)
    assert card.metrics["accuracy"].value == card["metrics"]["accuracy"]["value"]
    assert card["evaluation"]["n_train"] == card.evaluation.n_train
    assert card == data
    assert json.loads(json.dumps(card)) == data
    assert card | {"seed": 7} == {**data, "seed": 7}
    assert pickle.loads(pickle.dumps(card)).metrics == card.metrics
    with pytest.raises(KeyError):
        card["as_reviewed"]


def test_the_page_lists_the_keys_of_head_cards():
    first_cells = " ".join(row[0] for row in rows_of(OF_HEADS))
    assert keys_in(first_cells) == [one.name for one in fields(HeadCard)]
    left_out = [one.name for one in fields(HeadCard) if one.metadata]
    assert re.findall(r"\[`(\w+)`\]", first_cells) == left_out
    for key, meaning in rows_of(OF_HEADS):
        for path in HEAD_CARDS:
            inner = json.loads(path.read_text()).get(key.strip("`"))
            if isinstance(inner, dict) and key not in ("`chosen`",):
                assert set(inner) <= set(keys_in(meaning)), key


@pytest.mark.parametrize("path", RUN_CARDS, ids=lambda path: path.stem.split("-")[1])
def test_the_page_lists_the_keys_of_run_cards(path):
    data = json.loads(path.read_text())
    kind = data["kind"]
    (own, *rest) = next(row[1:] for row in rows_of(OF_RUNS) if row[0] == kind)
    # Keys that older releases did not write.
    later = set(re.findall(r"\[`(\w+)`\]", " ".join([own, *rest])))
    if kind == "embed":
        assert {"kind", "when", *keys_in(own)} - later == set(data) - later
        return
    shared = {"kind", "when", "format", "dataset", "label", "notes", "card"}
    written = RUN_KINDS[kind].from_json(data).to_json() | {"kind": kind, "when": data["when"]}
    assert (shared | set(keys_in(own))) - later == set(written) - later
    assert set(written) == set(data)
    of_all = {"created", "seed", "views", "machine", "versions"}
    assert of_all | set(keys_in(rest[0])) - later == set(written["card"]) - later


@pytest.mark.parametrize("path", OF_RESULTS, ids=lambda path: path.stem.split("-")[1])
def test_a_run_card_is_a_value_and_a_dict_and_written_as_it_was_read(path):
    data = json.loads(path.read_text())
    run = RUN_KINDS[data["kind"]].from_json(data)
    assert run.card.to_json() == run.card == data["card"]
    assert run.card.seed == run.card["seed"] == data["card"]["seed"]
    assert run.card.views[0].snapshot.items == run.card["views"][0]["snapshot"]["items"]
    assert replace(run.card, seed=7) == {**data["card"], "seed": 7}
    assert pickle.loads(pickle.dumps(run.card)) == run.card
    assert pickle.loads(pickle.dumps(run.card)).views == run.card.views


def test_a_run_card_of_release_0_1_lacks_what_later_ones_say():
    (path,) = (KEPT / "store-1").rglob("runs/*-compare.json")
    data = json.loads(path.read_text())
    card = heads.Comparison.from_json(data).card
    assert (card.heads, card.machine, card.apply_reviews, card.twins) == (None, None, False, None)
    later = {"apply_reviews": False, "reviews": None, "twins": None}
    assert card.to_json() == data["card"] | later


def test_a_card_of_another_release_is_read_and_keeps_what_is_not_known():
    """It may have keys more, also inside its values, and keys fewer."""
    card = json.loads((KEPT / "store-rooms" / "bundle-best" / "card.json").read_text())
    card["evaluation"]["extra"] = card["later"] = 1
    del card["n_blocks"], card["seconds"]
    read = HeadCard.from_json(card)
    assert (read.n_blocks, read.seconds, read.evaluation.on) == (None, None, "folds")
    assert read.to_json()["later"] == read["later"] == 1
    with pytest.raises(ValueError, match="it lacks head_id"):
        HeadCard.from_json({key: value for key, value in card.items() if key != "head_id"})


def test_a_damaged_curve_is_named():
    with pytest.raises(StoreCorrupt, match="draw the curve again"):
        heads.Curve.from_json({"budgets": [], "card": {}})
