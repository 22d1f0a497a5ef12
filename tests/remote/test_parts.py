"""A run in parts on a store in an object store, shared by processes that know only its URL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np

from featurestore.cli import run
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.run_folder import open_runs
from featurestore.store.store import open_store
from featurestore.upkeep.verify import verify
from tests.remote.conftest import PIXELS, embed

# A worker that is killed once its shards are written, before the manifest that names them.
KILLED = """
import os, signal, sys
from featurestore.storage.run_folder import RunFolder
from featurestore.cli import run
from featurestore.workers import doors
from featurestore.workers.worker import Worker

def end(self, name, value):
    os.kill(os.getpid(), signal.SIGKILL)

class Alone:  # one worker in this process, so that the kill is its own
    def __init__(self, folder, run, options):
        self.worker, self.given = Worker(folder, run, options[0]), []
    n_free = property(lambda self: 1 - len(self.given))
    def give(self, part): self.given.append(part)
    def wait(self, timeout_s): return [self.worker.embed(self.given.pop())]
    def close(self): pass

RunFolder.write_manifest = end
doors.workers_on = lambda way, folder, run, options: Alone(folder, run, options)
sys.exit(run(sys.argv[1:]))
"""


def command(cache, *words, code="import sys; from featurestore.cli import run; sys.exit(run())"):
    """Run the command line in a process with a cache of its own, as on another machine."""
    environment = {**os.environ, "FEATURESTORE_CACHE": str(cache)}
    return subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip


def test_shards_on_an_object_store_one_of_them_killed_end_as_one_process(
    s3, tmp_path, write_image, capsys
):
    folder = tmp_path / "pictures"
    for number in range(20):
        write_image(folder / "ab"[number % 2] / f"{number:02}.png", number)
    (folder / "b" / "none.png").write_bytes(b"not a picture")
    words = ["embed", str(folder), "--dataset", "d", "-e", PIXELS, "--store", str(s3)]
    assert run([*words, "--plan-only", "--part-items", "4"]) == 0
    assert "6 parts" in capsys.readouterr().err
    shard = ["embed", "--dataset", "d", "--store", str(s3), "--shard"]

    killed = command(tmp_path / "one", *shard, "0/2", "--commit", code=KILLED)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    data = DatasetFolder(s3 / "datasets" / "d")
    (planned,) = open_runs(data.path)
    assert planned.done() == set()
    assert [planned.n_attempts(part) for part in planned.left()] == [1, 0, 0, 0, 0, 0]
    assert (
        len([*data.items.path.glob("*.parquet")]) == 1
    )  # its shard lies there, and nobody names it

    for number, cache in enumerate(("two", "three")):
        done = command(tmp_path / cache, *shard, f"{number}/2", "--commit")
        assert done.returncode in (0, 3), done.stderr
    assert open_runs(data.path) == []
    store, here = open_store(s3), open_store(tmp_path / "here", create=True)
    embed(here, folder, "one")
    keys = ["item_id", "content_hash", "label"]
    mine, theirs = store.dataset("d"), here.dataset("one")
    assert mine.items(keys).sort_by("item_id") == theirs.items(keys).sort_by("item_id")
    found, alone = mine.view(PIXELS).load(), theirs.view(PIXELS).load()
    order = [np.argsort(one.ids) for one in (found, alone)]
    assert found.ids[order[0]].tolist() == alone.ids[order[1]].tolist()
    np.testing.assert_array_equal(found.vectors[order[0]], alone.vectors[order[1]])
    assert mine.failures()["item_id"].to_pylist() == ["b/none.png"]
    assert [one for one in verify(data) if one.severity == "error"] == []
