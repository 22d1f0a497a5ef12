"""What a comparison of many rows does otherwise: heads that learn from samples, and its cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from heads.catalogue.entry import Build, HeadEntry
from heads.estimators.sampled import SAMPLED_ROWS, SampledHead
from heads.experiments.inputs import Cell, Material
from heads.labels.fitting import fit_head
from heads.labels.plan import Plan
from heads.labels.sampling import LARGE_ROWS

FROM_SUMS = ("ridge", "lda", "prototype", "majority")  # these learn from all rows, however many
BASELINE_ROWS = 10_000  # of kNN, whose every prediction looks at all of them, and of TF-IDF
PROBE_ROWS = (2000, 6000)  # on which fits are timed


def sampled(cells: Sequence[Cell], plan: Plan) -> tuple[list[Cell], list[str]]:
    """Let heads that would need days learn from a sample of each training part; and say so."""
    if len(plan.ids) <= LARGE_ROWS:
        return list(cells), []
    found = []
    names: dict[int, list[str]] = {}
    sizes: dict[str, int] = {}  # of the samples, by search space
    of_material: dict[int, Material] = {}  # heads on one are fitted together
    for material, name, entry in cells:
        if name in FROM_SUMS or entry.reads.endswith("pool") or entry.reads == "blocks":
            found.append((material, name, entry))
            continue
        n = _n_rows(name, entry)
        space = f"{entry.search_space}; on {n:,} rows drawn evenly"
        sizes[space] = n
        one = of_material.setdefault(id(material), replace(material, build=_build(material, sizes)))
        found.append((one, name, replace(entry, search_space=space)))
        names.setdefault(n, []).append(f"{name} on TF-IDF" if entry.is_baseline else name)
    return found, [
        f"{', '.join(dict.fromkeys(of_n))} learned from {n:,} items of each training part, drawn "
        "evenly over classes and groups; all test items were predicted."
        for n, of_n in names.items()
    ]


def _n_rows(name: str, entry: HeadEntry) -> int:
    return min(SAMPLED_ROWS, BASELINE_ROWS) if entry.is_baseline or name == "knn" else SAMPLED_ROWS


def _build(material: Material, sizes: Mapping[str, int]) -> Callable[[HeadEntry], Build]:
    def build(entry: HeadEntry) -> Build:
        made, n = material.build(entry), sizes[entry.search_space]
        return lambda seed: SampledHead(made(seed), n, seed)

    return build


def cost(cells: Sequence[Cell], plan: Plan, seed: int) -> str:
    """Say about how long it will take, by fits on few of the rows; nothing of few rows."""
    if len(plan.ids) <= LARGE_ROWS:
        return ""
    train, test = plan.parts[0]
    tested = test[:: max(1, len(test) // PROBE_ROWS[0])]
    seconds = 0.0
    for material, name, entry in cells:
        if entry.reads.endswith("pool"):
            continue
        X, _ = material.read()
        times: list[float] = []
        head: Any = None
        for n in PROBE_ROWS:
            few = np.sort(np.random.default_rng(seed).permutation(train)[:n])
            begin = time.perf_counter()
            lesson = plan.taught.take(few).lesson
            head = fit_head(material.build(entry)(seed), X[few], lesson, plan.block[few])
            times.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        head.predict(X[tested])
        a_row = max(0.0, times[1] - times[0]) / (PROBE_ROWS[1] - PROBE_ROWS[0])
        n_train = len(train) if name in FROM_SUMS else min(len(train), _n_rows(name, entry))
        seconds += times[0] + a_row * n_train
        seconds += (time.perf_counter() - begin) * len(test) / len(tested)
    minutes = seconds * len(plan.parts) / 60
    took = "a minute or less" if minutes < 1.5 else f"{minutes:,.0f} minutes"
    return f" on {len(plan.ids):,} items: about {took}"
