"""From a listing to views: what is new or changed, embedded in one pass for all encoders."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore import user_cache
from featurestore.batching import SAMPLE_S, START, BatchSize
from featurestore.canary import canary_vectors, check_canary
from featurestore.embed import PROCESSES, THREADS, Lane, Todo, embed_items
from featurestore.errors import BadName, EncoderDrift
from featurestore.gains import measure_gains
from featurestore.layout import DatasetFolder
from featurestore.pictures import can_travel
from featurestore.plan import Plan, Target, make_plan
from featurestore.profile import Clock
from featurestore.values import EncoderSpec, Modality, ResolvedEncoder
from featurestore.writer import ViewWriter, Writer, update_metadata

# The first batch size and the largest, in images or in tokens; on CPUs larger ones gained nothing.
_IMAGES = {"cpu": (START, 64), "gpu": (4 * START, 1024)}
_TOKENS = {"cpu": (512, 2048), "gpu": (4096, 1 << 18)}  # on a CPU for each core: its own pass
_DRY_RUN_ITEMS = 64
_LONG_RUN_ITEMS = 1000  # from here on, it is worth a second to measure what would be faster
_WORTH_SAYING = 1.1
AUTO = "auto"
_MANY_ITEMS, _MANY_WORKERS = 2000, 4  # from here on processes that decode are worth their start
_GPU_SAMPLE_S = 0.1  # a GPU keeps its pace, and a second of it is a data set


@dataclass(frozen=True)
class Progress:
    """How far a run is with one view."""

    encoder: str
    n_done: int
    n_total: int
    n_failed: int
    limit: str  # the stage that sets the pace


@dataclass(frozen=True)
class EmbedOptions:
    """How to embed; what to embed is in the sources."""

    device: str = "auto"
    batch_size: int | None = None  # in items; None: found by measuring
    n_workers: int | None = None  # None: one a core
    overwrite: bool = False
    retry_failed: bool = False
    max_failures: int | None = None
    prune: bool = False  # drop items that are gone from their source
    trust_remote_code: bool = False
    compile: bool = False
    decode_in: str = AUTO  # threads | processes; auto: what feeds the encoders best
    rehash: bool = False  # read every image: its size and time are not trusted
    part: tuple[int, int] | None = None  # (i, n): the i-th of n parts, for a process a GPU

    def __post_init__(self) -> None:
        if self.decode_in not in (AUTO, THREADS, PROCESSES):
            raise BadName(
                f"decode_in={self.decode_in!r}: expected {AUTO}, {THREADS} or {PROCESSES}"
            )


@dataclass(frozen=True)
class EmbedReport:
    """What a run did to one view."""

    dataset: str
    encoder: str
    n_items: int
    n_encoded: int  # went through the encoder
    n_copied: int  # equal content: took another item's vector
    n_unchanged: int
    n_updated: int  # labels or metadata changed, vector kept
    n_failed: int  # in this run
    n_known_failures: int  # failed before, unchanged, not tried again
    seconds: float
    n_cut: int = 0  # texts longer than the encoder reads
    batch_size: int | None = None
    batch_unit: str | None = None  # items, or tokens with padding
    device: str | None = None
    limit: str | None = None
    failures: tuple[str, ...] = ()  # the first few, in words
    stages: Mapping[str, tuple[float, int]] = field(default_factory=dict)  # seconds, items
    gains: Mapping[str, float] = field(default_factory=dict)  # option → times as fast; on GPUs

    @property
    def items_per_s(self) -> float:
        """Items embedded per second; loading the encoder is included, listing is not."""
        return (self.n_encoded + self.n_copied) / max(self.seconds, 1e-9)

    def describe(self) -> str:
        """Say in one line, and one for each of the first failures, what the run did."""
        parts = [f"{self.n_encoded:,} embedded"]
        counts = {
            "of equal content": self.n_copied,
            "unchanged": self.n_unchanged,
            "with new labels or metadata": self.n_updated,
            "failed": self.n_failed,
            "failed before (--retry-failed tries them again)": self.n_known_failures,
            "texts cut to what the encoder reads": self.n_cut,
        }
        parts += [f"{count:,} {what}" for what, count in counts.items() if count]
        speed = f", {self.items_per_s:,.0f} items/s" if self.n_encoded else ""
        line = f"{self.dataset}@{self.encoder}: {', '.join(parts)} ({self.seconds:.1f} s{speed})"
        failures = [f"  failed: {one}" for one in self.failures]
        if self.n_failed > len(failures):
            failures.append(f"  … all of them: featurestore info {self.dataset}")
        return "\n".join([line, *failures, *self._hints()])

    def _hints(self) -> list[str]:
        """Say what the user's choice would gain where it would change the pace."""
        option = {"decode": "decode=fast", "encode": "precision=bf16"}.get(self.limit or "")
        gain = self.gains.get(option or "", 1.0)
        if gain < _WORTH_SAYING:
            return []
        return [f"  the limit is to {self.limit}, which #{option} does {gain:.1f} times as fast "
                "(other vectors: a view of its own)"]  # fmt: skip


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


