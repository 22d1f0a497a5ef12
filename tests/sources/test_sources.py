import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.errors import BadSource, DuplicateIds, MissingColumn
from featurestore.sources.listing import SourceOptions, canonical_split
from featurestore.sources.opening import open_source
from featurestore.terms.specs import Modality


def listing(path, **options):
    return open_source(path).listing(SourceOptions(**options))


def rows(path, *columns, **options):
    return listing(path, **options).rows.select(list(columns)).to_pylist()


def test_class_folders_become_labels_and_split_folders_splits(tmp_path, write_image):
    write_image(tmp_path / "set" / "train" / "cat" / "1.png")
    write_image(tmp_path / "set" / "Validation" / "dog" / "deep" / "2.JPG")
    write_image(tmp_path / "set" / "cat" / "test" / "3.png")
    write_image(tmp_path / "set" / "4.png")
    (tmp_path / "set" / "notes.txt").write_text("no picture")
    write_image(tmp_path / "set" / ".hidden" / "5.png")
    assert rows(tmp_path / "set", "item_id", "label", "split") == [
        {"item_id": "4.png", "label": None, "split": None},
        {"item_id": "Validation/dog/deep/2.JPG", "label": "dog", "split": "val"},
        {"item_id": "cat/test/3.png", "label": "cat", "split": "test"},
        {"item_id": "train/cat/1.png", "label": "cat", "split": "train"},
    ]


def test_a_split_folder_alone_means_the_same_items_as_its_parent(tmp_path, write_image):
    write_image(tmp_path / "set" / "train" / "cat" / "1.png")
    whole, part = listing(tmp_path / "set"), listing(tmp_path / "set" / "train")
    assert whole.rows.equals(part.rows)
    assert open_source(tmp_path / "set").name == open_source(tmp_path / "set" / "train").name


def test_a_flat_folder_has_no_labels(tmp_path, write_image):
    write_image(tmp_path / "1.png")
    found = listing(tmp_path)
    assert found.label_columns == ()
    assert "label" not in found.rows.column_names


def test_sizes_and_times_are_those_of_the_files(tmp_path, write_image):
    path = write_image(tmp_path / "a" / "1.png")
    os.utime(path, ns=(5, 7))
    assert rows(tmp_path, "size", "mtime_ns") == [{"size": path.stat().st_size, "mtime_ns": 7}]


CSV = 'body,stars,part\n"a, b",5,train\nc,4,test\n'


def test_a_csv_of_texts(tmp_path):
    (tmp_path / "r.csv").write_text(CSV)
    found = listing(tmp_path / "r.csv", text="body", label=("stars",), split="part")
    assert found.modality is Modality.TEXT
    assert found.label_columns == ("stars",)
    assert found.rows.select(["item_id", "text", "split", "stars"]).to_pylist() == [
        {"item_id": "r.csv:0", "text": "a, b", "split": "train", "stars": 5},
        {"item_id": "r.csv:1", "text": "c", "split": "test", "stars": 4},
    ]
    assert "inserting rows shifts the names" in found.notes[0]


def test_every_kind_of_table_gives_the_same_rows(tmp_path):
    columns = {"id": ["x", "y"], "body": ["one", "two"], "stars": [5, 4]}
    table = pa.table(columns)
    (tmp_path / "t.csv").write_text("id,body,stars\nx,one,5\ny,two,4\n")
    (tmp_path / "t.tsv").write_text("x\tone\t5\ny\ttwo\t4\n")
    lines = [json.dumps(row) for row in table.to_pylist()]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    pq.write_table(table, tmp_path / "t.parquet")
    found = [
        listing(tmp_path / "t.csv", text="body", id="id"),
        listing(tmp_path / "t.tsv", text="body", id="id", columns=("id", "body", "stars")),
        listing(tmp_path / "t.jsonl", text="body", id="id"),
        listing(tmp_path / "t.parquet", text="body", id="id"),
    ]
    assert [one.rows.to_pylist() for one in found] == [found[0].rows.to_pylist()] * 4
    assert not any(one.notes for one in found)


