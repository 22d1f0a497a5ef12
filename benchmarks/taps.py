"""Taps: bytes an item with a real encoder, and reading beside `np.load` of the same bytes.

Run: python -m benchmarks.store taps   (some 3 minutes on 2 cores; needs ../shared)
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa

from benchmarks.report import SHARED, Row, at_least, at_most
from featurestore.pipeline.listing_run import Selection
from featurestore.storage.tables import Table
from featurestore.storage.tap_shards import TAP, open_tap, tap_rows
from featurestore.store.store import open_store
from featurestore.terms.activations import Activations

N_PICTURES = 120
N_READ, N_AT_ONCE, ROUNDS = 8000, 1000, 7  # 300 MB, in eight shards
BATCH = 32


def taps(folder: Path) -> list[Row]:
    """Measure a tap of MobileNetV2 at 224 px."""
    network = f"timm:local-dir:{(SHARED / 'encoders' / 'mobilenetv2_100-imagenet').resolve()}"
    store = open_store(folder / "taps", create=True)
    store.embed(
        [SHARED / "data" / "sign_digits"],
        dataset="d",
        encoders=[f"{network}#tap=auto,variants=flip"],
        selection=Selection(sample=N_PICTURES),
    )
    (tap,) = store.dataset("d").taps()
    acts = tap.activations()
    each = tap.facts().n_bytes / len(acts) / len(acts.variants)
    ordered, shuffled = _reading(folder, acts)
    return [
        at_most("tap: bytes an item, a variant", each / 1000, "KB", 40),
        at_least("tap: read in order, batches of 32", ordered, "x np.load", 0.5),
        at_least("tap: read at random, batches of 32", shuffled, "x np.load", 0.5),
    ]


def _reading(folder: Path, acts: Activations) -> tuple[float, float]:
    """Return the speed of reading a larger tap, in order and at random, over that of np.load."""
    real = acts.batch(np.arange(len(acts)))
    many = real[np.arange(N_READ) % len(real)]
    ids = pa.array([f"i{n}" for n in range(N_READ)])
    table = Table.create(folder / "many", TAP)
    for start in range(0, N_READ, N_AT_ONCE):
        part = slice(start, start + N_AT_ONCE)
        table.append(tap_rows(ids[part], ids[part], many[part]))
    np.save(folder / "many.npy", many)
    nbytes = real[0].nbytes
    files, places = open_tap([one.path for one in table.shards()], nbytes, folder / "copies")
    large = Activations(files, places, acts.shape)
    rows = np.arange(N_READ)
    drawn = np.random.default_rng(0).permutation(N_READ)
    seconds: dict[str, list[float]] = {"np.load": [], "in order": [], "at random": []}

    def read(order: np.ndarray) -> None:
        for start in range(0, N_READ, BATCH):
            large.batch(order[start : start + BATCH])

    work = {
        "np.load": lambda: np.load(folder / "many.npy"),
        "in order": lambda: read(rows),
        "at random": lambda: read(drawn),
    }
    for _ in range(ROUNDS):  # by turns: others may use the machine
        for name, one in work.items():
            started = time.perf_counter()
            one()
            seconds[name].append(time.perf_counter() - started)
    plain = median(seconds["np.load"])
    return plain / median(seconds["in order"]), plain / median(seconds["at random"])
