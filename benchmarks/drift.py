"""Drift of what comes in: how often an alarm is false, and how often drift is found.

Run: python -m benchmarks.drift [TRAININGS]   (40 by default: some ten minutes on 2 cores)

Made-up items of three classes, 32 numbers each; a head learns from 300 of them, and weeks of 50,
200 and 800 come: of the same kind, a little apart in all numbers, with a class more frequent, or
with a tenth of items of no known kind. Vectors are compared as well.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import heads
from benchmarks.report import Row, at_most, on_all_cores, save, show
from featurestore.exchange.imports import import_vectors, read_vectors
from featurestore.store.store import open_store
from heads.drift.compare import drift
from heads.saved.answer_log import About, AnswerLog, Logged, read_log
from heads.saved.bundle import FittedHead
from heads.saved.serve import answer

TRAININGS, WEEKS = 40, 25
N, DIM, CLASSES = 300, 32, 3
SIZES = (50, 200, 800)
KINDS = ("none", "numbers 0.3 sd apart", "one class twice as frequent", "a tenth of no known kind")


def made(
    rng: np.random.Generator, means: NDArray[np.float64], n: int, kind: str
) -> NDArray[np.float32]:
    """Make the vectors of n items of a week, (n, DIM)."""
    share = [0.5, 0.25, 0.25] if kind == KINDS[2] else [1 / 3] * 3
    code = rng.choice(CLASSES, n, p=share)
    found = means[code] + rng.normal(size=(n, DIM))
    if kind == KINDS[1]:
        found += 0.3
    if kind == KINDS[3]:
        strange = rng.random(n) < 0.1
        found[strange] = 1.5 * rng.normal(size=(int(strange.sum()), DIM)) - 2
    return found.astype(np.float32)


def taught(
    folder: Path, rng: np.random.Generator, means: NDArray[np.float64]
) -> tuple[FittedHead, NDArray[np.float32]]:
    """Fit a head on N items of a store; return it with their vectors."""
    code = rng.permutation(np.arange(N) % CLASSES)
    vectors = (means[code] + rng.normal(size=(N, DIM))).astype(np.float32)
    table = {
        "item_id": [f"{n:04d}" for n in range(N)],
        "vector": list(vectors),
        "kind": [f"class {c}" for c in code],
    }
    pq.write_table(pa.table(table), folder / "vectors.parquet")
    store = open_store(folder / "store", create=True)
    incoming = read_vectors(str(folder / "vectors.parquet"))
    view = import_vectors(store, incoming, dataset="d", name="made", origin="made", labels=["kind"])
    return heads.fit(view, "ridge", save=False), vectors


def weeks(seed: int) -> list[tuple[str, int, bool]]:
    """Return, for weeks after one training, their kind, their size, and whether drift was said."""
    warnings.simplefilter("ignore")
    rng = np.random.default_rng([37, seed])
    means = rng.normal(size=(CLASSES, DIM)) * 0.6
    found = []
    with tempfile.TemporaryDirectory() as folder:
        head, training = taught(Path(folder), rng, means)
        for kind in KINDS:
            for n in SIZES:
                for _ in range(WEEKS if kind == KINDS[0] else WEEKS // 5):
                    vectors = made(rng, means, n, kind)
                    with tempfile.TemporaryDirectory() as log:
                        said = drift(head, logged(head, vectors, log), training=training)
                    found.append((kind, n, said.is_drift))
    return found


def logged(head: FittedHead, vectors: NDArray[np.float32], folder: str) -> Logged:
    """Ask a head about vectors, (n, DIM), and read its log of that."""
    ids = np.array([str(i) for i in range(len(vectors))], dtype=object)
    log = AnswerLog(folder, vectors=True)
    log.write(head, answer(head, ids, vectors), [About()] * len(vectors))
    return read_log(folder, head)


def measured(n_trainings: int) -> list[Row]:
    """Count alarms by kind and size of the weeks."""
    found = [one for job in on_all_cores(weeks, [(s,) for s in range(n_trainings)]) for one in job]
    rows = []
    for kind in KINDS:
        for n in SIZES:
            said = [is_drift for own, size, is_drift in found if (own, size) == (kind, n)]
            share = float(np.mean(said))
            if kind == KINDS[0]:
                what = f"alarms in {len(said):,} weeks of {n} items without drift"
                rows.append(at_most(what, share, "share", 0.05))
            else:
                what = f"alarms in {len(said):,} weeks of {n} items, {kind}"
                rows.append(Row(what, share, "share"))
    return rows


if __name__ == "__main__":
    figures = measured(int(sys.argv[1]) if len(sys.argv) > 1 else TRAININGS)
    save("drift", figures)
    sys.exit(show(figures))
