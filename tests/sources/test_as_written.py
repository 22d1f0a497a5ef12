"""Labels and metadata are what was written: through CSV, TSV, JSONL, tar shards and `labels`."""

import io
import json
import tarfile

import pyarrow as pa
import pytest

from featurestore import Selection
from featurestore.curation.labels import label_notes, read_labels
from featurestore.sources.listing import SourceOptions
from featurestore.sources.opening import open_source

HASHING = "baseline:hashing"
TEXTS = [  # columns that stay as they are
    ["01", "001", "1"], ["123456789012345678901", "123456789012345678902"], ["0x1A", "26"],
    ["1.1", "1.10"], ["10:30", "11:00"], ["2024-01-05", "2024-01-06"], ["+5", "5"],
    ["1e3", "1000"], [" 1", "1"], ["-0", "5"], ["-0", "0.5"], ["0.0", "-0.0"], ["1", "1.0"],
    ["true", "False"], ["9007199254740993", "0.5"], ["1_000", "1000"], ["٣", "3"], ["1", "n/a"],
    ["nan", "inf"], ["NaN"], ["1e+16", "2"], ["1e400", "1.5"], [".5", "1.5"], ["5.", "1.5"],
    ["9223372036854775808", "1"], ["1.5", "2.50"], ["1", "NA"], ["0.00001", "0.5"], ["5", "5 "],
]  # fmt: skip
NUMBERS = [
    (["1", "20", "-3"], [1, 20, -3]),
    (["9223372036854775807", "0"], [9223372036854775807, 0]),
    (["1.0", "0.5"], [1.0, 0.5]),
    (["1", "0.5", "28594126179.066216"], [1.0, 0.5, 28594126179.066216]),
    (["1e-05", "0.5"], [1e-05, 0.5]),
    (["1.0", "", "2.0"], [1.0, None, 2.0]),
    (["1", "NaN", "2"], [1, None, 2]),
    (["0.25", "nan"], [0.25, None]),
]


def listing(path, **options):
    return open_source(path).listing(SourceOptions(text="text", label=("label",), **options))


def write_rows(path, labels, divider=","):
    lines = [f"word {i}{divider}{label}" for i, label in enumerate(labels)]
    path.write_text("\n".join([f"text{divider}label", *lines]))
    return path


def labels_of(path):
    return listing(path).rows.column("label").to_pylist()


@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize("labels", TEXTS, ids=str)
def test_texts_that_look_like_numbers_stay_texts(labels, ending, tmp_path):
    path = write_rows(tmp_path / f"t.{ending}", labels, "\t" if ending == "tsv" else ",")
    assert labels_of(path) == labels
    table = "id,label\n" + "".join(f"{i},{label}\n" for i, label in enumerate(labels))
    (tmp_path / "l.csv").write_text(table)
    assert read_labels(tmp_path / "l.csv", item_id="id").column("label").to_pylist() == labels


@pytest.mark.parametrize(("written", "numbers"), NUMBERS, ids=str)
def test_columns_that_read_back_are_numbers(written, numbers, tmp_path):
    found = labels_of(write_rows(tmp_path / "t.csv", written))
    assert found == numbers
    assert [type(one) for one in found] == [type(one) for one in numbers]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (['"2024-01-05"', '"2024-01-06"'], ["2024-01-05", "2024-01-06"]),
        (['"01"', '"1"'], ["01", "1"]),
        (["1", "2.5"], [1.0, 2.5]),
        (["123456789012345678901", "5"], ["123456789012345678901", "5"]),
        (["9007199254740993", "0.5"], ["9007199254740993", "0.5"]),
        (["true", "false"], [True, False]),
        (["1.10", '"n/a"'], ["1.10", "n/a"]),
        (["true", '"yes"'], ["true", "yes"]),
        (['["2024-01-05", "b"]', "[]"], ["2024-01-05|b", ""]),
        (['["a", "b"]', '"c"'], ["a|b", "c"]),
        (['{"at": "2024-01-05"}', "null"], ['{"at": "2024-01-05"}', None]),
    ],
)
def test_values_of_json_are_what_they_are(values, expected, tmp_path):
    lines = [f'{{"text": "word", "label": {value}}}' for value in values]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert labels_of(tmp_path / "t.jsonl") == expected


