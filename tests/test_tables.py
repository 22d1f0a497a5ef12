import hashlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake.exceptions import CommitFailedError, TableNotFoundError

from featurestore.errors import BadSource, StoreCorrupt
from featurestore.storage import tables
from featurestore.storage.columns import drop_equal
from featurestore.storage.plain_pages import NotPlain, plain_pages
from featurestore.storage.shards import vectors_of, view_rows, view_schema
from featurestore.storage.tables import ITEMS, Table


def items(ids, **columns):
    n = len(ids)
    base = {"item_id": ids, "source": ["s"] * n, **columns}
    full = {name: base.get(name, [None] * n) for name in ITEMS.names}
    table = pa.table(full, schema=ITEMS)
    for name in columns.keys() - set(ITEMS.names):
        table = table.append_column(name, pa.array(columns[name]))
    return table


def upsert(table, rows):
    drop = drop_equal({"item_id": rows.column("item_id")}, ["item_id"])
    return table.merge(rows, drop=drop, keys=["item_id"])


def test_vectors_read_back_as_they_were_written(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    table = Table.create(tmp_path / "v", view_schema(5))
    table.append(view_rows([f"i{i}" for i in range(7)], ["h"] * 7, vectors))
    found = table.read()
    np.testing.assert_array_equal(vectors_of(found.column("vector"), 5), vectors)
    assert found.column("item_id").to_pylist() == [f"i{i}" for i in range(7)]


def test_a_shard_is_named_by_the_hash_of_its_bytes(tmp_path):
    table = Table.create(tmp_path / "v", view_schema(2))
    table.append(view_rows(["a"], ["h"], np.zeros((1, 2), np.float32)))
    (shard,) = table.shards()
    content = shard.path.read_bytes()
    assert shard.path.stem == hashlib.sha256(content).hexdigest()
    assert shard.size_bytes == len(content)


def test_older_versions_stay_readable(tmp_path):
    table = Table.create(tmp_path / "i", ITEMS)
    first = upsert(table, items(["a", "b"], split=["train", "train"]))
    second = upsert(table, items(["b"], split=["test"]))
    assert table.read(["item_id", "split"], first).sort_by("item_id").to_pylist() == [
        {"item_id": "a", "split": "train"},
        {"item_id": "b", "split": "train"},
    ]
    assert table.read(["item_id", "split"], second).sort_by("item_id").to_pylist() == [
        {"item_id": "a", "split": "train"},
        {"item_id": "b", "split": "test"},
    ]


def test_new_columns_are_added_and_null_in_old_rows(tmp_path):
    table = Table.create(tmp_path / "i", ITEMS)
    upsert(table, items(["a"]))
    upsert(table, items(["b"], stars=[5]))
    found = {row["item_id"]: row["stars"] for row in table.read().to_pylist()}
    assert found == {"a": None, "b": 5}


def test_a_column_of_another_type_is_refused(tmp_path):
    table = Table.create(tmp_path / "i", ITEMS)
    upsert(table, items(["a"], stars=[5]))
    with pytest.raises(BadSource, match="column 'stars' is int64 in the data set, but string"):
        upsert(table, items(["b"], stars=["five"]))
    assert table.read(["item_id"]).to_pylist() == [{"item_id": "a"}]


def test_a_merge_with_nothing_to_do_makes_no_version(tmp_path):
    table = Table.create(tmp_path / "i", ITEMS)
    version = upsert(table, items(["a"]))
    assert upsert(table, items([])) == version
    everything = {"drop": lambda part: np.ones(len(part), bool), "keys": ["item_id"]}
    assert table.merge(None, **everything) == version + 1
    assert table.merge(None, **everything) == version + 1
    assert len(table.read()) == 0


WRITER = """
import sys
from pathlib import Path
import pyarrow as pa
from featurestore.storage.columns import drop_equal
from featurestore.storage.tables import ITEMS, Table
table, writer = Table(Path(sys.argv[1])), sys.argv[2]
for number in range(10):
    ids = [f"shared-{number}", f"{writer}-{number}"]
    columns = {name: [None, None] for name in ITEMS.names}
    rows = pa.table({**columns, "item_id": ids, "source": ["s", "s"]}, schema=ITEMS)
    drop = drop_equal({"item_id": rows.column("item_id")}, ["item_id"])
    table.merge(rows, drop=drop, keys=["item_id"])
"""


def test_four_writers_lose_nothing_and_repeat_nothing(tmp_path):
    Table.create(tmp_path / "i", ITEMS)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "i"), f"w{number}"])
        for number in range(4)
    ]
    assert [one.wait() for one in writers] == [0] * 4
    found = Table(tmp_path / "i").read(["item_id"]).column("item_id").to_pylist()
    own = [f"w{writer}-{number}" for writer in range(4) for number in range(10)]
    assert sorted(found) == sorted(own + [f"shared-{number}" for number in range(10)])


