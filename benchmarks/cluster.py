"""A billion pictures on 64 to 1,024 GPUs: the real driver and the real tables, made-up workers.

Run: python -m benchmarks.cluster [64|256|1024|plan]   (half an hour of one core)

What hands out parts, begins them again, commits and closes the run is the code that a real run
has (`Drive`, `Committer`, `RunFolder`, Delta tables on this disk). Workers are numbers: a clock of
its own says when each part would end, and then its manifest and its shards are there (links to
one shard). Seconds that the driver itself takes count as they pass here.

What is assumed: 1,700 pictures a second and GPU from JPEG files (gpu.json, one H200 with 16
cores); GPUs differ by 10 % (lognormal), and 2 % run at a third of their pace all the time (slow
ones are found in every large cluster, for tens of seconds to hours: FALCON, arXiv 2410.12588); a
worker takes 30 s to load its encoder; nodes of eight GPUs die, which is seen after 30 s, and are
back after ten minutes. Calm: 6.5 deaths a 1,000 node-days (Kokolis et al., HPCA 2025, arXiv
2410.21680; quoted from memory, the paper is out of reach here). Rough: one in two node-hours,
which no cluster that we know of comes near.

``plan`` plans a million texts and five, for the peak memory of whoever plans.
"""

from __future__ import annotations

import heapq
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Row, at_most, run_sections
from benchmarks.scale import SIZES, cost_of, make_source
from featurestore.pipeline.job import EmbedRequest
from featurestore.pipeline.options import EmbedOptions
from featurestore.sources.listing import SourceOptions
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.run_folder import ATTEMPTS, RunFolder
from featurestore.workers.committing import COMMIT_S, Committer
from featurestore.workers.drive import Died, Drive, planned
from featurestore.workers.planning import PART_S
from featurestore.workers.worker import Ended, Worker

N_ITEMS, RATE = 1_000_000_000, 1_700.0
GPUS = (64, 256, 1024)
BAR_AT, BAR = 256, 1.1
CALM, ROUGH = 6.5 / 1000 / 86_400, 0.5 / 3600  # deaths a node-second
SPREAD, SLOW_SHARE, SLOW = 0.1, 0.02, 1 / 3
A_NODE, LOAD_S, SEEN_S, BACK_S = 8, 30.0, 30.0, 600.0
SPEC = "baseline:hashing#size=64"


