"""Columns beside vectors: how they become numbers, whether they help, and what they give away."""

from __future__ import annotations

import base64
import csv
import json
from datetime import date, datetime

import numpy as np
import pandas as pd
import pytest

import heads
from featurestore.cli import run
from featurestore.errors import BadBundle, BadName, BadSource, MissingColumn
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store
from heads.experiments.metadata import leaks_of
from heads.labels.metadata import MetadataCoding, learned
from heads.measures.choice import choose
from heads.saved.serve import predict_rows, predict_source
from tests.heads.serving_world import picture, serving

N, N_NOISE = 60, 12


def rows_of_world(rng):
    """Return rows: age tells the kind a little, outcome all of it, noise nothing."""
    rows = []
    for n in range(N):
        is_old = n % 2
        rows.append(
            {
                "image": f"{n:02d}.png",
                "kind": ("young", "old")[is_old],
                "age": f"{rng.normal(60 + 12 * is_old, 8):.1f}" if n % 10 else "",
                "site": "ABC"[n % 3],
                "noise": f"{rng.normal():.3f}",
                **{f"noise{draw}": f"{rng.normal():.3f}" for draw in range(N_NOISE)},
                "outcome": ("home", "ward")[is_old],
                "number": n,
                "same": "x",
            }
        )
    return rows


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store of pictures that say nothing of their kind, and the folder of its table."""
    folder = tmp_path_factory.mktemp("world")
    rows = rows_of_world(np.random.default_rng(5))
    for n, row in enumerate(rows):
        (folder / row["image"]).write_bytes(picture(n))
    with (folder / "t.csv").open("w", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    store = open_store(folder / "store", create=True)
    options = SourceOptions(image="image", label=("kind",))
    store.embed(
        [folder / "t.csv"], dataset="d", source_options=options, encoders=["baseline:pixels#size=4"]
    )
    return folder


@pytest.fixture
def view(world):
    return open_store(world / "store").dataset("d").views()[0]


def coding_of(**columns):
    arrays = {name: np.array(values, dtype=object) for name, values in columns.items()}
    return learned(list(arrays), arrays.__getitem__)


def test_numbers_are_standardised_and_categories_are_one_hot():
    coding = coding_of(age=[1.0, 2, 3, None], site=["b", "a", "b", "b"])
    numbers, notes = coding.coded({"age": [1, 2, 3, None], "site": ["b", "a", "b", None]})
    spread = np.std([1, 2, 3])
    expected = [
        [-1 / spread, 0, 0, 1],
        [0, 0, 1, 0],
        [1 / spread, 0, 0, 1],
        [0, 1, 0, 0],  # without an age, of no known site
    ]
    assert np.allclose(numbers / coding.scale, expected)
    assert notes == [
        "1 item without site, which every training item had: the head decides without it"
    ]
    own, _ = coding.coded({"age": [1, 2, 3, None], "site": ["b", "a", "b", "b"]})
    assert own.var(axis=0).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("taught", "asked"),
    [
        ([1, 2, 1, 2], ["1", "2", "1.0", "2"]),  # a CSV gives texts to predict
        ([True, False, True, False], ["true", "false", "True", "FALSE"]),
        (["a", "b", "a", "b"], ["a", "b", "a", "b"]),
    ],
)
def test_a_category_is_known_by_its_text_too(taught, asked):
    coding = learned(["c:category"], lambda _: np.array(taught, dtype=object))
    assert np.array_equal(coding.coded({"c": taught})[0], coding.coded({"c": asked})[0])


def test_dates_are_numbers_of_days_as_dates_and_as_texts():
    days = [date(2026, 1, 1), date(2026, 1, 3)]
    coding = coding_of(day=days)
    assert coding.columns[0].spread == 1.0  # a day on each side of the mean
    texts, _ = coding.coded({"day": ["2026-01-01", "2026-01-03T00:00:00"]})
    moments, _ = coding.coded({"day": [datetime(2026, 1, 1), datetime(2026, 1, 3)]})
    assert np.array_equal(texts, moments)
    assert np.array_equal(texts, coding.coded({"day": days})[0])


def test_texts_that_are_all_numbers_are_numbers_unless_told():
    given = {"c": np.array(["1", "2", "5"], dtype=object)}
    assert learned(["c"], given.__getitem__).columns[0].kind == "number"
    assert learned(["c:category"], given.__getitem__).columns[0].values == ("1", "2", "5")


def test_what_new_items_have_in_place_of_a_known_value_is_said():
    coding = coding_of(age=[1.0, 2, 3], site=["a", "b", "a"])
    numbers, notes = coding.coded({"age": ["old", 2, None], "site": ["z", "a", "z"]})
    assert np.allclose(numbers[:, 0], 0)  # the mean
    assert np.allclose(numbers[0, 1:], 0)
    assert notes == [
        "1 item whose age cannot be read as a number, such as 'old': taken as lacking",
        "2 items without age, which every training item had: the mean is taken",
        "2 items with a site that no training item had, such as 'z': the head decides without it",
    ]


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ([None, None], "", "is empty"),
        (["x", "x"], "", "is 'x' for every item"),
        ([3.0, 3.0], "", "is 3 for every item"),
        ([f"{n}x" for n in range(60)], "", "60 different values for 60 items"),
        ([[1], [2]], "", "holds lists"),
        ([1, "old"], ":number", "'old', which cannot be read as a number"),
        ([1.0, float("inf")], "", "infinite"),
    ],
)
def test_a_column_that_cannot_be_read_is_refused_with_the_reason(values, kind, said):
    held = np.empty(len(values), dtype=object)
    held[:] = values
    with pytest.raises(BadName, match=said):
        learned([f"c{kind}"], lambda _: held)


@pytest.mark.parametrize("name", ["group", "split", "item_id", "uri", "content_hash", "kind"])
def test_columns_that_say_nothing_of_new_items_are_refused(view, name):
    with pytest.raises(BadName, match=f"column '{name}'"):
        heads.concat(view, columns=[name]).load()


def test_a_head_with_columns_gives_the_same_answers_from_the_store_and_from_a_table(
    view, world, tmp_path
):
    taught = heads.concat(view, columns=["age", "site"])
    head = heads.load_bundle(heads.fit(taught, "ridge").save(tmp_path / "b"))
    assert head.card["encoder"] == "concat:baseline:pixels[size=4]+columns[age,site]"
    assert head.card.dim == view.dim + 5  # age, where it lacks, three sites
    table = heads.concat([view], like=head).load()
    stored = dict(zip(table.ids, head.predict_proba(table), strict=True))
    found = predict_rows(head, world / "t.csv", options=SourceOptions(image="image"))
    for item, p in zip(found.answers.ids, found.answers.probabilities, strict=True):
        assert np.allclose(p, stored[item], atol=1e-5)
    rows = list(csv.DictReader((world / "t.csv").read_text().splitlines()))
    paths = [world / row["image"] for row in rows]
    given = {name: [row[name] for row in rows] for name in ("age", "site")}
    asked = head.ask(paths, columns=given)
    assert np.allclose(asked.probabilities, found.answers.probabilities, atol=1e-5)
    frame = pd.DataFrame({"image": [one.read_bytes() for one in paths], **given})
    framed = head.predict_frame(frame, column="image")
    assert np.allclose(framed["p:old"], found.answers.probabilities[:, 0], atol=1e-5)


def test_a_head_with_columns_says_what_it_lacks(view, world, tmp_path):
    head = heads.fit(heads.concat(view, columns="age"), "ridge", save=False)
    path = world / "00.png"
    with pytest.raises(MissingColumn, match="also reads column age: give their values"):
        head.predict([path])
    with pytest.raises(MissingColumn, match="no column age"):
        predict_source(head, world, options=SourceOptions())
    with pytest.raises(BadSource, match="2 values of column age for 1 items"):
        head.ask([path], columns={"age": [1, 2]})
    with pytest.raises(MissingColumn, match="no column 'age'"):
        head.ask([path], columns={"agee": [1]})
    plain = heads.fit(view, "ridge", save=False)
    with pytest.raises(BadSource, match="reads no columns, and age"):
        plain.ask([path], columns={"age": [1]})


@pytest.mark.parametrize("head", ["mix", "mix:ridge,lda"])
def test_heads_that_read_no_columns_refuse_them(view, head):
    with pytest.raises(BadName, match="does not read columns beside vectors"):
        heads.fit(heads.concat(view, columns="age"), head, save=False)


def test_a_head_of_texts_refuses_columns(tmp_path):
    rows = [{"text": f"{w} {n}", "kind": w, "n": n} for n in range(20) for w in ("plate", "crack")]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    store = open_store(tmp_path / "s", create=True)
    options = SourceOptions(text="text", label=("kind",))
    store.embed([tmp_path / "t.jsonl"], dataset="t", source_options=options,
                encoders=["baseline:hashing"])  # fmt: skip
    with pytest.raises(BadName, match="tfidf does not read columns"):
        heads.fit(heads.concat(store.dataset("t").views(), columns="n"), "tfidf", save=False)


def test_an_edited_coding_is_a_damaged_bundle(view, tmp_path):
    folder = heads.fit(heads.concat(view, columns="age"), "ridge", save=False).save(tmp_path / "b")
    card = json.loads((folder / "card.json").read_text())
    del card["card_sha256"]
    for edit in ({"scale": 0}, {"scale": 2.0}, {"columns": []}):
        edited = {**card, "metadata_columns": {**card["metadata_columns"], **edit}}
        (folder / "card.json").write_text(json.dumps(edited))
        with pytest.raises(BadBundle):
            heads.load_bundle(folder)


def test_a_coding_is_read_as_it_was_written(view):
    coding = heads.concat(view, columns=["age", "site"]).coding
    head = heads.fit(heads.concat(view, columns=["age", "site"]), "ridge", save=False)
    assert MetadataCoding.from_json(json.loads(json.dumps(head.card["metadata_columns"]))) == coding


def test_compare_says_that_columns_help_and_what_to_type(view):
    found = heads.compare(view, ["ridge"], columns=["age"], save=False, repeats=2)
    read = found.card.with_columns
    assert read.encoders == {
        "concat:baseline:pixels[size=4]+columns[age]": "baseline:pixels#size=4"
    }
    assert read.gain[1] > 0
    assert read.leaks == {}
    assert any(one.startswith("Column age helps: +") for one in found.notes)
    assert "age: a number (mean" in "\n".join(found.notes)
    cells = {(row["encoder"], row["head"]) for row in found.rows()}
    assert ("baseline:columns[age]", "ridge") in cells
    again = type(found).from_json(json.loads(json.dumps(found.to_json())))
    assert again.card.with_columns == read
    assert heads.run_again(view.dataset, found).rows()[0]["value"] == found.rows()[0]["value"]


def test_a_column_that_tells_the_label_is_said_and_never_taken(view, fs, world):
    found = heads.compare(view, ["ridge"], columns=["age", "outcome"], save=False, repeats=1)
    assert found.card.with_columns.leaks == {"outcome": 1.0}
    assert any(one.startswith("Column 'outcome' alone nearly tells 'kind'") for one in found.notes)
    assert found.rows()[0]["value"] == 1
    assert not found.card.with_columns.reads(choose(found).taken[0])
    words = ("--store", world / "store", "--columns", "age,outcome", "--head", "ridge")
    code, out, _ = fs("compare", "d", *words, "--repeats", "1")
    assert code == 0
    assert "To see what the other columns add: featurestore compare d --columns age" in out


def test_columns_of_noise_are_hardly_ever_said_to_help(view):
    """A small part of `benchmarks/columns.py`: at most 2 of 12 draws; 0.3 are expected."""
    helps = 0
    for draw in range(N_NOISE):
        found = heads.compare(view, ["ridge"], columns=[f"noise{draw}"], save=False, repeats=1)
        helps += found.card.with_columns.gain[1] > 0
    assert helps <= 2


@pytest.mark.parametrize("task", ["regression", "multiclass"])
def test_leaks_are_found_for_classes_and_numbers(view, task):
    from heads.labels.options import PlanOptions
    from heads.saved.ground import ground_of

    label = "number" if task == "regression" else "kind"
    ground = ground_of([view], PlanOptions(label, task))
    table = ground.tables[0]
    told = table.column(label)
    twice = [2 * one if task == "regression" else f"is {one}" for one in told]
    coding = coding_of(told=twice, noise=[float(one) for one in table.column("noise")])
    columns = {"told": np.array(twice, dtype=object), "noise": table.column("noise")}
    table = type(table)(table.ids, table.vectors, table.encoder, {**dict(table.columns), **columns})
    assert [one.column for one in leaks_of(coding, table, ground.plan)] == ["told"]


@pytest.fixture
def fs(capsys):
    """Run the command line; return its exit code, stdout and stderr."""

    def call(*words):
        code = run([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_train_and_predict_with_columns_from_the_command_line(fs, world, tmp_path):
    where = ("--store", world / "store")
    bundle = tmp_path / "b"
    code, out, _ = fs("train", "d", *where, "--columns", "age, site:category", "--save", bundle)
    assert code == 0
    assert "site: a category of 3 values (A, B, C)" in out
    assert f"featurestore predict {bundle} NEW.csv --image image" in out
    code, out, err = fs("predict", bundle, world / "t.csv", "--image", "image")
    assert (code, len(out.splitlines())) == (0, N + 1)
    table = (world / "t.csv").read_text().replace(",A,", ",Z,")
    (world / "odd.csv").write_text(table)
    code, _, err = fs("predict", bundle, world / "odd.csv", "--image", "image")
    assert code == 0
    assert "20 items with a site that no training item had, such as 'Z'" in err
    code, _, err = fs("predict", bundle, world)
    assert (code, "also reads columns age, site" in err) == (1, True)
    code, _, err = fs("export-onnx", bundle, "-o", tmp_path / "onnx")
    assert (code, "reads columns" in err) == (1, True)
    code, _, err = fs("train", "d", *where, "--columns", "agee")
    assert (code, "no column 'agee'" in err) == (1, True)


def test_jsonl_gives_the_same_answers_as_csv(fs, world, tmp_path):
    bundle = tmp_path / "b"
    fs("train", "d", "--store", world / "store", "--columns", "age,site", "--save", bundle)
    rows = list(csv.DictReader((world / "t.csv").read_text().splitlines()))
    for row in rows:
        row["age"] = float(row["age"]) if row["age"] else None
    (world / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    said = []
    for name in ("t.csv", "t.jsonl"):
        code, out, _ = fs("predict", bundle, world / name, "--image", "image", "--json")
        assert code == 0
        said.append([(one["predicted"], round(one["confidence"], 5)) for one in json.loads(out)])
    assert said[0] == said[1]


def test_a_server_takes_columns_and_refuses_what_is_not_one_value_an_item(view, world, tmp_path):
    head = heads.fit(heads.concat(view, columns=["age", "site"]), "ridge", save=False)
    texts = [(world / f"{n:02d}.png").read_bytes() for n in range(2)]
    given = {"age": [61, None], "site": ["A", "Z"]}
    asked = head.ask(texts, columns=given)
    images = [base64.b64encode(one).decode() for one in texts]
    with serving({"h": head}) as (_, client):
        answer = client.post("/predict", json={"images": images, "columns": given})
        said = [one["probabilities"]["old"] for one in answer.json()["predictions"]]
        assert np.allclose(said, asked.probabilities[:, 0], atol=1e-5)
        assert "1 item with a site that no training item had" in answer.json()["notes"][0]
        assert client.get("/heads").json()["heads"][0]["columns"] == ["age", "site"]
        for columns, why in [
            (None, "also reads columns age, site"),
            ({"age": [61, 2]}, "no column 'site'"),
            ({"age": [61], "site": ["A"]}, "columns.age: expected a list with a value"),
            ({"age": [[61], 2], "site": ["A", "B"]}, "columns.age: expected texts, numbers"),
            ([1], "expected an object"),
        ]:
            body = {"images": images, **({} if columns is None else {"columns": columns})}
            answer = client.post("/predict", json=body)
            assert answer.status_code == 422
            assert why in answer.text
