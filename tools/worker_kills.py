"""Kill what embeds in parts, at seeded moments, and look whether anything is lost or doubled.

``python -m tools.worker_kills 20`` makes 20 runs on a Ray cluster of three nodes in a network
namespace of its own; ``--on shard`` starts shares by themselves, without Ray. In each run two
things happen: workers, nodes or drivers are killed with SIGKILL, between the files that tell how
far they are, or a worker stands still until its part was done again. In every other run ``compact``
runs all the time. Then the same command is run until it ends, and the data set must be what one
process makes of the same pictures: ids, hashes, vectors (cosine 0.9999), nothing twice, `verify`
clean.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from tools.ray_nodes import add_node, alone, cluster

ENCODER = "baseline:pixels#size=8"
N_PICTURES, PART_ITEMS, COMMIT_S = 1200, 50, 1.0
PATIENCE_S = 120.0
# Commits come more often than in life, so that there are moments between them.
_RUN = (
    "import sys; from featurestore.workers import committing, drive; "
    "committing.COMMIT_S = {commit_s}; drive._LATE_S = 3.0; "
    "from featurestore.cli import run; sys.exit(run(sys.argv[1:]))"
)


def make_pictures(folder: Path, n: int = N_PICTURES) -> Path:
    """Write seeded pictures of noise, some of equal content, and one that is none."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n - 1):
        pixels = np.random.default_rng(number // 2 if number % 40 == 1 else number)
        Image.fromarray(pixels.integers(0, 256, (24, 24, 3), np.uint8)).save(
            folder / f"{number:05}.png"
        )
    (folder / "none.png").write_bytes(b"not a picture")
    return folder


@dataclass
class Scene:
    """One run: its store, and whoever works at it."""

    store: Path
    pictures: Path
    way: str  # ray:ADDRESS, or shard
    cluster: Any
    draw: random.Random
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @property
    def dataset(self) -> Path:
        """The folder of the data set."""
        return self.store / "datasets" / "d"

    def start(self) -> None:
        """Start a driver, or the shares."""
        base = ["embed", "--dataset", "d", "--store", str(self.store), "-e", ENCODER, "--quiet"]
        ways = [[str(self.pictures), *base[1:], "--on", self.way, "--part-items", str(PART_ITEMS)]]
        if self.way == "shard":
            plan = [str(self.pictures), *base[1:], "--plan-only", "--part-items", str(PART_ITEMS)]
            _command(["embed", *plan]).wait()
            ways = [[*base[1:], "--shard", f"{i}/2", "--commit"] for i in range(2)]
        self.processes = [_command(["embed", *way]) for way in ways]

    def files(self, pattern: str) -> int:
        """Count the files of a pattern in it."""
        return sum(1 for _ in self.dataset.glob(pattern))

    def workers(self) -> list[psutil.Process]:
        """Return the processes that embed: actors of Ray, or children of the shares."""
        if self.way == "shard":
            children = []
            for one in self.processes:
                with suppress(psutil.Error):
                    children += psutil.Process(one.pid).children()
            return [one for one in children if "spawn_main" in " ".join(_words(one))]
        return [one for one in psutil.process_iter() if "ray::_Actor" in " ".join(_words(one))]

    def is_over(self) -> bool:
        """Whether nobody works any more."""
        return all(one.poll() is not None for one in self.processes)

    def wait_for(self, is_there: Callable[[], bool]) -> bool:
        """Wait until something is there; False if the run ended before."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and not self.is_over():
            if is_there():
                return True
            time.sleep(0.001)
        return False


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _command(words: Sequence[str]) -> subprocess.Popen[bytes]:
    code = _RUN.format(commit_s=COMMIT_S)
    return subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE)


# What happens: each waits for a moment, and then kills; whether it came in time.


def kill_worker(scene: Scene) -> bool:
    """Kill a worker, some time after it began."""
    if not scene.wait_for(lambda: scene.files("runs/*-parts/attempts/*") > 0):
        return False
    time.sleep(scene.draw.uniform(0, 0.5))
    workers = scene.workers()
    return bool(workers) and _kill(scene.draw.choice(workers))


def kill_before_manifest(scene: Scene) -> bool:
    """Kill all workers, between a shard and the manifest that would name it."""
    n = scene.files("views/*/*.parquet")
    if not scene.wait_for(lambda: scene.files("views/*/*.parquet") > n):
        return False
    return any([_kill(one) for one in scene.workers()])


def kill_node(scene: Scene) -> bool:
    """Kill a node with all that runs on it; another one joins."""
    if scene.cluster is None:
        return kill_worker(scene)
    n = scene.draw.randrange(6)
    if not scene.wait_for(lambda: scene.files("runs/*-parts/done/*") > n):
        return False
    scene.cluster.remove_node(
        scene.draw.choice([*scene.cluster.worker_nodes]), allow_graceful=False
    )
    add_node(scene.cluster)
    return True


def kill_driver(scene: Scene) -> bool:
    """Kill whoever drives, between a manifest and the commit of its items."""
    n = scene.draw.randrange(20)
    return scene.wait_for(lambda: scene.files("runs/*-parts/done/*") > n) and _kill_driver(scene)


def kill_between_commits(scene: Scene) -> bool:
    """Kill whoever drives, between the commit of items and that of their vectors."""
    n = max(1, scene.files("items/_delta_log/*.json"))
    is_there = scene.wait_for(lambda: scene.files("items/_delta_log/*.json") > n)
    return is_there and _kill_driver(scene)


def stop_worker(scene: Scene) -> bool:
    """Stop a worker until its part was done again by another, then let it go on."""
    if not scene.wait_for(lambda: scene.files("runs/*-parts/attempts/*") > 0):
        return False
    if not (workers := scene.workers()):
        return False
    stopped = scene.draw.choice(workers)
    try:
        stopped.suspend()
        if scene.cluster is None:  # nobody waits for it any more: its part is given to another
            for one in scene.processes:
                one.kill()
                one.wait()
            scene.start()
        scene.wait_for(lambda: False)
        stopped.resume()
    except psutil.Error:  # it had ended, or Ray ended it with its run
        return scene.cluster is not None
    return True


HAPPENINGS = (
    kill_worker, kill_before_manifest, kill_node, kill_driver, kill_between_commits, stop_worker,
)  # fmt: skip


def _kill(one: psutil.Process) -> bool:
    try:
        one.kill()
    except psutil.Error:
        return False
    return True


def _kill_driver(scene: Scene) -> bool:
    one = scene.draw.choice(scene.processes)
    is_running = one.poll() is None
    one.kill()
    return is_running


def one_run(scene: Scene, seed: int) -> list[str]:
    """Let two things happen in a run, then complete it; return what is wrong with the result."""
    from featurestore.storage.dataset_folder import DatasetFolder
    from featurestore.upkeep import versions

    folder, is_over = DatasetFolder(scene.dataset), threading.Event()

    def join() -> None:
        while not is_over.wait(0.2):
            with suppress(Exception):  # a table may not be there yet
                versions.compact(folder)

    if seed % 2:
        threading.Thread(target=join, daemon=True).start()
        scene.told.append("compact")
    scene.start()
    for happening in scene.draw.sample(HAPPENINGS, 2):
        in_time = happening(scene)
        scene.told.append(happening.__name__ + ("" if in_time else " (too late)"))
        if scene.is_over() and scene.files("runs/*-parts/run.json"):
            scene.start()
    for _ in range(6):
        for process in scene.processes:
            process.wait(timeout=PATIENCE_S)
        if not scene.files("runs/*-parts/run.json") and scene.files("runs/*-embed.json"):
            break
        scene.start()
    is_over.set()
    return findings(scene)


def findings(scene: Scene) -> list[str]:
    """Compare the data set with what one process made."""
    from featurestore.storage.dataset_folder import DatasetFolder
    from featurestore.store.store import open_store
    from featurestore.upkeep.verify import verify

    store, folder = open_store(str(scene.store)), DatasetFolder(scene.dataset)
    found = [f"{one.where}: {one.what}" for one in verify(folder) if one.severity == "error"]
    mine, theirs = (store.dataset(name) for name in ("d", "one"))
    keys = ["item_id", "content_hash"]
    items = [one.items(keys).sort_by("item_id").to_pydict() for one in (mine, theirs)]
    if items[0] != items[1]:
        found.append(f"{len(items[0]['item_id'])} items, expected {len(items[1]['item_id'])}")
    slug = next(iter(folder.encoders()))
    rows = folder.view(slug).read(keys)
    pairs = set(zip(*rows.to_pydict().values(), strict=True))
    if len(pairs) != len(rows):
        found.append(f"{len(rows)} vectors, {len(pairs)} different")
    vectors = []
    for one in (mine, theirs):
        loaded = one.view(ENCODER).load()
        vectors.append(loaded.vectors[np.argsort(loaded.ids)])
    if vectors[0].shape != vectors[1].shape:
        return [*found, f"vectors of shape {vectors[0].shape}, expected {vectors[1].shape}"]
    norms = [np.linalg.norm(one, axis=1) for one in vectors]
    cosine = float((np.einsum("ij,ij->i", *vectors) / (norms[0] * norms[1])).min())
    return [*found, *([f"cosine {cosine}"] if cosine < 0.9999 else [])]


def main() -> int:
    """Run it; the exit code is 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", type=int)
    parser.add_argument("--on", choices=["ray", "shard"], default="ray")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.on == "ray" and os.environ.get("FEATURESTORE_IN_NAMESPACE") != "1":
        return alone([sys.executable, "-m", "tools.worker_kills", *sys.argv[1:]],
                     timeout_s=3600.0)  # fmt: skip
    from featurestore.store.store import open_store

    n_found = 0
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kills-")))
        os.environ["FEATURESTORE_CACHE"] = str(root / "cache")
        pictures = make_pictures(root / "pictures")
        made = stack.enter_context(cluster(3)) if given.on == "ray" else None
        way = "shard" if made is None else f"ray:{made.address}"
        for seed in range(given.seed, given.seed + given.n):
            store = root / f"store-{seed}"
            open_store(str(store), create=True).embed([pictures], dataset="one", encoders=[ENCODER])
            scene = Scene(store, pictures, way, made, random.Random(seed))
            started = time.monotonic()
            wrong = one_run(scene, seed)
            n_found += len(wrong)
            print(f"seed {seed}: {', '.join(scene.told)}: {time.monotonic() - started:.0f} s, "
                  f"{'; '.join(wrong) or 'as it should be'}", flush=True)  # fmt: skip
    print(f"{given.n} runs, {n_found} findings")
    return 1 if n_found else 0


if __name__ == "__main__":
    sys.exit(main())