@dataclass
class Cluster:
    """GPUs that do parts of a run in a time of their own: `Workers` to a driver."""

    run: RunFolder
    given: dict[str, Any]  # the manifest of a part
    tables: dict[str, Path]  # by their names in a manifest
    n_gpus: int
    deaths: float  # a node-second
    seed: int
    part_items: int
    time_s: float = 0.0
    driver_s: float = 0.0
    n_died: int = 0
    n_twice: int = 0
    events: list[tuple[float, int, str, int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self.pace = RATE * np.exp(SPREAD * self._random.standard_normal(self.n_gpus))
        self.pace[self._random.random(self.n_gpus) < SLOW_SHARE] *= SLOW
        self._free = list(range(self.n_gpus))
        self._at: dict[int, tuple[int, str]] = {}  # GPU → event and part
        self._cold = set(self._free)
        self._lost: dict[int, list[str]] = {}  # node → parts that died with it, not seen yet
        self._numbers = itertools.count()
        for node in range(self.n_gpus // A_NODE):
            self._add(self._random.exponential(1 / self.deaths), "death", node)
        self._since = time.perf_counter()

    def now(self) -> float:
        """Seconds since the start, those that the driver takes just now too."""
        return self.time_s + time.perf_counter() - self._since

    def _add(self, at_s: float, kind: str, who: int, part: str = "") -> int:
        number = next(self._numbers)
        heapq.heappush(self.events, (at_s, number, kind, who, part))
        return number

    @property
    def n_free(self) -> int:
        """How many GPUs have nothing to do."""
        return len(self._free)

    def give(self, part: str) -> None:
        """Let a GPU begin a part."""
        began = time.perf_counter()
        gpu = self._free.pop()
        if self.run.begin_attempt(part, ATTEMPTS) is None:
            raise RuntimeError(f"{part} died {ATTEMPTS} times: take another seed")
        takes = self.part_items / self.pace[gpu] * np.exp(0.02 * self._random.standard_normal())
        takes += LOAD_S * (gpu in self._cold)
        self._cold.discard(gpu)
        self._at[gpu] = self._add(self.now() + takes, "part", gpu, part), part
        self._since += time.perf_counter() - began  # a worker's own work

    def wait(self, timeout_s: float) -> Sequence[Ended | Died]:
        """Let the time pass until something happens."""
        worked = time.perf_counter() - self._since
        self.driver_s += worked
        self.time_s += worked
        heard: list[Ended | Died] = []
        if self.events and self.events[0][0] > self.time_s:
            self.time_s = min(self.time_s + timeout_s, self.events[0][0])
        while self.events and self.events[0][0] <= self.time_s:
            heard += self._happens(*heapq.heappop(self.events))
        self._since = time.perf_counter()
        return heard

    def _happens(
        self, at_s: float, number: int, kind: str, who: int, part: str
    ) -> Sequence[Ended | Died]:
        of_node = range(who * A_NODE, (who + 1) * A_NODE)
        if kind == "part":
            if self._at.get(who, (None, ""))[0] != number:
                return ()  # its node died before
            del self._at[who]
            self._free.append(who)
            self._write(part)
            return [Ended(part)]
        if kind == "death":
            self._free = [gpu for gpu in self._free if gpu not in of_node]
            self._add(at_s + SEEN_S, "seen", who)
            self._add(at_s + BACK_S, "back", who)
            self._lost[who] = [self._at.pop(gpu)[1] for gpu in of_node if gpu in self._at]
            return ()
        if kind == "seen":
            lost = self._lost.pop(who)
            self.n_died += len(lost)
            return [Died(one) for one in lost]
        self._free += of_node
        self._cold |= set(of_node)
        self._add(at_s + self._random.exponential(1 / self.deaths), "death", who)
        return ()

    def _write(self, part: str) -> None:
        """Do what a worker does at the end of a part: shards, then the manifest."""
        shards: dict[str, list[list[Any]]] = {}
        for table, ((name, n_bytes, _),) in self.given["shards"].items():
            own = f"{part}-{next(self._numbers)}.parquet"
            (self.tables[table] / own).hardlink_to(self.tables[table] / name)
            shards[table] = [[own, n_bytes, self.part_items]]
        said = {**self.given, "shards": shards, "n_rows": self.part_items}
        self.n_twice += not self.run.write_manifest(part, said)

    def close(self) -> None:
        """End; nothing runs."""


class TimedCommitter(Committer):
    """Commits by the clock of the cluster."""

    def __init__(self, folder: DatasetFolder, run: RunFolder, cluster: Cluster) -> None:
        super().__init__(folder, run, cluster.now)
        self.last_s = 0.0

    def idle_s(self) -> float:
        """Seconds since the last commit."""
        super().idle_s()  # what it costs, too
        return self.now() - self.last_s

    def commit(self) -> None:
        """Bring in what is done."""
        super().commit()
        self.last_s = self.now()


def begun(store: Path, n_parts: int, part_items: int) -> tuple[DatasetFolder, RunFolder, Any]:
    """Plan a run of so many parts; return its data set, itself, and the manifest of a part."""
    texts = store.parent / "texts.csv"
    texts.write_text("text\n" + "\n".join(f"text {n}" for n in range(64)))
    asked = EmbedRequest([texts], (SPEC,), SourceOptions(text="text"), EmbedOptions())
    small = planned(store, "all", asked, lambda _: None, 64).run
    assert small is not None
    folder = DatasetFolder(store / "datasets" / "all")
    (part,) = small.parts()
    Worker(folder, small).embed(part)
    manifest, facts = small.manifest(part), small.facts
    rows = small.part(part)
    small.close()
    run = RunFolder.begin(folder.path)
    for number in range(n_parts):
        run.add_part(f"{number:06d}", rows)
    tally = {**facts["tally"], "n_items": N_ITEMS, "n_todo": [N_ITEMS], "n_wanted": [N_ITEMS]}
    run.open({**facts, "n_parts": n_parts, "part_items": part_items, "tally": tally})
    return folder, run, manifest


def drive(n_gpus: int, deaths: float, seed: int) -> dict[str, float]:
    """Do a billion items; return the figures of the run."""
    part_items = round(PART_S * RATE)
    n_parts = -(-N_ITEMS // part_items)
    with tempfile.TemporaryDirectory() as home:
        folder, run, manifest = begun(Path(home) / "store", n_parts, part_items)
        slug = next(one["slug"] for one in run.facts["views"])
        tables = {"items": Path(folder.items.path), slug: Path(folder.view(slug).path)}
        cluster = Cluster(run, manifest, tables, n_gpus, deaths, seed, part_items)
        driven = Drive(folder, run, now=cluster.now)
        driven.committer = TimedCommitter(folder, run, cluster)
        first, used = folder.view(slug).version(), time.process_time()
        driven.do(run.left(), cluster)
        done_s = cluster.now()
        began = time.perf_counter()
        reports = driven.finish(done_s)
        closing_s = time.perf_counter() - began
        assert reports is not None
        assert reports[0].n_encoded == 64 * n_parts  # as each manifest says: one part's, copied
        assert sum(one.n_rows for one in folder.view(slug).shards()) == n_parts * part_items
        log = [one.stat().st_size for one in (tables[slug] / "_delta_log").iterdir()]
        total_s = done_s + closing_s
        ideal_s = n_parts * part_items / float(cluster.pace.sum())
        return {
            "makespan over ideal": total_s / ideal_s,
            "seconds": total_s,
            "driver": cluster.driver_s + closing_s,
            "commits": folder.view(slug).version() - first,
            "seconds a commit": total_s / max(1, folder.view(slug).version() - first),
            "log": sum(log) / 1e6,
            "parts": n_parts,
            "died": cluster.n_died,
            "twice": cluster.n_twice,
            "cpu": time.process_time() - used,
        }


def simulated(n_gpus: int) -> list[Row]:
    """Do the items on so many GPUs, twice."""
    rows: list[Row] = []
    for weather, deaths in (("calm", CALM), ("rough", ROUGH)):
        found = drive(n_gpus, deaths, seed=n_gpus)
        what = f"{n_gpus} GPUs, {weather}: {found['seconds'] / 60:.0f} min; "
        what += f"{found['died']:.0f} parts lost with nodes, {found['twice']:.0f} done twice: "
        value = found["makespan over ideal"]
        over = f"{what}time over ideal"
        rows += [
            at_most(over, value, "ratio", BAR) if n_gpus == BAR_AT else Row(over, value, "ratio"),
            Row("… commits a table", found["commits"], "commits"),
            Row(f"… seconds a commit (interval {COMMIT_S:g} s)", found["seconds a commit"], "s"),
            Row("… log of the view", found["log"], "MB"),
            Row("… the driver's own seconds, as a share", found["driver"] / found["seconds"], ""),
        ]
    return rows


def plan_only(store: str, source: str) -> int:
    """Plan a run over a table of texts; return how many parts it has."""
    asked = EmbedRequest(
        [Path(source)], (SPEC,), SourceOptions(text="text", id="id", label=("label",)),
        EmbedOptions(),
    )  # fmt: skip
    run = planned(Path(store), "d", asked, lambda _: None, round(PART_S * RATE)).run
    assert run is not None
    return len(run.parts())


def planning() -> list[Row]:
    """Plan a million texts, and five, in a process of its own."""
    peaks, rows = [], []
    for n in SIZES:
        with tempfile.TemporaryDirectory() as home:
            source = make_source(Path(home) / "texts.parquet", n)
            cost = cost_of(plan_only, f"{home}/store", str(source))
        peaks.append(cost.peak_mb)
        rows.append(Row(f"planning {n:,} texts: peak", cost.peak_mb, "MB"))
        rows.append(Row("… CPU", cost.cpu_s, "CPU-s"))
    return [
        *rows,
        at_most("planning: peak of five million over one", peaks[1] / peaks[0], "×", 1.2),
    ]


if __name__ == "__main__":
    from benchmarks import cluster as own  # the name by which `cost_of` finds its functions

    sections = {str(n): partial(own.simulated, n) for n in GPUS} | {"plan": own.planning}
    sys.exit(run_sections("cluster", sections, sys.argv[1:]))