def test_a_damaged_shard_stops_the_read(tmp_path):
    table = Table.create(tmp_path / "i", ITEMS)
    upsert(table, items(["a"]))
    table.shards()[0].path.write_bytes(b"no parquet")
    with pytest.raises(StoreCorrupt, match="restore it from a backup"):
        table.read()


def test_a_folder_without_a_log_is_named(tmp_path):
    with pytest.raises(StoreCorrupt, match="no Delta log"):
        Table(tmp_path).read()


def _shard_of(tmp_path, vectors, **options):
    path = tmp_path / "x.parquet"
    options = {
        "compression": "none", "use_dictionary": False, "data_page_version": "2.0",
        "row_group_size": 300, "data_page_size": 4096,
    } | options  # fmt: skip
    pq.write_table(pa.table({"item_id": ["é"] * len(vectors), "vector": vectors}), path, **options)
    return path


def _plain(path, dim, number=0):
    with pq.ParquetFile(path) as file:
        group = file.metadata.row_group(number)
        return _pages(path, file.schema_arrow, group, dim)


def _pages(path, schema, group, dim):
    """The vectors of a row group, (n, dim); None where Arrow should read it."""
    try:
        found = list(plain_pages(path, schema, group, "vector", dim))
    except NotPlain:
        return None
    firsts, parts = zip(*found, strict=True)
    assert firsts == tuple(np.cumsum([0, *map(len, parts[:-1])]))
    return np.concatenate(parts)


@pytest.mark.parametrize("nullable", [True, False])
def test_plain_pages_are_read_as_arrow_reads_them(tmp_path, nullable):
    vectors = np.random.default_rng(0).normal(size=(700, 24)).astype(np.float32)
    vectors[3] = [np.nan, np.inf, -np.inf, -0.0] * 6
    kind = pa.list_(pa.field("element", pa.float32(), nullable=nullable), 24)
    path = _shard_of(tmp_path, pa.FixedSizeListArray.from_arrays(vectors.ravel(), type=kind))
    assert pq.ParquetFile(path).metadata.num_row_groups == 3
    found = np.concatenate([_plain(path, 24, number) for number in range(3)])
    assert found.tobytes() == vectors.tobytes()
    with pq.ParquetFile(path) as file:
        schema, group = file.schema_arrow, file.metadata.row_group(1)
    whole = np.empty((300, 24), np.float32)
    at = [first for first, _ in plain_pages(path, schema, group, "vector", 24, out=whole)]
    assert len(at) > 3
    assert whole.tobytes() == vectors[300:600].tobytes()
    some = plain_pages(path, schema, group, "vector", 24, is_wanted=lambda first, n: first == at[2])
    [(first, part)] = some
    assert first == at[2]
    assert part.tobytes() == vectors[300 + first : 300 + first + len(part)].tobytes()


