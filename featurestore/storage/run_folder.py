"""The files of a run that several workers share: its parts, and what became of each.

``run.json`` is written last and deleted first: with it a run exists, without it what is left of
one is rubbish. Parts and manifests are made where there is none, and never changed.
"""

from __future__ import annotations

import io
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import StoreCorrupt
from featurestore.storage.files import (
    json_bytes,
    make_folder,
    matching,
    read_json,
    remove_folder,
    write_json,
    write_new,
)
from featurestore.storage.remote import StorePath

SUFFIX = "-parts"
FORMAT = 1  # of run.json
ATTEMPTS = 3  # that may die with a part before it is halved, and with an item before it fails
_FORGOTTEN_S = 30 * 86_400.0  # a run that nobody touched for so long is over
_MANIFEST, _FACTS = "done", "run.json"


@dataclass(frozen=True)
class Unfinished:
    """A run that was planned and is not done yet."""

    name: str
    planned: str  # when
    encoders: tuple[str, ...]
    n_items: int  # to embed
    n_parts: int
    n_done: int  # parts that workers have done
    problem: str = ""  # why it cannot be gone on with

    def __str__(self) -> str:
        if self.problem:
            return f"planned, but {self.problem}"
        what = " + ".join(self.encoders)
        done = f"{self.n_done} of {self.n_parts} parts done"
        return f"planned: {self.n_items:,} items for {what}, {done}"


@dataclass(eq=False)
class RunFolder:
    """A run that is under way; its facts are read once."""

    path: StorePath  # datasets/<name>/runs/<run>

    @classmethod
    def begin(cls, dataset: StorePath) -> RunFolder:
        """Make the folder of a run to be planned."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        run = cls(dataset / "runs" / f"{stamp}-{uuid4().hex[:8]}{SUFFIX}")
        for name in ("parts", _MANIFEST, "attempts", "failures"):
            make_folder(run.path / name)
        return run

    @property
    def name(self) -> str:
        """Its name."""
        return self.path.name

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What all its workers have to know; see `workers.planning`.

        Raises
        ------
        StoreCorrupt
            If they are damaged, or another version of featurestore wrote them.
        """
        found = read_json(self.path / _FACTS)
        if found.get("format") != FORMAT:
            raise StoreCorrupt(
                f"{self.path / _FACTS} was written by another version of featurestore: end the "
                "run with that one, or give it up with `featurestore embed --drop-plan`"
            )
        return found

    @property
    def is_open(self) -> bool:
        """Whether it is still to be done."""
        return (self.path / _FACTS).is_file()

    def open(self, facts: Mapping[str, Any]) -> None:
        """Let workers begin: all its parts are there."""
        write_json(self.path / _FACTS, {"format": FORMAT, **facts})

    def close(self) -> None:
        """Delete it: all that was made is in the tables, or is not wanted any more."""
        (self.path / _FACTS).unlink(missing_ok=True)
        remove_folder(self.path)

    def add_part(self, name: str, part: pa.Table) -> None:
        """Write a part, where it is not there."""
        sink = io.BytesIO()
        pq.write_table(part, sink, compression="zstd")
        write_new(self.path / "parts" / f"{name}.parquet", sink.getvalue())

    def part(self, name: str) -> pa.Table:
        """Read a part."""
        raw = (self.path / "parts" / f"{name}.parquet").read_bytes()
        return pq.read_table(pa.BufferReader(raw))

    def parts(self) -> list[str]:
        """Return the names of all parts, halved ones too, in the order of the sources."""
        return sorted(path.stem for path in (self.path / "parts").glob("*.parquet"))

    def done(self) -> set[str]:
        """Return the names of the parts that have a manifest."""
        return {path.stem for path in (self.path / _MANIFEST).glob("*.json")}

    def left(self) -> list[str]:
        """Return the names of the parts that nobody has done."""
        done = self.done()
        return [name for name in self.parts() if name not in done]

    def is_done(self, name: str) -> bool:
        """Whether a part has a manifest."""
        return (self.path / _MANIFEST / f"{name}.json").is_file()

    def manifest(self, name: str) -> dict[str, Any]:
        """Return what became of a part."""
        return read_json(self.path / _MANIFEST / f"{name}.json")

    def write_manifest(self, name: str, value: Mapping[str, Any]) -> bool:
        """Say what became of a part, unless it was said before; whether this is what counts."""
        content = json_bytes(dict(value), indent=None)
        return write_new(self.path / _MANIFEST / f"{name}.json", content)

    def begin_attempt(self, name: str, most: int) -> int | None:
        """Note that a worker begins a part; return a number, None where ``most`` have begun."""
        said = json_bytes({"when": time.time()}, indent=None)
        for number in range(most):
            if write_new(self._attempt(name, number), said):
                return number
        return None

    def forget_attempt(self, name: str, number: int) -> None:
        """Take back that a worker began: it lives, and the part is not to blame."""
        self._attempt(name, number).unlink(missing_ok=True)

    def forget_last_attempt(self, name: str) -> None:
        """Take back that the last worker began a part: whoever asked for it has ended it."""
        if n := self.n_attempts(name):
            self.forget_attempt(name, n - 1)

    def n_attempts(self, name: str) -> int:
        """Count the workers that began a part and did not take it back."""
        return sum(self._attempt(name, number).is_file() for number in range(ATTEMPTS))

    def _attempt(self, name: str, number: int) -> StorePath:
        return self.path / "attempts" / f"{name}-{number}.json"

    @property
    def state(self) -> Unfinished:
        """What was planned, and how much of it is done."""
        try:
            facts = self.facts
        except StoreCorrupt as error:
            return Unfinished(self.name, "", (), 0, 0, 0, f"it cannot be gone on with: {error}")
        parts, done = self.parts(), self.done()
        halved = sum("." in name for name in parts) // 2  # each pair stands for one part
        n_parts = len(parts) - halved
        return Unfinished(
            self.name,
            facts["planned"],
            tuple(one["spec"] for one in facts["views"]),
            max(facts["tally"]["n_todo"]),
            n_parts,
            min(len(done) - halved, n_parts),
        )

    @property
    def is_forgotten(self) -> bool:
        """Whether nobody touched it for a month."""
        paths = [self.path / _FACTS, *(self.path / _MANIFEST).glob("*.json")]
        touched = max(float(path.stat().st_mtime) for path in paths)
        return touched < time.time() - _FORGOTTEN_S


