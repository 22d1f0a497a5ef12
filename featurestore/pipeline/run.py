"""From a listing to views: what is new or changed, embedded in one pass for all encoders."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from featurestore.encoders.base import Encoder
from featurestore.encoders.speedups import measure_gains
from featurestore.pipeline.lane import remember_batch_sizes
from featurestore.pipeline.plan import EmbedPlan, Tally, plan_embedding
from featurestore.pipeline.report import EmbedReport, Progress, RunResult, reports_of
from featurestore.pipeline.run_input import RunInput
from featurestore.pipeline.sink import update_metadata
from featurestore.pipeline.work import Work
from featurestore.terms.specs import EncoderSpec, Modality

_LONG_RUN_ITEMS = 1000  # from here on, it is worth a second to measure what would be faster


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
    tally, work = Tally(len(given.resolved)), Work(given, infos)
    for plan in plans(work, tally):
        work.embed(plan, tally, progress)
        del plan  # before the next one is made
    if work.are_others:
        return run(as_loaded(given, work.encoders), progress)
    if not work.encoders:
        return reports_of(given, RunResult(tally, time.perf_counter() - started))
    if given.options.overwrite:
        _replace(given, work)
    remember_batch_sizes(work.lanes, given.options)
    seconds = time.perf_counter() - started
    gains = _measure_gains(given, work)
    lane_of = {view: lane for lane in work.lanes for view in lane.views}
    reports = reports_of(given, RunResult(tally, seconds, work.views, lane_of, gains))
    for i in work.encoders:
        card = {**asdict(reports[i]), "items_per_s": reports[i].items_per_s}
        given.folder.write_run("embed", card)
    return reports


def plans(work: Work, tally: Tally) -> Iterator[EmbedPlan]:
    """Yield what is to do, part by part, with the encoders loaded that it needs.

    Metadata that alone changed is committed on the way. The plans end early where an encoder is
    not the one that it was taken for (`Work.are_others`).
    """
    given, infos = work.given, work.infos
    for part in given.listed.parts(given, infos):
        plan = plan_embedding(given, infos, part)
        tally.add(plan, part)
        tally.n_updated += update_metadata(given.folder, plan)
        _respell(given, infos)
        due = [
            i for i, one in enumerate(given.resolved) if plan.todo[i].any() or one.slug not in infos
        ]
        work.load(due)
        if work.are_others:
            return
        if due:
            yield plan
        del part, plan  # before the next ones are made
    for kept in given.unchanged:
        tally.add_unchanged(kept)


def _respell(given: RunInput, infos: Mapping[str, Mapping[str, Any]]) -> None:
    """Record where the weights of views are now, if their folder has moved."""
    for resolved in given.resolved:
        info = infos.get(resolved.slug)
        if info and info["spec"] != str(resolved.spec):
            given.folder.note(resolved.slug, spec=str(resolved.spec))


def as_loaded(given: RunInput, encoders: Mapping[int, Encoder]) -> RunInput:
    """Return the input with the encoders as loaded: the user's cache remembered other weights."""
    now = [encoders[i].resolved if i in encoders else one for i, one in enumerate(given.resolved)]
    loaded = {encoder.resolved.spec: encoder for encoder in encoders.values()}

    def load(specs: Sequence[EncoderSpec]) -> list[Encoder]:
        absent = [spec for spec in specs if spec not in loaded]
        loaded.update(zip(absent, given.load(absent), strict=True))
        return [loaded[spec] for spec in specs]

    return replace(given, resolved=tuple(now), load=load)


def _replace(given: RunInput, work: Work) -> None:
    """Drop the vectors that this run made anew; new views take the place of replaced ones."""
    for i, view in work.views.items():
        with given.folder.replacing(given.resolved[i].slug):
            view.drop_superseded()
        if i in work.new_canaries:
            device = work.encoders[i].device
            given.folder.write_encoder(given.resolved[i], work.new_canaries[i], device)


def _measure_gains(given: RunInput, work: Work) -> dict[int, dict[str, float]]:
    """Measure, after a long run on a GPU, what the user's choices would gain."""
    gains: dict[int, dict[str, float]] = {}
    if given.modality is Modality.TEXT:
        return gains
    for i, view in work.views.items():
        is_gpu = work.encoders[i].device.startswith("cuda")
        if view.n_encoded < _LONG_RUN_ITEMS or not is_gpu:
            continue
        if contents := view.some_contents(given.readers):
            gains[i] = measure_gains(work.encoders[i], contents)
    return gains
