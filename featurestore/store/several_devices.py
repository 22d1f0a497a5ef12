"""Several devices of one machine: a process for each, every one with its part of the items.

Parts are drawn by item id, writers append to the same views, and each row is committed by the
process that made it: nothing waits for another device.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from queue import Empty
from typing import Any

from featurestore.errors import BadName, FeatureStoreError
from featurestore.pipeline.listing_run import Selection
from featurestore.pipeline.options import EmbedOptions
from featurestore.pipeline.report import EmbedReport, Progress
from featurestore.sources.listing import SourceOptions
from featurestore.storage.remote import StorePath
from featurestore.store.store import open_store

ALL = "all"
_REPORT_S = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LAST_COMMIT_S = 120.0  # what an interrupted process may take to commit what it has


def devices_of(wanted: str) -> list[str]:
    """Return the devices that ``--device`` names: one, several with commas, or all GPUs.

    Raises
    ------
    BadName
        If ``all`` is asked for and there is no GPU.
    """
    if wanted != ALL:
        return wanted.split(",")
    from featurestore.encoders.torch_setup import n_gpus

    found = n_gpus()
    if not found:
        raise BadName("--device all: torch sees no GPU here; leave --device out to use the CPU")
    return [f"cuda:{number}" for number in range(found)]


def embed_on(
    devices: Sequence[str],
    store: StorePath,
    sources: Sequence[str | Path],
    *,
    dataset: str,
    encoders: Sequence[str],
    source_options: SourceOptions,
    embed_options: EmbedOptions,
    selection: Selection,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[EmbedReport]:
    """Embed with one process a device; see `Store.embed`.

    Raises
    ------
    FeatureStoreError
        What the first process that failed raised; what the others did is kept.
    """
    if embed_options.overwrite:
        raise BadName("--overwrite runs on one device: a view is replaced when it is whole")
    context = multiprocessing.get_context("spawn")  # delta-rs and CUDA do not survive fork
    messages = context.Queue()
    parts = [
        replace(embed_options, device=device, part=(number, len(devices)))
        for number, device in enumerate(devices)
    ]
    call = {
        "dataset": dataset, "encoders": list(encoders), "source_options": source_options,
        "selection": selection,
    }  # fmt: skip
    workers = [
        context.Process(target=_embed_part, args=(messages, str(store), list(sources), call, part))
        for part in parts
    ]
    # Inherited, until they are ready for it.
    before = [signal.signal(one, signal.SIG_IGN) for one in _SIGNALS]
    for worker in workers:
        worker.start()
    for one, handler in zip(_SIGNALS, before, strict=True):
        signal.signal(one, handler)
    done: dict[int, list[EmbedReport]] = {}
    seen: dict[str, dict[int, Progress]] = {}
    said: set[str] = set()
    failure: BaseException | None = None
    finished = 0
    try:
        while finished < len(workers):
            try:
                number, message = messages.get(timeout=1)
            except Empty:
                dead = [n for n, one in enumerate(workers) if one.exitcode not in (None, 0)]
                if dead and messages.empty():
                    failure = failure or FeatureStoreError(
                        f"the process on {devices[dead[0]]} died (exit code "
                        f"{workers[dead[0]].exitcode}); what was committed is kept"
                    )
                    break
                continue
            if isinstance(message, Progress):
                of_encoder = seen.setdefault(message.encoder, {})
                of_encoder[number] = message
                if progress is not None:
                    progress(_together(list(of_encoder.values())))
            elif isinstance(message, str):
                if message not in said:  # each process lists the same sources
                    said.add(message)
                    say(message)
            else:
                finished += 1
                if isinstance(message, BaseException):
                    failure = failure or message
                else:
                    done[number] = message
                if failure is not None:
                    _stop(workers)
    finally:
        deadline = time.monotonic() + _LAST_COMMIT_S
        while any(worker.is_alive() for worker in workers):
            if time.monotonic() > deadline:
                for worker in workers:
                    worker.kill()  # what it had committed is kept
            if finished < len(workers):
                _stop(workers)
            _drain(messages)  # a process does not end before its last words are read
            for worker in workers:
                worker.join(0.05)
    if failure is not None:
        raise failure
    return [_sum([done[n][i] for n in sorted(done)]) for i in range(len(done[0]))]


def _embed_part(
    messages: Any, store: str, sources: list[Any], call: dict[str, Any], how: EmbedOptions
) -> None:
    assert how.part is not None
    number = how.part[0]
    for one in _SIGNALS:  # a scheduler asks all processes at once
        signal.signal(one, _once)
    last: dict[str, float] = {}

    def progress(now: Progress) -> None:
        moment = time.monotonic()
        if now.n_done == now.n_total or moment - last.get(now.encoder, 0.0) > _REPORT_S:
            last[now.encoder] = moment
            messages.put((number, now))

    result: Any
    try:
        result = open_store(store, create=True).embed(
            sources, embed_options=how, progress=progress,
            say=lambda text: messages.put((number, text)), **call,
        )  # fmt: skip
    except (FeatureStoreError, OSError, KeyboardInterrupt) as error:
        result = error
    _ignore()  # nothing is left to stop
    messages.put((number, result))


def _once(*_: object) -> None:
    """Interrupt once: the terminal and the parent may both ask, while we commit."""
    _ignore()
    raise KeyboardInterrupt


def _ignore() -> None:
    for one in _SIGNALS:  # by doing nothing: Python reports one that is ignored when it is here
        signal.signal(one, lambda *_: None)


def _stop(workers: Sequence[Any]) -> None:
    """Interrupt what still runs: it commits what it has, and ends."""
    for worker in workers:
        if worker.is_alive() and worker.pid is not None:
            os.kill(worker.pid, signal.SIGINT)


def _drain(messages: Any) -> None:
    try:
        while True:
            messages.get_nowait()
    except Empty:
        return


def _together(parts: list[Progress]) -> Progress:
    slowest = max(parts, key=lambda one: one.n_total - one.n_done)
    return Progress(
        slowest.encoder,
        sum(one.n_done for one in parts),
        sum(one.n_total for one in parts),
        sum(one.n_failed for one in parts),
        slowest.limit,
    )


def _sum(parts: list[EmbedReport]) -> EmbedReport:
    """Return one report of several processes: counts add up, the slowest one sets the time."""
    first = parts[0]
    counts = ("n_encoded", "n_copied", "n_unchanged", "n_failed", "n_known_failures", "n_cut")
    stages: dict[str, tuple[float, int]] = {}
    for one in parts:
        for name, (seconds, n) in one.stages.items():
            before = stages.get(name, (0.0, 0))
            stages[name] = (round(before[0] + seconds, 4), before[1] + n)
    return replace(
        first,
        **{name: sum(getattr(one, name) for one in parts) for name in counts},
        n_updated=sum(one.n_updated for one in parts),
        seconds=max(one.seconds for one in parts),
        device=",".join(str(one.device) for one in parts),
        limit=max(parts, key=lambda one: one.seconds).limit,
        failures=tuple(text for one in parts for text in one.failures)[:5],
        stages=stages,
    )
