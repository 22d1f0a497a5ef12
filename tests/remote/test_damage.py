"""Damage to a log in a bucket: found, refused and mended as on a disk."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from featurestore.errors import StoreCorrupt
from featurestore.exchange.imports import Incoming, import_vectors
from featurestore.storage import log_files
from featurestore.storage.remote import RemotePath
from featurestore.store.store import open_store
from featurestore.upkeep import versions
from featurestore.upkeep.repair import repair
from featurestore.upkeep.verify import verify


@pytest.fixture
def store(s3):
    found = open_store(s3, create=True)
    for number in range(3):
        take_in(found, number)
    return found


def take_in(store, number):
    ids = pa.array([f"{number}a", f"{number}b"])
    vectors = np.full((2, 4), number + 1, np.float32)
    rows = Incoming(ids, vectors, pa.table({"n": ids}))
    import_vectors(store, rows, dataset="d", name="x", origin="o")


def errors(store):
    return [one for one in verify(store.folder("d")) if one.severity == "error"]


DAMAGE = {"gone": RemotePath.unlink, "empty": lambda path: path.write_bytes(b"")}


@pytest.mark.parametrize(
    ("kind", "version"), [("gone", 3), ("empty", 3), ("gone", 2), ("empty", 2), ("gone", 0)]
)
def test_a_commit_that_is_lost_comes_back(kind, version, store):
    whole = store.view("d", "import:x").load().vectors
    table = store.view("d", "import:x").table
    path = log_files.commit_file(table.path, version)
    content = path.read_bytes()
    DAMAGE[kind](path)
    (found,) = errors(store)
    assert found.where == str(path)
    with pytest.raises(StoreCorrupt, match="`featurestore store repair` puts it back"):
        open_store(store.path).view("d", "import:x").load()
    with pytest.raises(StoreCorrupt, match="`featurestore store repair` puts it back"):
        take_in(store, 3)
    assert versions.vacuum(store.folder("d"), older_than_s=0).damaged == (str(path),)
    repair(store.folder("d"))
    assert path.read_bytes() == content
    assert errors(store) == []
    np.testing.assert_array_equal(
        open_store(store.path).view("d", "import:x").load().vectors, whole
    )


def test_rows_of_a_commit_without_a_copy_are_taken_in(store):
    whole = store.view("d", "import:x").load().vectors
    table = store.view("d", "import:x").table
    for version in range(4):
        log_files.copy_file(table.path, version).unlink()
    log_files.commit_file(table.path, 2).write_bytes(b"")
    assert len(errors(store)) == 2  # the commit, and the shard that it named
    repair(store.folder("d"))
    assert errors(store) == []
    np.testing.assert_array_equal(
        open_store(store.path).view("d", "import:x").load().vectors, whole
    )


def test_a_writer_killed_before_the_copy_is_no_damage(store, monkeypatch):
    def killed(path, content):
        raise KeyboardInterrupt

    table = store.view("d", "import:x").table
    with monkeypatch.context() as patch:
        patch.setattr(log_files, "write_file", killed)
        with pytest.raises(KeyboardInterrupt):
            table.append(table.read().slice(0, 1))
    assert errors(store) == []
    table.append(table.read().slice(0, 1))
    assert log_files.lacking_copies(table.path) == {}
