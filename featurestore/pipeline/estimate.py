"""What a run would do, and how long it would take: nothing is written."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from featurestore.encoders.base import Encoder
from featurestore.pipeline.embed_items import embed_items
from featurestore.pipeline.lane import Lane, make_lanes
from featurestore.pipeline.plan import Tally, plan_embedding
from featurestore.pipeline.prepare import readers_per_decoder
from featurestore.pipeline.profile import Clock
from featurestore.pipeline.run_input import RunInput
from featurestore.pipeline.tap_room import item_bytes
from featurestore.pipeline.todo import Todo
from featurestore.terms.specs import EncoderSpec, Modality, ResolvedEncoder

_DRY_RUN_ITEMS = 64
_STAGES = ("read", "decode", "tokenize", "encode")


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
    rates: dict[str, float] = field(default_factory=dict)  # items/s of each stage by itself
    limit: str | None = None  # the slowest stage
    hint: str = ""  # what would lift the limit

    def describe(self) -> str:
        """Say it in a line."""
        line = f"{self.dataset}@{self.encoder}: {self.n_todo:,} of {self.n_items:,} to embed"
        if self.seconds is None:
            return line
        amount = f"{self.disk_bytes / 1e6:,.1f} MB"
        line = f"{line}, about {_duration(self.seconds)} and {amount} on disk"
        rates = ", ".join(f"{stage} {rate:,.0f}" for stage, rate in self.rates.items())
        lines = [line, f"  items/s here, each stage by itself: {rates}"]
        return "\n".join([*lines, f"  {self.limit} sets the pace: {self.hint}"])


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
    rates: dict[int, dict[str, float]] = {}
    for lane in make_lanes(encoders, given.modality, options):
        most = max(lane.views, key=tally.n_todo.__getitem__)
        sample, clock = some_of(samples[most]), Clock()
        one_s = seconds_an_item(sample, lane, given, clock)
        seconds |= {i: one_s * tally.n_todo[i] for i in lane.views}
        rates |= dict.fromkeys(lane.views, _rates(clock, sample, given))
    return [
        Estimate(
            folder.name,
            str(one.spec),
            tally.n_items,
            tally.n_todo[i],
            tally.n_known_failures[i],
            tally.n_todo[i] * _disk_bytes(encoders.get(i), one, samples[i]),
            seconds.get(i),
            *_limit(encoders.get(i), rates.get(i, {})),
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


def _rates(clock: Clock, rows: pa.Table, given: RunInput) -> dict[str, float]:
    """Return the items/s of each stage, with all its threads; stages that took no time left out."""
    n_threads = {}
    if given.modality is Modality.IMAGE:
        n_workers = given.options.n_workers or os.cpu_count() or 1
        per_decoder = readers_per_decoder(given.readers, rows.column("uri").to_pylist())
        n_threads = {"read": n_workers * per_decoder, "decode": n_workers}
    return {
        stage: len(rows) * n_threads.get(stage, 1) / clock.seconds[stage]
        for stage in _STAGES
        if clock.seconds[stage]
    }


def _limit(
    encoder: Encoder | None, rates: dict[str, float]
) -> tuple[dict[str, float], str | None, str]:
    """Return the rates, the slowest stage, and what would lift it."""
    if encoder is None or not rates:
        return {}, None, ""
    limit = min(rates, key=rates.__getitem__)
    return rates, limit, _hint(encoder, encoder.resolved.spec, limit)


def _hint(encoder: Encoder, spec: EncoderSpec, limit: str) -> str:
    def try_it(option: str, value: str) -> str:
        return f'-e "{spec.with_option(option, value)}" --dry-run measures what #{option} gains'

    if limit == "decode" and encoder.shrink_px is not None and encoder.decode_px is None:
        return try_it("decode", "fast")
    if limit == "encode" and encoder.device != "cpu" and encoder.in_half_precision() is not None:
        return try_it("precision", "bf16")
    if limit == "encode":
        return "a smaller encoder is faster (see `featurestore encoders`), and so is a GPU"
    if limit == "read":
        return "a disk that is nearer, or tar shards in place of single files, lift it"
    return "more cores lift it (--num-workers), or --on (several processes or machines)"


def seconds_an_item(
    rows: pa.Table, lane: Lane, given: RunInput, clock: Clock | None = None
) -> float:
    """Return seconds for one item, once it runs; ``clock`` gets the stages of the last pass."""
    todos = [
        Todo(i, one["source"], one["uri"], one["text"], lane.views)
        for i, one in enumerate(rows.to_pylist())
    ]
    taken = []
    for of_pass in (Clock(), clock or Clock()):  # the first pass warms up
        started = time.perf_counter()
        outcomes = embed_items(
            todos,
            [lane],
            modality=given.modality,
            known=[frozenset()] * (max(lane.views) + 1),
            readers=given.readers,
            n_workers=given.options.n_workers,
            clock=of_pass,
        )
        for _ in outcomes:
            pass
        taken.append(time.perf_counter() - started)
    return taken[-1] / len(todos)