def test_a_text_that_is_no_utf8_costs_that_item_alone(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"body\ncaf\xe9\ncaf\xc3\xa9\n")
    expected = [{"text": None}, {"text": "café"}]
    assert rows(tmp_path / "t.csv", "text", text="body") == expected
    (tmp_path / "t.jsonl").write_bytes(b'{"body": "caf\xe9"}\n{"body": "caf\xc3\xa9"}\n')
    assert rows(tmp_path / "t.jsonl", "text", text="body") == expected


def test_unpaired_quotes_are_text_in_tsv(tmp_path):
    (tmp_path / "s.tsv").write_text('ham\the said "no\nspam\t"win" now\n')
    found = rows(tmp_path / "s.tsv", "text", text="text", columns=("label", "text"))
    assert found == [{"text": 'he said "no'}, {"text": '"win" now'}]


def test_a_table_of_images_names_items_by_path(tmp_path, write_image):
    path = write_image(tmp_path / "crops" / "1.png")
    (tmp_path / "c.csv").write_text("path,smear\ncrops/1.png,s1\ncrops/gone.png,s2\n")
    assert rows(tmp_path / "c.csv", "item_id", "uri", "size", image="path") == [
        {"item_id": "crops/1.png", "uri": "crops/1.png", "size": path.stat().st_size},
        {"item_id": "crops/gone.png", "uri": "crops/gone.png", "size": 0},
    ]


def test_the_name_of_a_table_gives_the_split(tmp_path):
    (tmp_path / "test.csv").write_text("t\na\n")
    assert rows(tmp_path / "test.csv", "split", text="t") == [{"split": "test"}]


def test_a_group_is_a_column_or_an_expression(tmp_path, write_image):
    write_image(tmp_path / "c" / "10.5_x.png")
    write_image(tmp_path / "c" / "10.7_y.png")
    expression = "floor(split_part(stem, '_', 1)::double)::int"
    assert rows(tmp_path, "group", group=expression) == [{"group": "10"}, {"group": "10"}]
    assert rows(tmp_path, "group", group="label") == [{"group": "c"}, {"group": "c"}]


def test_a_column_of_our_own_name_is_kept_under_another(tmp_path):
    (tmp_path / "t.csv").write_text("body,source,size\na,web,3\n")
    assert rows(tmp_path / "t.csv", "source_", "size_", text="body") == [
        {"source_": "web", "size_": 3}
    ]


def test_a_group_column_of_the_table_wins_over_ours(tmp_path):
    (tmp_path / "t.csv").write_text("body,group,size\na,007,3\nb,7,4\n")
    found = rows(tmp_path / "t.csv", "group", text="body", group="group")
    assert found == [{"group": "007"}, {"group": "7"}]
    assert rows(tmp_path / "t.csv", "group", text="body", group="size")[0] == {"group": "3"}


def test_ids_and_texts_stay_as_they_are_written(tmp_path):
    (tmp_path / "t.csv").write_text("id,body,label\n001,NA,null\n1,007,x\n")
    found = rows(tmp_path / "t.csv", "item_id", "text", "label", text="body", id="id")
    assert found == [
        {"item_id": "001", "text": "NA", "label": "null"},
        {"item_id": "1", "text": "007", "label": "x"},
    ]
    (tmp_path / "t.jsonl").write_text('{"id": "2020-01-01", "body": "a"}\n{"id": "2", "body": "b"}')
    found = rows(tmp_path / "t.jsonl", "item_id", text="body", id="id")
    assert found == [{"item_id": "2020-01-01"}, {"item_id": "2"}]
    (tmp_path / "n.jsonl").write_text('{"id": 1, "body": "a"}\n{"id": 2, "body": "b"}')
    assert rows(tmp_path / "n.jsonl", "item_id", text="body", id="id") == [
        {"item_id": "1"}, {"item_id": "2"},
    ]  # fmt: skip


