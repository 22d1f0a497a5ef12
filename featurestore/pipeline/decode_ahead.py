"""From the uri of an image to what encoders take: read, hashed, decoded, resized.

Threads of this process do it or, to feed a GPU from many cores, other processes: threads wait
for each other at Python's lock, and so does the one that feeds the GPU.
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
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Semaphore
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from featurestore.encoders.base import Prepare
from featurestore.encoders.images import REMARKS, decode_image
from featurestore.errors import FeatureStoreError, Undecodable
from featurestore.pipeline.batching import batched
from featurestore.sources.reading import reason_of
from featurestore.storage import stopping
from featurestore.storage.markers import begin_run

if TYPE_CHECKING:
    from joblib.externals.loky import ProcessPoolExecutor

THREADS_MEANWHILE = True  # threads work while the processes start
_PIPE_BYTES = 1 << 20  # the most that Linux allows without privileges
_CHUNK = 16  # pictures that go to a process together
_START_ENV = {"OMP_NUM_THREADS": "1"}  # one process for each core, one thread in each
NOTHING = np.empty(0, np.uint64)
_T = TypeVar("_T")
_R = TypeVar("_R")

Read = Callable[[str], bytes]
# The side in pixels to which a JPEG may shrink while it is decoded (None: not at all), and what
# turns a picture into an encoder's input.
Preparer = tuple[int | None, Prepare]
# A source, a uri in it, and for each preparer whether its input is wanted.
Request = tuple[str, str | None, Sequence[bool]]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What became of one image: an input for each preparer, or the reason for having none."""

    content_hash: str | None = None  # None where the bytes could not be read
    inputs: tuple[NDArray[Any] | None, ...] = ()  # None where not wanted, or `errors` says why
    errors: tuple[str, ...] = ()  # of single preparers; "" where there is none
    failed_stage: str | None = None  # read | decode: nobody has an input
    error: str = ""
    remarks: tuple[str, ...] = ()  # those of `decode_image`
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
        return Picture(failed_stage="read", error=f"{reason_of(error)}: {uri}")
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
                decode_s = time.perf_counter() - started
                return Picture(
                    content_hash,
                    failed_stage="decode",
                    error=str(error),
                    read_s=read_s,
                    decode_s=decode_s,
                )
            except FeatureStoreError:
                raise
            except MemoryError:  # of this moment, not of the picture
                reason = "out of memory while it was decoded: --retry-failed tries it again"
                return Picture(failed_stage="read", error=reason, read_s=read_s)
            except Exception as error:  # this encoder's transform raises what it likes
                errors[i] = f"{type(error).__name__}: {error}"
        decode_s = time.perf_counter() - started
    return Picture(
        content_hash,
        tuple(inputs),
        tuple(errors),
        remarks=tuple(
            one for one in REMARKS if any(one in image.info for image in decoded.values())
        ),
        read_s=read_s,
        decode_s=decode_s,
    )


def can_travel(*values: object) -> bool:
    """Whether values can be handed to another process."""
    from joblib.externals.loky.backend.reduction import dumps

    try:
        dumps(values)
    except Exception:  # what cannot be pickled raises what it likes
        return False
    return True


