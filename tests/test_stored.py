"""What a data set has of a listing: of a large one, only the rows that are asked for are read."""

import numpy as np
import pyarrow as pa
import pytest

from featurestore.pipeline import stored
from featurestore.pipeline.stored import Looked, StoredItems
from featurestore.storage import lookups, shards
from featurestore.storage.columns import drop_equal
from featurestore.storage.dataset_file import SourceRecord
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.tables import ITEMS

RECORDS = {
    "a": SourceRecord("folder", "/a", ("/a",), {}),
    "b": SourceRecord("webdataset", "/b", ("/b",), {}),
}


def rows(ids, source, **columns):
    n = len(ids)
    known = {"item_id": ids, "source": [source] * n, "uri": ids, **columns}
    return pa.table({name: known.get(name, [None] * n) for name in ITEMS.names}, schema=ITEMS)


@pytest.fixture
def few_at_once(monkeypatch):
    monkeypatch.setattr(stored, "FEW_ROWS", 0)
    monkeypatch.setattr(lookups, "_LEAST_ROWS", 5)


@pytest.fixture
def folder(tmp_path):
    """Items of two sources in a dozen shards; some stand for what could not be read."""
    made = DatasetFolder(tmp_path / "d")
    made.create_tables()
    (tmp_path / "d" / "dataset.json").write_text("{}")
    rng = np.random.default_rng(0)
    ids = [*(f"x/{i}" for i in range(40)), "x/", "y/", "x/damaged"]
    for some in np.array_split(rng.permutation(ids), 12):
        source = "ab"[int(rng.integers(2))]
        new = rows(some.tolist(), source, group=[f"g{one}" for one in some])
        drop = drop_equal({"item_id": new["item_id"]}, ["item_id"])
        made.items.merge(new, drop=drop, keys=["item_id"])
    return made


def facts(found, listed):
    of_listed = found.items.filter(
        pa.array([one in listed for one in found.items["item_id"].to_pylist()])
    )
    return {
        "items": sorted(map(str, of_listed.to_pylist())),
        "gone": sorted(found.gone.to_pylist()),
        "stand_ins": sorted(found.stand_ins.to_pylist()),
        "is_whole": found.is_whole,
        "version": found.version,
    }


@pytest.mark.parametrize("seed", range(12))
def test_a_large_table_tells_what_a_small_one_tells(folder, seed, request):
    rng = np.random.default_rng(seed)
    known = folder.items.read(["item_id"])["item_id"].to_pylist()
    listed = rng.permutation([*known, "new", "x/new"])[: rng.integers(len(known) + 2)].tolist()
    some = rows(listed, "a")
    looked = [
        Looked(name, RECORDS[name].root, covers, unread)
        for name, covers, unread in [
            ("a", *[(None, ()), (("x/",), ()), (("x/1", "y/"), ("x/12",))][seed % 3]),
            ("b", None, ("x/3",)),
        ][: 1 + seed % 2]
    ]
    small = StoredItems.look(folder, some, looked, RECORDS)
    request.getfixturevalue("few_at_once")
    large = StoredItems.look(folder, some, looked, RECORDS)
    assert facts(large, listed) == facts(small, listed)
    assert set(large.items["item_id"].to_pylist()) == set(listed) & set(known)


def test_of_other_rows_only_ids_and_places_are_read(folder, few_at_once, monkeypatch):
    """The item that is asked for lies in one shard; no other is read whole."""
    whole = []
    real = shards.read_shard

    def read(path, columns=None, **how):
        whole.extend([path] if columns is None else [])
        return real(path, columns, **how)

    monkeypatch.setattr(stored, "read_shard", read)
    monkeypatch.setattr(lookups, "read_shard", read)
    found = StoredItems.look(folder, rows(["x/7"], "a"), [], RECORDS)
    assert found.items["group"].to_pylist() == ["gx/7"]
    assert len(whole) == 1
    ids = pa.array(["x/7", "x/8", "elsewhere"])
    table = folder.items.read(["group", "item_id", "not there"], ids=ids)
    assert sorted(table["group"].to_pylist()) == ["gx/7", "gx/8"]
    assert table["not there"].null_count == 2
    assert len(folder.items.read(ids=pa.array([], pa.string()))) == 0
