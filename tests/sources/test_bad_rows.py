"""A row that cannot be read is one failure with its reason; all other rows are taken."""

import csv
import io
import json
import re
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import BadSource
from featurestore.sources import csv_rows, json_rows, table
from featurestore.sources.listing import SourceOptions
from featurestore.sources.locations import Location
from featurestore.sources.opening import open_source

OPEN = "a quotation mark opens a cell, and none closes it"
# name → file, content, texts by item id (None: a failure), reasons in the order of the rows
CASES = {
    "too few cells": (
        "t.csv", "text,b\none,1\ntwo\nthree,3",
        {"t.csv:0": "one", "t.csv:1": None, "t.csv:2": "three"},
        ["line 3: 1 cell, where the header has 2: two"],
    ),
    "too many cells, between blank lines": (
        "t.csv", "\ntext,b\n\none,1\n   \n1,2,3\n\nthree,3\n  ",
        {"t.csv:0": "one", "t.csv:1": None, "t.csv:2": "three"},
        ["line 6: 3 cells, where the header has 2: 1,2,3"],
    ),
    "windows and several": (
        "t.csv", "b;text\r\n1;one\r\n2\r\n3;three\r\n4;4;4\r\n",
        {"t.csv:0": "one", "t.csv:1": None, "t.csv:2": "three", "t.csv:3": None},
        ["line 3: 1 cell, where the header has 2: 2",
         "line 5: 3 cells, where the header has 2: 4;4;4"],
    ),
    "old macintosh": (
        "t.csv", "b,text\r1,one\r2\r3,three",
        {"t.csv:0": "one", "t.csv:1": None, "t.csv:2": "three"},
        ["line 3: 1 cell, where the header has 2: 2"],
    ),
    "tabs, where quotes are letters": (
        "t.tsv", 'b\ttext\n1\t"one\n2\n3\t"\n',
        {"t.tsv:0": '"one', "t.tsv:1": None, "t.tsv:2": '"'},
        ["line 3: 1 cell, where the header has 2: 2"],
    ),
    "a single column": (
        "t.csv", "text\none\ntwo,2\nthree\n",
        {"t.csv:0": "one", "t.csv:1": None, "t.csv:2": "three"},
        ["line 3: 2 cells, where the header has 1: two,2"],
    ),
    "a quote open to the end": (
        "t.csv", 'b,text\n1,"oops\n2,x\n3,y',
        {"t.csv:0": None, "t.csv:1": "x", "t.csv:2": "y"},
        [f'line 2: {OPEN}: 1,"oops'],
    ),
    "a quote open to the next": (
        "t.csv", 'text,b\n"oops,1\ntwo,2\n"a ""sound""\none, too",3\n',
        {"t.csv:0": None, "t.csv:1": "two", "t.csv:2": 'a "sound"\none, too'},
        [f'line 2: {OPEN}: "oops,1'],
    ),
    "two open quotes": (
        "t.csv", 'b,text\n1,"oops\n2,x\n3,"again\n4,y\n',
        {"t.csv:0": None, "t.csv:1": "x", "t.csv:2": None, "t.csv:3": "y"},
        [f'line 2: {OPEN}: 1,"oops', f'line 4: {OPEN}: 3,"again'],
    ),
    "a quote open in the last row": (
        "t.csv", 'text,b\none,1\ntwo,"\n',
        {"t.csv:0": "one", "t.csv:1": None}, [f'line 3: {OPEN}: two,"'],
    ),
    "quotes within cells are letters": (
        "t.csv", 'text,b\n5" nail,1\n"a\nb"  ,2\n"c\r\nd",3\nx"y"z,4\n',
        {"t.csv:0": '5" nail', "t.csv:1": "a\nb  ", "t.csv:2": "c\r\nd", "t.csv:3": 'x"y"z'},
        [],
    ),
    "not UTF-8 in another column": (
        "t.csv", b"text,b\none,1\ntwo,caf\xe9\nthree,3\n",
        {"t.csv:0": "one", "t.csv:1": None, "t.csv:2": "three"},
        ["column 'b' is not UTF-8 in this row: convert the file"],
    ),
    "half a surrogate pair in UTF-16": (
        "t.csv", "text,b\none,1\ntwo,\ud83d\nthree,3\n".encode("utf-16", "surrogatepass"),
        {"t.csv:0": "one", "t.csv:1": None, "t.csv:2": "three"},
        ["column 'b' is not UTF-8 in this row: convert the file"],
    ),
    "a bad row in UTF-16": (
        "t.csv", "text,b\né,1\ntwo\n".encode("utf-16"),
        {"t.csv:0": "é", "t.csv:1": None}, ["line 3: 1 cell, where the header has 2: two"],
    ),
    "no JSON": (
        "t.jsonl", '{"text": "one"}\n\n{"text": \n{"text": "three", "b": 1}\n["x"]\n',
        {"t.jsonl:0": "one", "t.jsonl:1": None, "t.jsonl:2": "three", "t.jsonl:3": None},
        ["line 3: no JSON (Expecting value, character 10): {\"text\": ",
         'line 5: expected an object, as in {"text": "…"}: ["x"]'],
    ),
    "half a surrogate pair": (
        "t.jsonl", '{"text": "one"}\n{"text": "two", "b": "\\ud83d"}\n{"text": "\\ude00"}\n',
        {"t.jsonl:0": "one", "t.jsonl:1": None, "t.jsonl:2": None},
        ["line 2: 'b' holds what is no text in UTF-8",
         "line 3: 'text' holds what is no text in UTF-8"],
    ),
    "a line not in UTF-8": (
        "t.jsonl", b'{"text": "one", "b": "x"}\n{"text": "two", "b": ["caf\xe9"]}\n',
        {"t.jsonl:0": "one", "t.jsonl:1": None}, ["line 2: 'b' holds what is no text in UTF-8"],
    ),
    "a name that stands twice": (
        "t.jsonl", '{"text": "one"}\n{"text": "two", "b": 1, "b": 2}\n',
        {"t.jsonl:0": "one", "t.jsonl:1": None},
        ["line 2: 'b' stands twice in it: {\"text\": \"two\", \"b\": 1, \"b\": 2}"],
    ),
    "nested too deep": (
        "t.jsonl", '{"text": "one", "b": 1}\n{"text": ' + "[" * 100_000 + "\n",
        {"t.jsonl:0": "one", "t.jsonl:1": None}, [r"line 2: nested too deep: {\"text\": [[[["],
    ),
}  # fmt: skip