def in_processes(
    items: Iterable[_T],
    request_of: Callable[[_T], Request],
    readers: Mapping[str, Read],
    preparers: Sequence[Preparer],
    *,
    known: NDArray[np.uint64] = NOTHING,
    n_workers: int,
    window: Callable[[], int],
) -> Generator[tuple[_T, Picture], None, None]:
    """Prepare images in processes, in order, some ``window()`` of them ahead.

    Until the processes have started, which takes a second or more, threads do their work.

    Parameters
    ----------
    items : iterable
    request_of : callable
        From an item to its source, its uri, and which preparers want it.
    readers, preparers
        What a process can be handed (`can_travel`).
    known : array of shape (n,)
        The first eight bytes of the SHA-256 of contents that nobody wants, sorted: they are
        hashed, not decoded. So an input may be missing that is wanted after all.

    Raises
    ------
    FeatureStoreError
        If a process dies.
    """
    from joblib.externals.loky import ProcessPoolExecutor

    decoders = Semaphore(n_workers)

    def here(requests: Sequence[Request]) -> list[Picture]:
        return [_prepared(one, readers, preparers, known, decoders) for one in requests]

    running = begin_run()
    # Not forked: this process has threads. Nor is the caller's script run again in them.
    processes = ProcessPoolExecutor(
        n_workers,
        env=_START_ENV,
        initializer=_start,
        initargs=(readers, preparers, known, os.getpid(), running.name),
    )
    beside = ThreadPoolExecutor(n_workers, thread_name_prefix="decode")
    ready: list[Future[int]] = []

    def submit(chunk: list[_T]) -> Future[list[Picture]]:
        requests = [request_of(one) for one in chunk]
        if not THREADS_MEANWHILE or all(one.done() for one in ready):
            pictures: Future[list[Picture]] = processes.submit(_prepare_chunk, requests)
            return pictures
        return beside.submit(here, requests)

    def n_chunks() -> int:
        return 2 * n_workers + window() // _CHUNK

    try:
        with _uninterrupted():
            ready += [processes.submit(os.getpid) for _ in range(n_workers)]
        _widen(processes)
        with closing(ahead(submit, batched(items, lambda: _CHUNK), n_chunks)) as stream:
            for chunk, pictures in stream:
                yield from zip(chunk, pictures, strict=True)
    except BrokenExecutor as error:
        reason = " ".join(str(error).split())[:200]
        has_started = any(one.done() and one.exception() is None for one in ready)
        what = "died (memory may have run out)" if has_started else "could not start"
        raise FeatureStoreError(
            f"a process that decodes images {what}: {reason}; what was embedded is kept, run "
            "again with --decode-in threads, or with fewer --num-workers"
        ) from error
    finally:
        running.close()  # queued chunks then return without work
        is_asked = stopping.exit_code() is not None
        beside.shutdown(wait=not is_asked, cancel_futures=True)
        processes.shutdown(kill_workers=is_asked)  # one may hang in a read


def _widen(processes: ProcessPoolExecutor) -> None:
    """Enlarge the pipe through which pictures come back, so that it holds a chunk of them.

    With 64 KB, Linux's default, a process waits while this one reads what it writes, and this
    one takes Python's lock for each piece.
    """
    try:
        from fcntl import F_SETPIPE_SZ, fcntl
    except ImportError:  # only Linux has it
        return
    with suppress(AttributeError, OSError):  # loky's own queue; the size may be refused
        fcntl(processes._result_queue._reader, F_SETPIPE_SZ, _PIPE_BYTES)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore signals while processes start, which inherit that: a Ctrl-C must not end them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = [signal.signal(one, signal.SIG_IGN) for one in stopping.SIGNALS]
    try:
        yield
    finally:
        for one, handler in zip(stopping.SIGNALS, before, strict=True):
            signal.signal(one, handler)


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
    finally:  # the reader has stopped
        for _, future in pending:
            future.cancel()


# What follows runs in the processes that prepare (the last three functions in threads, too).

_given: tuple[Mapping[str, Read], Sequence[Preparer], NDArray[np.uint64]] | None = None
_running = ""  # a file that exists as long as the results are wanted


def _start(
    readers: Mapping[str, Read],
    preparers: Sequence[Preparer],
    digests: NDArray[np.uint64],
    parent: int,
    running: str,
) -> None:
    global _given, _running
    from joblib.externals.loky import process_executor

    # loky would end a process that grows by 300 MB; readers may keep as much.
    process_executor._USE_PSUTIL = False
    for one in stopping.SIGNALS:
        signal.signal(one, signal.SIG_IGN)  # the parent handles it, and ends us
    _given, _running = (readers, preparers, digests), running
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End when the parent process is gone; a killed parent sends no message."""
    while os.getppid() == parent:
        time.sleep(1)
    Path(_running).unlink(missing_ok=True)
    os._exit(1)


def _prepare_chunk(requests: Sequence[Request]) -> list[Picture]:
    assert _given is not None
    return [_prepared(one, *_given) for one in requests if os.path.exists(_running)]  # noqa: PTH110


def _prepared(
    request: Request,
    readers: Mapping[str, Read],
    preparers: Sequence[Preparer],
    digests: NDArray[np.uint64],
    decoders: AbstractContextManager[Any] | None = None,
) -> Picture:
    source, uri, wanting = request

    def wanted(content_hash: str) -> Sequence[bool]:
        return [False] * len(wanting) if _is_among(content_hash, digests) else wanting

    return prepare_picture(readers[source], uri, preparers, wanted=wanted, decoders=decoders)


def _is_among(content_hash: str, digests: NDArray[np.uint64]) -> bool:
    wanted = np.uint64(int(content_hash[:16], 16))
    position = int(np.searchsorted(digests, wanted))
    return position < len(digests) and bool(digests[position] == wanted)
