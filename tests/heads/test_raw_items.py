"""Heads asked from Python about raw items: texts, paths, bytes, pictures, frames; and by name."""

from __future__ import annotations

import csv
import io
import json
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

import heads
from featurestore.cli import run
from featurestore.errors import BadSource, MissingColumn
from featurestore.store.store import open_store

WORDS = ("plate", "crack")


def values(column):
    """Return the values of a pandas column, what is missing as None."""
    return [None if value is None or value != value else value for value in column]


def table_of(path, n=20):
    rows = [{"clause_id": f"c-{i}-{word}", "body": f"{word} {i}", "kind": word}
            for i in range(n) for word in WORDS]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A store of texts that a table with other names for its columns gave."""
    folder = tmp_path_factory.mktemp("texts")
    table, store = table_of(folder / "taught.jsonl"), str(folder / "store")
    asked = ["embed", str(table), "--dataset", "d", "-e", "baseline:hashing", "--text", "body"]
    assert run([*asked, "--id", "clause_id", "--label", "kind", "--store", store]) == 0
    return folder, store


@pytest.fixture(scope="module", params=["ridge", "tfidf"])
def text_head(request, texts):
    folder, store = texts
    fitted = heads.fit(open_store(store).dataset("d").views()[0], request.param)
    return heads.load_bundle(fitted.save(folder / f"bundle-{request.param}"))


SAID = ["a crack", "the plate", "crack crack"]
EXPECTED = ["crack", "plate", "crack"]


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda s: np.array(s, dtype=object)])
def test_texts_are_predicted_in_the_order_given(text_head, kind):
    assert text_head.predict(kind(SAID)).tolist() == EXPECTED
    proba = text_head.predict_proba(kind(SAID))
    assert [text_head.classes[i] for i in proba.argmax(axis=1)] == EXPECTED
    assert text_head.ask(list(SAID)).predicted.tolist() == EXPECTED


WRONG = [
    (["a", 3.5], "items are of two kinds: item 0 is a str, item 1 a float"),
    ([b"a crack"], r"item 0 is a bytes: this head reads texts \(str\)"),
    ([Path("a.txt")], r"item 0 is a \w*Path: this head reads texts"),
    (["a", None], "item 1 is a NoneType: this head reads texts"),
    ("a crack", "put the one into a list"),
]


@pytest.mark.parametrize(("items", "message"), WRONG)
def test_what_is_no_text_is_one_clear_error(text_head, items, message):
    for ask in (text_head.predict, text_head.predict_proba):
        with pytest.raises(BadSource, match=message):
            ask(items)


def test_a_frame_keeps_its_rows_its_index_and_its_columns(text_head):
    frame = pd.DataFrame(
        {"n": [1, 2, 3, 4], "body": ["a crack", None, "the plate", " "], "predicted": list("wxyz")},
        index=[7, 7, 3, 1],
    )
    found = text_head.predict_frame(frame)
    assert found[frame.columns.tolist()].equals(frame)
    assert values(found["head_predicted"]) == ["crack", None, "plate", None]
    assert values(found["failed"]) == [None, "no text", None, "no text"]
    assert "item_id" not in found
    arrow = text_head.predict_frame(pa.Table.from_pandas(frame, preserve_index=False))
    assert arrow.column("head_predicted").to_pylist() == ["crack", None, "plate", None]


def test_a_frame_without_the_column_names_those_that_it_has(text_head):
    frame = pd.DataFrame({"boddy": ["a crack"], "n": [1]})
    with pytest.raises(MissingColumn, match=r"no column 'body'.*boddy"):
        text_head.predict_frame(frame)
    assert text_head.predict_frame(frame, column="boddy")["predicted"].tolist() == ["crack"]
    with pytest.raises(BadSource, match=r"expected a pandas\.DataFrame"):
        text_head.predict_frame(["a crack"])


def test_a_bundle_remembers_the_columns_and_train_ends_with_the_line_that_works(
    texts, tmp_path, capsys, monkeypatch
):
    _, store = texts
    monkeypatch.chdir(tmp_path)
    assert run(["train", "d", "--head", "ridge", "--store", store, "--save", "b"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.endswith(
        "featurestore predict b NEW.csv --text body --id clause_id -o predictions.csv"
    )
    assert heads.load_bundle("b").card.columns == {"text": "body", "id": "clause_id"}
    Path("NEW.csv").write_text("clause_id,body\nz,a crack\na,the plate\n")
    words = shlex.split(line.partition("featurestore ")[2])
    assert run(words) == 0
    by_line = Path("predictions.csv").read_text()
    capsys.readouterr()
    assert run(["predict", "b", "NEW.csv"]) == 0
    out, told = capsys.readouterr()
    assert out == by_line
    assert "columns as in the training table: --text body --id clause_id" in told
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["clause_id"], row["predicted"]) for row in rows] == [
        ("z", "crack"),
        ("a", "plate"),
    ]


@pytest.mark.parametrize("name", ["n.csv", "n.tsv", "n.jsonl", "n.parquet"])
def test_columns_are_found_in_every_table(text_head, tmp_path, monkeypatch, capsys, name):
    import pyarrow.parquet as pq

    folder = str(text_head.path)
    monkeypatch.chdir(tmp_path)
    rows = [{"extra": 1, "body": "a crack"}, {"extra": 2, "body": "the plate"}]
    if name == "n.jsonl":
        Path(name).write_text("\n".join(map(json.dumps, rows)))
    elif name == "n.parquet":
        pq.write_table(pa.Table.from_pylist(rows), name)
    else:
        by = "\t" if name == "n.tsv" else ","
        Path(name).write_text(f"\ufeffextra{by}body\n1{by}a crack\n2{by}the plate\n")
    assert run(["predict", folder, name]) == 0
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["predicted"] for row in found] == ["crack", "plate"]
    Path("other.csv").write_text("words\na crack\n")
    assert run(["predict", folder, "other.csv"]) == 1
    assert "columns: words" in capsys.readouterr().err
    assert run(["predict", folder, "other.csv", "--text", "words"]) == 0


@pytest.fixture(scope="module")
def picture_head(tmp_path_factory):
    """A head that tells dark pictures from light ones, and four new ones."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for place, n in (("photos/dark", 10), ("photos/light", 10), ("new", 4)):
        for i in range(n):
            level = 200 if "light" in place or i % 2 else 40
            pixels = np.clip(rng.normal(level, 30, (24, 24, 3)), 0, 255).astype(np.uint8)
            (folder / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / place / f"{i}.png")
    store = open_store(folder / "store", create=True)
    store.embed([folder / "photos"], dataset="photos", encoders=["baseline:pixels"])
    fitted = heads.fit(store.dataset("photos").views()[0], "prototype")
    files = [folder / "new" / f"{i}.png" for i in (3, 0, 2, 1)]
    return heads.load_bundle(fitted.save(folder / "bundle")), files


