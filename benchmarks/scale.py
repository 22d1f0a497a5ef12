"""CPU-seconds and peak memory of whole processes over short texts, a million and five.

Run: python -m benchmarks.scale [SECTION…] (an hour on 2 cores, 15 GB of disk; sections, as
embed-1M and read-5M, that are not named keep their last figures). With other sizes, as in
FEATURESTORE_SCALE=100000,500000, nothing is written beside the printed table. The encoder does
nothing: its 128 numbers are drawn from a hash of the text, in clusters.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.report import Row, at_most, run_sections, saved, show
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import Store, open_store

SIZES = (1_000_000, 5_000_000)
DIM = 128
N_CLASSES = 10
_BLOCK = 250_000  # rows of a source that are made at once
_CLUSTERS, _BANK = 1000, 1 << 13
_SETTLED_S = 3


class Null:
    """128 numbers that are drawn from a hash of the text."""

    version = "1"

    @cached_property
    def banks(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rng = np.random.default_rng(0)
        centres = rng.standard_normal((_CLUSTERS, DIM), np.float32)
        near = 0.6 * rng.standard_normal((2, _BANK, DIM), np.float32)
        return centres[np.arange(_BANK) % _CLUSTERS] + near[0], near[1]

    def encode_texts(self, texts: list[str]) -> NDArray[np.float32]:
        drawn = np.fromiter((crc32(one.encode()) for one in texts), np.uint32, len(texts))
        first, second = self.banks
        return first[drawn % _BANK] + second[drawn // _BANK % _BANK]


@dataclass(frozen=True)
class Cost:
    """What a process took, its start and its imports included."""

    cpu_s: float
    seconds: float
    peak_mb: float  # VmHWM
    private_mb: float  # at its end: what no file backs
    answer: Any = None


def cost_of(function: Callable[..., object], *arguments: object) -> Cost:
    """Run a function of a module of ours in a process of its own."""
    (cost,) = costs_of([(function, *arguments)])
    return cost


def costs_of(calls: Sequence[tuple[Any, ...]]) -> list[Cost]:
    """Run functions at once, each in a process of its own."""
    running = []
    for function, *arguments in calls:
        given = json.dumps([function.__module__, function.__qualname__, *map(_plain, arguments)])
        command = [sys.executable, "-m", "benchmarks.scale", "--call", given]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    costs = []
    for process in running:
        said, _ = process.communicate()
        assert process.returncode == 0, said
        costs.append(Cost(**json.loads(said.splitlines()[-1])))
    return costs


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _call(given: str) -> None:
    """Run a function and print its cost: what `costs_of` starts."""
    started = time.perf_counter()
    module, name, *arguments = json.loads(given)
    answer = getattr(importlib.import_module(module), name)(*arguments)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    peak, private = (int(status[key].split()[0]) / 1024 for key in ("VmHWM", "RssAnon"))
    cpu_s = sum(one.ru_utime + one.ru_stime for one in used)
    seconds = time.perf_counter() - started
    print(json.dumps(vars(Cost(cpu_s, seconds, peak, private, answer))))


def make_source(path: str | Path, n: int, first: int = 0) -> Path:
    """Write n short texts, the numbers from ``first`` on, as a table with ids and labels."""
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("label", pa.string())])
    words = ["amber", "birch", "coral", "delta", "ember", "fjord", "grove", "heron", "inlet"]
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(first, first + n, _BLOCK):
            numbers = range(start, min(first + n, start + _BLOCK))
            texts = [f"{words[i % 9]} {words[i // 9 % 9]} text number {i}" for i in numbers]
            labels = [f"class {i % N_CLASSES}" for i in numbers]
            ids = [f"r{i:09d}" for i in numbers]
            writer.write_table(pa.table([ids, texts, labels], schema=schema))
    return Path(path)


def embed(store: str, *sources: str) -> list[int]:
    """Embed tables; return how many rows were embedded, and how many are unchanged."""
    options = SourceOptions(text="text", id="id", label=("label",))
    (report,) = open_store(store, create=True).embed(
        sources, dataset="d", encoders=[Null()], source_options=options
    )
    return [report.n_encoded, report.n_unchanged]


def read_metadata(source: str) -> int:
    """Read all columns of a table, as plainly as one can."""
    return sum(len(one) for one in pq.ParquetFile(source).iter_batches(65_536))


@dataclass(frozen=True)
class Place:
    """A folder with a store of n embedded texts, made when first asked for."""

    folder: Path
    n: int

    @property
    def source(self) -> Path:
        path = self.folder / f"texts-{self.n}.parquet"
        if not path.exists():
            make_source(path, self.n)
            time.sleep(_SETTLED_S)  # of a younger file nobody can say later that it is as it was
        return path

    @property
    def path(self) -> Path:
        return self.folder / f"store-{self.n}"

    @cached_property
    def first_cost(self) -> Cost:
        """What embedding all of it took."""
        cost = cost_of(embed, self.path, self.source)
        assert cost.answer == [self.n, 0]
        return cost

    @property
    def store(self) -> Store:
        if not self.path.exists():
            self.first_cost  # noqa: B018 - it makes the store
        return open_store(self.path)


def start() -> None:
    """Do nothing: what is left is a start of Python with the packages that embedding imports."""
    assert Store


def embedding(place: Place) -> list[Row]:
    """Embed n rows; again; one more from another source; 10 % more, by one process and by four."""
    n = place.n
    found = _rows("first embed", n, place.first_cost)
    found.append(Row(f"first embed, {_short(n)}: a row", place.first_cost.cpu_s / n * 1e6, "µs"))
    found += _rows("nothing to do", n, cost_of(embed, place.path, place.source))
    os.utime(place.source)
    again = cost_of(embed, place.path, place.source)
    found += _rows("nothing to do, the source touched", n, again)
    reading = cost_of(read_metadata, place.source)
    found += _rows("reading the source", n, reading)
    one = make_source(place.folder / "one.parquet", 1, 2 * n)
    found += _rows("one new item", n, cost_of(embed, place.path, one))
    more = make_source(place.folder / "more.parquet", n // 10, 3 * n)
    by_one = cost_of(embed, place.path, more)
    found += _rows("10 % more, one process", n, by_one)
    quarters = [
        make_source(place.folder / f"more-{i}.parquet", n // 40, 4 * n + i * (n // 40))
        for i in range(4)
    ]
    four = costs_of([(embed, place.path, one) for one in quarters])
    cpu_s, peak_mb = sum(one.cpu_s for one in four), max(one.peak_mb for one in four)
    found += _rows("10 % more, four processes", n, Cost(cpu_s, 0, peak_mb, 0))
    found.append(at_most(f"10 % more, {_short(n)}: four over one", cpu_s / by_one.cpu_s, "", 1.3))
    started = cost_of(start).cpu_s
    ratio = (cpu_s - 4 * started) / (by_one.cpu_s - started)
    found.append(Row(f"10 % more, {_short(n)}: four over one, without their starts", ratio, ""))
    return found


def over() -> list[Row]:
    """Compare what was measured at the larger size with the smaller one."""
    small, large = (
        {
            row.what.replace(f", {_short(n)}", ""): row.value
            for row in saved("scale", f"embed-{_name(n)}")
        }
        for n in SIZES
    )
    n = _short(SIZES[1])
    rows = [
        at_most(f"{what}, {n} over {_short(SIZES[0])}: peak", large[f"{what}: peak"] /
                small[f"{what}: peak"], "", 1.2)
        for what in ("first embed", "nothing to do", "one new item")
    ]  # fmt: skip
    a_row = large["first embed: a row"] / small["first embed: a row"]
    reading = large["nothing to do: CPU"] / large["reading the source: CPU"]
    return [
        *rows,
        at_most(f"first embed, {n} over {_short(SIZES[0])}: CPU a row", a_row, "", 1.15),
        at_most(f"nothing to do, {n}: peak", large["nothing to do: peak"], "MB", 1000),
        at_most(f"nothing to do, {n}: CPU over reading the source", reading, "", 1.5),
        at_most(f"one new item, {n}: peak", large["one new item: peak"], "MB", 500),
        at_most(f"one new item, {n}: CPU", large["one new item: CPU"], "s", 5),
    ]


def _rows(what: str, n: int, cost: Cost) -> list[Row]:
    what = f"{what}, {_short(n)}"
    return [Row(f"{what}: CPU", cost.cpu_s, "s"), Row(f"{what}: peak", cost.peak_mb, "MB")]


def _short(n: int) -> str:
    return f"{n / 1e6:g} M"


def _name(n: int) -> str:
    return _short(n).replace(" ", "")


def reading(place: Place) -> list[Row]:
    from benchmarks.scale_read import reading as read  # it needs what stands here

    return read(place)


# Each measures one size; later ones find the store of the first.
PARTS: dict[str, Callable[[Place], list[Row]]] = {"embed": embedding, "read": reading}


def main(chosen: Sequence[str] = ()) -> int:
    asked = os.environ.get("FEATURESTORE_SCALE")
    sizes = tuple(map(int, asked.split(","))) if asked else SIZES
    with tempfile.TemporaryDirectory(dir=os.environ.get("FEATURESTORE_BENCH")) as name:
        os.environ["FEATURESTORE_CACHE"] = str(Path(name) / "cache")
        sections: dict[str, Callable[[], list[Row]]] = {
            f"{part}-{_name(n)}": partial(PARTS[part], Place(Path(name), n))
            for n in sizes
            for part in PARTS
        }
        if sizes == SIZES:
            return run_sections("scale", sections | {"over": over}, chosen)
        return max(show(sections[one]()) for one in chosen or sections)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--call"]:
        _call(sys.argv[2])
    else:
        sys.exit(main(sys.argv[1:]))
