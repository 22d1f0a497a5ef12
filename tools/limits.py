"""Commands on a full disk, and commands that a signal stops: one line, and nothing is lost.

``python -m tools.limits disk`` (root: it mounts a small tmpfs) runs each command with little room
and with more, until it succeeds; ``disk NAME…`` runs those of `COMMANDS`. ``signals SEED N`` sends
a signal at random moments. Each run is a process of its own. What ended wrongly is printed, and
ends this with 1: a traceback, another exit code, a damaged store, leftovers, or a command that does
not work when there is room again.
``suite`` is what the suite runs.
"""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from featurestore.storage import cache
from tools import warm

N, DIM, N_CLASSES = 240, 24, 3
FREE = [0, 4096, 8192, 16384, 32768, 65536, 131072]  # bytes that are left on the disk
STOP_S = 6.0  # a signal ends a command within 2 s; this machine may be busy
NO_ROOM = 75  # exit code: nothing can be mounted here


@dataclass(frozen=True)
class Command:
    """A command line, what may keep it from working twice, and whether the suite runs it."""

    line: str
    twice: str = ""  # what it says where it has been done already
    is_quick: bool = True
    must_fail: bool = True  # with no room at all; else its answer comes all the same


COMMANDS = {
    "embed": Command("embed {in}/more --dataset n -e baseline:pixels#size=8"),
    "embed again": Command(
        "embed {in}/more --dataset p -e baseline:pixels#size=8 -e baseline:pixels#size=4",
        is_quick=False,
    ),
    "import": Command(
        "import {in}/a.parquet --dataset n --name x --id id --label kind", "--overwrite"
    ),
    "export": Command("export d {disk}/out.parquet", "there is something"),
    "export arrow": Command("export d {disk}/out.arrow", "there is something", is_quick=False),
    "export npy": Command("export d {disk}/out.npy", "there is something"),
    "export folder": Command("export d {disk}/out", "there is something", is_quick=False),
    "index": Command("index d --factory IVF4,SQ8 --recall 0.9"),
    "search": Command("search d --item i007 -k 3 --json", must_fail=False, is_quick=False),
    "compare": Command("compare d --head prototype --json", must_fail=False),
    "train": Command("train d --head prototype", is_quick=False),
    "train, saved": Command("train d --head prototype --save {disk}/bundle", is_quick=False),
    "predict": Command("predict {in}/bundle {in}/more -o {disk}/out.csv"),
    "labels": Command("labels d {in}/labels.csv --id id --label other"),
    "split": Command("split d --test 0.2"),
    "review": Command("review d --item i001 --exclude --who me", must_fail=False),
    "reviews out": Command("review d --export {disk}/out.csv", is_quick=False),
    "slices": Command("slices d --save s2 --id i001", "there is a slice"),
    "project": Command("project d --method pca"),
    "compact": Command("compact d"),
    "vacuum": Command("vacuum d --older-than 0", must_fail=False, is_quick=False),
    "delete": Command("delete d i001 --yes", "has no item"),
    "erase": Command("delete d i001 --erase --yes", "has no item", is_quick=False),
    "curve": Command(
        "curve d --head prototype --draws 2", is_quick=False, must_fail=False
    ),
    "quality": Command("quality d --kind duplicate", is_quick=False, must_fail=False),
    "repair": Command("store repair d", is_quick=False, must_fail=False),
    "verify": Command("verify --no-canary", is_quick=False, must_fail=False),
    "transfer": Command(
        "transfer t -e import:x --against import:y --head prototype --no-blend",
        is_quick=False, must_fail=False,
    ),
    "suggest": Command("suggest u -n 3", is_quick=False, must_fail=False),
    "relocate": Command("relocate p {in}/moved", is_quick=False),
    "sql": Command(
        "sql 'select a.item_id from d a, d b order by 1 limit 3'", is_quick=False, must_fail=False
    ),
}  # fmt: skip


