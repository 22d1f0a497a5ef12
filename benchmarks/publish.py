"""Publishing a million vectors to LanceDB: all of them, then a tenth more.

Run: python -m benchmarks.publish (some minutes, 3 GB of disk). FEATURESTORE_SCALE=100000 takes
another size, and then nothing is written beside the printed table.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from benchmarks.report import Row, at_most, run_sections, show
from benchmarks.scale import DIM, cost_of, embed, make_source
from featurestore.publish.publish import publish as bring
from featurestore.store.store import open_store

N = 1_000_000


def published(store: str, target: str) -> list[int]:
    """Publish the view; return how many rows are new, changed, gone."""
    done = bring(open_store(store).view("d"), target)
    return [done.n_new, done.n_changed, done.n_gone]


def lance(n: int = N) -> list[Row]:
    """Publish n rows, nothing, and a tenth more."""
    with tempfile.TemporaryDirectory() as folder:
        store, target = str(Path(folder) / "store"), f"lancedb:{folder}/lance"
        cost_of(embed, store, make_source(Path(folder) / "first.parquet", n))
        full = cost_of(published, store, target)
        again = cost_of(published, store, target)
        cost_of(embed, store, make_source(Path(folder) / "more.parquet", n // 10, first=n))
        more = cost_of(published, store, target)
    assert [full.answer, again.answer, more.answer] == [[n, 0, 0], [0, 0, 0], [n // 10, 0, 0]]
    what = f"{n:,} × {DIM} to LanceDB"
    return [
        Row(f"{what}: all rows", full.seconds, "s"),
        Row(f"{what}: all rows, CPU", full.cpu_s, "CPU-s"),
        Row(f"{what}: all rows, peak", full.peak_mb, "MB"),
        Row(f"{what}: nothing to do", again.seconds, "s"),
        Row(f"{what}: a tenth more", more.seconds, "s"),
        Row(f"{what}: a tenth more, peak", more.peak_mb, "MB"),
        at_most("a tenth more over all rows, CPU", more.cpu_s / full.cpu_s, "×", 0.25),
    ]


def main() -> int:
    size = os.environ.get("FEATURESTORE_SCALE")
    return show(lance(int(size))) if size else run_sections("publish", {"lance": lance})


if __name__ == "__main__":
    from benchmarks import publish as own  # the name by which its functions are found again

    sys.exit(own.main())
