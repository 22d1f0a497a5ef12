"""Right rows in, right rows out: what predict writes stands beside the rows that it is about."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import heads
from featurestore.cli import run
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store

WORDS = ("plate", "crack")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle that tells texts about plates from texts about cracks."""
    folder = tmp_path_factory.mktemp("taught")
    rows = [{"text": f"{word} {i}", "kind": word} for i in range(20) for word in WORDS]
    table = folder / "taught.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    store = open_store(folder / "store", create=True)
    options = SourceOptions(text="text", label=("kind",))
    store.embed([table], dataset="taught", source_options=options, encoders=["baseline:hashing"])
    fitted = heads.fit(store.dataset("taught").views()[0], "ridge")
    return str(fitted.save(folder / "bundle"))


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def texts(n: int) -> list[str]:
    """Return texts whose class does not follow the sorting of their row numbers."""
    rng = np.random.default_rng(3)
    return [f"a {WORDS[i]} here" for i in rng.integers(0, 2, n)]


def written(path, names, rows):
    """Write a table in the format that the path's ending names."""
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            out = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            out.writerow(names)
            out.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(names, r, strict=True))) + "\n" for r in rows))
    else:
        pq.write_table(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), path)
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("with_id", [False, True])
def test_rows_keep_their_order_and_columns(bundle, tmp_path, capsys, ending, with_id):
    said = texts(25)
    names = ["number", "clause_id", "body"]
    rows = [[f"{i:03d}", f"c-{97 * i % 25}", one] for i, one in enumerate(said)]
    table = written(tmp_path / f"new{ending}", names, rows)
    asked = ["predict", bundle, str(table), "--text", "body"]
    assert run([*asked, *(["--id", "clause_id"] if with_id else [])]) == 0
    found = rows_of(capsys.readouterr().out)
    assert [[row[name] for name in names] for row in found] == rows
    assert [row["predicted"] for row in found] == [one.split()[1] for one in said]
    own = [] if with_id else ["item_id"]
    ours = [*own, "predicted", "confidence", "unlike_training", "p:crack", "p:plate", "failed"]
    assert list(found[0]) == [*names, *ours]
    assert {row["failed"] for row in found} == {""}


