"""One byte of a derived file flipped, or the file emptied: the same answer, or one line.

``python -m tools.flips 300`` makes a store with a cache, an index, a map and runs; then, for each
of the seeds, it damages one file, runs `verify` and a command that reads it, each in a process of
its own, and puts the store back. `verify` must find it. Right is the answer of the undamaged store
with exit code 0, or exit code 1 and one line that names the file. A signal, a traceback, another
answer, or another exit code is printed, and ends with 1.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.storage import cache
from tools import warm

N, DIM, N_CLASSES = 240, 24, 3
SEARCH = ["search", "d", "--item", "i007", "-k", "8", "--json"]
COMPARE = ["compare", "d", "--head", "prototype", "--json"]


@dataclass(frozen=True)
class Target:
    """A derived file, and the commands that read it."""

    file: Path
    commands: list[list[str]]


@dataclass(frozen=True)
class Wrong:
    """A damage that was not met as it should be."""

    seed: int
    what: str
    command: str
    ended: warm.Ended


def make_store(folder: Path) -> Path:
    """Make a store that holds one of each kind of derived file; return its path."""
    rng = np.random.default_rng(0)
    classes = np.arange(N) % N_CLASSES
    vectors = rng.normal(size=(N, DIM)).astype(np.float32) + 3 * np.eye(DIM, dtype="f4")[classes]
    rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
    ids = [f"i{n:03d}" for n in range(N)]
    kind = [f"class {one}" for one in classes]
    pq.write_table(pa.table({"id": ids, "kind": kind, "vector": rows}), folder / "in.parquet")
    store = folder / "store"
    for arguments in (
        ["import", str(folder / "in.parquet"), "--dataset", "d", "--name", "x",
         "--id", "id", "--label", "kind"],
        ["index", "d", "--factory", "IVF4,SQ8", "--recall", "0.99"],
        SEARCH,
        COMPARE,
        ["project", "d", "--method", "pca"],
    ):  # fmt: skip
        ended = warm.run([*arguments, "--store", str(store)])
        assert ended.code == 0, ended
    return store


def targets(store: Path) -> list[Target]:
    """Return the derived files of the store of `make_store`."""
    base = store / "datasets" / "d"
    (run,) = base.glob("runs/*-compare.json")
    found = [
        ("cache/*/[0-9]*-*/*", [SEARCH]),
        ("indexes/*/*", [SEARCH]),
        ("runs/*-compare.json", [["show", "d", run.stem, "--json"], ["show", "d", "--json"]]),
        ("cache/heads/*.json", [COMPARE]),  # which reads the view's cache, too
        ("cache/*/*/*.npz", [["project", "d", "--method", "pca"]]),
    ]
    made = [
        Target(file, commands)
        for pattern, commands in found
        for file in sorted(base.glob(pattern))
        if file.is_file()
    ]
    assert len({one.file.name for one in made}) >= 9, made
    return made


def damage(file: Path, draw: random.Random) -> str:
    """Flip a byte or empty the file; return what was done."""
    if draw.random() < 0.1:
        file.write_bytes(b"")
        return f"{file.name} emptied"
    content = bytearray(file.read_bytes())
    # Headers and footers are a small part of large files, and the worst of them.
    ends = [*range(min(600, len(content))), *range(max(0, len(content) - 600), len(content))]
    at = draw.choice(ends) if draw.random() < 0.6 else draw.randrange(len(content))
    content[at] ^= 1 << draw.randrange(8) if draw.random() < 0.5 else 255
    file.write_bytes(content)
    return f"{file.name} byte {at:,} of {len(content):,}"


def plain(text: str) -> Any:
    """Return an answer without what differs from run to run: times."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(one) for key, one in value.items() if key not in TIMES}
        return [without(one) for one in value] if isinstance(value, list) else value

    return without(json.loads(text)) if text.startswith(("{", "[")) else text


TIMES = {"seconds", "when", "fit_s", "created"}


def flips(store: Path, seeds: range) -> Iterator[tuple[str, Wrong | None]]:
    """Yield the kind of file and what went wrong, if anything did, for each seed."""
    known = targets(store)
    kept = store.with_name("kept")
    shutil.copytree(store, kept)
    answers, said = {}, {}
    for target in known:
        for command in target.commands:
            ended = warm.run([*command, "--store", str(store)])
            assert ended.code == 0, (command, ended)
            answers[tuple(command)] = [plain(ended.out)]
            said[tuple(command)] = ended.err
    exact = warm.run([*SEARCH, "--exact", "--store", str(store)])
    answers[tuple(SEARCH)].append(plain(exact.out))  # without its index, a search is exact
    for seed in seeds:
        draw = random.Random(seed)
        target = known[seed % len(known)]
        what = damage(target.file, draw)
        command = draw.choice(target.commands)
        is_found = warm.run(["verify", "d", "--no-canary", "--store", str(store)]).code == 1
        ended = warm.run([*command, "--store", str(store)])
        is_right = _is_right(ended, answers[tuple(command)], target.file)
        if target.file.name != "seen.json":  # which says nothing of the files
            # Else the byte means nothing, as a date in a zip, and nothing more may be said.
            is_right &= is_found or ended.err == said[tuple(command)]
        wrong = None if is_right else Wrong(seed, what, " ".join(command), ended)
        yield target.file.name if target.file.parent.parent.name != "heads" else "cell", wrong
        shutil.rmtree(store)
        shutil.copytree(kept, store)


def _is_right(ended: warm.Ended, answers: list[Any], file: Path) -> bool:
    if ended.code == 0:
        try:
            return plain(ended.out) in answers
        except ValueError:
            return False
    lines = ended.err.strip().splitlines()
    names = {file.name, file.parent.name}
    return ended.code == 1 and len(lines) == 1 and any(one in lines[0] for one in names)


def main() -> int:
    """Run as many seeds as asked, and print a table."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    warm.preload()
    cache.WORTH_BYTES = 0  # small views are cached, too; commands are forks of this process
    counts: Counter[str] = Counter()
    n_wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind, wrong in flips(make_store(Path(folder)), range(n)):
            counts[kind] += 1
            if wrong is not None:
                n_wrong += 1
                print(f"seed {wrong.seed}: {wrong.what}: {wrong.command}: {wrong.ended}")
    for kind, count in sorted(counts.items()):
        print(f"{kind:45} {count:5}")
    print(f"{n} damages, {n_wrong} met wrongly")
    return int(n_wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
