"""What a run would do, and how long it would take: nothing is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.pipeline.embed_items import embed_items
from featurestore.pipeline.lane import Lane
from featurestore.pipeline.options import EmbedOptions
from featurestore.pipeline.run import make_lanes, plan_of
from featurestore.pipeline.todo import Todo
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.terms.specs import EncoderSpec, Modality, ResolvedEncoder

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


def estimate(
    folder: DatasetFolder,
    rows: pa.Table,
    modality: Modality,
    readers: Mapping[str, Callable[[str], bytes]],
    resolved: Sequence[ResolvedEncoder],
    options: EmbedOptions,
    *,
    load: Callable[[Sequence[EncoderSpec]], list[Any]],
) -> list[Estimate]:
    """Count what `run` would do, and time it on a few of the items; nothing is written.

    What `EmbedOptions.rehash` would find is not known without reading, and not counted.
    """
    infos = folder.encoders() if folder.exists else {}
    plan = plan_of(folder, rows, resolved, infos, replace(options, rehash=False))
    due = [i for i in range(len(resolved)) if plan.todo[i].any()]
    encoders = dict(zip(due, load([resolved[i].spec for i in due]), strict=True)) if due else {}
    seconds: dict[int, float] = {}
    for lane in make_lanes(encoders, resolved, modality, options):
        todo = np.flatnonzero(plan.todo[list(lane.views)].any(axis=0))
        sample = todo[np.linspace(0, len(todo) - 1, min(_DRY_RUN_ITEMS, len(todo))).astype(int)]
        one_s = _seconds_an_item(rows.take(pa.array(np.unique(sample))), lane, readers, options)
        seconds |= {i: one_s * int(plan.todo[i].sum()) for i in lane.views}
    return [
        Estimate(
            folder.name,
            str(one.spec),
            len(rows),
            int(plan.todo[i].sum()),
            plan.n_known_failures[i],
            int(plan.todo[i].sum()) * (4 * one.dim + 80),
            seconds.get(i),
        )
        for i, one in enumerate(resolved)
    ]


def _seconds_an_item(
    rows: pa.Table,
    lane: Lane,
    readers: Mapping[str, Callable[[str], bytes]],
    options: EmbedOptions,
) -> float:
    """Return seconds for one item, once it runs."""
    todos = [
        Todo(i, one["source"], one["uri"], one["text"], lane.views)
        for i, one in enumerate(rows.to_pylist())
    ]
    taken = []
    for _ in range(2):  # the first pass warms up
        started = time.perf_counter()
        for _ in embed_items(
            todos, [lane], modality=Modality.TEXT if lane.is_text else Modality.IMAGE,
            known=[frozenset()] * (max(lane.views) + 1), readers=readers,
            n_workers=options.n_workers,
        ):  # fmt: skip
            pass
        taken.append(time.perf_counter() - started)
    return taken[-1] / len(todos)