def taken(path, content, **options):
    """Return a listing's texts by item id, and its failures."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = open_source(path).listing(SourceOptions(**{"text": "text"} | options))
    ids, texts = (found.rows.column(name).to_pylist() for name in ("item_id", "text"))
    return dict(zip(ids, texts, strict=True)), found


@pytest.mark.parametrize("case", CASES)
def test_the_other_rows_are_taken(case, tmp_path):
    name, content, texts, reasons = CASES[case]
    found, listing = taken(tmp_path / name, content)
    assert found == texts
    assert list(listing.failed) == [one for one, text in texts.items() if text is None]
    for reason, expected in zip(listing.failed.values(), reasons, strict=True):
        assert reason.startswith(expected.replace("\\", ""))


def test_a_row_that_is_too_long(tmp_path, monkeypatch):
    for module in (csv_rows, json_rows, table):
        monkeypatch.setattr(module, "BLOCK_BYTES", 1 << 10)
    long = "word " * 3000
    rows = [("one", 1), (long, 2), ("three", 3)]
    as_csv = "text,b\n" + "".join(f"{text},{b}\n" for text, b in rows)
    found, listing = taken(tmp_path / "t.csv", as_csv)
    assert found == {"t.csv:0": "one", "t.csv:1": None, "t.csv:2": "three"}
    assert listing.failed["t.csv:1"].startswith("line 3: it is longer than 0 MB: word word")
    as_json = "".join(json.dumps({"text": text, "b": b}) + "\n" for text, b in rows)
    found, listing = taken(tmp_path / "t.jsonl", as_json)
    assert found == {"t.jsonl:0": "one", "t.jsonl:1": None, "t.jsonl:2": "three"}
    assert listing.failed["t.jsonl:1"].startswith('line 2: it is longer than 0 MB: {"text"')


def test_texts_of_parquet_that_are_no_utf8(tmp_path):
    label = pa.Array.from_buffers(pa.string(), 2, pa.array([b"x", b"caf\xe9"]).buffers())
    pq.write_table(pa.table({"text": ["one", "two"], "label": label}), tmp_path / "t.parquet")
    found = open_source(tmp_path / "t.parquet").listing(
        SourceOptions(text="text", label=("label",))
    )
    assert found.rows.column("label").to_pylist() == ["x", None]
    assert found.failed == {
        "t.parquet:1": "column 'label' is not UTF-8 in this row: convert the file"
    }


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.csv", "text,b\none\ntwo\n", "as csv: line 2: 1 cell, where the header has 2: one;"),
        ("t.csv", 'b,"text\n1,one\n', f"as csv: line 1: {OPEN}"),
        ("t.jsonl", '{\n"text": 1,\n"b": 2}\n{"text" 3', "as jsonl: line 1: no JSON"),
    ],
)
def test_a_table_of_which_no_row_can_be_read_is_refused(name, content, reason, tmp_path):
    with pytest.raises(BadSource, match=re.escape(reason)):
        taken(tmp_path / name, content)


def test_columns_without_a_header(tmp_path):
    found, listing = taken(tmp_path / "t.csv", "x,one\ntwo\ny,three\n", columns=("label", "text"))
    assert found == {"t.csv:0": "one", "t.csv:1": None, "t.csv:2": "three"}
    assert listing.failed == {"t.csv:1": "line 2: 1 cell, where --columns names 2: two"}


def test_blank_lines_of_a_single_column_are_said(tmp_path):
    found, listing = taken(tmp_path / "t.csv", 'text\none\n\n\n"a\n\nb"\n\n')
    assert list(found.values()) == ["one", "a\n\nb"]
    assert listing.notes[0] == "2 blank lines of t.csv are not rows"
    assert not any("blank" in one for one in taken(tmp_path / "t.csv", "text\none\ntwo\n")[1].notes)


BAD = ["x", "x,y,z,0", "", "  "]
# Of an open quote, only what follows tells: a quote behind it might close its cell.
OPEN_BAD = [*BAD, '1,"open', '"open,2,3']
LETTERS = st.characters(exclude_categories=["Cs"])
PLAIN = st.characters(exclude_categories=["Cs"], exclude_characters='",\n\r')


def rows_of(letters, bad):
    row = st.tuples(*[st.text(letters, min_size=1)] * 3)
    return st.lists(st.one_of(st.sampled_from(bad), row), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.one_of(rows_of(LETTERS, BAD), rows_of(PLAIN, OPEN_BAD)))
def test_all_sound_rows_come_back_whatever_stands_between_them(rows):
    """Any cells, written by Python's csv; a row that is bad takes no other with it."""
    sound = [one for one in rows if isinstance(one, tuple)]
    sink = io.StringIO(newline="")
    out = csv.writer(sink)
    out.writerow(["text", "b", "c"])
    for one in rows:
        out.writerow(one) if isinstance(one, tuple) else sink.write(f"{one}\n")
    n_bad = sum(isinstance(one, str) and bool(one.strip()) for one in rows)
    with tempfile.TemporaryDirectory() as folder:
        location = Location.of(Path(folder, "t.csv"))
        Path(location.text).write_text(sink.getvalue(), encoding="utf-8", newline="")
        if not sound:
            return
        table, bad = csv_rows.read_csv(location, csv_rows.form_of(location))
    found = zip(*(column.to_pylist() for column in table.columns), strict=True)
    found = [tuple(one.decode() for one in row) for at, row in enumerate(found) if at not in bad]
    assert found == sound
    assert len(bad) == n_bad


