"""Other programs read items and views of a store as featurestore itself does (issue 23, B6)."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.curation.labels import read_labels
from featurestore.exchange.imports import Incoming, import_vectors
from featurestore.pipeline.options import EmbedOptions
from featurestore.sources.listing import SourceOptions
from featurestore.storage.shards import view_rows, view_schema
from featurestore.storage.tables import ITEMS, Table
from featurestore.store.store import open_store
from featurestore.upkeep.erase import erase, select_ids
from featurestore.upkeep.verify import verify
from heads.labels.splits import split_dataset

HASHING = "baseline:hashing#size=16"
KEPT = Path(__file__).parent / "data" / "store-1" / "store" / "datasets" / "texts"
IDS = ["a", "b b", "ü/ß.png", "it's", 'say "x"', "100%", "日本", "a,b"]


def polars_read(path, version):
    pl = pytest.importorskip("polars")
    return pl.read_delta(str(path), version=version).to_dicts()


def polars_scan(path, version):
    pl = pytest.importorskip("polars")
    return pl.scan_delta(str(path), version=version).collect().to_dicts()


def deltalake_arrow(path, version):
    from deltalake import DeltaTable

    return DeltaTable(str(path), version=version).to_pyarrow_table().to_pylist()


def deltalake_pandas(path, version):
    from deltalake import DeltaTable

    frame = DeltaTable(str(path), version=version).to_pandas().astype(object)
    return frame.where(frame.notna(), None).to_dict("records")


def duckdb_parquet(path, version):
    import duckdb

    files = [str(shard.path) for shard in Table(path).shards(version)]
    if not files:
        return []
    rows = duckdb.sql(f"select * from read_parquet({files}, union_by_name=true)")
    return rows.to_arrow_table().to_pylist()


def duckdb_delta(path, version):
    import duckdb

    with duckdb.connect(config={"autoinstall_known_extensions": False}) as db:
        try:
            db.sql("load delta")
        except duckdb.Error:
            pytest.skip("DuckDB's extension delta is not installed here: it comes by network")
        at = "" if version is None else f", version := {version}"
        rows = db.sql(f"select * from delta_scan('{path}'{at})")
        return rows.to_arrow_table().to_pylist()


READERS = (
    polars_read, polars_scan, deltalake_arrow, deltalake_pandas, duckdb_parquet, duckdb_delta,
)  # fmt: skip


def plain(rows):
    """Rows without the columns that are null everywhere, as sorted tuples of plain values."""
    names = sorted({name for row in rows for name, value in row.items() if value is not None})
    tidy = [
        tuple(tuple(map(float, v)) if not np.isscalar(v) and v is not None else v
              for v in map(row.get, names))
        for row in rows
    ]  # fmt: skip
    return names, sorted(tidy, key=repr)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Rows that were changed, erased, embedded anew, split, and given columns later."""
    folder = tmp_path_factory.mktemp("readers")
    store = open_store(folder / "store", create=True)
    path, options = folder / "t.jsonl", SourceOptions(text="text", id="id", label=("label",))
    for word, overwrite in (("first", False), ("second", False), ("second", True)):
        rows = [{"id": one, "text": f"{word} {one}", "label": "xy"[n % 2], "stars": n,
                 "ratio": n / 3, "is_new": n % 2 == 0} for n, one in enumerate(IDS)]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"))
        store.embed(
            [path.with_suffix(".parquet")], dataset="d", encoders=[HASHING],
            source_options=options, embed_options=EmbedOptions(overwrite=overwrite),
        )  # fmt: skip
    found = store.dataset("d")
    (folder / "l.csv").write_text("id,grade\nb b,7\na,9\n")
    erase(found.folder, select_ids(found.folder, ["100%"]))  # older versions go with it
    earlier = [one.version() for one in (found.folder.items, found.view(HASHING).table)]
    path.write_text('{"id": "c", "text": "a later item", "label": "x", "note": "late"}')
    store.embed([path], dataset="d", encoders=[HASHING], source_options=options)
    found.attach(read_labels(folder / "l.csv", item_id="id"))
    split_dataset(found, test=0.25, seed=0)
    assert verify(found.folder) == []
    return found, dict(zip(["items", "view"], earlier, strict=True))


