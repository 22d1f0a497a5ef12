"""From a listing to views: what is new or changed, embedded in one pass for all encoders."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

from featurestore.encoders.base import Encoder
from featurestore.encoders.canary import Canary, canary_vectors, check_canary
from featurestore.encoders.speedups import measure_gains
from featurestore.errors import BadName, EncoderDrift
from featurestore.pipeline.contents import Known
from featurestore.pipeline.decode_ahead import can_travel
from featurestore.pipeline.embed_items import embed_items
from featurestore.pipeline.lane import Lane, make_lanes, remember_batch_sizes
from featurestore.pipeline.options import AUTO, PROCESSES, THREADS
from featurestore.pipeline.plan import plan_embedding
from featurestore.pipeline.prepare import any_is_remote
from featurestore.pipeline.report import EmbedReport, Progress, RunResult, reports_of
from featurestore.pipeline.run_input import RunInput
from featurestore.pipeline.tap_room import announce_taps
from featurestore.pipeline.todo import Todo
from featurestore.pipeline.view_writer import ViewWriter
from featurestore.pipeline.writer import Writer, update_metadata
from featurestore.terms.specs import Modality

_LONG_RUN_ITEMS = 1000  # from here on, it is worth a second to measure what would be faster
_MANY_ITEMS, _MANY_WORKERS = 2000, 4  # from here on processes that decode are worth their start


def run(given: RunInput, progress: Callable[[Progress], None] | None = None) -> list[EmbedReport]:
    """Bring views up to date with a listing, in one pass over it.

    On an interrupt, what was encoded is committed before KeyboardInterrupt goes on.

    Raises
    ------
    EncoderDrift
        If an encoder no longer gives its view's canary vectors.
    TooManyFailures
        If more items fail than ``max_failures`` of the options; what was done is kept.
    NoRoom
        If a tap is larger than what is free of the disk; nothing was embedded.
    """
    started = time.perf_counter()
    infos = given.folder.encoders()
    plan = plan_embedding(given, infos)
    n_updated = update_metadata(given.folder, plan)
    _respell(given, infos)
    due = [i for i, one in enumerate(given.resolved) if plan.todo[i].any() or one.slug not in infos]
    if not due:
        return reports_of(given, RunResult(plan, n_updated, time.perf_counter() - started))
    with given.clock.stage("load", len(due)):
        loaded = given.load([given.resolved[i].spec for i in due])
    encoders = dict(zip(due, loaded, strict=True))
    if any(
        one.resolved.fingerprint != given.resolved[i].fingerprint for i, one in encoders.items()
    ):
        return run(_as_loaded(given, encoders), progress)
    announce_taps(given, plan, encoders)
    views, new_canaries = _open_views(given, encoders, infos)
    for number, view in views.items():
        view.begin(plan, number)
    lanes = make_lanes(encoders, given.modality, given.options)
    most = given.options.max_failures
    writer = Writer(given.folder, plan, views, most, given.clock, given.failed)
    try:
        _stream(given, writer, lanes, progress)
    finally:  # an interrupt, an encoder that fails: what was encoded is kept
        writer.close()
    if given.options.overwrite:
        _replace(given, views, new_canaries, encoders)
    remember_batch_sizes(lanes, given.options)
    seconds = time.perf_counter() - started
    gains = _measure_gains(given, writer, encoders)
    lane_of = {view: lane for lane in lanes for view in lane.views}
    result = RunResult(plan, n_updated, seconds, views, lane_of, gains)
    reports = reports_of(given, result)
    for i in due:
        card = {**asdict(reports[i]), "items_per_s": reports[i].items_per_s}
        given.folder.write_run("embed", card)
    return reports


def _respell(given: RunInput, infos: Mapping[str, Mapping[str, Any]]) -> None:
    """Record where the weights of views are now, if their folder has moved."""
    for resolved in given.resolved:
        info = infos.get(resolved.slug)
        if info and info["spec"] != str(resolved.spec):
            given.folder.note(resolved.slug, spec=str(resolved.spec))


def _as_loaded(given: RunInput, encoders: Mapping[int, Encoder]) -> RunInput:
    """Return the input with the encoders as loaded: the user's cache remembered other weights."""
    now = [encoders[i].resolved if i in encoders else one for i, one in enumerate(given.resolved)]
    by_spec = {encoder.resolved.spec: encoder for encoder in encoders.values()}
    return replace(given, resolved=tuple(now), load=lambda specs: [by_spec[spec] for spec in specs])


