"""Derived files that are damaged: the undamaged answer, or one line that names the file."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from featurestore.errors import StoreCorrupt
from featurestore.storage import sums
from featurestore.storage.files import read_sealed, write_sealed
from featurestore.storage.sums import damage_of, write_sums

ROOT = Path(__file__).parents[1]


def test_sixty_damages_are_met_with_the_right_answer_or_one_line():
    """Forks, which a process with threads must not: so in one of its own. 300 by hand."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.flips", "60"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 damages, 0 met wrongly" in done.stdout


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "large.npy", np.zeros(sums.SMALL_BYTES, np.uint8))
    (tmp_path / "small.txt").write_text("right")
    write_sums(tmp_path, ["large.npy", "small.txt"])
    return tmp_path


def rewrite_with_the_same_times(path, content):
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


LARGE = "large.npy is not what was written (SHA-256)"
CHANGES = {
    "nothing": (lambda f: None, None),
    "small": (lambda f: (f / "small.txt").write_text("wrong"), "small.txt is not what"),
    "large": (lambda f: (f / "large.npy").write_bytes(b"x"), LARGE),
    "large, of the same size and time": (
        lambda f: rewrite_with_the_same_times(
            f / "large.npy", (f / "large.npy").read_bytes()[:-1] + b"x"
        ),
        LARGE,
    ),
    "touched alone": (lambda f: (f / "large.npy").touch(), None),
    "copied": (lambda f: (f / "large.npy").write_bytes((f / "large.npy").read_bytes()), None),
    "no sums": (lambda f: (f / "sums.json").unlink(), "sums.json is missing or damaged"),
    "empty sums": (lambda f: (f / "sums.json").write_text(""), "sums.json is missing or damaged"),
    "other sums": (lambda f: (f / "sums.json").write_text("[]"), "sums.json is missing or damaged"),
    "deep sums": (
        lambda f: (f / "sums.json").write_text("[" * 100_000), "sums.json is missing or damaged",
    ),
    "one sum": (
        lambda f: (f / "sums.json").write_text('{"small.txt": "0"}'),
        "sums.json is missing or damaged",
    ),
    "a sum of what lies elsewhere": (
        lambda f: (f / "sums.json").write_text(
            '{"large.npy": "0", "small.txt": "0", "/dev/zero": "0"}'
        ),
        "sums.json is missing or damaged",
    ),
    "not seen": (lambda f: (f / "seen.json").unlink(), None),
    "seen damaged": (lambda f: (f / "seen.json").write_text("{"), None),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_changed_is_named(what, folder):
    change, damage = CHANGES[what]
    change(folder)
    found = damage_of(folder, ["large.npy", "small.txt"])
    assert found == damage if damage is None else found.startswith(damage)
    assert damage_of(folder, ["large.npy", "small.txt"], anew=True) == found


def test_a_large_file_that_nobody_touched_is_read_once(folder, monkeypatch):
    read = []
    monkeypatch.setattr(sums, "sha256_of", lambda path: read.append(path.name) or "")
    (folder / "sums.json").write_text('{"large.npy": "", "small.txt": ""}')
    assert damage_of(folder, ["large.npy"]) is None
    assert read == ["small.txt"]
    time.sleep(0.01)
    (folder / "large.npy").touch()
    assert [damage_of(folder, ["large.npy"]) for _ in range(2)] == [None, None]
    assert read == ["small.txt", "large.npy", "small.txt", "small.txt"]


def test_a_sealed_object_is_what_was_written(tmp_path):
    path = tmp_path / "card.json"
    value = {"a": [1, 0.1, None, "é"], "b": {10: 1, 9: 2}, "nan": float("nan")}
    write_sealed(path, value)
    read = read_sealed(path)
    assert np.isnan(read.pop("nan"))
    assert read == {"a": [1, 0.1, None, "é"], "b": {"10": 1, "9": 2}}
    path.write_text(path.read_text().replace("0.1", "0.7"))
    with pytest.raises(StoreCorrupt, match=r"card.json is not what was written"):
        read_sealed(path)
    path.write_text('{"a": 1}')  # of before there were seals
    assert read_sealed(path) == {"a": 1}


def test_a_foreign_arrow_file_with_a_wrong_offset_is_refused(tmp_path, fs):
    ids = pa.array(["a", "bcd"])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(8, "f4")), 4)
    batch = pa.record_batch({"id": ids, "vector": vectors})
    path = tmp_path / "x.arrow"
    with pa.ipc.new_file(str(path), batch.schema) as writer:
        writer.write_batch(batch)
    right, wrong = (np.array([0, 1, end], np.int32).tobytes() for end in (4, 2**30))
    assert path.read_bytes().count(right) == 1
    path.write_bytes(path.read_bytes().replace(right, wrong))  # it ends far beyond its bytes
    code, _, err = fs("import", path, "--dataset", "d", "--name", "n", "--id", "id")
    assert code == 1
    assert "cannot read" in err
    assert "x.arrow" in err
