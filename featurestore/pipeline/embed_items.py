"""The pipeline: read → decode → encode, as a stream of outcomes; nothing about formats.

Items are read, hashed and decoded (or tokenized) by worker threads, once for all encoders, into
a bounded window ahead of them, so that memory stays flat. On a GPU the next batch is uploaded
while one computes.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from featurestore.pipeline.contents import Known
from featurestore.pipeline.lane import Lane
from featurestore.pipeline.options import PROCESSES, THREADS
from featurestore.pipeline.prepare import Preparation
from featurestore.pipeline.profile import Clock
from featurestore.pipeline.todo import Outcome, Todo
from featurestore.sources.reading import Reader
from featurestore.terms.specs import Modality


def embed_items(
    todos: Iterable[Todo],
    lanes: Sequence[Lane],
    *,
    modality: Modality,
    known: Sequence[Known],
    readers: Mapping[str, Reader],
    n_workers: int | None = None,
    clock: Clock | None = None,
    decode_in: str = THREADS,
) -> Generator[Outcome, None, None]:
    """Embed items; outcomes come batch by batch, in no promised order.

    Parameters
    ----------
    todos : iterable of Todo
    lanes : sequence of Lane
        Each item is read and decoded once for all of them.
    modality : Modality
        What the items are.
    known : sequence of Contents, or of set of str
        For each view, content hashes that need no encoding. The caller may add to them while
        the stream runs, and then no content is encoded twice.
    readers : mapping of str to Reader
        For each source, uri → bytes; from remote ones more items are read at once.
    n_workers : int, optional
        Threads or processes that decode; the number of cores by default.
    decode_in : {"threads", "processes"}
        Where images are decoded; see `decode_ahead`.
    clock : Clock, optional
        Filled as the run goes.

    Yields
    ------
    Outcome
        One for each item and view that needs it.
    """
    clock = clock or Clock()
    n_workers = n_workers or os.cpu_count() or 1
    preparation = Preparation(lanes, known, readers, n_workers, clock)
    if modality is Modality.TEXT:
        prepared = preparation.texts(todos)
    elif decode_in == PROCESSES:
        prepared = preparation.pictures_in_processes(todos)
    else:
        prepared = preparation.pictures_in_threads(todos)
    with closing(prepared), ThreadPoolExecutor(1, thread_name_prefix="stage") as stager:
        for outcomes, ready in clock.timed("wait", prepared):
            yield from outcomes
            for lane, items in zip(lanes, ready, strict=True):
                for item in items if lane.broken is None else ():
                    yield from lane.enqueue(item, known, stager, clock)
                if lane.is_text:  # the next window begins with its shortest texts
                    yield from lane.drain(stager, clock)
            if all(lane.broken for lane in lanes):
                break
        for lane in lanes:
            yield from lane.drain(stager, clock)
            yield from lane.settle(0, clock)
            lane.judge()
            yield from lane.blame()
        for lane in lanes:
            if lane.broken is not None:  # the others are done
                raise lane.broken