def run(
    folder: DatasetFolder,
    rows: pa.Table,
    modality: Modality,
    readers: Mapping[str, Callable[[str], bytes]],
    resolved: Sequence[ResolvedEncoder],
    options: EmbedOptions,
    *,
    load: Callable[[Sequence[EncoderSpec]], list[Any]],
    is_whole: bool,
    progress: Callable[[Progress], None] | None = None,
    clock: Clock | None = None,
) -> list[EmbedReport]:
    """Bring views up to date with a listing, in one pass over it; see `EmbedReport`.

    ``load`` gives encoders; it is not called where there is nothing to embed. ``is_whole``
    says that all stored items are looked at: only then may vectors of another make take a
    view's place. On an interrupt, what was encoded is committed before KeyboardInterrupt goes on.

    Raises
    ------
    EncoderDrift
        If an encoder no longer gives its view's canary vectors.
    TooManyFailures
        If more items fail than ``options.max_failures``; what was done is kept.
    """
    started = time.perf_counter()
    clock = clock or Clock()
    infos = folder.encoders()
    existing = [infos.get(one.slug) for one in resolved]
    plan = _plan(folder, rows, resolved, infos, options)
    n_updated = update_metadata(folder, plan)
    for one, info in zip(resolved, existing, strict=True):
        if info and info["spec"] != str(one.spec):
            folder.respell(one)  # the folder of the weights has moved
    due = [i for i, info in enumerate(existing) if plan.todo[i].any() or not info]
    if not due:
        seconds = time.perf_counter() - started
        return [
            _report(folder, one, plan, i, None, None, n_updated, seconds, clock, {})
            for i, one in enumerate(resolved)
        ]
    with clock.stage("load", len(due)):
        encoders = dict(zip(due, load([resolved[i].spec for i in due]), strict=True))
    if any(encoders[i].resolved.fingerprint != resolved[i].fingerprint for i in due):
        # What the user's cache remembered is no longer so: what is loaded counts.
        now = [encoders[i].resolved if i in encoders else one for i, one in enumerate(resolved)]
        by_spec = {encoder.resolved.spec: encoder for encoder in encoders.values()}
        return run(
            folder, rows, modality, readers, now, options, is_whole=is_whole,
            load=lambda specs: [by_spec[spec] for spec in specs], progress=progress, clock=clock,
        )  # fmt: skip
    views: list[ViewWriter | None] = [None] * len(resolved)
    new: dict[int, Any] = {}  # views that did not exist → their canary vectors
    for i, encoder in encoders.items():
        one, table = resolved[i], folder.create_view(resolved[i].slug, resolved[i].dim)
        if info := existing[i]:
            try:
                check_canary(encoder, info["canary"])
            except EncoderDrift:
                if not (options.overwrite and is_whole):
                    raise
                # Old and new vectors must not stand side by side, however this run ends.
                with folder.replacing(one.slug):
                    table.clear()
                folder.write_encoder(one, canary_vectors(encoder), encoder.device)
        else:
            new[i] = canary_vectors(encoder)
            # Until it is whole, a new view does not take the place of the one it replaces.
            hidden = any(other["spec"] == str(one.spec) for other in infos.values())
            folder.write_encoder(one, new[i], encoder.device, is_hidden=hidden)
        views[i] = ViewWriter(table, one, options.overwrite)
    lanes = make_lanes(encoders, resolved, modality, options)
    writer = Writer(folder, plan, views, options.max_failures, clock)
    try:
        _stream(writer, lanes, modality, readers, resolved, options, progress, clock)
    finally:  # an interrupt, an encoder that fails: what was encoded is kept
        writer.close()
    for i, view in enumerate(views):
        if view is None or not options.overwrite:
            continue
        with folder.replacing(resolved[i].slug):
            view.drop_superseded()
        if i in new:  # it is whole now, and takes its place
            folder.write_encoder(resolved[i], new[i], encoders[i].device)
    _remember_batch_sizes(lanes, resolved, options)
    seconds = time.perf_counter() - started
    gains: dict[int, dict[str, float]] = {}
    for i, encoder in encoders.items():
        view = views[i]
        if view is None or view.n_encoded < _LONG_RUN_ITEMS or modality is Modality.TEXT:
            continue
        if encoder.device.startswith("cuda") and (some := writer.some_contents(view, readers)):
            gains[i] = measure_gains(encoder, some)
    lane_of = {view: lane for lane in lanes for view in lane.views}
    reports = [
        _report(folder, one, plan, i, views[i], lane_of.get(i), n_updated, seconds, clock, gains)
        for i, one in enumerate(resolved)
    ]
    for i, report in enumerate(reports):
        if i in encoders:
            folder.write_run("embed", {**asdict(report), "items_per_s": report.items_per_s})
    return reports


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
    plan = _plan(folder, rows, resolved, infos, replace(options, rehash=False))
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