def test_what_is_not_plain_is_left_to_arrow(tmp_path):
    vectors = np.ones((40, 4), np.float32)
    fixed = pa.FixedSizeListArray.from_arrays(vectors.ravel(), 4)
    assert _plain(_shard_of(tmp_path, fixed), 4) is not None
    assert _plain(_shard_of(tmp_path, fixed), 5) is None
    assert _plain(_shard_of(tmp_path, fixed, compression="zstd"), 4) is None
    assert _plain(_shard_of(tmp_path, fixed, use_dictionary=True), 4) is None
    assert _plain(_shard_of(tmp_path, fixed, data_page_version="1.0"), 4) is None
    assert (
        _plain(_shard_of(tmp_path, pa.array(vectors.tolist(), pa.list_(pa.float32()))), 4) is None
    )
    holes = pa.array([[1, 2, None, 4]] * 20 + [None] * 20, pa.list_(pa.float32(), 4))
    assert _plain(_shard_of(tmp_path, holes), 4) is None
    path = _shard_of(tmp_path, fixed)
    with pq.ParquetFile(path) as file:
        schema, group = file.schema_arrow, file.metadata.row_group(0)
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:100])
    assert _pages(path, schema, group, 4) is None
    content[group.column(1).data_page_offset] ^= 0xFF  # a header that is none
    path.write_bytes(content)
    assert _pages(path, schema, group, 4) is None


def test_many_rows_are_several_shards_in_one_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_PART_BYTES", 1000)
    monkeypatch.setattr(tables.os, "cpu_count", lambda: 3)
    table = Table.create(tmp_path / "t", pa.schema([("item_id", pa.string())]))
    before = table.version()
    rows = pa.table({"item_id": [f"{i:04}" for i in range(1000)]})
    table.merge(rows, drop=lambda part: np.zeros(len(part), bool), keys=["item_id"])
    assert (table.version(), len(table.shards())) == (before + 1, 3)
    assert sorted(table.read().column("item_id").to_pylist()) == rows["item_id"].to_pylist()


def test_rows_that_are_new_look_at_no_shard_but_those_that_came_meanwhile(tmp_path, monkeypatch):
    table = Table.create(tmp_path / "i", ITEMS)
    upsert(table, items(["a", "b"]))
    planned = upsert(table, items(["c"]))
    old = {shard.path for shard in table.shards()}
    upsert(table, items(["d", "e"]))
    read = []
    real = tables.read_shard
    monkeypatch.setattr(
        tables, "read_shard", lambda path, *rest, **how: read.append(path) or real(path, *rest)
    )
    drop = drop_equal({"item_id": pa.array(["e", "f"])}, ["item_id"])
    rows = items(["e", "f"], split=["test", "test"])
    latest = table.merge(rows, drop=drop, keys=["item_id"], unseen_at=planned)
    assert read
    assert not old & set(read)
    assert table.read(["item_id"], since=planned)["item_id"].to_pylist() == ["d", "e", "f"]
    assert table.read(["item_id"], since=latest)["item_id"].to_pylist() == []
    read.clear()
    drop = drop_equal({"item_id": pa.array(["g"])}, ["item_id"])
    table.merge(items(["g"]), drop=drop, keys=["item_id"], unseen_at=latest)
    assert read == []
    assert sorted(table.read(["item_id"])["item_id"].to_pylist()) == list("abcdefg")


def test_a_table_that_another_process_makes_meanwhile_is_taken(tmp_path, monkeypatch):
    create = tables.DeltaTable.create

    def late(*args, **options):
        create(*args, **options)
        raise CommitFailedError("Protocol changed since last commit")

    schema = pa.schema([("item_id", pa.string())])
    monkeypatch.setattr(tables.DeltaTable, "create", late)
    table = Table.create(tmp_path / "t", schema)
    table.append(pa.table({"item_id": ["a"]}))
    assert table.read().column("item_id").to_pylist() == ["a"]

    def refused(*_, **__):
        raise CommitFailedError("something else")

    monkeypatch.setattr(tables.DeltaTable, "create", refused)
    with pytest.raises(TableNotFoundError):  # there is none: nothing is hidden
        Table.create(tmp_path / "u", schema)
