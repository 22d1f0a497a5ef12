"""What every benchmark shares: rows, a printed table, a JSON file, a probe of the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import numpy as np
from filelock import FileLock
from joblib import Parallel, delayed

RESULTS = Path(__file__).parent / "results"
SHARED = Path(__file__).parents[2] / "shared"

T = TypeVar("T")
PACKAGES = (
    "torch", "torchvision", "timm", "open_clip_torch", "sentence-transformers", "scikit-learn",
    "numpy", "pyarrow", "deltalake", "duckdb", "faiss-cpu", "faiss-gpu", "pillow", "transformers",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One figure; ``bar`` and ``passes`` are None where it is only reported."""

    what: str
    value: float
    unit: str
    bar: str | None = None
    passes: bool | None = None
    section: str | None = None  # of a benchmark that may be run in parts


def at_least(what: str, value: float, unit: str, bar: float) -> Row:
    return Row(what, value, unit, f"≥ {bar:g}", bool(value >= bar))


def at_most(what: str, value: float, unit: str, bar: float) -> Row:
    return Row(what, value, unit, f"≤ {bar:g}", bool(value <= bar))


def dgemm_s(n: int = 1500, repeats: int = 5) -> float:
    """Seconds of one float64 matrix product: what this machine can do just now."""
    a = np.random.default_rng(0).random((n, n))
    return median_s(lambda: a @ a, repeats)


def on_all_cores(work: Callable[..., T], arguments: Sequence[tuple[object, ...]]) -> list[T]:
    """Do simulations side by side: nothing that is timed."""
    return list(Parallel(n_jobs=-1)(delayed(work)(*one) for one in arguments))


def median_s(work: Callable[[], object], repeats: int = 5) -> float:
    """Median wall seconds of ``repeats`` runs."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def finish(name: str, rows: list[Row]) -> int:
    """Print the table, write the JSON; return 1 if a bar was missed."""
    save(name, rows)
    return show(rows)


def show(rows: list[Row]) -> int:
    """Print the table; return 1 if a bar was missed."""
    width = max(len(row.what) for row in rows)
    for row in rows:
        verdict = "" if row.passes is None else ("  ok" if row.passes else "  MISSED")
        bar = f"  (bar {row.bar})" if row.bar else ""
        print(f"{row.what:<{width}}  {row.value:>10.4g} {row.unit}{bar}{verdict}")
    return int(any(row.passes is False for row in rows))


def run_sections(
    name: str, sections: Mapping[str, Callable[[], list[Row]]], chosen: Sequence[str] = ()
) -> int:
    """Run the chosen sections, or all; the others keep their last figures.

    Each is saved when it is done, beside what another process saved meanwhile.
    """
    for section in chosen or sections:
        measured = [replace(row, section=section) for row in sections[section]()]
        with FileLock(RESULTS / f".{name}.lock"):
            kept = {one: saved(name, one) for one in sections} | {section: measured}
            save(name, [row for rows in kept.values() for row in rows])
    return show([row for section in sections for row in saved(name, section)])


def saved(name: str, section: str) -> list[Row]:
    """Return what an earlier run measured of a section."""
    path = RESULTS / f"{name}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return [Row(**row) for row in rows if row.get("section") == section]


def save(name: str, rows: list[Row]) -> None:
    """Write the JSON, with machine and versions."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    value = {
        "name": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "versions": found,
        "rows": [asdict(row) for row in rows],
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(value, indent=1, ensure_ascii=False)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def unpack(folder: Path, n: int) -> int:
    """Write the first ``n`` real pictures of the unlabelled shards; return how many there were."""
    folder.mkdir()
    done = 0
    for shard in sorted((SHARED / "data" / "unlabelled").glob("cifar10-*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.name.endswith(".jpg") else None
                if file is not None:
                    (folder / Path(member.name).name).write_bytes(file.read())
                    done += 1
                if done == n:
                    return done
    return done


def seconds_of(command: list[str]) -> float:
    """Seconds of a whole command, its start included."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
