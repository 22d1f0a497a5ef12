"""A row of a file of vectors that cannot be taken fails alone, with its reason; others come in."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.errors import BadSource
from featurestore.exchange.imports import import_vectors, read_vectors

NAN, INF = float("nan"), float("inf")
GOOD = [1.0, 2.0]


def rows(**columns):
    n = len(next(iter(columns.values())))
    first = {"id": [f"i{k}" for k in range(n)], "vector": [[float(k), 1.0] for k in range(n)]}
    made = first | columns
    made["vector"] = pa.array(made["vector"], pa.list_(pa.float32()))
    return pa.table(made)


BAD_UTF8 = pa.Array.from_buffers(pa.string(), 2, pa.array([b"x", b"caf\xe9"]).buffers())
CASES = {
    "no id": (rows(id=["a", None, "", "  "]), {}, ["a"], {
        1: "no id in the column 'id'", 2: "no id in the column 'id'",
        3: "no id in the column 'id'"}),
    "an id that is NaN": (rows(id=[1.0, NAN]), {}, ["1"], {1: "no id in the column 'id'"}),
    "no vector": (rows(vector=[GOOD, None, []]), {}, ["i0"], {
        1: "no vector in this row", 2: "no vector in this row"}),
    "a vector that is not finite": (rows(vector=[[NAN, 1.0], GOOD, [1.0, INF]]), {}, ["i1"], {
        0: "its vector holds NaN or infinity", 2: "its vector holds NaN or infinity"}),
    "no text": (rows(words=["a", None]), {"text": "words"}, ["i0"], {
        1: "no text in the column 'words'"}),
    "no text in a column called text": (rows(text=[None, "a"]), {}, ["i1"], {
        0: "no text in the column 'text'"}),
    "a column called text without any": (
        rows(text=pa.array([None, None], pa.string())), {}, ["i0", "i1"], {}),
    "a label that is not UTF-8": (rows(label=BAD_UTF8), {}, ["i0"], {
        1: "column 'label' is not UTF-8 in this row: convert the file"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_the_other_rows_come_in(case, ending, empty_store, tmp_path):
    table, options, ids, reasons = CASES[case]
    path = tmp_path / f"v.{ending}"
    if ending == "parquet":
        pq.write_table(table, path)
    elif case == "a label that is not UTF-8":
        pytest.skip("an Arrow file is looked at as a whole")
    else:
        with pa.ipc.new_file(path, table.schema) as out:
            out.write_table(table)
    incoming = read_vectors(path, item_id="id", **options)
    assert incoming.ids.to_pylist() == ids
    assert incoming.failed == {f"v.{ending}:{row}": why for row, why in reasons.items()}
    view = import_vectors(empty_store, incoming, dataset="d", name="x", origin=path, **options)
    assert view.load().ids.tolist() == ids
    expected = [one for row, one in enumerate(table.column("vector").to_pylist())
                if row not in reasons]  # fmt: skip
    assert view.load().vectors.tolist() == expected


def test_rows_of_an_npy_file(tmp_path):
    np.save(tmp_path / "v.npy", np.array([GOOD, [NAN, 1.0]], np.float64))
    incoming = read_vectors(tmp_path / "v.npy")
    assert incoming.ids.to_pylist() == ["v.npy:0"]
    assert incoming.failed == {"v.npy:1": "its vector holds NaN or infinity"}


def test_import_names_what_it_left_out(fs, tmp_path):
    path = tmp_path / "v.parquet"
    pq.write_table(rows(id=["a"] + [None] * 25), path)
    words = ["import", path, "--dataset", "d", "--name", "x"]
    code, _, err = fs(*words, "--id", "id")
    assert code == 3
    assert "d@import:x: 1 vector of dim 2" in err
    assert "failed: v.parquet:1: no id in the column 'id'" in err
    assert err.endswith("… and 5 more rows failed\n")
    assert "d: 1 " in fs("info", "d")[1]
    pq.write_table(rows(id=["a", "a", None]), path)
    with pytest.raises(BadSource, match=r"column 'id' of v\.parquet does not name each row once"):
        read_vectors(path, item_id="id")
    pq.write_table(rows(id=[["a"], ["b"]]), path)
    with pytest.raises(BadSource, match=r"column 'id' holds list<.*>: expected ids"):
        read_vectors(path, item_id="id")


def test_ids_that_nobody_named(tmp_path):
    path = tmp_path / "v.parquet"
    pq.write_table(rows(item_id=["a", None, "c"]), path)  # ours
    incoming = read_vectors(path)
    assert incoming.ids.to_pylist() == ["a", "c"]
    assert incoming.failed == {"v.parquet:1": "no id in the column 'item_id'"}
    by_row = ["v.parquet:0", "v.parquet:1"]
    for ids in (["a", None], [["a"], ["b"]], [b"\xff", b"b"]):
        pq.write_table(rows(id=ids), path)
        assert read_vectors(path).ids.to_pylist() == by_row


def test_a_column_that_holds_no_vectors(tmp_path):
    pq.write_table(rows(text=["a", "b"]), tmp_path / "v.parquet")
    with pytest.raises(BadSource, match="holds string as vectors: expected lists of numbers"):
        read_vectors(tmp_path / "v.parquet", vector="text")
