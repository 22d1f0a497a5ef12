"""The pipeline: read → decode → encode, as a stream of outcomes; nothing about formats.

Images are read, hashed and decoded by worker threads (Pillow lets go of the interpreter)
into a bounded window ahead of the encoder, so that memory stays flat. Texts are sorted by
length inside a window, so that little of a batch is padding.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from featurestore.batching import BatchSize, batched
from featurestore.errors import Undecodable
from featurestore.images import decode_image
from featurestore.values import Modality

TEXT_WINDOW = 2048
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Todo:
    """An item that may need a vector."""

    row: int  # in the listing
    path: Path | None  # of an image
    text: str | None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one item: a vector, or one of the reasons for having none."""

    row: int
    content_hash: str | None  # None where the bytes could not be read
    vector: NDArray[np.float32] | None = None
    failed_stage: str | None = None  # read | decode | encode
    error: str = ""

    @property
    def is_known(self) -> bool:
        """Whether the content has a vector already (or soon): nothing was encoded."""
        return self.vector is None and self.failed_stage is None


@dataclass
class Clock:
    """Where the time of a run went, in seconds of the thread that drives the encoder."""

    waiting_s: float = 0.0  # for decoded items
    encoding_s: float = 0.0
    n_encoded: int = 0

    @property
    def limit(self) -> str:
        """The stage that sets the pace."""
        return "reading and decoding" if self.waiting_s > self.encoding_s else "encoding"


@dataclass(frozen=True, eq=False)
class _Ready:
    todo: Todo
    content_hash: str
    content: Any  # what the encoder takes
    work: float = field(default=1.0)


def embed_items(
    todos: Iterable[Todo],
    encoder: Any,
    *,
    modality: Modality,
    known: Set[str],
    batch_size: BatchSize,
    n_workers: int | None = None,
    clock: Clock | None = None,
) -> Iterator[Outcome]:
    """Embed items; outcomes come batch by batch, in no promised order.

    Parameters
    ----------
    todos : iterable of Todo
    encoder : ImageEncoder or TextEncoder
    modality : Modality
        What the items are.
    known : set of str
        Content hashes that need no encoding. The caller may add to it while the stream
        runs, and then no content is encoded twice.
    batch_size : BatchSize
    n_workers : int, optional
        Decode threads; the number of cores by default.
    clock : Clock, optional
        Filled as the run goes.

    Yields
    ------
    Outcome
    """
    clock = clock or Clock()
    n_workers = n_workers or os.cpu_count() or 1
    if modality is Modality.TEXT:
        prepared: Iterator[_Ready | Outcome] = _texts(todos, known)
        encode: Callable[[Sequence[Any]], NDArray[np.float32]] = encoder.encode_texts
    else:
        prepare = _image_preparer(encoder, known)
        # Deep enough to feed a growing batch, shallow enough to bound memory.
        prepared = _ordered_map(prepare, todos, n_workers, lambda: 2 * batch_size.size + n_workers)
        encode = encoder.encode_images
    unencoded: deque[Outcome] = deque()

    def to_encode() -> Iterator[_Ready]:
        in_batch: set[str] = set()
        for one in _timed(prepared, clock):
            if isinstance(one, _Ready):
                # Decoded ahead, before its equal was encoded.
                if one.content_hash not in known and one.content_hash not in in_batch:
                    in_batch.add(one.content_hash)
                    yield one
                    continue
                one = Outcome(one.todo.row, one.content_hash)
            unencoded.append(one)
            if len(unencoded) >= TEXT_WINDOW:  # a long run of known items must not pile up
                return

    while True:
        batch = next(batched(to_encode(), lambda: batch_size.size), [])
        if not batch and not unencoded:
            return
        while unencoded:
            yield unencoded.popleft()
        if batch:
            yield from _encode(batch, encode, batch_size, clock)


