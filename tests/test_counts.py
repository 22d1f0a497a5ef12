"""Counts of large data sets: kept, brought up to date, and never another number than the rows'."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from featurestore.storage import kept_counts
from featurestore.storage.columns import item_keys
from featurestore.storage.counts import value_counts
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.kept_counts import KeptCounts
from featurestore.storage.key_hashes import hashes_of, places
from featurestore.storage.shards import view_rows
from featurestore.storage.tables import Table
from featurestore.store.view_rows import ViewRows, resolve
from featurestore.terms.snapshots import Snapshot


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetFolder:
    monkeypatch.setattr(kept_counts, "WORTH_ROWS", 1)
    found = DatasetFolder(tmp_path / "d")
    found.path.mkdir()
    found.create_tables()
    found.create_view("v-00000000", 2)
    return found


def items(*ids: str, content: str = "a", label: str | None = "x") -> pa.Table:
    hashes = [f"{content}{one}" for one in ids]
    return pa.table({"item_id": list(ids), "content_hash": hashes, "split": [label] * len(ids)})


def vectors(rows: pa.Table) -> pa.Table:
    columns = (rows.column(name).combine_chunks() for name in ("item_id", "content_hash"))
    return view_rows(*columns, np.zeros((len(rows), 2), np.float32))


def count(folder: DatasetFolder) -> int:
    view = folder.view("v-00000000")
    snapshot = Snapshot(folder.items.version(), view.version())
    found = ViewRows(folder, "v-00000000", 2, snapshot).count()
    key = ["item_id", "content_hash"]
    assert found == (resolve(folder.items.read(key), view.read(key)) >= 0).sum()
    return found


def splits(folder: DatasetFolder) -> dict[str | None, int]:
    version = folder.items.version()
    (counts,) = value_counts(folder, ["split"], folder.items.shards(version), version).values()
    assert sorted(counts["value"].to_pylist(), key=str) == sorted(
        set(folder.items.read(["split"])["split"].to_pylist()), key=str
    )
    return dict(zip(counts["value"].to_pylist(), counts["n"].to_pylist(), strict=True))


def test_valid_vectors_are_counted_as_the_rows_say_after_each_kind_of_commit(
    folder: DatasetFolder,
) -> None:
    view = folder.view("v-00000000")
    assert count(folder) == 0
    folder.items.append(items("1", "2", "3"))
    assert count(folder) == 0  # items that have no vector yet
    view.append(vectors(items("1", "2", "3")))
    assert count(folder) == 3
    folder.items.append(items("4", "5"))
    view.append(vectors(items("4", "5")))
    assert count(folder) == 5  # what came since is read alone
    view.append(vectors(items("4", "4", "gone")))
    assert count(folder) == 5  # equal rows count once, those of no item not at all
    folder.items.append(items("gone"))
    assert count(folder) == 6  # its vector was there before it
    drop = ["1"]
    folder.items.merge(
        items("1", content="b"), keys=["item_id"],
        drop=lambda rows: np.isin(rows["item_id"].to_pylist(), drop),
    )  # fmt: skip
    assert count(folder) == 5  # other content
    view.append(vectors(items("1", content="b")))
    assert count(folder) == 6


def test_only_what_came_since_is_read(
    folder: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.items.append(items("1", "2"))
    folder.view("v-00000000").append(vectors(items("1", "2")))
    assert (count(folder), splits(folder)) == (2, {"x": 2})
    for shard in [*folder.items.shards(), *folder.view("v-00000000").shards()]:
        shard.path.rename(f"{shard.path}.away")
    folder.items.append(items("3", label=None))
    folder.view("v-00000000").append(vectors(items("3")))
    snapshot = Snapshot(folder.items.version(), folder.view("v-00000000").version())
    assert ViewRows(folder, "v-00000000", 2, snapshot).count() == 3
    version = folder.items.version()
    (counts,) = value_counts(folder, ["split"], folder.items.shards(version), version).values()
    assert counts.to_pydict() == {"value": ["x", None], "n": [2, 1]}


def test_a_damaged_count_or_another_log_of_the_same_versions_is_counted_anew(
    folder: DatasetFolder, tmp_path: Path
) -> None:
    shutil.copytree(folder.path, tmp_path / "backup")
    folder.items.append(items("1", "2"))
    folder.view("v-00000000").append(vectors(items("1", "2")))
    assert (count(folder), splits(folder)) == (2, {"x": 2})
    cache = folder.path / "cache"
    for path in cache.glob("count-*.json"):
        path.write_text(path.read_text().replace("2", "7"))
    assert (count(folder), splits(folder)) == (2, {"x": 2})
    kept = {path.name: path.read_bytes() for path in cache.iterdir()}
    shutil.rmtree(folder.path)
    (tmp_path / "backup").rename(folder.path)
    folder.items.append(items("3", label="y"))
    folder.view("v-00000000").append(vectors(items("3")))
    for name, content in kept.items():
        cache.mkdir(exist_ok=True)
        (cache / name).write_bytes(content)
    folder.items.append(items("4", label="y"))
    assert (count(folder), splits(folder)) == (1, {"y": 2})


def test_hashed_keys_are_equal_where_keys_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [
        "",
        "a",
        "a\0",
        *("ab"[i % 2] * int(n) for i, n in enumerate(rng.integers(40, size=500))),
    ]
    ids = pa.array([*texts, None, "x" * 10_000])
    hashes = pa.array([*(f"{len(one):064x}" for one in texts), "", None])
    rows = pa.table({"item_id": ids, "content_hash": hashes})
    by_key = pa.Table.from_arrays([item_keys(rows)], ["key"]).group_by("key").aggregate([])
    found = hashes_of(rows)
    assert len(np.unique(found.T, axis=0)) == len(by_key)
    assert (hashes_of(rows.slice(100, 300)) == found[:, 100:400]).all()
    halves = pa.concat_tables([rows.slice(0, 7), rows.slice(7)])
    assert (hashes_of(halves) == found).all()


@pytest.mark.parametrize("places_of_digits", [(3, 7, 11, 15), (0, 8, 16, 24), (6, 7, 14, 15)])
def test_ids_that_are_places_of_a_grid_have_keys_of_their_own(
    places_of_digits: tuple[int, ...],
) -> None:
    """Equal contents, and ids of several words that differ in few of their letters."""
    ids = []
    for digits in product("0123456789abcdef", repeat=4):
        letters = ["0"] * 32
        for at, digit in zip(places_of_digits, digits, strict=True):
            letters[at] = digit
        ids.append("".join(letters))
    found = hashes_of(pa.table({"item_id": ids, "content_hash": ["a" * 64] * len(ids)}))
    assert [len(np.unique(lane)) for lane in found] == [len(ids)] * 2
    bits = np.unpackbits(found.view(np.uint8).reshape(2, -1, 8), axis=2).mean(axis=1)
    assert np.abs(bits - 0.5).max() < 0.02  # each bit is set in half of them


def test_places_are_right_where_first_numbers_are_equal() -> None:
    keys = np.array([[5, 5, 1, 9], [1, 2, 3, 4]], np.uint64)
    asked = np.array([[5, 5, 5, 9, 0, 1], [2, 1, 9, 4, 3, 3]], np.uint64)
    assert places(keys, asked).tolist() == [1, 0, -1, 3, -1, 2]
    assert places(keys[:, :0], asked).tolist() == [-1] * 6


def test_history_counts_rows_of_a_commit_that_rewrote_shards(folder: DatasetFolder) -> None:
    table = Table(folder.items.path)
    for name in "abcdef":
        table.append(items(name))
    table.append(items("a"))  # the same bytes: one file, named twice
    table.merge(
        items("g"), keys=["item_id"], drop=lambda rows: np.isin(rows["item_id"].to_pylist(), ["a"])
    )
    table.compact()
    said = [(one.version, one.n_rows, one.n_shards) for one in table.history()]
    true = [(v, len(table.read(["item_id"], v)), len(table.shards(v))) for v in range(9, -1, -1)]
    assert said == true
    assert [(one.version, one.n_rows, one.n_shards) for one in table.history(3)] == true[:3]


def test_counts_that_were_read_before_an_erasure_are_not_kept(folder: DatasetFolder) -> None:
    folder.items.append(items("1", "2", label="a name"))
    version = folder.items.version()
    shards = folder.items.shards(version)
    kept = folder.local / "cache" / "count-items.json"
    assert value_counts(folder, ["split"], shards, version)["split"]["n"].to_pylist() == [2]
    assert b"a name" in kept.read_bytes()
    kept.unlink()
    erased = KeptCounts(kept, [folder.items], [version], [shards], folder.watch_erasures())
    folder.count_erasure()  # another process erases between the read and the write
    erased.write({"split": {"value": ["a name"], "n": [2]}})
    assert not kept.exists()