def test_links_inside_the_folder_are_followed_once_and_those_out_of_it_where_asked(
    tmp_path, write_image
):
    write_image(tmp_path / "real" / "1.png")
    write_image(tmp_path / "set" / "dog" / "2.png")
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "real")
    (tmp_path / "set" / "3.png").symlink_to(tmp_path / "real" / "1.png")
    (tmp_path / "set" / "loop").symlink_to(tmp_path / "set")
    found = listing(tmp_path / "set")
    assert found.rows.column("item_id").to_pylist() == ["dog/2.png"]
    assert found.notes == (
        f"2 links lead out of {tmp_path / 'set'} and were left out: --follow-links takes them",
    )
    assert rows(tmp_path / "set", "item_id", "label", follow_links=True) == [
        {"item_id": "3.png", "label": None},
        {"item_id": "cat/1.png", "label": "cat"},
        {"item_id": "dog/2.png", "label": "dog"},
    ]
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "cat").symlink_to(tmp_path / "real")
    with pytest.raises(BadSource, match="behind links that lead out of it: --follow-links"):
        listing(tmp_path / "links")


def test_a_name_that_is_no_text_stops_nothing(tmp_path, write_image):
    write_image(tmp_path / "ok.png")
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    assert rows(tmp_path, "item_id") == [{"item_id": "caf\\xe9.png"}, {"item_id": "ok.png"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"body,body\na,b\n", "columns of one name: body"),
        (b"body,Label,label\na,b,c\n", "'[Ll]abel' and '[Ll]abel' differ in case alone"),
        (b"caf\xe9,body\na,b\n", "cannot read .* as csv"),
        (b"body,size,size_\na,1,2\n", "columns of one name: size_"),
    ],
)
def test_odd_tables_are_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(BadSource, match=message):
        listing(tmp_path / "t.csv", text="body")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"text": "bdy"},
            MissingColumn,
            r"no column 'bdy' \(--text\): did you mean 'body'\? columns: body",
        ),
        ({"text": "body", "label": ("x",)}, MissingColumn, r"'x' \(--label\)"),
        ({"text": "body", "id": "same"}, DuplicateIds, "1 ids stand more than once .*'1'"),
        ({"text": "body", "image": "body"}, BadSource, "give one of them"),
        (
            {},
            BadSource,
            r"say what to embed with --text COLUMN or --image COLUMN \(columns: body, same\)",
        ),
    ],
)
def test_a_table_that_does_not_fit_says_why(tmp_path, options, error, message):
    (tmp_path / "t.csv").write_text("body,same\na,1\nb,1\n")
    with pytest.raises(error, match=message):
        listing(tmp_path / "t.csv", **options)


def test_what_is_no_source_says_what_was_expected(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.csv").write_text("a,b\n")
    (tmp_path / "bad.parquet").write_text("no")
    (tmp_path / "x.docx").write_text("no")
    for name, options, message in [
        ("empty", {}, "holds no items: expected image files"),
        ("empt", {}, "does not exist.*did you mean"),
        ("empty.csv", {"text": "a"}, "at least one row"),
        ("bad.parquet", {"text": "a"}, "cannot read .* as parquet"),
        ("x.docx", {}, "got a .docx"),
        ("empty", {"text": "a"}, "--text names a column of a table"),
    ]:
        with pytest.raises(BadSource, match=message):
            listing(tmp_path / name, **options)


def test_splits_have_one_name():
    names = ["Train", "training", "valid", "dev", "TEST", "extra", "", None]
    assert [canonical_split(name) for name in names] == [
        "train", "train", "val", "val", "test", "extra", None, None,
    ]  # fmt: skip


def test_real_tables_read_whole(shared):
    data = shared("data")
    sms = rows(data / "sms_spam" / "sms.tsv", "label", text="text", columns=("label", "text"))
    assert len(sms) == 5574
    assert {row["label"] for row in sms} == {"ham", "spam"}
    snips = rows(data / "snips" / "intents.jsonl", "split", text="text", split="split")
    assert len(snips) == 14484
    bank = listing(data / "banking77" / "train.csv", text="text", label=("category",)).rows
    assert len(bank) == 10003
    assert len(bank.column("category").unique()) == 77


def test_pictures_of_kinds_that_we_do_not_read_are_counted(tmp_path, write_image):
    write_image(tmp_path / "a.png", 1)
    for name in ("b.HEIC", "c.dcm", "notes.txt", ".d.heic"):
        (tmp_path / name).write_bytes(b"x")
    found = open_source(tmp_path).listing(SourceOptions())
    assert found.rows.column("item_id").to_pylist() == ["a.png"]
    (note,) = found.notes
    assert note.startswith("2 pictures of kinds that we do not read were left out (first: b.HEIC)")
