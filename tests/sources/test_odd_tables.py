"""Tables as people have them: every type of column, spreadsheets' dialects."""

import datetime
import decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.errors import DuplicateIds
from featurestore.pipeline.options import EmbedOptions
from featurestore.sources.listing import SourceOptions
from featurestore.sources.opening import open_source

HASHING = "baseline:hashing"
TENSORS = pa.ExtensionArray.from_storage(
    pa.fixed_shape_tensor(pa.float32(), [2]), pa.array([[1.0, 2.5]] * 2, pa.list_(pa.float32(), 2))
)
COLUMNS = {
    "uuid": (pa.array([b"0123456789abcdef"] * 2, pa.binary(16)), b"0123456789abcdef".hex()),
    "unsigned": (pa.array([2**40] * 2, pa.uint64()), float(2**40)),
    "many digits": (
        pa.array([decimal.Decimal(10) ** 45] * 2, pa.decimal256(50, 2)),
        f"1{'0' * 45}.00",
    ),
    "bytes": (pa.array([[b"\xff"]] * 2, pa.list_(pa.binary())), '["ff"]'),
    "decimal": (pa.array([decimal.Decimal("1.23")] * 2), decimal.Decimal("1.23")),
    "list": (pa.array([[0.5, 1.0]] * 2, pa.list_(pa.float32())), "0.5|1"),
    "struct": (pa.array([{"é": [1, None]}] * 2), '{"é": [1, null]}'),
    "date": (pa.array([datetime.date(2020, 1, 2)] * 2), "2020-01-02"),
    "half": (pa.array([1.5] * 2, pa.float16()), 1.5),
    "view": (pa.array(["a"] * 2, pa.string_view()), "a"),
    "flag": (pa.array([True] * 2), True),
    "tensor": (TENSORS, "1|2.5"),
    "class": (pa.array(["x", "x"]).dictionary_encode(), "x"),
}


def embed(store, path, *, label=None, **how):
    (report,) = store.embed(
        [path], dataset="d", encoders=[HASHING], embed_options=EmbedOptions(**how),
        source_options=SourceOptions(text="text", id="id", label=label),
    )  # fmt: skip
    return report


@pytest.mark.parametrize("kind", COLUMNS)
def test_every_type_of_column_is_kept(kind, empty_store, tmp_path):
    column, expected = COLUMNS[kind]
    table = {"id": ["a", "b"], "text": ["one", "two"], "column": column}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    embed(empty_store, tmp_path / "t.parquet")
    assert empty_store.dataset("d").items(["column"]).column("column").to_pylist() == [expected] * 2
    assert embed(empty_store, tmp_path / "t.parquet").n_unchanged == 2


def test_columns_of_bytes_are_left_out_and_named(tmp_path):
    pq.write_table(pa.table({"text": ["one"], "raw": [b"x"]}), tmp_path / "t.parquet")
    found = open_source(tmp_path / "t.parquet").listing(SourceOptions(text="text"))
    assert "raw" not in found.rows.column_names
    assert "columns of bytes in t.parquet were left out: raw" in found.notes


def write(path, *rows):
    path.write_text("\n".join(("id,text,age,kind", *rows)))
    return path


def test_a_column_that_fills_up_later_has_the_type_of_its_values(empty_store, tmp_path):
    path = write(tmp_path / "t.csv", "a,one,,", "b,two,,")
    embed(empty_store, path, label=("kind",))
    assert "age" not in empty_store.dataset("d").items().column_names
    write(path, "a,one,34,x", "b,two,,y")
    assert embed(empty_store, path, label=("kind",)).n_updated == 2
    items = empty_store.dataset("d").items(["item_id", "age", "kind"]).sort_by("item_id")
    assert items.to_pydict() == {"item_id": ["a", "b"], "age": [34, None], "kind": ["x", "y"]}
    write(path, "a,one,thirty,x")
    embed(empty_store, path, label=("kind",))
    items = empty_store.dataset("d").items(["item_id", "age"]).sort_by("item_id")
    assert items.column("age").to_pylist() == ["thirty", None]


def test_labels_of_another_type_than_before_make_all_of_them_texts(empty_store, tmp_path):
    embed(empty_store, write(tmp_path / "t.csv", "a,one,,", "b,two,,"))
    dataset = empty_store.dataset("d")
    dataset.attach(pa.table({"item_id": ["a", "b"], "grade": [0, 1]}))
    assert dataset.attach(pa.table({"item_id": ["a"], "grade": ["cat"]})) == 1
    items = dataset.items(["item_id", "grade"]).sort_by("item_id")
    assert items.column("grade").to_pylist() == ["cat", "1"]
    assert dataset.attach(pa.table({"item_id": ["b"], "grade": [1]})) == 0


def test_a_table_with_another_name_is_told_to_take_its_old_one(empty_store, tmp_path):
    old = write(tmp_path / "r1.csv", "a,one,1,x", "b,two,2,y")
    embed(empty_store, old)
    new = old.rename(tmp_path / "r2.csv")
    with pytest.raises(DuplicateIds, match=r"2 ids come from two sources.*takes its old name back"):
        embed(empty_store, new)
    new.rename(old)
    assert embed(empty_store, old).n_unchanged == 2


def test_three_tables_of_which_the_first_has_no_values(empty_store, tmp_path):
    paths = [
        write(tmp_path / "a.csv", "a,one,,x"),
        write(tmp_path / "b.csv", "b,two,3,y"),
        write(tmp_path / "c.csv", "c,three,old,y"),
    ]
    how = {"encoders": [HASHING], "source_options": SourceOptions(text="text", id="id")}
    (report,) = empty_store.embed(paths[:2], dataset="d", **how)
    assert report.n_encoded == 2
    empty_store.embed(paths, dataset="d", **how)
    items = empty_store.dataset("d").items(["item_id", "age"]).sort_by("item_id")
    assert items.column("age").to_pylist() == [None, "3", "old"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_what_spreadsheets_write_is_read(encoding, delimiter, tmp_path):
    rows = [("text", "label"), ('"naïve; said, she"', "é"), ("two", "b")]
    path = tmp_path / "t.csv"
    path.write_text("\r\n".join(delimiter.join(row) for row in rows), encoding=encoding)
    found = open_source(path).listing(SourceOptions(text="text", label=("label",)))
    assert found.rows.column("text").to_pylist() == ["naïve; said, she", "two"]
    assert found.rows.column("label").to_pylist() == ["é", "b"]


def test_conditions_say_what_they_may_name(empty_store, tmp_path):
    from featurestore.pipeline.listing_run import Selection

    path = write(tmp_path / "t.csv", "a,one,1,x")
    for where, reason in [
        ("lable = 'x'", r"\"lable\" not found.*\(columns: item_id, .*kind.*\) in: lable = 'x'$"),
        ("", r"no expression; columns: item_id, "),
        ("age +", r"syntax error.* in: age \+$"),
    ]:
        with pytest.raises(Exception, match=reason):
            empty_store.embed(
                [path], dataset="d", encoders=[HASHING], selection=Selection(where),
                source_options=SourceOptions(text="text"),
            )  # fmt: skip