def _open_views(
    given: RunInput, encoders: Mapping[int, Encoder], infos: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[int, ViewWriter], dict[int, Canary]]:
    """Make views that are absent, check the encoders of the others.

    Returns
    -------
    views : dict of int to ViewWriter
    new_canaries : dict of int to canary vectors
        Of the views that did not exist.
    """
    folder, options = given.folder, given.options
    views: dict[int, ViewWriter] = {}
    new_canaries: dict[int, Canary] = {}
    for i, encoder in encoders.items():
        resolved = given.resolved[i]
        is_tap = resolved.tap is not None
        table = folder.create_view(resolved.slug, resolved.dim, is_tap=is_tap)
        if info := infos.get(resolved.slug):
            try:
                check_canary(encoder, info["canary"])
            except EncoderDrift:
                if not (options.overwrite and given.is_whole):
                    raise
                # Old and new vectors must not stand side by side, however this run ends.
                with folder.replacing(resolved.slug):
                    table.clear()
                folder.write_encoder(resolved, canary_vectors(encoder), encoder.device)
        else:
            new_canaries[i] = canary_vectors(encoder)
            # Until it is whole, a new view does not take the place of the one it replaces.
            is_hidden = any(other["spec"] == str(resolved.spec) for other in infos.values())
            folder.write_encoder(resolved, new_canaries[i], encoder.device, is_hidden=is_hidden)
        views[i] = ViewWriter(table, resolved, options.overwrite)
    return views, new_canaries


def _stream(
    given: RunInput,
    writer: Writer,
    lanes: Sequence[Lane],
    progress: Callable[[Progress], None] | None,
) -> None:
    """Embed what is to do; the writer takes the outcomes."""
    from joblib import cpu_count

    options, views = given.options, writer.views
    totals = writer.plan.todo.sum(axis=1).tolist()
    n_parts = options.part[1] if options.part else 1
    n_workers = options.n_workers or max(1, cpu_count() // n_parts)
    labels = [one.spec.label for one in given.resolved]
    n_done = [0] * len(labels)

    def embed(todos: Iterable[Todo], known: Mapping[int, Known]) -> None:
        outcomes = embed_items(
            todos,
            lanes,
            modality=given.modality,
            known=[known.get(i, frozenset()) for i in range(len(totals))],
            readers=given.readers,
            n_workers=n_workers,
            clock=given.clock,
            decode_in=_decode_in(given, lanes, max(totals), n_workers),
        )
        with closing(outcomes):
            for outcome in outcomes:
                writer.take(outcome)
                if progress is not None:
                    i = outcome.view
                    n_done[i] += 1
                    limit = given.clock.limit
                    progress(Progress(labels[i], n_done[i], totals[i], views[i].n_failed, limit))

    embed(writer.todos(), {i: view.known for i, view in views.items()})
    if mistaken := writer.settle_copies():
        embed(mistaken, {})


def _decode_in(given: RunInput, lanes: Sequence[Lane], n_todo: int, n_workers: int) -> str:
    """Choose threads or processes: threads cannot feed a GPU from many cores (`decode_ahead`)."""
    wanted = given.options.decode_in
    if given.modality is not Modality.IMAGE or wanted == THREADS:
        return THREADS
    is_many = n_todo >= _MANY_ITEMS and n_workers >= _MANY_WORKERS
    is_worth_it = is_many and not any_is_remote(given.readers)
    if wanted == AUTO and not (is_worth_it and all(lane.is_async for lane in lanes)):
        return THREADS
    preparers = [lane.encoder.preparer for lane in lanes]
    if None not in preparers and can_travel(given.readers, preparers):
        return PROCESSES
    if wanted == AUTO:
        return THREADS
    raise BadName(
        "--decode-in processes: the transform of these encoders cannot be handed to another "
        "process; leave it out"
    )


def _replace(
    given: RunInput,
    views: Mapping[int, ViewWriter],
    new_canaries: Mapping[int, Canary],
    encoders: Mapping[int, Encoder],
) -> None:
    """Drop the vectors that this run made anew; new views take the place of replaced ones."""
    for i, view in views.items():
        with given.folder.replacing(given.resolved[i].slug):
            view.drop_superseded()
        if i in new_canaries:
            given.folder.write_encoder(given.resolved[i], new_canaries[i], encoders[i].device)


def _measure_gains(
    given: RunInput, writer: Writer, encoders: Mapping[int, Encoder]
) -> dict[int, dict[str, float]]:
    """Measure, after a long run on a GPU, what the user's choices would gain."""
    gains: dict[int, dict[str, float]] = {}
    if given.modality is Modality.TEXT:
        return gains
    for i, view in writer.views.items():
        if view.n_encoded < _LONG_RUN_ITEMS or not encoders[i].device.startswith("cuda"):
            continue
        if contents := writer.some_contents(view, given.readers):
            gains[i] = measure_gains(encoders[i], contents)
    return gains
