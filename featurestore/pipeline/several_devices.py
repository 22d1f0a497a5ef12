"""Several devices of one machine: a process for each, which embeds its part of the items.

Parts are drawn by item id, writers append to the same views, and each row is committed by the
process that made it: nothing waits for another device.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from queue import Empty

from featurestore.errors import BadName, FeatureStoreError
from featurestore.pipeline.job import EmbedRequest, embed
from featurestore.pipeline.report import COUNTED, EmbedReport, Progress
from featurestore.storage import stopping
from featurestore.storage.exhausted import is_out_of_memory
from featurestore.storage.remote import StorePath, as_path

ALL = "all"
_REPORT_S = 0.2
_LAST_COMMIT_S = 120.0  # what an interrupted process may take to commit what it has
_Message = Progress | str | list[EmbedReport] | BaseException


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

    if not (n := n_gpus()):
        raise BadName("--device all: torch sees no GPU here; leave --device out to use the CPU")
    return [f"cuda:{number}" for number in range(n)]


def embed_on(
    devices: Sequence[str],
    store: StorePath,
    dataset: str,
    request: EmbedRequest,
    *,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[EmbedReport]:
    """Embed with one process for each device; see `Store.embed`.

    Raises
    ------
    FeatureStoreError
        What the first process that failed raised; what the others did is kept.
    """
    if request.embed_options.overwrite:
        raise BadName("--overwrite runs on one device: a view is replaced when it is whole")
    with stopping.finishing():  # a signal is passed on, and each process keeps what it has
        fleet = _Fleet.start(devices, str(store), dataset, request)
        try:
            while not fleet.is_over:
                fleet.take_message(progress, say)
        finally:
            fleet.end()
    if fleet.failure is not None:
        raise fleet.failure
    reports = [fleet.reports[number] for number in sorted(fleet.reports)]
    return [_sum(of_view) for of_view in zip(*reports, strict=True)]


@dataclass(eq=False)
class _Fleet:
    """The processes, and what they have told so far; each is known by its number."""

    devices: Sequence[str]
    processes: Sequence[BaseProcess]
    messages: Queue[tuple[int, _Message]]
    reports: dict[int, list[EmbedReport]] = field(default_factory=dict)  # of those that are done
    progress: dict[str, dict[int, Progress]] = field(default_factory=dict)  # by encoder
    said: set[str] = field(default_factory=set)
    n_ended: int = 0
    has_died: bool = False  # a process, without a word
    failure: BaseException | None = None

    @classmethod
    def start(
        cls, devices: Sequence[str], store: str, dataset: str, request: EmbedRequest
    ) -> _Fleet:
        """Start a process for each device; signals wait until it can handle them."""
        context = multiprocessing.get_context("spawn")  # delta-rs and CUDA do not survive fork
        messages = context.Queue()
        processes = []
        for number, device in enumerate(devices):
            options = replace(request.embed_options, device=device, part=(number, len(devices)))
            part = replace(request, embed_options=options)
            arguments = (messages, number, store, dataset, part)
            processes.append(context.Process(target=_embed_part, args=arguments))
        before = [signal.signal(one, signal.SIG_IGN) for one in stopping.SIGNALS]  # inherited
        for process in processes:
            process.start()
        for one, handler in zip(stopping.SIGNALS, before, strict=True):
            signal.signal(one, handler)
        return cls(devices, processes, messages)

    @property
    def is_over(self) -> bool:
        """Whether all processes have ended, or one will never tell how it did."""
        return self.has_died or self.n_ended == len(self.processes)

    def take_message(
        self, progress: Callable[[Progress], None] | None, say: Callable[[str], None]
    ) -> None:
        """Wait up to a second for what a process tells, and pass it on."""
        try:
            number, message = self.messages.get(timeout=1)
        except Empty:
            self._look_for_dead()
            return
        if isinstance(message, Progress):
            of_encoder = self.progress.setdefault(message.encoder, {})
            of_encoder[number] = message
            if progress is not None:
                progress(_together(list(of_encoder.values())))
        elif isinstance(message, str):
            if message not in self.said:  # each process lists the same sources
                self.said.add(message)
                say(message)
        else:
            self._note_end(number, message)

    def _look_for_dead(self) -> None:
        dead = [n for n, one in enumerate(self.processes) if one.exitcode not in (None, 0)]
        if dead and self.messages.empty():
            self.has_died = True
            self.failure = self.failure or FeatureStoreError(
                f"the process on {self.devices[dead[0]]} died (exit code "
                f"{self.processes[dead[0]].exitcode}); what was committed is kept"
            )

    def _note_end(self, number: int, result: list[EmbedReport] | BaseException) -> None:
        self.n_ended += 1
        if isinstance(result, BaseException):
            self.failure = self.failure or result
        else:
            self.reports[number] = result
        if self.failure is not None:
            self._interrupt()

    def _interrupt(self) -> None:
        """Interrupt what still runs: it commits what it has, and ends."""
        for process in self.processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGINT)

    def end(self) -> None:
        """Wait until all processes have ended; those that take too long are killed."""
        deadline = time.monotonic() + _LAST_COMMIT_S
        while any(process.is_alive() for process in self.processes):
            if time.monotonic() > deadline:
                for process in self.processes:
                    process.kill()  # what it had committed is kept
            if self.n_ended < len(self.processes):
                self._interrupt()
            with suppress(Empty):  # a process does not end before its last words are read
                while True:
                    self.messages.get_nowait()
            for process in self.processes:
                process.join(0.05)


def _embed_part(
    messages: Queue[tuple[int, _Message]],
    number: int,
    store: str,
    dataset: str,
    request: EmbedRequest,
) -> None:
    """Embed one part in a process of its own; tell progress, and at last reports or an error."""
    for one in (signal.SIGINT, signal.SIGTERM):  # a scheduler asks all processes at once
        signal.signal(one, _once)  # SIGHUP stays ignored: the parent knows whether it counts
    last: dict[str, float] = {}

    def progress(now: Progress) -> None:
        moment = time.monotonic()
        if now.n_done == now.n_total or moment - last.get(now.encoder, 0.0) > _REPORT_S:
            last[now.encoder] = moment
            messages.put((number, now))

    def say(text: str) -> None:
        messages.put((number, text))

    result: _Message
    try:
        result = embed(as_path(store), dataset, request, progress=progress, say=say)
    except (FeatureStoreError, OSError, MemoryError, KeyboardInterrupt) as error:
        result = error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        result = MemoryError(str(error))
    _ignore()  # nothing is left to stop
    messages.put((number, result))


def _once(*_: object) -> None:
    """Interrupt once: the terminal and the parent may both ask, while we commit."""
    _ignore()
    raise KeyboardInterrupt


def _ignore() -> None:
    for one in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # by doing nothing: Python reports one that is ignored when it is here
        signal.signal(one, lambda *_: None)


def _together(parts: list[Progress]) -> Progress:
    slowest = max(parts, key=lambda one: one.n_total - one.n_done)
    return Progress(
        slowest.encoder,
        sum(one.n_done for one in parts),
        sum(one.n_total for one in parts),
        sum(one.n_failed for one in parts),
        slowest.limit,
    )


def _sum(parts: Sequence[EmbedReport]) -> EmbedReport:
    """Return one report of several processes: counts add up, the slowest one sets the time."""
    first = parts[0]
    counts = (
        "n_encoded", "n_copied", "n_unchanged", "n_failed", "n_known_failures", *COUNTED,
    )  # fmt: skip
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