NAMELESS = [("a", "one", "x"), ("", "two", "y"), ("  ", "three", "x"), ("b", "four", "y")]


def write(path, rows, names=("id", "text", "label")):
    table = pa.table({name: [row[at] for row in rows] for at, name in enumerate(names)})
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        by = "," if path.suffix == ".csv" else "\t"
        path.write_text("\n".join(by.join(row) for row in (names, *rows)) + "\n")
    return path


ENCODER = {"text": "hashing", "image": "pixels"}


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_rows_without_an_id_fail_alone(fs, tmp_path, ending):
    written = write(tmp_path / f"t{ending}", NAMELESS)
    words = ["embed", written, "--dataset", "d", "--text", "text", "--label", "label", "--id", "id"]
    code, _, err = fs(*words, "-e", "baseline:hashing")
    assert code == 3
    assert "2 embedded, 2 failed" in err
    info = json.loads(fs("info", "d", "--json")[1])
    assert {one["item_id"]: one["error"] for one in info["failures"]} == {
        f"t{ending}:1": "no id in the column 'id'", f"t{ending}:2": "no id in the column 'id'",
    }  # fmt: skip
    code, _, err = fs(*words, "-e", "baseline:hashing")
    assert (code, "2 failed before" in err) == (0, True)


def test_rows_of_pictures_without_an_id_fail_alone(fs, tmp_path, write_image):
    rows = [("a", "1.png"), ("", "2.png"), ("b", "3.png")]
    for number in (1, 2, 3):
        write_image(tmp_path / f"{number}.png", number)
    written = write(tmp_path / "t.csv", rows, ("id", "path"))
    code, _, err = fs(
        "embed", written, "--dataset", "d", "--image", "path", "--id", "id", "-e", "baseline:pixels"
    )
    assert (code, "2 embedded, 1 failed" in err) == (3, True)
    assert "failed: t.csv:1: no id in the column 'id'" in err


