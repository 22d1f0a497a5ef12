"""SIGKILL at a random moment of each command that writes: nothing is lost, and nothing is blocked.

``python -m tools.kill 1000`` makes a small store, measures how long each command takes, and then,
for each of the seeds, starts one on a copy of the store and kills it at a moment drawn evenly from
0 to 1.1 times that. Afterwards

- ``verify`` finds no error,
- no listing lies about that the command had put on the disk,
- each row, vector, review, slice and exported file is as before the command, or as after it, and
  as after it where the command had said that it was done; what a second writer did is all there,
- ``vacuum`` is not blocked, and changes no row (every third kill),
- the same command ends with 0 and leaves what an undisturbed run leaves, value by value,
- ``delete --erase`` is not blocked, and leaves the item in no file (every third kill).

A table is printed, and each finding with its seed; with findings the exit code is 1. With ``--s3``
the store lies in an object store, Ceph's gateway on loopback (`tools.ceph`). ``--only WORD|WORD``
takes the commands with one of these words, ``--seed N`` begins with that seed.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import pkgutil
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import featurestore
import heads
from featurestore.pipeline import writer
from featurestore.storage import cache
from featurestore.storage.remote import as_path
from tools import ceph, held, warm
from tools.held import State
from tools.kill_cases import CASES, SETUP, Case, in_small_parts, make_inputs

LATE = 1.1  # kills are drawn up to this many times the undisturbed time


ERASED = ("a07", "b08", "t08", "dark/pictures08.png")  # one of them is in each data set


@dataclass
class Row:
    """A line of the table."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Undisturbed:
    """What a case is like without a kill."""

    kept: Path  # the store before it
    before: State
    other: State  # after the command that runs at once, alone
    after: State
    files: dict[str, int]  # before it
    names: set[str]  # of files after it
    seconds: float
    last_line: str  # that the command prints


class Place:
    """The folders of one run, and the store's place in each try."""

    def __init__(self, home: Path, bucket: str) -> None:
        self.home, self.bucket, self.number = home, bucket, 0
        self.url, self.out = "", home

    def renew(self, kept: Path | None) -> None:
        """Make a new store, a copy of what was kept, and an empty folder for exports."""
        if self.out != self.home:
            shutil.rmtree(self.out, ignore_errors=True)
            if isinstance(url := as_path(self.url), Path):
                shutil.rmtree(url)
        self.number += 1
        base = self.bucket if kept is not None else ""
        self.url = f"{base or self.home}/store-{self.number}"
        self.out = self.home / f"out-{self.number}"
        self.out.mkdir()
        if kept is not None and self.bucket:
            self.call(held.fill, kept, self.url)
        elif kept is not None:
            shutil.copytree(kept, self.url)

    def words(self, text: str) -> list[str]:
        """Return the words of a command on the present store."""
        places = {"{in}": str(self.home / "in"), "{out}": str(self.out)}
        filled = re.sub(r"\{\w+\}", lambda found: places[found[0]], text)
        words = filled.split()
        return words if words[0] == "predict" else [*words, "--store", self.url]

    def start(self, text: str, case: Case | None = None) -> warm.Running:
        """Begin a command on the present store, as a case has it."""
        is_large = case is not None and case.is_large
        return warm.start(self.words(text), before=in_small_parts if is_large else lambda: None)

    def run(self, text: str, case: Case | None = None) -> warm.Ended:
        """Run a command on the present store."""
        return self.start(text, case).wait()

    def call(self, function: Any, *arguments: Any) -> str:
        """Call a function in a process of its own; return what it prints."""
        ended = warm.run(partial(function, *arguments))
        if ended.code != 0:
            raise RuntimeError(f"{ended.code}: {ended.err}")
        return ended.out

    def look(self) -> tuple[State, list[str], dict[str, int]]:
        """Return what the present store holds, what `verify` finds, and its files."""
        try:
            seen = json.loads(self.call(held.state_of, self.url, self.out))
        except RuntimeError as error:
            return {}, [f"cannot be read: {error}"], {}
        files = {name.replace(self.url, ""): size for name, size in seen["files"].items()}
        return seen["held"], seen["errors"], files