def _plan(
    folder: DatasetFolder,
    rows: pa.Table,
    resolved: Sequence[ResolvedEncoder],
    infos: Mapping[str, Any],
    options: EmbedOptions,
) -> Plan:
    targets = [
        Target(folder.view(one.slug) if one.slug in infos else None, one.fingerprint)
        for one in resolved
    ]
    return make_plan(
        folder,
        rows,
        targets,
        overwrite=options.overwrite,
        retry_failed=options.retry_failed,
        rehash=options.rehash,
        part=options.part,
    )


def make_lanes(
    encoders: Mapping[int, Any],
    resolved: Sequence[ResolvedEncoder],
    modality: Modality,
    options: EmbedOptions,
) -> list[Lane]:
    """Put encoders that share a network (layers of it) into one lane."""
    from joblib import cpu_count  # what a container grants, not what the machine has

    by_network: dict[int, list[int]] = {}
    for i, encoder in encoders.items():
        by_network.setdefault(id(getattr(encoder, "network", encoder)), []).append(i)
    lanes = []
    for views in by_network.values():
        first = encoders[views[0]]
        is_gpu = str(first.device) != "cpu"
        counts_tokens = modality is Modality.TEXT and options.batch_size is None
        found = user_cache.recall("batch_sizes", _batch_key(resolved[views[0]], first, modality))
        start, largest = (_TOKENS if counts_tokens else _IMAGES)["gpu" if is_gpu else "cpu"]
        if counts_tokens and not is_gpu and getattr(first, "tokenize", None) is not None:
            start, largest = start * cpu_count(), largest * cpu_count()
        size = BatchSize(
            options.batch_size or found or start,
            sample_s=_GPU_SAMPLE_S if is_gpu else SAMPLE_S,
            settled=bool(options.batch_size or found),
            largest=max(largest, options.batch_size or 0),
            counts_tokens=counts_tokens,
        )
        lanes.append(Lane([encoders[i] for i in views], views, modality, size))
    return lanes


def _batch_key(resolved: ResolvedEncoder, encoder: Any, modality: Modality) -> str:
    from joblib import cpu_count

    where = f"{cpu_count()} cores" if encoder.device == "cpu" else encoder.device
    return f"{resolved.fingerprint[:16]} {where} {modality}"


