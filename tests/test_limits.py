"""A full disk, memory that runs out, and signals: one line, an exit code, and nothing lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from featurestore import EmbedOptions, cli
from featurestore.storage import stopping
from featurestore.storage.exhausted import is_full_disk, is_out_of_memory, naming

ROOT = Path(__file__).parents[1]
GENEROUS_S = 20.0  # a signal ends a wait within 2 s; this machine may be busy


def tool(*words):
    return subprocess.run(
        [sys.executable, "-m", "tools.limits", *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_commands_end_with_one_line_on_a_full_disk():
    """Then a store is whole, and the command works when there is room again."""
    done = tool("suite")
    if done.returncode == 75:
        pytest.skip("a small disk needs the right to mount a tmpfs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 ended wrongly" in done.stdout


NO_ROOM = "Error in void faiss::f() Error: 'ret == n' failed: write error (No space left on device)"
DISK = {
    "the system": OSError(28, "No space left on device"),
    "a quota": OSError(122, "Disk quota exceeded"),
    "Arrow": OSError(28, "Error writing bytes to file. Detail: [errno 28] No space left on device"),
    "delta-rs": OSError("Generic error\n ↳ No space left on device (os error 28)"),
    "NumPy": OSError("5760 requested and 96 written"),
    "FAISS": RuntimeError(NO_ROOM),
}
MEMORY = {
    "Python": MemoryError(),
    "NumPy": MemoryError("Unable to allocate 8.00 GiB for an array"),
    "Arrow": pa.ArrowMemoryError("malloc of size 64 failed"),
    "C++": RuntimeError("std::bad_alloc"),
    "torch": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
    "a GPU": RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "the system": OSError(12, "Cannot allocate memory"),
    "a library": ImportError("libx.so: failed to map segment from shared object"),
    "threads": RuntimeError("can't start new thread"),
    "threads of Arrow": pa.ArrowException("Failed to launch worker thread: Resource temporarily"),
    "threads of Rust": RuntimeError("OS can't spawn worker thread: Resource temporarily"),
}


def lines_of(error, monkeypatch, capsys):
    def fail(**_):
        try:
            raise error
        except type(error) as cause:
            if isinstance(error, OSError):
                raise
            raise RuntimeError("what came of it") from cause

    monkeypatch.setattr(cli.cli, "main", fail)
    code = cli.run(["ls"])
    return code, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("what", DISK)
def test_a_full_disk_is_known_whoever_says_so(what, monkeypatch, capsys):
    assert is_full_disk(DISK[what])
    assert not is_out_of_memory(DISK[what])
    with pytest.raises(OSError, match=r"No space|quota") as raised, naming("/a/place"):
        raise DISK[what]
    assert raised.value.filename == "/a/place"
    code, lines = lines_of(raised.value, monkeypatch, capsys)
    assert code == 1
    assert len(lines) == 1
    assert lines[0].endswith(
        "what was committed before is kept: make room there and run this again"
    )
    assert ": /a/place; " in lines[0]


@pytest.mark.parametrize("what", MEMORY)
def test_memory_that_ran_out_is_known_whoever_says_so(what, monkeypatch, capsys):
    assert is_out_of_memory(MEMORY[what])
    assert not is_full_disk(MEMORY[what])
    code, lines = lines_of(MEMORY[what], monkeypatch, capsys)
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith("error: out of memory")
    assert "smaller batches" in lines[0]


@pytest.mark.parametrize("error", [ValueError("a fault"), RuntimeError("of ours"), KeyError("x")])
def test_other_errors_keep_their_traceback(error, monkeypatch):
    def fail(**_):
        raise error

    monkeypatch.setattr(cli.cli, "main", fail)
    with pytest.raises(type(error)):
        cli.run(["ls"])


def test_no_memory_for_a_picture_is_tried_again(empty_store, tiny_images, monkeypatch):
    def refuse(*_, **__):
        raise MemoryError

    monkeypatch.setattr("featurestore.pipeline.decode_ahead.decode_image", refuse)
    (report,) = empty_store.embed([tiny_images], dataset="d", encoders=["baseline:pixels#size=4"])
    assert report.n_failed == 6
    failed = empty_store.dataset("d").failures().to_pylist()
    assert {(one["stage"], one["error"][:13]) for one in failed} == {("read", "out of memory")}
    monkeypatch.undo()
    again = EmbedOptions(retry_failed=True)
    (report,) = empty_store.embed(
        [tiny_images], dataset="d", encoders=["baseline:pixels#size=4"], embed_options=again
    )
    assert (report.n_failed, report.n_encoded) == (0, 6)


@pytest.fixture(autouse=True)
def signals_as_from_a_terminal():
    """A suite under nohup, or that a shell runs with &, hands on signals that are ignored."""
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# Each waits for something that never comes; a signal ends it.
BEGIN = """
import os, sys, time
from featurestore.storage import stopping
from featurestore.cli import main, cli
import click

def wait():
    print("waiting", flush=True)
    {wait}