def measure(place: Place, base: Path, case: Case) -> Undisturbed:
    """Run a case without a kill."""
    kept = base
    if case.first or case.is_damaged:
        place.bucket, bucket = "", place.bucket
        place.renew(base)
        for text in case.first:
            assert place.run(text, case).code == 0, text
        if case.is_damaged:
            place.call(held.lose_commits, place.url, case.dataset)
        kept = place.home / f"kept-{place.number}"
        shutil.copytree(place.url, kept)
        place.bucket = bucket
    place.renew(kept)
    before, errors, files = place.look()
    assert not errors or case.is_damaged, (case, errors)
    other = before
    if case.at_once:
        assert place.run(case.at_once, case).code == 0, case
        other = place.look()[0]
    ended = place.run(case.words, case)
    assert ended.code in (0, 3), (case, ended)
    after, errors, left = place.look()
    assert not errors, (case, errors)
    said = (ended.out or ended.err).strip().splitlines()
    last_line = _without_numbers(said[-1]) if said else ""
    return Undisturbed(kept, before, other, after, files, set(left), ended.seconds, last_line)


def _without_numbers(text: str) -> str:
    return re.sub(r"[\d.]+|store-\S+|out-\S+", "#", text)


def kill_once(place: Place, case: Case, plain: Undisturbed, seed: int, row: Row) -> None:
    """Kill a case once, and look at what is left."""
    draw = random.Random(seed)
    place.renew(plain.kept)

    def wrong(kind: str, what: object) -> None:
        row.counts[kind] += 1
        row.findings.append(f"seed {seed}: {case}: {kind}: {what}")

    other = place.start(case.at_once, case) if case.at_once else None
    running = place.start(case.words, case)
    time.sleep(draw.random() * LATE * plain.seconds)
    with suppress(ProcessLookupError):
        running.kill()
    ended = running.wait()
    if other is not None and (done := other.wait()).code not in (0, 3):
        wrong("the other", done)
    now, errors, files = place.look()
    is_done = now == plain.after and (
        plain.before != plain.after or set(files) == plain.names
    )  # compact and vacuum change no row
    row.counts["kills"] += ended.code == -9
    if ended.code == -9:
        has_begun = is_done or now != plain.before or files != plain.files
        row.counts["after" if is_done else "during" if has_begun else "before"] += 1
    else:
        row.counts["ended"] += 1
    if errors and "unreadable" not in str(now.keys()):
        wrong("verify", errors)
    if unnamed := [one for one in files if Path(one).name.startswith("tmp")]:
        wrong("verify", f"listings that lie about: {unnamed}")
    said = _without_numbers(ended.out + ended.err)
    has_said = ended.code in (0, 3) or (plain.last_line and plain.last_line in said)
    if has_said and now != plain.after:
        wrong("rows", ("said to be done", _differing(now, plain.after)))
    if lost := _neither(now, plain):
        wrong("rows", lost)
    if seed % 3 == 0 and (blocked := _vacuum(place, case, now)):
        wrong("blocked", blocked)
    again = place.run(case.words, case)
    if again.code not in (0, 3) and not (case.is_once and is_done and again.code == 1):
        wrong("again", again)
    finally_, errors, _ = place.look()
    if errors:
        wrong("verify", errors)
    if finally_ != plain.after:
        wrong("rows", _differing(finally_, plain.after))
    if seed % 3 == 1 and (blocked := _erase(place, finally_)):
        wrong("blocked", blocked)


def _neither(now: State, plain: Undisturbed) -> list[str]:
    """Return what is neither as before nor as after; what the other writer did must be there."""
    if any(key.endswith("unreadable") for key in now):
        return []
    found = []
    for key in sorted({*now, *plain.before, *plain.after}):
        allowed = {plain.before.get(key), plain.after.get(key)}
        if plain.other.get(key) != plain.before.get(key):
            allowed = {plain.other.get(key), plain.after.get(key)}
        if now.get(key) not in allowed:
            found.append(f"{key}: {now.get(key)}, not of {allowed}")
    return found[:5]


def _differing(now: State, wanted: State) -> list[str]:
    keys = sorted(key for key in {*now, *wanted} if now.get(key) != wanted.get(key))
    return [f"{key}: {now.get(key)}, not {wanted.get(key)}" for key in keys[:5]]