@pytest.mark.parametrize("kind", ["text", "image"])
def test_an_item_whose_row_cannot_be_read_is_not_gone(kind, fs, tmp_path, write_image):
    for number in (1, 2, 3):
        write_image(tmp_path / f"{number}.png", number)
    path = tmp_path / "t.csv"
    lines = ["id,text,image", "a,one,1.png", "b,two,2.png", "c,three,3.png"]
    path.write_text("\n".join(lines))
    words = ["embed", path, "--dataset", "d", f"--{kind}", kind, "-e", f"baseline:{ENCODER[kind]}"]
    words += ["--id", "id"] if kind == "text" else []
    b = "b" if kind == "text" else "2.png"
    assert fs(*words)[0] == 0
    path.write_text("\n".join([*lines[:2], "b,two,2.png,more", lines[3]]))
    code, _, err = fs(*words, "--prune")
    assert (code, "gone" in err) == (3, False)
    assert b in fs("sql", "select item_id from d")[1]
    path.write_text("\n".join([*lines[:2], lines[3]]))
    _, _, err = fs(*words, "--prune")
    assert "2 items are gone from their source: dropped" in err  # it, and the row that failed


def test_labels_leave_bad_rows_out_and_name_them(fs, tmp_path):
    written = write(tmp_path / "t.csv", [("a", "one", "x"), ("b", "two", "y")])
    fs("embed", written, "--dataset", "d", "--text", "text", "--id", "id", "-e", "baseline:hashing")
    later = tmp_path / "later.csv"
    later.write_text('id,grade\na,good\n,bad\nb\nb,"fine\n')
    code, _, err = fs("labels", "d", later, "--id", "id")
    assert code == 3
    assert "d: 1 of 1 items have new labels (grade)" in err
    assert [line for line in err.splitlines() if "failed" in line] == [
        "failed: later.csv:1: no id in the column 'id'",
        "failed: later.csv:2: line 4: 1 cell, where the header has 2: b",
        f'failed: later.csv:3: line 5: {OPEN}: b,"fine',
    ]
    later.write_text("id,grade\n,bad\n")
    code, _, err = fs("labels", "d", later, "--id", "id")
    assert code == 1
    assert "later.csv has no row to take: no id in the column 'id'" in err