def make_store(folder: Path) -> Path:
    """Make inputs, a bundle and a store of vectors and pictures; return the store's path."""
    rng = np.random.default_rng(0)
    classes = np.arange(N) % N_CLASSES
    vectors = rng.normal(size=(N, DIM)).astype(np.float32) + 3 * np.eye(DIM, dtype="f4")[classes]
    rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
    ids = [f"i{n:03d}" for n in range(N)]
    table = pa.table({"id": ids, "kind": [f"class {one}" for one in classes], "vector": rows})
    pq.write_table(table.slice(0, 100), folder / "a.parquet")
    pq.write_table(table.slice(100), folder / "b.parquet")
    some = pa.array(
        [one if n % 4 == 0 else None for n, one in enumerate(table["kind"].to_pylist())]
    )
    pq.write_table(table.set_column(1, "kind", some), folder / "some.parquet")
    lines = ["id,other", *(f"{one},{n % 2}" for n, one in enumerate(ids))]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    for n in range(12):
        path = folder / ("pictures" if n < 6 else "more") / f"c{n % 2}" / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(n).integers(0, 255, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    shutil.copytree(folder / "pictures", folder / "moved")
    store = folder / "store"
    for line in (
        "import {in}/a.parquet --dataset d --name x --id id --label kind",
        "import {in}/b.parquet --dataset d --name x --id id --label kind",
        "import {in}/some.parquet --dataset u --name x --id id --label kind",
        "import {in}/a.parquet --dataset t --name x --id id --label kind",
        "import {in}/a.parquet --dataset t --name y --id id --label kind",
        "embed {in}/pictures --dataset p -e baseline:pixels#size=8",
        "train p --head prototype --save {in}/bundle",
        "review d --item i002 --confirm --who me",
    ):
        ended = warm.run(words(line, folder, folder, store))
        assert ended.code == 0, (line, ended)
    return store


def words(line: str, given: Path, disk: Path, store: Path) -> list[str]:
    """Return the words of a command line of `COMMANDS`."""
    said = [
        one.replace("{in}", str(given)).replace("{disk}", str(disk)) for one in shlex.split(line)
    ]
    return said if said[0] == "predict" else [*said, "--store", str(store)]


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk of 20 MB in memory; exits where that is not allowed."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        sys.exit(NO_ROOM)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, n_free: int) -> Path:
    """Fill a disk but for some bytes; return the file that does."""
    filler = disk / "filler"
    facts = os.statvfs(disk)
    filler.write_bytes(b"\0" * (facts.f_bavail * facts.f_frsize - n_free))
    return filler


def on_full_disk(command: Command, n_free: int, base: Path) -> tuple[int, list[str]]:
    """Run a command with so much room, then with more; return its exit code, what is wrong."""
    given = base.parent
    with small_disk(given / "disk") as disk:
        store = disk / "store"
        shutil.copytree(base, store)
        filler = fill(disk, n_free)
        arguments = words(command.line, given, disk, store)
        elsewhere = {"FEATURESTORE_CACHE": str(disk / "user")}
        ended = warm.run(arguments, elsewhere)
        filler.unlink()
        wrong = wrong_with(ended, command, n_free)
        left = [str(one) for one in disk.rglob("*.tmp*")]
        wrong += [f"left behind: {left}"] if left else []
        checked = warm.run(["verify", "--no-canary", "--store", str(store)])
        wrong += [f"verify: {checked.out}{checked.err}"] if checked.code else []
        again = warm.run(arguments, elsewhere) if ended.code else None
        if again is not None and again.code and not (command.twice and command.twice in again.err):
            wrong.append(f"with room again: {again.err}")
    return ended.code, wrong


def wrong_with(ended: warm.Ended, command: Command, n_free: int) -> list[str]:
    """Return what is wrong with how a command ended on a full disk."""
    errors = [one for one in ended.err.splitlines() if "error" in one]
    if ended.code == 0:
        return ["it says nothing of the disk"] if command.must_fail and not n_free else []
    if ended.code != 1 or len(errors) != 1 or errors[0] != ended.err.strip().splitlines()[-1]:
        return [f"exit code {ended.code}: {ended.err}"]
    is_told = "No space left on device: /" in errors[0] and "what was committed" in errors[0]
    return [] if is_told else [f"it says: {errors[0]}"]


def full_disks(*, is_quick: bool, only: Sequence[str] = ()) -> int:
    """Run all commands, or those of these names, on full disks; return how many ended wrongly."""
    n_runs = n_wrong = 0
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder)) as given:
        base = make_store(given)
        for place, (name, command) in enumerate(COMMANDS.items()):
            if (is_quick and not command.is_quick) or (only and name not in only):
                continue
            for n_free in [FREE[0 if place % 2 else 1 + place // 2 % 3]] if is_quick else FREE:
                code, wrong = on_full_disk(command, n_free, base)
                n_runs += 1
                n_wrong += bool(wrong)
                if wrong:
                    print(f"{name}, {n_free:,} bytes free: {'; '.join(wrong)}")
                if code == 0 and n_free:
                    break
    print(f"{n_runs} commands on full disks, {n_wrong} ended wrongly")
    return n_wrong


def signals(seed: int, n: int) -> int:
    """Send signals at random moments of commands; return how many ended wrongly."""
    draw, n_wrong, n_stopped, slowest = random.Random(seed), 0, 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder)
        base = make_store(given)
        for turn in range(n):
            name = list(COMMANDS)[turn % len(COMMANDS)]
            number = draw.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
            disk, moment = given / f"disk{turn}", draw.uniform(0.02, 0.5)
            disk.mkdir()
            shutil.copytree(base, disk / "store")
            running = warm.start(words(COMMANDS[name].line, given, disk, disk / "store"))
            time.sleep(moment)
            os.kill(running.pid, number)
            began = time.monotonic()
            ended = running.wait(STOP_S)
            took = time.monotonic() - began
            is_right = ended.code in (0, 128 + number, -number)
            checked = warm.run(["verify", "--no-canary", "--store", str(disk / "store")])
            # Python prints, and drops, what a signal raises while it frees an object.
            is_dropped = ended.err.startswith("Exception ignored in")
            if not is_right or checked.code or ("Traceback" in ended.err and not is_dropped):
                n_wrong += 1
                print(f"{name}, {number.name} after {moment:.3f} s: {ended} {checked.out}")
            if ended.code == 128 + number:
                n_stopped, slowest = n_stopped + 1, max(slowest, took)
            shutil.rmtree(disk)
    print(f"{n} commands, {n_stopped} stopped, the slowest in {slowest:.2f} s, {n_wrong} wrongly")
    return n_wrong


def main() -> int:
    """Run what the command line names."""
    what, *rest = sys.argv[1:]
    warm.preload()
    cache.WORTH_BYTES = 0  # small views are cached, too; commands are forks of this process
    if what == "disk":
        return int(full_disks(is_quick=False, only=rest) > 0)
    if what == "signals":
        return int(signals(int(rest[0]), int(rest[1])) > 0)
    return int(full_disks(is_quick=True) > 0)


if __name__ == "__main__":
    sys.exit(main())