def _vacuum(place: Place, case: Case, now: State) -> str:
    """Vacuum what a kill left; return what was wrong about it."""
    for name in sorted({key.split()[0] for key in now if key.split()[1] == "item"}):
        ended = place.run(f"vacuum {name} --older-than 0")
        if ended.code != 0:
            return f"vacuum: {ended}"
    if (then := place.look()[0]) != now:
        return f"vacuum: {_differing(then, now)}"
    return ""


def _erase(place: Place, now: State) -> str:
    """Erase an item of each data set; return what was wrong about it."""
    for name in sorted({key.split()[0] for key in now}):
        known = [one for one in ERASED if f"{name} item {one}" in now]
        if not known:
            continue
        ended = place.run(f"delete {name} {known[0]} --erase --yes")
        if ended.code != 0:
            return f"erase: {ended}"
        if isinstance(folder := as_path(f"{place.url}/datasets/{name}"), Path):
            found = place.call(held.held_in_files, folder, known[0])
            if found:
                return f"erased, but in {found}"
    return ""


COLUMNS = ("kills", "before", "during", "after", "ended", "verify", "rows", "again", "blocked")


def preload(*, everything: bool = True) -> None:
    """Import what commands import; for a few kills, ``everything`` costs more than it saves."""
    warm.preload()
    if everything:
        _preload_all()
    gc.collect()
    gc.freeze()  # else each fork's collections would copy all of this


def _preload_all() -> None:
    import datasets
    import skops.io

    assert all((datasets, skops))
    for package in (featurestore, heads):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            with suppress(ImportError):  # an extra that is not installed
                if not module.name.endswith("__main__"):
                    importlib.import_module(module.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill as often as asked, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("n", type=int, nargs="?", default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--s3", action="store_true")
    given = parser.parse_args(arguments)
    preload(everything=given.n >= 50)
    # Forks of this process cache small views, too, and commit a few rows at a time.
    cache.WORTH_BYTES, writer.COMMIT_ROWS = 0, 6
    rows: dict[str, Row] = {}
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kill-")))
        tempfile.tempdir = str(home)  # what kills leave there goes with it
        os.environ["FEATURESTORE_CACHE"] = str(home / "user")
        if given.s3:
            environment = stack.enter_context(ceph.running(with_bucket=False))
            os.environ.update(environment)
            warm.run(partial(ceph.make_bucket, environment))
        place = Place(home, "s3://bucket" if given.s3 else "")
        (home / "in").mkdir()
        make_inputs(home / "in")
        place.renew(None)
        cases = [one for one in CASES if any(word in one.name for word in given.only.split("|"))]
        for text in SETUP if any(one.dataset != "n" for one in cases) else SETUP[:1]:
            ended = place.run(text)
            assert ended.code in (0, 3), (text, ended)
        base = home / "base"
        shutil.copytree(place.url, base)
        plain: dict[str, Undisturbed] = {}
        with suppress(KeyboardInterrupt):  # the table of what was done comes all the same
            for seed in range(given.seed, given.seed + given.n):
                case = cases[seed % len(cases)]
                if case.name not in plain:
                    plain[case.name] = measure(place, base, case)
                row = rows.setdefault(case.name, Row())
                kill_once(place, case, plain[case.name], seed, row)
                for one in row.findings:
                    print(one, flush=True)
                row.findings.clear()
    gc.unfreeze()
    return _print(rows)


def _print(rows: dict[str, Row]) -> int:
    """Print the table as Markdown; return the exit code."""
    print("| command | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    total: Counter[str] = Counter()
    for name, row in sorted(rows.items()):
        total.update(row.counts)
        print(f"| {name} | " + " | ".join(str(row.counts[one]) for one in COLUMNS) + " |")
    print("| all | " + " | ".join(str(total[one]) for one in COLUMNS) + " |")
    n_wrong = sum(total[one] for one in ("verify", "rows", "again", "blocked", "the other"))
    n_tries = total["kills"] + total["ended"]
    print(f"{n_tries} tries, {total['kills']} kills, {n_wrong} findings")
    return int(n_wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