def _remember_batch_sizes(
    lanes: Sequence[Lane], resolved: Sequence[ResolvedEncoder], options: EmbedOptions
) -> None:
    for lane in lanes:
        size = lane.batch_size
        if size.settled and not size.ran_out and not options.batch_size:
            modality = Modality.TEXT if lane.is_text else Modality.IMAGE
            key = _batch_key(resolved[lane.views[0]], lane.encoder, modality)
            if user_cache.recall("batch_sizes", key) != size.size:
                user_cache.remember("batch_sizes", key, size.size)


def _stream(
    writer: Writer,
    lanes: Sequence[Lane],
    modality: Modality,
    readers: Mapping[str, Callable[[str], bytes]],
    resolved: Sequence[ResolvedEncoder],
    options: EmbedOptions,
    progress: Callable[[Progress], None] | None,
    clock: Clock,
) -> None:
    from joblib import cpu_count

    totals = writer.plan.todo.sum(axis=1).tolist()
    n_parts = options.part[1] if options.part else 1
    n_workers = options.n_workers or max(1, cpu_count() // n_parts)
    outcomes = embed_items(
        writer.todos(),
        lanes,
        modality=modality,
        known=[frozenset() if view is None else view.known for view in writer.views],
        readers=readers,
        n_workers=n_workers,
        clock=clock,
        decode_in=_decode_in(options, lanes, modality, readers, max(totals), n_workers),
    )
    labels = [one.spec.label for one in resolved]
    n_done = [0] * len(labels)
    with closing(outcomes):
        for outcome in outcomes:
            writer.take(outcome)
            if progress is not None:
                i = outcome.view
                n_done[i] += 1
                view = writer.views[i]
                n_failed = 0 if view is None else view.n_failed
                progress(Progress(labels[i], n_done[i], totals[i], n_failed, clock.limit))


def _decode_in(
    options: EmbedOptions,
    lanes: Sequence[Lane],
    modality: Modality,
    readers: Mapping[str, Callable[[str], bytes]],
    n_todo: int,
    n_workers: int,
) -> str:
    """Choose threads or processes: threads cannot feed a GPU from many cores (see `pictures`)."""
    if modality is not Modality.IMAGE or options.decode_in == THREADS:
        return THREADS
    is_remote = any(getattr(one, "is_remote", False) for one in readers.values())
    is_worth_it = n_todo >= _MANY_ITEMS and n_workers >= _MANY_WORKERS and not is_remote
    if options.decode_in == AUTO and not (is_worth_it and all(lane.is_async for lane in lanes)):
        return THREADS
    preparers = [getattr(lane.encoder, "preparer", None) for lane in lanes]
    if None not in preparers and can_travel(readers, preparers):
        return PROCESSES
    if options.decode_in == AUTO:
        return THREADS
    raise BadName(
        "--decode-in processes: the transform of these encoders cannot be handed to another "
        "process; leave it out"
    )


def _report(
    folder: DatasetFolder,
    resolved: ResolvedEncoder,
    plan: Plan,
    number: int,
    view: ViewWriter | None,
    lane: Lane | None,
    n_updated: int,
    seconds: float,
    clock: Clock,
    gains: Mapping[int, dict[str, float]],
) -> EmbedReport:
    n_todo = int(plan.todo[number].sum())
    n_known_failures = plan.n_known_failures[number]
    n_same = view.n_same if view else 0
    has_encoded = view is not None and view.n_encoded > 0
    unit = None if lane is None else "tokens" if lane.counts_tokens else "items"
    return EmbedReport(
        dataset=folder.name,
        encoder=str(resolved.spec),
        n_items=len(plan.rows),
        n_encoded=view.n_encoded if view else 0,
        n_copied=view.n_copied if view else 0,
        n_unchanged=int(plan.mine.sum()) - n_todo - n_known_failures + n_same,
        n_updated=n_updated,
        n_failed=view.n_failed if view else 0,
        n_known_failures=n_known_failures,
        seconds=round(seconds, 3),
        n_cut=view.n_cut if view else 0,
        batch_size=lane.batch_size.size if lane else None,
        batch_unit=unit,
        device=lane.encoder.device if lane else None,
        limit=clock.limit if has_encoded else None,
        failures=tuple(view.first_failures) if view else (),
        stages={name: (round(s, 4), n) for name, s, n in clock.rows()},
        gains=gains.get(number, {}),
    )