@pytest.mark.parametrize("reader", READERS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("kind", ["items", "view"])
def test_every_version_reads_alike(reader, kind, dataset):
    found, earlier = dataset
    table = found.folder.items if kind == "items" else found.view(HASHING).table
    rows, latest = reader(table.path, None), table.version()
    assert plain(rows) == plain(table.read().to_pylist())
    assert {row["item_id"] for row in rows} == {*IDS, "c"} - {"100%"}
    assert plain(reader(table.path, latest)) == plain(rows)
    assert latest > earlier[kind]
    before = reader(table.path, earlier[kind])
    assert plain(before) == plain(table.read(version=earlier[kind]).to_pylist())
    assert {row["item_id"] for row in before} == {*IDS} - {"100%"}


@pytest.mark.parametrize("reader", READERS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_imported_vectors_read_alike(reader, kind, empty_store):
    vectors = np.random.default_rng(0).normal(size=(4, 3)).astype(kind)
    incoming = Incoming(pa.array(IDS[:4]), vectors, pa.table({"n": range(4)}))
    view = import_vectors(empty_store, incoming, dataset="d", name="x", origin="there")
    found = {row["item_id"]: tuple(row["vector"]) for row in reader(view.table.path, None)}
    expected = dict(zip(IDS, map(tuple, vectors.astype(np.float32)), strict=False))
    assert found == expected
    loaded = view.load()
    assert {one: tuple(v) for one, v in zip(loaded.ids, loaded.vectors, strict=True)} == found


@pytest.mark.parametrize("reader", READERS, ids=lambda one: one.__name__)
def test_empty_tables_read_as_empty(reader, tmp_path):
    never, cleared = (Table.create(tmp_path / name, view_schema(3)) for name in "nc")
    cleared.append(view_rows(["a"], ["h"], np.ones((1, 3), np.float32)))
    cleared.clear()
    items = Table.create(tmp_path / "i", ITEMS)
    assert [reader(table.path, None) for table in (never, cleared, items)] == [[], [], []]


def test_a_view_with_old_files_and_new_ones_reads_whole_is_rewritten_and_joined(tmp_path):
    shutil.copytree(KEPT, tmp_path / "d")
    (path,) = (tmp_path / "d" / "views").iterdir()
    table = Table(path)
    old = table.read()
    more = np.arange(32, dtype=np.float32).reshape(2, 16)
    table.append(view_rows(["n1", "n2"], ["h", "h"], more))
    expected = plain([*old.to_pylist(), *({"item_id": f"n{i + 1}", "content_hash": "h",
                                          "vector": more[i]} for i in range(2))])  # fmt: skip
    assert plain(table.read().to_pylist()) == expected
    assert plain(deltalake_arrow(path, None)) == expected
    pl = pytest.importorskip("polars")
    assert plain(pl.read_delta(str(path), use_pyarrow=True).to_dicts()) == expected
    assert table.compact() > 0
    assert plain(table.read().to_pylist()) == expected
    assert plain(polars_read(path, None)) == expected  # each file is now a new one


def test_vectors_of_another_length_are_not_taken_for_whole(tmp_path):
    from featurestore.errors import StoreCorrupt
    from featurestore.storage.shards import read_shard

    rows = pa.table({"item_id": ["a", "b"], "vector": [[1.0, 2.0, 3.0], [4.0]]})
    rows = rows.set_column(1, "vector", rows["vector"].cast(pa.list_(pa.float32())))
    with pq.ParquetWriter(tmp_path / "x.parquet", rows.schema, store_schema=False) as writer:
        writer.add_key_value_metadata({"featurestore.dim": "2"})
        writer.write_table(rows)
    with pytest.raises(StoreCorrupt, match="expected 2 numbers in each vector"):
        read_shard(tmp_path / "x.parquet")
