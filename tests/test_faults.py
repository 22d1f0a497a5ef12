"""What goes wrong overnight: each time the right rows, a reason, and nothing lost."""

import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from featurestore.errors import BadSource
from featurestore.pipeline.listing_run import Selection
from featurestore.pipeline.options import EmbedOptions
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store
from featurestore.upkeep import erase, versions
from featurestore.upkeep.verify import verify

PIXELS = "baseline:pixels#size=4"
CLI = [sys.executable, "-m", "featurestore.cli"]

# An encoder that anyone can predict, slow enough to be interrupted.
SLOW = """
import os
import time
import numpy as np


class Slow:
    version = "1"

    def encode_images(self, images):
        time.sleep(float(os.environ.get("SLOW_S", "0.004")) * len(images))
        return np.stack([np.asarray(one, float).mean(axis=(0, 1)) for one in images])
"""
CHILD = """
import sys
from featurestore import EmbedOptions, open_store
from featurestore.pipeline import writer
writer.COMMIT_ROWS = int(sys.argv[4])
store = open_store(sys.argv[1], create=True)
how = EmbedOptions(batch_size=2)
store.embed([sys.argv[2]], dataset="d", encoders=[sys.argv[3]], embed_options=how)
"""


@pytest.fixture
def many(tmp_path, write_image):
    for number in range(120):
        write_image(tmp_path / "set" / "c" / f"{number:03}.png", number)
    return tmp_path / "set"


@pytest.fixture
def child_env(tmp_path):
    (tmp_path / "slow_encoder.py").write_text(SLOW)
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def load(store_path, spec):
    return open_store(store_path).view("d", spec).load()


