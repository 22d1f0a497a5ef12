"""From a listing to views: what is new or changed, embedded in one pass for all encoders."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from featurestore.encoders.canary import canary_vectors, check_canary
from featurestore.encoders.speedups import measure_gains
from featurestore.errors import BadName, EncoderDrift
from featurestore.pipeline.batching import SAMPLE_S, START, BatchSize
from featurestore.pipeline.decode_ahead import can_travel
from featurestore.pipeline.embed_items import embed_items
from featurestore.pipeline.lane import Lane
from featurestore.pipeline.options import AUTO, EmbedOptions
from featurestore.pipeline.plan import EmbedPlan, ViewState, plan_embedding
from featurestore.pipeline.prepare import PROCESSES, THREADS
from featurestore.pipeline.profile import Clock
from featurestore.pipeline.report import EmbedReport, Progress, report_of
from featurestore.pipeline.view_writer import ViewWriter
from featurestore.pipeline.writer import Writer, update_metadata
from featurestore.storage import user_cache
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.terms.specs import EncoderSpec, Modality, ResolvedEncoder

# The first batch size and the largest, in images or in tokens; on CPUs larger ones gained nothing.
_IMAGES = {"cpu": (START, 64), "gpu": (4 * START, 1024)}
_TOKENS = {"cpu": (512, 2048), "gpu": (4096, 1 << 18)}  # on a CPU for each core: its own pass
_LONG_RUN_ITEMS = 1000  # from here on, it is worth a second to measure what would be faster
_MANY_ITEMS, _MANY_WORKERS = 2000, 4  # from here on processes that decode are worth their start
_GPU_SAMPLE_S = 0.1  # a GPU keeps its pace, and a second of it is a data set


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
    plan = plan_of(folder, rows, resolved, infos, options)
    n_updated = update_metadata(folder, plan)
    for one, info in zip(resolved, existing, strict=True):
        if info and info["spec"] != str(one.spec):
            folder.respell(one)  # the folder of the weights has moved
    due = [i for i, info in enumerate(existing) if plan.todo[i].any() or not info]
    if not due:
        seconds = time.perf_counter() - started
        return [
            report_of(folder, one, plan, i, None, None, n_updated, seconds, clock, {})
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
        report_of(folder, one, plan, i, views[i], lane_of.get(i), n_updated, seconds, clock, gains)
        for i, one in enumerate(resolved)
    ]
    for i, report in enumerate(reports):
        if i in encoders:
            folder.write_run("embed", {**asdict(report), "items_per_s": report.items_per_s})
    return reports


def plan_of(
    folder: DatasetFolder,
    rows: pa.Table,
    resolved: Sequence[ResolvedEncoder],
    infos: Mapping[str, Any],
    options: EmbedOptions,
) -> EmbedPlan:
    """Return what each view still needs."""
    targets = [
        ViewState(folder.view(one.slug) if one.slug in infos else None, one.fingerprint)
        for one in resolved
    ]
    return plan_embedding(
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