def _encode(
    batch: list[_Ready],
    encode: Callable[[Sequence[Any]], NDArray[np.float32]],
    batch_size: BatchSize,
    clock: Clock,
) -> Iterator[Outcome]:
    started = time.perf_counter()
    try:
        vectors = encode([one.content for one in batch])
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        if len(batch) == 1:
            yield _failure(batch[0], "encode", f"out of memory on one item: {error}")
            return
        batch_size.out_of_memory(len(batch))
        middle = len(batch) // 2
        yield from _encode(batch[:middle], encode, batch_size, clock)
        yield from _encode(batch[middle:], encode, batch_size, clock)
        return
    seconds = time.perf_counter() - started
    clock.encoding_s += seconds
    clock.n_encoded += len(batch)
    batch_size.record(len(batch), sum(one.work for one in batch), seconds)
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(vectors).all(axis=1))
    for one, vector, is_finite in zip(batch, vectors, finite, strict=True):
        if is_finite:
            yield Outcome(one.todo.row, one.content_hash, vector)
        else:
            yield _failure(one, "encode", "the encoder returned NaN or infinite values")


def _is_out_of_memory(error: Exception) -> bool:
    # torch raises OutOfMemoryError (a RuntimeError) on GPUs, a plain RuntimeError on CPUs.
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate" in text


def _failure(one: _Ready, stage: str, error: str) -> Outcome:
    return Outcome(one.todo.row, one.content_hash, failed_stage=stage, error=error)


def _image_preparer(encoder: Any, known: Set[str]) -> Callable[[Todo], _Ready | Outcome]:
    def prepare(todo: Todo) -> _Ready | Outcome:
        if todo.path is None:
            return Outcome(todo.row, None, failed_stage="read", error="no path in this row")
        try:
            content = todo.path.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return Outcome(todo.row, None, failed_stage="read", error=f"{reason}: {todo.path}")
        content_hash = hashlib.sha256(content).hexdigest()
        if content_hash in known:
            return Outcome(todo.row, content_hash)
        try:
            pixels = encoder.prepare_image(decode_image(content))
        except Undecodable as error:
            return Outcome(todo.row, content_hash, failed_stage="decode", error=str(error))
        return _Ready(todo, content_hash, pixels)

    return prepare


def _texts(todos: Iterable[Todo], known: Set[str]) -> Iterator[_Ready | Outcome]:
    for window in batched(todos, lambda: TEXT_WINDOW):
        for todo in sorted(window, key=lambda todo: len(todo.text or "")):
            if todo.text is None or not todo.text.strip():
                content_hash = None if todo.text is None else text_hash(todo.text)
                yield Outcome(
                    todo.row, content_hash, failed_stage="read", error="the text is empty"
                )
                continue
            content_hash = text_hash(todo.text)
            if content_hash in known:
                yield Outcome(todo.row, content_hash)
            else:
                yield _Ready(todo, content_hash, todo.text, float(len(todo.text)))


def text_hash(text: str) -> str:
    """Return the SHA-256 (hex) of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def _timed(stream: Iterator[_T], clock: Clock) -> Iterator[_T]:
    while True:
        started = time.perf_counter()
        try:
            one = next(stream)
        except StopIteration:
            return
        finally:
            clock.waiting_s += time.perf_counter() - started
        yield one


def _ordered_map(
    function: Callable[[_T], _R], items: Iterable[_T], n_workers: int, window: Callable[[], int]
) -> Iterator[_R]:
    """Map in threads, in order, never more than ``window()`` results ahead."""
    iterator = iter(items)
    ahead: deque[Future[_R]] = deque()
    with ThreadPoolExecutor(max_workers=n_workers, thread_name_prefix="decode") as pool:
        try:
            exhausted = False
            while True:
                while not exhausted and len(ahead) < window():
                    try:
                        ahead.append(pool.submit(function, next(iterator)))
                    except StopIteration:
                        exhausted = True
                if not ahead:
                    return
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
