"""From the place of an image to what encoders take: read, hashed, decoded, resized.

In threads of this process or, where a GPU is to be fed from many cores, in processes of their
own: threads hold each other up at Python's lock, and the one that feeds the GPU with them.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from threading import Semaphore
from typing import Any, TypeVar

from numpy.typing import NDArray

from featurestore.batching import batched
from featurestore.errors import FeatureStoreError, Undecodable
from featurestore.images import decode_image

THREADS_MEANWHILE = True  # while processes start
_CHUNK = 16  # pictures that go to a process together
_START_ENV = {"OMP_NUM_THREADS": "1"}  # the processes are the threads
_T = TypeVar("_T")
_R = TypeVar("_R")

Read = Callable[[str], bytes]
# The least side to which a JPEG may shrink while it is decoded (None: whole), and what makes
# an encoder's input of a picture.
Preparer = tuple[int | None, Callable[[Any], NDArray[Any]]]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What became of one image: an input for each preparer, or the reason for having none."""

    content_hash: str | None = None  # None where the bytes could not be read
    inputs: tuple[NDArray[Any] | None, ...] = ()  # None where not wanted, or `errors` says why
    errors: tuple[str, ...] = ()  # of single preparers; "" where there is none
    failed_stage: str | None = None  # read | decode: nobody has an input
    error: str = ""
    read_s: float = 0.0
    decode_s: float = 0.0


def prepare_picture(
    read: Read,
    uri: str | None,
    preparers: Sequence[Preparer],
    *,
    wanted: Callable[[str], Sequence[bool]] | None = None,
    decoders: AbstractContextManager[Any] | None = None,
) -> Picture:
    """Read, hash, decode and prepare one image.

    Parameters
    ----------
    wanted : callable, optional
        From the content's SHA-256 to which preparers want it; all by default.
    decoders : context manager, optional
        Entered while decoding; bounds how many do so at once.
    """
    started = time.perf_counter()
    if uri is None:
        return Picture(failed_stage="read", error="no path in this row")
    try:
        content = read(uri)
    except Exception as error:  # file systems raise what they like: it is this item's fault
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Picture(failed_stage="read", error=f"{reason}: {uri}")
    content_hash = hashlib.sha256(content).hexdigest()
    read_s = time.perf_counter() - started
    is_wanted = [True] * len(preparers) if wanted is None else wanted(content_hash)
    inputs: list[NDArray[Any] | None] = [None] * len(preparers)
    errors = [""] * len(preparers)
    if not any(is_wanted):
        return Picture(content_hash, tuple(inputs), tuple(errors), read_s=read_s)
    with decoders or nullcontext():
        started = time.perf_counter()
        decoded: dict[int | None, Any] = {}  # whole, or shrunk for those who ask for it
        for i, (least_px, prepare) in enumerate(preparers):
            if not is_wanted[i]:
                continue
            try:
                if least_px not in decoded:
                    decoded[least_px] = decode_image(content, at_least_px=least_px)
                inputs[i] = prepare(decoded[least_px])
            except Undecodable as error:
                return Picture(
                    content_hash, failed_stage="decode", error=str(error), read_s=read_s,
                    decode_s=time.perf_counter() - started,
                )  # fmt: skip
            except (ValueError, MemoryError) as error:  # this encoder's transform: a side of 1 px
                errors[i] = f"{type(error).__name__}: {error}"
        decode_s = time.perf_counter() - started
    return Picture(content_hash, tuple(inputs), tuple(errors), read_s=read_s, decode_s=decode_s)


def in_processes(
    items: Iterable[_T],
    place: Callable[[_T], tuple[str, str | None]],
    readers: Mapping[str, Read],
    preparers: Sequence[Preparer],
    *,
    n_workers: int,
    window: Callable[[], int],
) -> Generator[tuple[_T, Picture], None, None]:
    """Prepare images in processes, in order, some ``window()`` of them ahead.

    Until the processes have started, which takes some seconds, threads do their work.

    Parameters
    ----------
    items : iterable
    place : callable
        From an item to its source and uri.
    readers, preparers
        What a process can be handed: values, or functions of modules.

    Raises
    ------
    FeatureStoreError
        If a process dies.
    """
    from joblib.externals.loky import ProcessPoolExecutor

    decoders = Semaphore(n_workers)

    def here(places: Sequence[tuple[str, str | None]]) -> list[Picture]:
        return [
            prepare_picture(readers[source], uri, preparers, decoders=decoders)
            for source, uri in places
        ]

    # Not forked: this process has threads. Nor is the caller's script run again in them.
    processes = ProcessPoolExecutor(
        n_workers, initializer=_start, initargs=(readers, preparers), env=_START_ENV
    )
    threads = ThreadPoolExecutor(n_workers, thread_name_prefix="decode")
    with _uninterrupted():
        ready = [processes.submit(os.getpid) for _ in range(n_workers)]

    def submit(chunk: list[_T]) -> Future[list[Picture]]:
        places = [place(one) for one in chunk]
        if not THREADS_MEANWHILE or all(one.done() for one in ready):
            found: Future[list[Picture]] = processes.submit(_prepare_chunk, places)
            return found
        return threads.submit(here, places)

    def n_chunks() -> int:
        return 2 * n_workers + window() // _CHUNK

    try:
        for chunk, pictures in ahead(submit, batched(items, lambda: _CHUNK), n_chunks):
            yield from zip(chunk, pictures, strict=True)
    except BrokenExecutor as error:
        raise FeatureStoreError(
            f"a process that decodes images died ({' '.join(str(error).split())[:200]}); memory "
            "may have run out: what was embedded is kept, run again with fewer --num-workers or "
            "with --decode-in threads"
        ) from error
    finally:
        threads.shutdown(cancel_futures=True)
        processes.shutdown(kill_workers=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Start processes that a Ctrl-C at the terminal does not reach before they can ignore it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say so
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ahead(
    submit: Callable[[_T], Future[_R]], items: Iterable[_T], window: Callable[[], int]
) -> Generator[tuple[_T, _R], None, None]:
    """Yield items with their results, in order, never more than ``window()`` of them ahead."""
    iterator = iter(items)
    pending: deque[tuple[_T, Future[_R]]] = deque()
    exhausted = False
    try:
        while True:
            while not exhausted and len(pending) < window():
                try:
                    item = next(iterator)
                except StopIteration:
                    exhausted = True
                else:
                    pending.append((item, submit(item)))
            if not pending:
                return
            item, future = pending.popleft()
            yield item, future.result()
    finally:
        for _, future in pending:
            future.cancel()


# In a process that prepares

_readers: Mapping[str, Read] = {}
_preparers: Sequence[Preparer] = ()


def _start(readers: Mapping[str, Read], preparers: Sequence[Preparer]) -> None:
    global _readers, _preparers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the parent, which ends us
    _readers, _preparers = readers, preparers


def _prepare_chunk(places: Sequence[tuple[str, str | None]]) -> list[Picture]:
    return [prepare_picture(_readers[source], uri, _preparers) for source, uri in places]
