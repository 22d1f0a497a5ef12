"""A power cut after success is said loses nothing: files and folders were synced before."""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import heads
from featurestore.curation.reviews import Action, Review, add_reviews
from featurestore.curation.slices import save_slice
from featurestore.exchange.imports import Incoming, import_vectors
from featurestore.storage import tables
from featurestore.store.store import open_store
from featurestore.upkeep import erase, versions
from featurestore.upkeep.repair import repair
from featurestore.upkeep.verify import verify

DERIVED = {"locks", "cache", "thumbnails", "indexes"}  # made anew at will


class Disk:
    """What `os.fsync` was asked for: contents of files and lists of folders, by inode."""

    def __init__(self, real):
        self.real, self.files, self.folders = real, {}, {}

    def fsync(self, descriptor):
        self.real(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        inode = path.stat().st_ino
        if path.is_dir():
            self.folders[inode] = {one.name: one.stat().st_ino for one in path.iterdir()}
        else:
            self.files[inode] = path.read_bytes()

    def after_power_cut(self, inode, target):
        """Write what is on the disk: what was not synced is not there, or is empty."""
        target.mkdir()
        for name, inner in self.folders.get(inode, {}).items():
            if inner in self.folders:
                self.after_power_cut(inner, target / name)
            else:
                (target / name).write_bytes(self.files.get(inner, b""))


@pytest.fixture
def disk(monkeypatch):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("what a descriptor is of is read from /proc")
    found = Disk(lambda descriptor: None)
    monkeypatch.setattr(os, "fsync", found.fsync)
    return found


def tree(path):
    return {
        str(one.relative_to(path)): one.read_bytes()
        for one in sorted(path.rglob("*"))
        if one.is_file() and not DERIVED & set(one.relative_to(path).parts)
    }


def take_in(store, number, n=20):
    ids = pa.array([f"{number}-{i}" for i in range(n)])
    vectors = np.random.default_rng(number).normal(size=(n, 4)).astype(np.float32)
    columns = pa.table({"label": ["ab"[i % 2] for i in range(n)]})
    rows = Incoming(ids, vectors, columns)
    import_vectors(store, rows, dataset="d", name="x", origin="o", labels=["label"])


def spoil_last_commit(store):
    log = store.view("d", "import:x").table.path / "_delta_log"
    max(log.glob("*.json")).unlink()


STEPS = {
    "begun": lambda store: take_in(store, 0),
    "more": lambda store: take_in(store, 1),
    "reviewed": lambda store: add_reviews(
        store.folder("d"), [Review("0-1", Action.CONFIRM, "label")], who="me"
    ),
    "a slice": lambda store: save_slice(store.folder("d"), "s", ["0-1", "0-2"]),
    "a head": lambda store: heads.fit(store.view("d", "import:x"), "prototype"),
    "compacted": lambda store: versions.compact(store.folder("d")),
    "deleted": lambda store: erase.delete(store.folder("d"), pa.array(["0-3"])),
    "erased": lambda store: erase.erase(store.folder("d"), pa.array(["1-3"])),
    "spoiled, repaired": lambda store: (spoil_last_commit(store), repair(store.folder("d"))),
    "renamed": lambda store: store.rename("d", "e"),
}


def test_after_each_step_a_power_cut_takes_nothing(disk, tmp_path):
    """Whole files: those of the store are those that the disk would have."""
    (tmp_path / "in").mkdir()
    root = tmp_path / "in" / "new" / "store"  # folders that are not there yet
    store = open_store(root, create=True)
    for step, act in STEPS.items():
        act(store)
        left = tmp_path / "left"
        disk.after_power_cut((tmp_path / "in").stat().st_ino, left)
        there, kept = tree(root), tree(left / "new" / "store")
        assert kept.keys() == there.keys(), step
        assert kept == there, step
        shutil.rmtree(left)
    assert verify(store.folder("e")) == []


def test_a_checkpoint_of_delta_is_synced(disk, tmp_path):
    table = tables.Table.create(tmp_path / "t", pa.schema([pa.field("item_id", pa.string())]))
    for number in range(101):
        table.append(pa.table({"item_id": [str(number)]}))
    log = tmp_path / "t" / "_delta_log"
    (checkpoint,) = log.glob("*.checkpoint.parquet")
    for path in (checkpoint, log / "_last_checkpoint"):
        assert disk.files[path.stat().st_ino] == path.read_bytes()


def test_a_shard_is_on_the_disk_before_the_commit_that_names_it(disk, tmp_path, monkeypatch):
    table = tables.Table.create(tmp_path / "t", pa.schema([pa.field("item_id", pa.string())]))
    seen = []
    seal = tables.seal

    def look(path, version):
        names = disk.folders[path.stat().st_ino]
        seen.append(sorted(one for one in names if one.endswith(".parquet")))
        seal(path, version)

    monkeypatch.setattr(tables, "seal", look)
    table.append(pa.table({"item_id": ["a"]}))
    (shard,) = table.shards()
    assert seen == [[shard.path.name]]
    assert disk.files[shard.path.stat().st_ino] == shard.path.read_bytes()
