"""What a run would do, and how long it would take: nothing is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from featurestore.encoders.base import Encoder
from featurestore.pipeline.embed_items import embed_items
from featurestore.pipeline.lane import Lane, make_lanes
from featurestore.pipeline.plan import Tally, plan_embedding
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
    counting = replace(given, options=replace(options, rehash=False))
    tally = Tally(len(resolved))
    samples: list[list[pa.Table]] = [[] for _ in resolved]
    for part in given.listed.parts(counting, infos):
        plan = plan_embedding(counting, infos, part)
        tally.add(plan, part)
        for sample, is_todo in zip(samples, plan.todo, strict=True):
            sample.append(some_of([part.rows.filter(pa.array(is_todo))]))
    for kept in given.unchanged:
        tally.add_unchanged(kept)
    due = [i for i, n in enumerate(tally.n_todo) if n]
    loaded = given.load([resolved[i].spec for i in due]) if due else []
    encoders = dict(zip(due, loaded, strict=True))
    seconds: dict[int, float] = {}
    for lane in make_lanes(encoders, given.modality, options):
        most = max(lane.views, key=tally.n_todo.__getitem__)
        one_s = seconds_an_item(some_of(samples[most]), lane, given)
        seconds |= {i: one_s * tally.n_todo[i] for i in lane.views}
    return [
        Estimate(
            folder.name,
            str(one.spec),
            tally.n_items,
            tally.n_todo[i],
            tally.n_known_failures[i],
            tally.n_todo[i] * _disk_bytes(encoders.get(i), one, samples[i]),
            seconds.get(i),
        )
        for i, one in enumerate(resolved)
    ]


def some_of(parts: Sequence[pa.Table]) -> pa.Table:
    """Return some of the rows, evenly spread."""
    rows = pa.concat_tables(parts)
    places = np.linspace(0, len(rows) - 1, min(_DRY_RUN_ITEMS, len(rows))).astype(int)
    return rows.take(pa.array(np.unique(places)))


def _disk_bytes(
    encoder: Encoder | None, resolved: ResolvedEncoder, samples: Sequence[pa.Table]
) -> int:
    """Return what an item takes on disk."""
    if encoder is None or resolved.tap is None:
        return 4 * resolved.dim + 80
    return item_bytes(encoder, some_of(samples))


def seconds_an_item(rows: pa.Table, lane: Lane, given: RunInput) -> float:
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