def test_a_free_column_of_two_kinds_becomes_text_and_is_named(tmp_path):
    rows = [{"text": "a", "label": "x", "score": 1}, {"text": "b", "label": "y", "score": "n/a"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = listing(tmp_path / "t.jsonl")
    assert found.rows.column("score").to_pylist() == ["1", "n/a"]
    (note,) = [note for note in found.notes if "score" in note]
    assert note == (
        "column 'score' of t.jsonl holds texts (n/a) and whole numbers (1): it is kept as text"
    )


def test_numbers_with_fixed_decimals_are_texts_with_a_note(tmp_path):
    found = listing(write_rows(tmp_path / "t.csv", ["3.25", "12.50"]))
    assert found.rows.column("label").to_pylist() == ["3.25", "12.50"]
    (note,) = [note for note in found.notes if "label" in note]
    assert "'12.50' would not stay as written if it were the number 12.5" in note
    assert "--task regression" in note


def test_classes_that_are_one_number_are_named(tmp_path):
    found = listing(write_rows(tmp_path / "t.csv", ["01", "1", "001", "2"]))
    (note,) = [note for note in found.notes if "label" in note]
    assert note == (
        "label 'label' is kept as text: '001' and '01' and '1' are 3 classes, though one number; "
        "if they mean one class, spell them alike in the table and run this again"
    )


def test_labels_that_come_later_have_the_same_notes(tmp_path):
    (tmp_path / "l.csv").write_text("id,grade,place\na,12.50,1\nb,3.25,2\n")
    (note,) = label_notes(read_labels(tmp_path / "l.csv", item_id="id"), "l.csv")
    assert "label 'grade' is kept as text, since '12.50'" in note
    lines = ['{"id": "a", "grade": 1}', '{"id": "b", "grade": "n/a"}']
    (tmp_path / "l.jsonl").write_text("\n".join(lines))
    assert label_notes(read_labels(tmp_path / "l.jsonl", item_id="id"), "l.jsonl") == [
        "column 'grade' of l.jsonl holds texts (n/a) and whole numbers (1): it is kept as text"
    ]


def test_names_of_columns_may_be_quoted_and_stand_below_blank_lines(tmp_path):
    (tmp_path / "t.csv").write_text('\n\n"text","la""bel\nof two"\na,01\nb,1\n')
    found = open_source(tmp_path / "t.csv").listing(SourceOptions(text="text"))
    assert found.rows.column('la"bel\nof two').to_pylist() == ["01", "1"]


def test_groups_of_a_part_of_a_number_keep_its_zeros(tmp_path):
    (tmp_path / "t.csv").write_text("text,label,zip\na,x,01234\nb,y,01235\nc,x,12340\n")
    found = listing(tmp_path / "t.csv", group="left(zip, 2)")
    assert found.rows.column("group").to_pylist() == ["01", "01", "12"]


def test_a_condition_on_numbers_that_became_text_says_why(empty_store, tmp_path):
    (tmp_path / "t.csv").write_text("text,label,score\na,x,7\nb,y,3 of 9\n")
    with pytest.raises(Exception, match=r"VARCHAR.*try_cast\(.* in: score > 5$"):
        empty_store.embed(
            [tmp_path / "t.csv"], dataset="d", encoders=[HASHING],
            source_options=SourceOptions(text="text"), selection=Selection("score > 5"),
        )  # fmt: skip


def test_members_of_a_shard_are_what_was_written(tmp_path):
    def facts(value):
        return f'{{"code": {value}, "day": "2024-01-05"}}'

    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for key, label, code in [("a", "01", "1.10"), ("b", "1", '"x"')]:
            for ending, content in [("txt", key), ("cls", f"{label}\n"), ("json", facts(code))]:
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content.encode()))
    rows = open_source(tmp_path / "s.tar").listing(SourceOptions(text="txt")).rows
    assert rows.select(["label", "code", "day"]).to_pydict() == {
        "label": ["01", "1"],
        "code": ["1.10", "x"],
        "day": ["2024-01-05"] * 2,
    }


@pytest.mark.parametrize(
    ("written", "label"),
    [("dog\n", "dog"), ("dog\r\n", "dog"), (" dog ", " dog "), ("dog \n\n", "dog \n"), ("", "")],
)
def test_a_class_member_is_taken_without_its_last_line_break_alone(written, label, tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, content in [("a.txt", "x"), ("a.cls", written), ("b.txt", "y"), ("b.cls", "z")]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
    rows = open_source(tmp_path / "s.tar").listing(SourceOptions(text="txt")).rows
    assert rows.column("label").to_pylist() == [label, "z"]


def test_blanks_between_bars_stay_and_are_noted(empty_store, tmp_path):
    rows = write_rows(tmp_path / "t.csv", ["red|round", "red | round", "red|", "round"])
    said = []
    empty_store.embed(
        [rows], dataset="d", encoders=[HASHING], say=said.append,
        source_options=SourceOptions(text="text", label=("label",)),
    )  # fmt: skip
    assert said[1].startswith("4 texts: 4 classes in label (sizes 1–2, several an item)")
    assert said[2].startswith("classes of label differ by blanks or case alone: 'red' (2), 'red ' ")


def test_whole_classes_reach_the_store_as_they_were_written(empty_store, tmp_path):
    path = write_rows(tmp_path / "t.csv", ["01", "001", "1", "1"])
    options = SourceOptions(text="text", label=("label",))
    empty_store.embed([path], dataset="d", encoders=[HASHING], source_options=options)
    dataset = empty_store.dataset("d")
    assert sorted(dataset.items(["label"]).column("label").to_pylist()) == ["001", "01", "1", "1"]
    assert dataset.description.labels["label"]["task"] == "multiclass"
    assert dataset.items(["label"]).schema.field("label").type == pa.string()


def test_numbers_that_are_texts_can_be_learned_as_numbers(empty_store, tmp_path):
    import heads

    rows = [f"{'good ' * (row % 9)}plate {row},{row % 9 / 2:.2f}" for row in range(90)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows]))
    options = SourceOptions(text="text", label=("label",))
    empty_store.embed([tmp_path / "t.csv"], dataset="d", encoders=[HASHING], source_options=options)
    view = empty_store.view("d", HASHING)
    found = heads.fit(view, "ridge", task="regression")
    assert found.card["metrics"]["r2"]["value"] > 0.5
    assert heads.compare(view, ["ridge"], task="regression", save=False).metric == "r2"