cli.add_command(click.command("wait")(wait))
main(["wait"])
"""
WAITS = {
    "a sleep": "time.sleep(60)",
    "a thread that hangs in a read": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "    with ThreadPoolExecutor(1) as pool:\n"
        "        pool.submit(os.read, os.pipe()[0], 1).result()"
    ),
    "a thread that is not waited for": (
        "from threading import Thread\n"
        "    Thread(target=os.read, args=(os.pipe()[0], 1)).start()\n"
        "    time.sleep(60)"
    ),
    "a library without Python": (
        "import hashlib\n    hashlib.pbkdf2_hmac('sha256', b'', b'', 200_000_000)"
    ),
    "an interrupt that gets lost": (
        "import weakref\n"
        "    class It:\n"
        "        def __del__(self):\n"
        "            time.sleep(60)\n"
        "    It()\n"
        "    time.sleep(60)"
    ),
    "a child": "import subprocess\n    subprocess.run(['sleep', '60'])",
    "a FIFO": "path = sys.argv[1]\n    os.mkfifo(path)\n    open(path)",
}


def stopped(code, number, *words, **how):
    child = subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, **how,
    )  # fmt: skip
    assert child.stdout.readline() == "waiting\n"
    time.sleep(0.05)
    began = time.monotonic()
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    return child.returncode, err, time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("what", WAITS)
def test_a_first_signal_ends_any_wait(what, number, tmp_path):
    if number != signal.SIGHUP and what in ("a sleep", "a child", "a FIFO"):
        return  # one of them is enough
    code = BEGIN.format(wait=WAITS[what])
    returned, err, took = stopped(code, number, str(tmp_path / "fifo"))
    assert returned == 128 + number, err
    assert "interrupted; what was done is kept" in err
    assert "Traceback" not in err or what == "an interrupt that gets lost"
    assert took < GENEROUS_S


def test_a_hangup_that_is_ignored_stays_ignored():
    """As under nohup."""
    code = BEGIN.format(wait="time.sleep(0.5)")

    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    returned, err, _ = stopped(code, signal.SIGHUP, preexec_fn=ignore)
    assert (returned, err) == (0, "")


def test_a_commit_is_let_end():
    work = "with stopping.finishing():\n        try:\n"
    work += "            print('begun', flush=True)\n            time.sleep(60)\n"
    work += (
        "        finally:\n            time.sleep(3)\n            print('committed', flush=True)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", BEGIN.format(wait=work)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert [child.stdout.readline() for _ in range(2)] == ["waiting\n", "begun\n"]
    child.send_signal(signal.SIGHUP)
    out, _ = child.communicate(timeout=60)
    assert (child.returncode, out) == (129, "committed\n")


def test_a_lock_of_another_writer_is_not_waited_for(empty_store, tiny_images):
    empty_store.embed([tiny_images], dataset="d", encoders=["baseline:pixels#size=4"])
    code = BEGIN.format(
        wait="from featurestore.storage.dataset_folder import DatasetFolder\n"
        "    from pathlib import Path\n"
        "    with DatasetFolder(Path(sys.argv[1])).locked('dataset'):\n"
        "        pass"
    )
    folder = empty_store.dataset("d").folder
    with folder.locked("dataset"):
        returned, err, took = stopped(code, signal.SIGHUP, str(folder.path))
    assert returned == 129, err
    assert took < GENEROUS_S


SLOW = """
import time
import numpy as np

class Slow:
    version = "1"

    def encode_images(self, images):
        if len(images) == 1:  # probes come as several
            time.sleep(0.1)
        return np.ones((len(images), 2))
"""


def test_a_hangup_keeps_what_was_embedded(tmp_path, write_image):
    for n in range(60):
        write_image(tmp_path / "set" / "c" / f"{n}.png", n)
    (tmp_path / "slow.py").write_text(SLOW)
    child = subprocess.Popen(
        [sys.executable, "-m", "featurestore.cli", "embed", str(tmp_path / "set"), "--dataset", "d",
         "-e", "python:slow:Slow", "--batch-size", "1", "--store", str(tmp_path / "store")],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    views = tmp_path / "store" / "datasets" / "d" / "views"
    while child.poll() is None and not list(views.glob("*/encoder.json")):
        time.sleep(0.01)
    time.sleep(1.5)
    child.send_signal(signal.SIGHUP)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 129, err
    assert "interrupted" in err
    from featurestore.store.store import open_store

    found = open_store(tmp_path / "store").view("d", "python:slow:Slow").load()
    assert 0 < len(found) < 60
    np.testing.assert_array_equal(found.vectors, np.ones((len(found), 2)))


LIMITED = """
import os, resource, signal, sys, time
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
from featurestore import cli
def work(**options):
    print("begun", flush=True)
    {work}
cli.cli.main = work
cli.main([])
"""
AT_ONCE = "os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
# The child is faster than the process that waits for it.
SLOW_FORK = """
import os, time
fork = os.fork
os.fork = lambda: (pid := fork(), pid and time.sleep(0.3))[0]
"""
ENDS = {
    "os.abort()": (1, "out of memory: under this limit (ulimit -v) a library ended"),
    "os.kill(os.getpid(), signal.SIGKILL)": (1, "with SIGKILL; what was committed"),
    "return 3": (3, ""),
    AT_ONCE: (143, ""),
}


@pytest.mark.parametrize("work", ENDS)
def test_under_ulimit_v_an_end_that_python_does_not_see_is_told(work):
    code, words = ENDS[work]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED.replace("{work}", work)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, "begun\n"), done.stderr
    assert words in done.stderr
    assert done.stderr.count("out of memory") == bool(words)


def test_under_ulimit_v_a_signal_that_comes_at_once_is_handed_on():
    done = subprocess.run(
        [sys.executable, "-c", SLOW_FORK + LIMITED.replace("{work}", AT_ONCE)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (143, "begun\n"), done.stderr
