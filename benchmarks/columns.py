"""Columns beside vectors: how often noise is said to help, and how often what helps is found.

Run: python -m benchmarks.columns [DRAWS]   (200 by default: some ten minutes on 2 cores)

Made-up vectors of 64 numbers of two classes; beside them a number and a category of four values,
of which the class decides nothing, a little, much, or (what may leak) all. Store, folds, heads and
verdict are the real ones.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import heads
from benchmarks.report import Row, at_least, at_most, on_all_cores, save, show
from featurestore.exchange.imports import import_vectors, read_vectors
from featurestore.store.store import open_store
from featurestore.store.view import View

DRAWS = 200
N, DIM = 300, 64
APART = {"nothing": 0.0, "a little": 0.6, "much": 1.2}  # the class moves the number by so many sd
TELLS = "all"
HEADS = ("ridge", "logistic")


def view_of(folder: Path, scenario: str, seed: int) -> View:
    """Make a store of N made-up items with a column of numbers and one of categories."""
    rng = np.random.default_rng([31, seed])
    code = rng.permutation(np.arange(N) % 2)
    means = rng.normal(size=(2, DIM)) * 0.16  # a head is right in three rows of four
    vectors = (means[code] + rng.normal(size=(N, DIM))).astype(np.float32)
    apart = APART.get(scenario, 0.0)
    number = rng.normal(size=N) + apart * code
    moved = np.where(rng.random(N) < apart / 4, code, rng.integers(0, 4, N))
    table = {
        "item_id": [f"{n:04d}" for n in range(N)],
        "vector": list(vectors),
        "kind": [f"class {c}" for c in code],
        "number": number,
        "category": [f"site {c}" for c in (code if scenario == TELLS else moved)],
    }
    pq.write_table(pa.table(table), folder / "vectors.parquet")
    store = open_store(folder / "store", create=True)
    incoming = read_vectors(str(folder / "vectors.parquet"))
    return import_vectors(store, incoming, dataset="d", name="made", origin="made", labels=["kind"])


def drawn(scenario: str, seed: int) -> tuple[bool, bool, bool, float]:
    """Return whether columns were said to help, to harm, to tell the label; and the gain."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        view = view_of(Path(folder), scenario, seed)
        found = heads.compare(view, HEADS, columns=["number", "category"], save=False, seed=seed)
    read = found.card.with_columns
    assert read is not None
    assert read.gain is not None
    value, low, high = read.gain
    return low > 0, high < 0, bool(read.leaks), value


def columns(n_draws: int) -> list[Row]:
    """Count verdicts over draws of each scenario."""
    rows = []
    for scenario in (*APART, TELLS):
        n = n_draws if scenario != TELLS else n_draws // 4
        helps, harms, leaks, gain = np.array(
            on_all_cores(drawn, [(scenario, seed) for seed in range(n)])
        ).T
        what = f"columns of which the class decides {scenario}, {n} draws:"
        if scenario == "nothing":
            rows.append(at_most(f"{what} said to help", float(helps.mean()), "share", 0.05))
            rows.append(at_most(f"{what} said to tell the label", float(leaks.mean()), "share", 0))
        elif scenario == TELLS:
            rows.append(at_least(f"{what} said to tell it", float(leaks.mean()), "share", 1))
        else:
            rows.append(Row(f"{what} said to help", float(helps.mean()), "share"))
            rows.append(Row(f"{what} said to tell the label", float(leaks.mean()), "share"))
        rows.append(Row(f"{what} said to harm", float(harms.mean()), "share"))
        rows.append(Row(f"{what} mean gain", 100 * float(gain.mean()), "points"))
        print(rows[-4:], file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    measured = columns(int(sys.argv[1]) if len(sys.argv) > 1 else DRAWS)
    save("columns", measured)
    sys.exit(show(measured))