def open_runs(dataset: StorePath) -> list[RunFolder]:
    """Return the runs of a data set that are not done, the oldest first."""
    found = matching(dataset / "runs", f"*{SUFFIX}/{_FACTS}")
    return [RunFolder(path.parent) for path in found]


def shards_of_runs(dataset: StorePath) -> set[str]:
    """Return the names of all shards that the manifests of unfinished runs name."""
    names: set[str] = set()
    for run in open_runs(dataset):
        for part in run.done():
            for shards in run.manifest(part).get("shards", {}).values():
                names.update(name for name, *_ in shards)
    return names


def drop_runs(dataset: StorePath, *, only_forgotten: bool = False) -> list[StorePath]:
    """Delete unfinished runs, and what closed ones left; return their folders."""
    gone = []
    for path in _folders(dataset):
        run = RunFolder(path)
        if only_forgotten and ((run.is_open and not run.is_forgotten) or _is_being_planned(path)):
            continue
        run.close()
        gone.append(path)
    return gone


def _is_being_planned(path: StorePath) -> bool:
    """Whether a folder without ``run.json`` may get one: it is less than a day old."""
    if RunFolder(path).is_open:
        return False
    began = datetime.strptime(path.name.split("-")[0], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
    return time.time() - began.timestamp() < 86_400


def _folders(dataset: StorePath) -> Iterator[StorePath]:
    folder = dataset / "runs"
    paths: Collection[StorePath] = [*folder.iterdir()] if folder.is_dir() else []
    yield from sorted((one for one in paths if one.name.endswith(SUFFIX)), key=str)