BAD_ROWS = {
    "t.csv": ("id,body\na,a plate\nb\n,a crack\nc,a crack\n", [
        ("a", "a plate", "plate", ""),
        ("", "", "", "line 3: 1 cell, where the header has 2: b"),
        ("", "a crack", "", "no id in the column 'id'"),
        ("c", "a crack", "crack", ""),
    ]),
    "t.jsonl": ('{"id": "a", "body": "a plate"}\n{"id"\n{"id": "b", "body": "\\ud83d"}\n', [
        ("a", "a plate", "plate", ""),
        ("", "", "", "line 2: no JSON (Expecting ':' delimiter, character 6): {\"id\""),
        ("b", "\\ud83d", "", "line 3: 'body' holds what is no text in UTF-8"),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ROWS)
def test_rows_that_cannot_be_read_come_out_with_their_reason(bundle, tmp_path, capsys, name):
    content, expected = BAD_ROWS[name]
    (tmp_path / name).write_text(content)
    assert run(["predict", bundle, str(tmp_path / name), "--text", "body", "--id", "id"]) == 3
    found = rows_of(capsys.readouterr().out)
    columns = ("id", "body", "predicted", "failed")
    assert [tuple(row[one] for one in columns) for row in found] == expected


AS_WRITTEN = ["01", "1.10", "0x1A", "123456789012345678901", "1e5", "NaN", "", " x ", "true",
              "2024-01-05", "10:30", 'a "b", c',
              "two\nlines", "ä€", "NA", "-0.0", ".5"]  # fmt: skip


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_what_was_written_stays_as_it_was(bundle, tmp_path, capsys, ending):
    rows = [["a crack", value, i] for i, value in enumerate(AS_WRITTEN)]
    table = written(tmp_path / f"new{ending}", ["text", "code", "n"], rows)
    assert run(["predict", bundle, str(table), "--text", "text"]) == 0
    found = rows_of(capsys.readouterr().out)
    assert [row["code"] for row in found] == AS_WRITTEN


def test_each_column_of_numbers_is_text_as_written(bundle, tmp_path, capsys):
    table = tmp_path / "new.csv"
    table.write_text("text,price,zip,yes,day\nplate,1.50,01234,true,2024-01-05\n"
                     "crack,2,99999,false,2024-01-06\n")  # fmt: skip
    assert run(["predict", bundle, str(table), "--text", "text"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("plate,1.50,01234,true,2024-01-05,")
    assert lines[2].startswith("crack,2,99999,false,2024-01-06,")


def test_json_lines_keep_their_values(bundle, tmp_path):
    rows = [{"text": "a plate", "n": 1, "tags": ["a", "b"], "deep": {"x": 1}, "big": 10**25,
             "no": None},
            {"text": "a crack", "n": 2, "tags": [], "deep": {"y": [1.5]}, "big": 1,
             "no": None}]  # fmt: skip
    table = tmp_path / "new.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out.jsonl"
    assert run(["predict", bundle, str(table), "--text", "text", "-o", str(out)]) == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    assert [row["predicted"] for row in found] == ["plate", "crack"]


def test_parquet_keeps_its_types(bundle, tmp_path):
    table = pa.table(
        {
            "text": ["a plate", "a crack", "a plate"],
            "kind": pa.array(["x", None, "x"]).dictionary_encode(),
            "at": pa.array([1, 2, None], pa.timestamp("us", "UTC")),
            "of": pa.array([[1, 2], None, []], pa.list_(pa.int64())),
        }
    )
    pq.write_table(table, tmp_path / "new.parquet")
    out = tmp_path / "out.parquet"
    asked = ["predict", bundle, str(tmp_path / "new.parquet"), "--text", "text", "-o", str(out)]
    assert run(asked) == 0
    found = pq.read_table(out)
    assert found.select(["text", "kind", "at", "of"]).to_pylist() == table.to_pylist()
    assert found.schema.field("at").type == table.schema.field("at").type
    assert found.schema.field("of").type == table.schema.field("of").type


def test_a_failed_row_stands_in_its_place_with_its_reason(bundle, tmp_path, capsys):
    rows = [["a plate", "1"], ["", "2"], ["a crack", "3"], ["", "4"]]
    table = written(tmp_path / "new.csv", ["text", "n"], rows)
    out = tmp_path / "out.csv"
    assert run(["predict", bundle, str(table), "--text", "text", "-o", str(out)]) == 3
    found = rows_of(out.read_text())
    assert [row["n"] for row in found] == ["1", "2", "3", "4"]
    assert [row["predicted"] for row in found] == ["plate", "", "crack", ""]
    assert [bool(row["failed"]) for row in found] == [False, True, False, True]
    assert [row["p:crack"] == "" for row in found] == [False, True, False, True]
    told = capsys.readouterr().err
    assert "4 rows: 2 predicted, 2 failed" in told
    assert "crack: 1, plate: 1" in told


def test_all_rows_may_fail(bundle, tmp_path):
    table = written(tmp_path / "new.csv", ["text", "n"], [["", "1"], ["", "2"]])
    out = tmp_path / "out.csv"
    assert run(["predict", bundle, str(table), "--text", "text", "-o", str(out)]) == 3
    found = rows_of(out.read_text())
    assert [row["n"] for row in found] == ["1", "2"]
    assert all(row["failed"] and not row["predicted"] for row in found)


def test_of_many_failed_rows_the_first_are_named(bundle, tmp_path, capsys):
    """All of them stand in the output, with their reasons."""
    rows = [[f"d{n}", "" if n else "a plate"] for n in range(61)]
    source = written(tmp_path / "new.csv", ["id", "text"], rows)
    out = tmp_path / "out.csv"
    assert run(["predict", bundle, str(source), "--id", "id", "-o", str(out)]) == 3
    said = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("failed: ") for line in said) == 20
    assert "… and 40 more rows failed" in said
    assert sum(bool(row["failed"]) for row in rows_of(out.read_text())) == 60


def test_bytes_that_are_no_text_fail_in_their_row(bundle, tmp_path):
    table = tmp_path / "new.csv"
    table.write_bytes(b"text,n\na plate,1\na \xff crack,2\na crack,3\n")
    out = tmp_path / "out.csv"
    assert run(["predict", bundle, str(table), "--text", "text", "-o", str(out)]) == 3
    found = rows_of(out.read_text())
    assert [row["predicted"] for row in found] == ["plate", "", "crack"]
    assert found[1]["text"] == r"a \xff crack"


def test_a_column_of_ours_gives_way_to_one_of_the_input(bundle, tmp_path, capsys):
    rows = [["a plate", "mine", "yours", "x"], ["a crack", "his", "hers", "y"]]
    table = written(tmp_path / "new.csv", ["text", "predicted", "item_id", "head_predicted"], rows)
    assert run(["predict", bundle, str(table), "--text", "text"]) == 0
    out, told = capsys.readouterr()
    found = rows_of(out)
    assert [list(row.values())[:4] for row in found] == rows
    assert [row["head_head_predicted"] for row in found] == ["plate", "crack"]
    assert [row["head_item_id"] for row in found] == ["new.csv:0", "new.csv:1"]
    assert "what the head says is in 'head_head_predicted'" in told


def test_an_output_that_is_the_input_or_lies_nowhere_is_refused(bundle, tmp_path, capsys):
    table = written(tmp_path / "new.csv", ["text"], [["a plate"], ["a crack"]])
    asked = ["predict", bundle, str(table), "--text", "text", "-o"]
    before = table.read_text()
    assert run([*asked, str(table)]) == 2
    assert "is the input itself" in capsys.readouterr().err
    assert table.read_text() == before
    assert run([*asked, str(tmp_path / "nowhere" / "out.csv")]) == 2
    assert "there is not a folder" in capsys.readouterr().err


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A bundle of dark and light pictures, and a folder of new ones, one of them broken."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)

    def draw(path, level):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(rng.normal(level, 30, (24, 24, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)

    for kind, level in (("dark", 40), ("light", 200)):
        for i in range(12):
            draw(folder / "photos" / kind / f"{i}.png", level)
    for i in range(12):
        draw(folder / "new" / f"{i}.png", 200 if i % 3 else 40)
    (folder / "new" / "5.png").write_bytes(b"junk")
    store = open_store(folder / "store", create=True)
    store.embed([folder / "photos"], dataset="photos", encoders=["baseline:pixels"])
    fitted = heads.fit(store.dataset("photos").views()[0], "prototype")
    return folder, str(fitted.save(folder / "bundle"))


def expected(i: int) -> str:
    return "" if i == 5 else "light" if i % 3 else "dark"


def test_a_folder_comes_out_as_it_is_listed(pictures, capsys):
    folder, place = pictures
    assert run(["predict", place, str(folder / "new")]) == 3
    found = rows_of(capsys.readouterr().out)
    names = sorted(f"{i}.png" for i in range(12))
    assert [row["item_id"] for row in found] == names
    assert [row["path"] for row in found] == [str(folder / "new" / name) for name in names]
    said = [expected(int(name.removesuffix(".png"))) for name in names]
    assert [row["predicted"] for row in found] == said
    assert found[names.index("5.png")]["failed"].startswith("not an image")


def test_class_folders_stand_beside_what_was_predicted(pictures, capsys):
    folder, place = pictures
    assert run(["predict", place, str(folder / "photos")]) == 0
    found = rows_of(capsys.readouterr().out)
    assert len(found) == 24
    assert all(row["label"] == row["predicted"] for row in found)


@pytest.mark.parametrize("with_id", [False, True])
def test_a_table_of_paths_keeps_its_order(pictures, tmp_path, capsys, with_id):
    folder, place = pictures
    order = [int(i) for i in np.random.default_rng(1).permutation(12)]
    rows = [[str(folder / "new" / f"{i}.png"), f"{i:02d}"] for i in order]
    table = written(tmp_path / "new.csv", ["file", "key"], rows)
    asked = ["predict", place, str(table), "--image", "file"]
    assert run([*asked, *(["--id", "key"] if with_id else [])]) == 3
    found = rows_of(capsys.readouterr().out)
    assert [[row["file"], row["key"]] for row in found] == rows
    assert [row["predicted"] for row in found] == [expected(i) for i in order]
    assert "item_id" not in found[0]
