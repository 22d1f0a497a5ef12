"""A commit that is gone or without actions is named, never read past, and costs no shard."""

import os
import shutil
import time

import numpy as np
import pyarrow as pa
import pytest

from featurestore.cli import run
from featurestore.errors import StoreCorrupt
from featurestore.exchange.imports import Incoming, import_vectors
from featurestore.upkeep import erase, versions
from featurestore.upkeep.verify import verify

OLD = time.time() - 3 * 86_400
FIRST, SECOND, THIRD = (np.full((2, 4), value, np.float32) for value in (1, 2, 3))


@pytest.fixture
def imported(empty_store):
    """A store whose view has three commits of two vectors each; all of its files are old."""
    for number, vectors in enumerate((FIRST, SECOND, THIRD)):
        ids = pa.array([f"{number}a", f"{number}b"])
        rows = Incoming(ids, vectors, pa.table({"n": ids}))
        import_vectors(empty_store, rows, dataset="d", name="x", origin="o")
    for path in empty_store.path.rglob("*"):
        if path.is_file():
            os.utime(path, (OLD, OLD))
    return empty_store


def log_of(store, version):
    return store.view("d", "import:x").table.path / "_delta_log" / f"{version:020}.json"


OURS = "is gone, or holds no action"
DELTA = "cannot be read"
DAMAGE = {  # what happens to a commit -> what verify says of it, what whoever opens it says
    "empty": (lambda path: path.write_bytes(b""), "this commit has no bytes", OURS),
    "gone": (lambda path: path.unlink(), "this commit is gone", OURS),
    "blank": (lambda path: path.write_bytes(b"\n\n"), "this commit holds no action", OURS),
    "no actions": (
        lambda path: path.write_text('{"commitInfo": {"timestamp": 1}}\n'),
        "this commit holds no action",
        OURS,
    ),
    "zeros": (lambda path: path.write_bytes(b"\0" * 300), "this commit cannot be read", OURS),
    "torn": (
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        "this commit cannot be read",
        DELTA,
    ),
}


@pytest.mark.parametrize("version", [0, 2, 3])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_commit_is_named_and_no_shard_is_lost(kind, version, imported, capsys):
    if kind == "gone" and version == 3:
        pytest.skip("the last commit is told by no other file")
    whole = imported.view("d", "import:x").load().vectors
    np.testing.assert_array_equal(whole, np.concatenate([FIRST, SECOND, THIRD]))
    damage, what, refusal = DAMAGE[kind]
    path = log_of(imported, version)
    content, folder = path.read_bytes(), imported.dataset("d").folder
    shards = {one.name for one in path.parents[1].glob("*.parquet")}
    damage(path)
    shutil.rmtree(folder.local / "cache", ignore_errors=True)
    errors = [one.where for one in verify(folder) if one.severity == "error"]
    assert errors == [str(path)]
    assert run(["verify", "d", "--store", str(imported.path)]) == 1
    said = capsys.readouterr().out
    assert f"{path}: {what}" in said
    assert "restore the file from a backup" in said
    with pytest.raises(StoreCorrupt, match=refusal):
        imported.view("d", "import:x").load()
    assert run(["vacuum", "d", "--older-than", "0", "--store", str(imported.path)]) == 0
    assert f"no shard was deleted of a table whose log is damaged: {path}" in (
        capsys.readouterr().err
    )
    with pytest.raises(StoreCorrupt, match="nothing was erased"):
        erase.erase(folder, pa.array(["0a"]))
    assert {one.name for one in path.parents[1].glob("*.parquet")} == shards
    path.write_bytes(content)
    assert [one for one in verify(folder) if one.severity == "error"] == []
    np.testing.assert_array_equal(imported.view("d", "import:x").load().vectors, whole)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is damaged: delete it"),
        (b"[]", "is damaged: delete it"),
        (b'{"version": 7, "size": 1}', "names the checkpoint 7, which is gone"),
    ],
)
def test_a_damaged_pointer_to_a_checkpoint_is_named(content, what, imported):
    pointer = log_of(imported, 0).with_name("_last_checkpoint")
    pointer.write_bytes(content)
    found = [one.what for one in verify(imported.dataset("d").folder) if one.where == str(pointer)]
    assert [one[: len(what)] for one in found] == [what]


def test_what_a_kill_left_blocks_nothing_and_goes_after_a_day(imported, capsys):
    folder = imported.dataset("d").folder
    left = [folder.path / "heads" / f".h.{name}.tmp" for name in ("old", "young")]
    for one in left:
        one.mkdir(parents=True)
        (one / "card.json").write_bytes(b'{"head"')
    file = folder.path / ".dataset.json.0.tmp"
    file.write_bytes(b"{")
    for one in (left[0] / "card.json", left[0], file):
        os.utime(one, (OLD, OLD))
    assert [one for one in verify(folder) if one.severity == "error"] == []
    counted = versions.vacuum(folder, dry_run=True)
    assert counted.leftovers == (file, left[0])
    assert file.exists()
    assert run(["vacuum", "d", "--store", str(imported.path)]) == 0
    assert "2 temporary files of writers that were killed deleted" in capsys.readouterr().err
    assert [one.exists() for one in (*left, file)] == [False, True, False]
    assert erase.erase(folder, pa.array(["0a"])).heads == ()
