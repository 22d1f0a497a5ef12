"""What a run would do, and how long it would take: nothing is written."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.encoders.base import Encoder
from featurestore.pipeline.embed_items import embed_items
from featurestore.pipeline.lane import Lane, make_lanes
from featurestore.pipeline.plan import plan_embedding
from featurestore.pipeline.run_input import RunInput
from featurestore.pipeline.tap_room import item_bytes
from featurestore.pipeline.todo import Todo
from featurestore.terms.specs import ResolvedEncoder

_DRY_RUN_ITEMS = 64


@dataclass(frozen=True)
class Estimate:
    """What a run would do to one view; nothing was written."""

    dataset: str
    encoder: str
    n_items: int
    n_todo: int
    n_known_failures: int
    disk_bytes: int  # of the vectors to come
    seconds: float | None  # None where nothing is to do

    def describe(self) -> str:
        """Say it in a line."""
        line = f"{self.dataset}@{self.encoder}: {self.n_todo:,} of {self.n_items:,} to embed"
        if self.seconds is None:
            return line
        amount = f"{self.disk_bytes / 1e6:,.1f} MB"
        return f"{line}, about {_duration(self.seconds)} and {amount} on disk"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def estimate(given: RunInput) -> list[Estimate]:
    """Count what `run` would do, and time it on a few of the items; nothing is written.

    What ``rehash`` would find is not known without reading the images, and not counted.
    """
    folder, options, resolved = given.folder, given.options, given.resolved
    infos = folder.encoders() if folder.exists else {}
    plan = plan_embedding(replace(given, options=replace(options, rehash=False)), infos)
    due = [i for i in range(len(resolved)) if plan.todo[i].any()]
    loaded = given.load([resolved[i].spec for i in due]) if due else []
    encoders = dict(zip(due, loaded, strict=True))
    seconds: dict[int, float] = {}
    for lane in make_lanes(encoders, given.modality, options):
        todo = np.flatnonzero(plan.todo[list(lane.views)].any(axis=0))
        sample = todo[np.linspace(0, len(todo) - 1, min(_DRY_RUN_ITEMS, len(todo))).astype(int)]
        one_s = _seconds_an_item(given.rows.take(pa.array(np.unique(sample))), lane, given)
        seconds |= {i: one_s * int(plan.todo[i].sum()) for i in lane.views}
    return [
        Estimate(
            folder.name,
            str(one.spec),
            len(given.rows),
            int(plan.todo[i].sum()),
            plan.n_known_failures[i],
            _disk_bytes(given, encoders.get(i), one, plan.todo[i]),
            seconds.get(i),
        )
        for i, one in enumerate(resolved)
    ]


def _disk_bytes(
    given: RunInput, encoder: Encoder | None, resolved: ResolvedEncoder, todo: NDArray[np.bool_]
) -> int:
    n = int(todo.sum())
    if encoder is None or resolved.tap is None:
        return n * (4 * resolved.dim + 80)
    return n * item_bytes(encoder, given.rows, todo)


def _seconds_an_item(rows: pa.Table, lane: Lane, given: RunInput) -> float:
    """Return seconds for one item, once it runs."""
    todos = [
        Todo(i, one["source"], one["uri"], one["text"], lane.views)
        for i, one in enumerate(rows.to_pylist())
    ]
    taken = []
    for _ in range(2):  # the first pass warms up
        started = time.perf_counter()
        outcomes = embed_items(
            todos,
            [lane],
            modality=given.modality,
            known=[frozenset()] * (max(lane.views) + 1),
            readers=given.readers,
            n_workers=given.options.n_workers,
        )
        for _ in outcomes:
            pass
        taken.append(time.perf_counter() - started)
    return taken[-1] / len(todos)
