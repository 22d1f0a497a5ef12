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
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Semaphore
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from featurestore.encoders.base import Prepare
from featurestore.encoders.images import decode_image
from featurestore.errors import FeatureStoreError, Undecodable
from featurestore.pipeline.batching import batched
from featurestore.sources.reading import reason_of

if TYPE_CHECKING:
    from joblib.externals.loky import ProcessPoolExecutor

THREADS_MEANWHILE = True  # while processes start
_PIPE_BYTES = 1 << 20  # as much as Linux lets everyone have
_CHUNK = 16  # pictures that go to a process together
_START_ENV = {"OMP_NUM_THREADS": "1"}  # the processes are the threads
_T = TypeVar("_T")
_R = TypeVar("_R")

Read = Callable[[str], bytes]
# The least side to which a JPEG may shrink while it is decoded (None: whole), and what makes
# an encoder's input of a picture.
Preparer = tuple[int | None, Prepare]
# A source, a uri in it, and which preparers want what is there.
Request = tuple[str, str | None, Sequence[bool]]


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
                return Picture(
                    content_hash, failed_stage="decode", error=str(error), read_s=read_s,
                    decode_s=time.perf_counter() - started,
                )  # fmt: skip
            except FeatureStoreError:
                raise
            except Exception as error:  # this encoder's transform raises what it likes
                errors[i] = f"{type(error).__name__}: {error}"
        decode_s = time.perf_counter() - started
    return Picture(content_hash, tuple(inputs), tuple(errors), read_s=read_s, decode_s=decode_s)


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
    place: Callable[[_T], Request],
    readers: Mapping[str, Read],
    preparers: Sequence[Preparer],
    *,
    known: Iterable[str] = (),
    n_workers: int,
    window: Callable[[], int],
) -> Generator[tuple[_T, Picture], None, None]:
    """Prepare images in processes, in order, some ``window()`` of them ahead.

    Until the processes have started, which takes a second or more, threads do their work.

    Parameters
    ----------
    items : iterable
    place : callable
        From an item to its source, its uri, and which preparers want it.
    readers, preparers
        What a process can be handed (`can_travel`).
    known : iterable of str
        SHA-256 (hex) of contents that nobody wants: they are hashed, not decoded. Eight of
        their bytes are compared, so an input may be missing that is wanted after all.

    Raises
    ------
    FeatureStoreError
        If a process dies.
    """
    from joblib.externals.loky import ProcessPoolExecutor

    decoders = Semaphore(n_workers)
    digests = _digests(known)

    def here(places: Sequence[Request]) -> list[Picture]:
        return [_prepared(one, readers, preparers, digests, decoders) for one in places]

    running = NamedTemporaryFile(prefix="featurestore-runs-")  # noqa: SIM115 - closed below
    # Not forked: this process has threads. Nor is the caller's script run again in them.
    processes = ProcessPoolExecutor(
        n_workers, env=_START_ENV, initializer=_start,
        initargs=(readers, preparers, digests, os.getpid(), running.name),
    )  # fmt: skip
    beside = ThreadPoolExecutor(n_workers, thread_name_prefix="decode")
    ready: list[Future[int]] = []

    def submit(chunk: list[_T]) -> Future[list[Picture]]:
        places = [place(one) for one in chunk]
        if not THREADS_MEANWHILE or all(one.done() for one in ready):
            found: Future[list[Picture]] = processes.submit(_prepare_chunk, places)
            return found
        return beside.submit(here, places)

    def n_chunks() -> int:
        return 2 * n_workers + window() // _CHUNK

    try:
        with _uninterrupted():
            ready += [processes.submit(os.getpid) for _ in range(n_workers)]
        _widen(processes)
        with closing(ahead(submit, batched(items, lambda: _CHUNK), n_chunks)) as found:
            for chunk, pictures in found:
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
        running.close()  # loky works off its queue: of each chunk there nothing more is done
        beside.shutdown(cancel_futures=True)
        processes.shutdown()


def _widen(processes: ProcessPoolExecutor) -> None:
    """Give the pipe that pictures come back through room for a chunk of them.

    In 64 KB, Linux's default, a process waits while this one reads what it writes, and this
    one takes Python's lock for each piece.
    """
    try:
        from fcntl import F_SETPIPE_SZ, fcntl
    except ImportError:  # Linux alone has it
        return
    with suppress(AttributeError, OSError):  # the queue is loky's own; less may be allowed
        fcntl(processes._result_queue._reader, F_SETPIPE_SZ, _PIPE_BYTES)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Start processes that a Ctrl-C at the terminal does not reach before they can ignore it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say so
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(one, signal.SIG_IGN) for one in signals]
    try:
        yield
    finally:
        for one, handler in zip(signals, before, strict=True):
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


# In a process that prepares

_given: tuple[Mapping[str, Read], Sequence[Preparer], NDArray[np.uint64]] | None = None
_running = ""  # a file that is there as long as somebody wants what we do


def _start(
    readers: Mapping[str, Read],
    preparers: Sequence[Preparer],
    digests: NDArray[np.uint64],
    parent: int,
    running: str,
) -> None:
    global _given, _running
    from joblib.externals.loky import process_executor

    # Its watch over memory ends a process that grows by 300 MB: readers may keep as much.
    process_executor._USE_PSUTIL = False
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)  # it is for the parent, which ends us
    _given, _running = (readers, preparers, digests), running
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End when the parent has gone: killed, it tells nobody."""
    while os.getppid() == parent:
        time.sleep(1)
    Path(_running).unlink(missing_ok=True)
    os._exit(1)


def _prepare_chunk(places: Sequence[Request]) -> list[Picture]:
    assert _given is not None
    return [_prepared(one, *_given) for one in places if os.path.exists(_running)]  # noqa: PTH110


def _prepared(
    place: Request,
    readers: Mapping[str, Read],
    preparers: Sequence[Preparer],
    digests: NDArray[np.uint64],
    decoders: AbstractContextManager[Any] | None = None,
) -> Picture:
    source, uri, wanting = place

    def wanted(content_hash: str) -> Sequence[bool]:
        return [False] * len(wanting) if _is_among(content_hash, digests) else wanting

    return prepare_picture(readers[source], uri, preparers, wanted=wanted, decoders=decoders)


def _digests(known: Iterable[str]) -> NDArray[np.uint64]:
    """Return the first eight bytes of hashes, sorted."""
    return np.sort(np.fromiter((int(one[:16], 16) for one in known), np.uint64))


def _is_among(content_hash: str, digests: NDArray[np.uint64]) -> bool:
    wanted = np.uint64(int(content_hash[:16], 16))
    at = int(np.searchsorted(digests, wanted))
    return at < len(digests) and bool(digests[at] == wanted)