@pytest.mark.parametrize(
    ("spec", "n_kills"),
    [("python:slow_encoder:Slow", 6), ("builtin:tiny-image", 2)],
    ids=["no torch", "a real encoder"],
)
def test_kill_9_at_random_moments_loses_nothing(
    tmp_path, many, child_env, spec, n_kills, monkeypatch
):
    monkeypatch.syspath_prepend(str(tmp_path))
    store_path = tmp_path / "store"
    command = [sys.executable, "-c", CHILD, str(store_path), str(many), spec, "7"]
    moments = random.Random(0)
    for _ in range(n_kills):
        child = subprocess.Popen(command, env=child_env, stderr=subprocess.DEVNULL)
        views = store_path / "datasets" / "d" / "views"
        while child.poll() is None and not list(views.glob("*/encoder.json")):
            time.sleep(0.005)  # until it has begun to embed
        time.sleep(moments.random() * 0.25)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert subprocess.run(command, env=child_env).returncode == 0
    clean = open_store(tmp_path / "clean", create=True)
    clean.embed([many], dataset="d", encoders=[spec])
    found, expected = load(store_path, spec), load(tmp_path / "clean", spec)
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.content_hashes.tolist() == expected.content_hashes.tolist()
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-4)
    store = open_store(store_path)
    assert len(store.dataset("d").items()) == 120  # no item twice
    assert len(store.view("d", spec).table.read(["item_id"])) == 120


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_stop_keeps_what_was_done(sent, code, tmp_path, many, child_env, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = "python:slow_encoder:Slow"
    command = [*CLI, "embed", str(many), "--dataset", "d", "-e", spec, "--batch-size", "2"]
    command += ["--store", str(tmp_path / "store")]
    slower = child_env | {"SLOW_S": "0.05"}  # 6 s in all: a busy machine may come late
    child = subprocess.Popen(
        command, env=slower, stderr=subprocess.PIPE, text=True,
        # A suite that a shell runs with & inherits an ignored SIGINT, and hands it on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    views = tmp_path / "store" / "datasets" / "d" / "views"
    while child.poll() is None and not list(views.glob("*/encoder.json")):
        time.sleep(0.005)
    time.sleep(1)  # some of them are done by then, of 6 s in all
    child.send_signal(sent)
    _, err = child.communicate(timeout=30)
    assert child.returncode == code, err
    assert "interrupted; what was done is kept" in err
    assert "Traceback" not in err
    kept = len(load(tmp_path / "store", spec))
    assert 0 < kept < 120
    again = subprocess.run([*command, "--json"], env=child_env, capture_output=True, text=True)
    assert json.loads(again.stdout)[0]["n_encoded"] == 120 - kept


def bomb(side):
    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )  # fmt: skip


@pytest.fixture
def zoo(tmp_path):
    """Pictures of every kind, good and bad; returns the folder and what is wrong with whom."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8))
    photo.save(folder / "good.jpg", quality=95)
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.convert("P").save(folder / "palette.png")
    photo.convert("RGBA").save(folder / "rgba.png")
    Image.fromarray(rng.integers(0, 65_536, (40, 60)).astype(np.uint16)).save(folder / "deep.png")
    rotated = Image.Exif()
    rotated[0x0112] = 6  # turned by 90 degrees
    photo.save(folder / "turned.jpg", exif=rotated, quality=95)
    content = (folder / "good.jpg").read_bytes()
    (folder / "bad_cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "bad_empty.jpg").write_bytes(b"")
    (folder / "bad_text.jpg").write_text("this is no picture")
    (folder / "bad_bomb.png").write_bytes(bomb(20_000))
    return folder, {
        "bad_cut.jpg": "truncated",
        "bad_empty.jpg": "the file is empty",
        "bad_text.jpg": "not an image that we can read",
        "bad_bomb.png": "pixels: over the limit of",
    }


def test_pictures_of_every_kind_good_and_bad(tmp_path, zoo):
    folder, reasons = zoo
    command = [*CLI, "embed", str(folder), "--dataset", "d", "-e", PIXELS]
    command += ["--store", str(tmp_path / "store"), "--json"]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 3, first.stderr
    assert "Traceback" not in first.stderr
    report = json.loads(first.stdout)[0]
    assert (report["n_encoded"], report["n_failed"]) == (6, 4)
    store = open_store(tmp_path / "store")
    found = store.view("d", PIXELS).load()
    assert found.ids.tolist() == [
        "cmyk.jpg", "deep.png", "good.jpg", "palette.png", "rgba.png", "turned.jpg",
    ]  # fmt: skip
    failures = {row["item_id"]: row for row in store.dataset("d").failures().to_pylist()}
    assert failures.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in failures[name]["error"], failures[name]
        assert failures[name]["stage"] == "decode"
    upright = found.vectors[2].reshape(4, 4, 3)
    turned = found.vectors[5].reshape(4, 4, 3)
    np.testing.assert_allclose(turned, np.rot90(upright, -1), atol=0.12)  # the EXIF is obeyed
    again = subprocess.run(command, capture_output=True, text=True)
    assert (again.returncode, json.loads(again.stdout)[0]["n_known_failures"]) == (0, 4)


@pytest.mark.parametrize(("name", "n_cut"), [("minilm", 1), ("tiny-text", 0)])  # it reads all
def test_texts_of_every_kind_good_and_bad(name, n_cut, empty_store, tmp_path, request):
    spec = request.getfixturevalue(name) if name == "minilm" else f"builtin:{name}"
    long = "many words " * 95_000  # a megabyte
    lines = [b"text", b"plain", b"caf\xe9", b'""', b'"   "', long.encode(), "naïve café".encode()]
    (tmp_path / "t.csv").write_bytes(b"\n".join(lines))
    (report,) = empty_store.embed(
        [tmp_path / "t.csv"],
        dataset="d",
        encoders=[spec],
        source_options=SourceOptions(text="text"),
    )
    assert (report.n_encoded, report.n_failed, report.n_cut) == (3, 3, n_cut)
    assert empty_store.view("d", spec).load().ids.tolist() == ["t.csv:0", "t.csv:4", "t.csv:5"]
    failures = empty_store.dataset("d").failures().to_pylist()
    assert {row["item_id"]: row["error"] for row in failures} == {
        "t.csv:1": "column 'text' is not UTF-8 in this row: convert the file",
        "t.csv:2": "the text is empty",
        "t.csv:3": "the text is empty",
    }


class Deletes:
    """An encoder that takes a file away while it runs."""

    version = "1"

    def __init__(self, path):
        self.path = path
        self.n_calls = 0

    def encode_images(self, images):
        self.n_calls += 1
        if self.n_calls > 3:  # behind the probes
            self.path.unlink(missing_ok=True)
        return np.ones((len(images), 2))


def test_a_file_that_vanishes_between_listing_and_reading(empty_store, many):
    last = many / "c" / "119.png"
    (report,) = empty_store.embed(
        [many], dataset="d", encoders=[Deletes(last)],
        embed_options=EmbedOptions(batch_size=1, n_workers=1),
    )  # fmt: skip
    assert (report.n_encoded, report.n_failed) == (119, 1)
    (row,) = empty_store.dataset("d").failures().to_pylist()
    assert (row["item_id"], row["stage"]) == ("c/119.png", "read")
    assert "No such file" in row["error"]


def test_a_folder_that_cannot_be_listed_is_a_failure_and_what_was_in_it_is_kept(
    empty_store, tiny_images, monkeypatch
):
    empty_store.embed([tiny_images], dataset="d", encoders=[PIXELS])
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("light"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("featurestore.sources.folder.os.scandir", refuse)
    (report,) = empty_store.embed(
        [tiny_images], dataset="d", encoders=[PIXELS], embed_options=EmbedOptions(prune=True)
    )
    assert (report.n_failed, report.n_unchanged) == (1, 3)
    assert empty_store.view("d", PIXELS).n_rows == 6  # pruning drops nothing that was not looked at
    (row,) = empty_store.dataset("d").failures().to_pylist()
    assert (row["item_id"], row["stage"]) == ("light/", "read")
    monkeypatch.undo()
    (report,) = empty_store.embed([tiny_images], dataset="d", encoders=[PIXELS])
    assert (report.n_failed, report.n_unchanged) == (0, 6)
    dataset = empty_store.dataset("d")
    assert (dataset.n_items, len(dataset.failures())) == (6, 0)  # the stand-in is gone
    monkeypatch.setattr("featurestore.sources.folder.os.scandir", lambda path: refuse("light"))
    with pytest.raises(BadSource, match="cannot list"):
        empty_store.embed([tiny_images], dataset="d", encoders=[PIXELS])


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(place)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small disk needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_stops_the_run_and_keeps_what_was_committed(tmp_path, many, small_disk):
    spec = "baseline:pixels#size=40"  # 19 kB an item: 120 of them do not fit
    command = [
        sys.executable,
        "-c",
        CHILD.replace("COMMIT_ROWS = int(sys.argv[4])", "COMMIT_ROWS = 8"),
    ]
    command += [str(small_disk / "store"), str(many), spec]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode != 0
    assert "No space left on device" in first.stderr
    found = load(small_disk / "store", spec)
    assert 8 <= len(found) < 120
    assert not list((small_disk / "store").rglob("*.tmp"))
    said = subprocess.run(
        [*CLI, "embed", "--dataset", "d", "-e", spec, "--store", str(small_disk / "store")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert said.returncode == 1
    assert "No space left on device" in said.stderr
    assert "Traceback" not in said.stderr
    grow = ["mount", "-o", "remount,size=20m", str(small_disk)]
    subprocess.run(grow, check=True)
    assert subprocess.run(command, capture_output=True).returncode == 0
    whole = load(small_disk / "store", spec)
    assert len(whole) == 120
    kept = np.isin(whole.ids.astype(str), found.ids.astype(str))
    np.testing.assert_array_equal(whole.vectors[kept], found.vectors)


def test_four_processes_on_one_view_make_no_wrong_and_no_double_row(
    tmp_path, many, child_env, monkeypatch
):
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = "python:slow_encoder:Slow"
    command = [sys.executable, "-c", CHILD, str(tmp_path / "store"), str(many), spec, "5"]
    children = [subprocess.Popen(command, env=child_env) for _ in range(4)]
    assert [child.wait() for child in children] == [0] * 4
    store = open_store(tmp_path / "store")
    assert len(store.view("d", spec).load()) == 120
    assert len(store.view("d", spec).table.read(["item_id"])) == 120  # the lock saved the work
    assert len(store.dataset("d").items()) == 120


def test_a_scheduler_that_stops_all_processes_of_a_fleet_loses_nothing_done(
    tmp_path, many, child_env, monkeypatch
):
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = "python:slow_encoder:Slow"
    command = [*CLI, "embed", str(many), "--dataset", "d", "-e", spec, "--batch-size", "1",
               "--device", "cpu,cpu", "--store", str(tmp_path / "store")]  # fmt: skip
    child = subprocess.Popen(
        command, env=child_env | {"SLOW_S": "0.3"}, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    views = tmp_path / "store" / "datasets" / "d" / "views"
    while child.poll() is None and not list(views.glob("*/encoder.json")):
        time.sleep(0.01)
    time.sleep(4)  # some of them are done by then, of 18 s in all
    os.killpg(child.pid, signal.SIGTERM)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 143, err
    assert "Traceback" not in err
    assert 0 < len(load(tmp_path / "store", spec)) < 120


def test_a_process_for_each_device_shares_the_items(tmp_path, many):
    command = [*CLI, "embed", str(many), "--dataset", "d", "-e", PIXELS, "--device", "cpu,cpu"]
    command += ["--store", str(tmp_path / "store"), "--json"]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    (report,) = json.loads(first.stdout)
    assert (report["n_encoded"], report["device"]) == (120, "cpu,cpu")
    store = open_store(tmp_path / "store")
    view = store.view("d", PIXELS)
    runs = [run["n_encoded"] for run in store.dataset("d").folder.runs("embed")]
    assert sum(runs) == 120
    assert min(runs) > 30  # both had their part
    assert len(view.load()) == len(view.table.read(["item_id"])) == 120
    alone = open_store(tmp_path / "alone", create=True)
    alone.embed([many], dataset="d", encoders=[PIXELS])
    np.testing.assert_array_equal(view.load().vectors, alone.view("d", PIXELS).load().vectors)
    (many / "c" / "bad.png").write_bytes(b"bad")
    bad = subprocess.run([*command, "--max-failures", "0"], capture_output=True, text=True)
    assert bad.returncode == 1
    assert "1 items failed, more than --max-failures 0" in bad.stderr
    assert "Traceback" not in bad.stderr
    again = subprocess.run(command, capture_output=True, text=True)
    (report,) = json.loads(again.stdout)
    assert (report["n_encoded"], report["n_unchanged"]) == (0, 120)


READER = """
import sys, time
import numpy as np
from featurestore import open_store
from featurestore.errors import StoreCorrupt

path, until, may_miss = sys.argv[1], sys.argv[2], sys.argv[3] == "may miss"
truth = np.load(sys.argv[4])
view = open_store(path).view("d", "python:slow_encoder:Slow")
n_loads = n_missed = 0
from pathlib import Path
while not Path(until).exists() or not n_loads:
    try:
        found = view.load()
    except StoreCorrupt as error:
        assert may_miss and "may have lost it to vacuum" in str(error), error
        n_missed += 1
        continue
    n_loads += 1
    assert len(set(found.ids)) == len(found.ids) >= 119
    rows = [int(one.rpartition("/")[2][:3]) for one in found.ids]
    np.testing.assert_array_equal(found.vectors, truth[rows])
print(n_loads, n_missed)
"""


@pytest.mark.parametrize("older_than_s", [86_400.0, 0.0])
def test_a_reader_sees_one_state_while_others_compact_delete_and_vacuum(
    older_than_s, tmp_path, many, child_env, monkeypatch
):
    """With files kept for a day nothing fails; taken at once, a read says what it lost."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SLOW_S", "0")
    spec, place = "python:slow_encoder:Slow", tmp_path / "store"
    store = open_store(place, create=True)
    for limit in (40, 80, 120):
        store.embed([many], dataset="d", encoders=[spec], selection=Selection(limit=limit))
    done = tmp_path / "done"
    word = "may miss" if older_than_s == 0 else "never"
    np.save(tmp_path / "truth.npy", store.view("d", spec).load().vectors)
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(place), str(done), word, str(tmp_path / "truth.npy")],
        env={**child_env, "SLOW_S": "0"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    folder = store.dataset("d").folder
    try:
        for number in range(6):
            versions.compact(folder)
            erase.delete(folder, erase.select_ids(folder, [f"c/{number:03}.png"]))
            versions.vacuum(folder, older_than_s=older_than_s)
            store.embed([], dataset="d", encoders=[spec])  # it comes back
            assert reader.poll() is None or reader.returncode == 0, reader.communicate()[1]
    finally:
        done.touch()
    out, error = reader.communicate(timeout=120)
    assert reader.returncode == 0, error
    assert int(out.split()[0]) > 0
    assert len(store.view("d", spec).load()) == 120
    assert [one for one in verify(folder, canary=False) if one.severity == "error"] == []


@pytest.fixture
def read_only(tmp_path, many):
    """A store on a file system that takes no writes."""
    store = open_store(tmp_path / "store", create=True)
    store.embed([many], dataset="d", encoders=[PIXELS])
    store.view("d", PIXELS).build_index(factory="Flat")
    place = tmp_path / "mounted"
    place.mkdir()
    for options in (["--bind", str(tmp_path / "store")], ["-o", "remount,bind,ro"]):
        done = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_store_that_cannot_be_written_to_can_be_read(read_only, fs, monkeypatch):
    """All that looks works; all that writes says why not, and changes nothing."""
    monkeypatch.setenv("FEATURESTORE_STORE", str(read_only))

    for words in (
        ["ls"], ["info", "d"], ["history", "d"], ["vacuum", "d", "--dry-run"],
        ["search", "d", "--item", "c/005.png"], ["sql", "select count(*) from d"],
        ["verify", "d", "--no-canary"],
    ):  # fmt: skip
        code, out, err = fs(*words)
        assert code == 0, (words, out, err)
    for words in (["compact", "d"], ["delete", "d", "c/005.png", "--yes"]):
        code, out, err = fs(*words)
        assert code == 1, (words, out, err)
        assert "Read-only file system" in err
        assert "Traceback" not in err
    assert len(open_store(read_only).view("d", PIXELS).load()) == 120


# What the command line says of each: exit code, reason, and the rows that are there after it

LIBRARY = "def scale():\n    return 1.0\n"
USES_LIBRARY = """
import numpy as np
import their_library
from pathlib import Path


class Means:
    version = "1"

    def encode_images(self, images):
        gone = Path(__file__).with_name("gone")
        if len(images) == 1 and gone.exists():  # probes come as several
            Path(gone.read_text()).unlink(missing_ok=True)
        means = [np.asarray(one, float).mean(axis=(0, 1)) for one in images]
        return their_library.scale() * np.stack(means) + [0, 0, 9]
"""


def damage(write):
    """Return a fault that is a picture with other bytes."""

    def make(folder, modules):
        write(folder / "c" / "3.png")

    return make


def _vanish(folder, modules):
    (modules / "gone").write_text(str(folder / "d" / "7.png"))


def _new_weights(folder, modules):
    path = modules / "their_encoder.py"
    path.write_text(path.read_text().replace('version = "1"', 'version = "2"'))


def _new_library(folder, modules):
    other = LIBRARY.replace("1.0", "np.array([1, -1, 1])")
    (modules / "their_library.py").write_text(f"import numpy as np\n{other}")


FAULTS = {
    "a truncated picture": (
        damage(lambda path: path.write_bytes(path.read_bytes()[:40])), 3, "3.png", 7,
    ),
    "a file of no bytes": (damage(lambda path: path.write_bytes(b"")), 3, "3.png", 7),
    "a text named .png": (damage(lambda path: path.write_text("not me")), 3, "3.png", 7),
    "a link that leaves the folder": (
        damage(lambda path: (path.unlink(), path.symlink_to("/etc/hostname"))), 0, "", 7,
    ),
    "a file that vanishes while it runs": (_vanish, 3, "7.png", 7),
    "other weights of the same name": (_new_weights, 1, "is another encoder now", 8),
    "a library that computes differently": (_new_library, 1, "gives other vectors", 8),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_its_exit_code_its_reason_and_its_rows(
    name, tmp_path, write_image, child_env
):
    fault, code, reason, n_rows = FAULTS[name]
    folder, modules = tmp_path / "set", tmp_path / "modules"
    modules.mkdir()
    (modules / "their_library.py").write_text(LIBRARY)
    (modules / "their_encoder.py").write_text(USES_LIBRARY)
    for number in range(8):
        write_image(folder / "dc"[number < 4] / f"{number}.png", number)
    spec = "python:their_encoder:Means"
    command = [*CLI, "embed", str(folder), "--dataset", "d", "-e", spec, "--batch-size", "1",
               "--store", str(tmp_path / "store")]  # fmt: skip
    environment = {**child_env, "PYTHONPATH": str(modules), "PYTHONDONTWRITEBYTECODE": "1"}
    if code == 1:  # a view has to be there, for something to differ from
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        write_image(folder / "c" / "3.png", 99)  # there is something to do
    fault(folder, modules)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    store = open_store(tmp_path / "store")
    failures = {row["item_id"] for row in store.dataset("d").failures().to_pylist()}
    assert len(failures) == (code == 3)
    assert reason in (done.stderr if code != 3 else failures.pop())
    items = store.dataset("d").items(["item_id"]).column("item_id").to_pylist()
    assert len(items) == 8 - (name == "a link that leaves the folder")
    found = store.view("d", spec).load()
    assert len(found) == n_rows  # where it stopped, the data set is as it was