KINDS = {
    "Path": lambda path: path,
    "str": str,
    "bytes": lambda path: path.read_bytes(),
    "PIL": Image.open,
    "array of str": str,
}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_predicted_in_the_order_given(picture_head, kind):
    head, files = picture_head
    items = [KINDS[kind](path) for path in files]
    items = np.array(items) if kind.startswith("array") else items
    assert head.predict(items).tolist() == ["light", "dark", "dark", "light"]
    np.testing.assert_allclose(head.predict_proba(items), head.predict_proba(files), atol=1e-6)


def test_a_picture_in_memory_is_read_as_its_file(picture_head, tmp_path):
    head, _ = picture_head
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    top = Image.new("RGB", (24, 24), "black")
    top.paste("white", (0, 0, 24, 12))
    for mode, name in (("RGB", "a.png"), ("L", "b.png"), ("CMYK", "c.tif"), ("P", "d.png")):
        top.convert(mode).save(tmp_path / name, exif=exif)
        with Image.open(tmp_path / name) as picture:
            in_memory = head.predict_proba([picture])
        np.testing.assert_allclose(in_memory, head.predict_proba([tmp_path / name]), atol=1e-6)


def test_vectors_keep_working_and_wrong_pictures_are_said(picture_head, tmp_path):
    head, files = picture_head
    assert head.predict(np.zeros((2, head.card.dim))).tolist() == ["dark", "dark"]
    assert head.predict([[0.0] * head.card.dim]).tolist() == ["dark"]
    with pytest.raises(BadSource, match=r"there is not a file nowhere\.png"):
        head.predict(["nowhere.png"])
    with pytest.raises(BadSource, match="two kinds"):
        head.predict([str(files[0]), 3])
    frame = pd.DataFrame({"file": [str(files[0]), "nowhere.png", str(files[1])]})
    found = head.predict_frame(frame, column="file")
    assert values(found["predicted"]) == ["light", None, "dark"]
    assert [one is None for one in values(found["failed"])] == [True, False, True]
    assert "there is not a file nowhere.png" in found["failed"][1]
