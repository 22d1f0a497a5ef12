"""The pipeline: read → decode → encode, as a stream of outcomes; nothing about formats.

Items are read, hashed and decoded (or tokenized) by worker threads, once for all encoders, into
a bounded window ahead of them, so that memory stays flat. On a GPU the next batch is uploaded
while one computes.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from threading import Semaphore
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featurestore.batching import BatchSize
from featurestore.errors import EncoderFailed, FeatureStoreError
from featurestore.pictures import Picture, ahead, in_processes, prepare_picture
from featurestore.profile import Clock
from featurestore.values import Modality

TEXT_WINDOW = 2048  # texts that are sorted by length together
TEXT_WINDOW_GPU = 16_384  # there full batches are large
_WINDOW_CHARACTERS = 512  # of a text in the mean: a window of longer ones holds fewer
THREADS, PROCESSES = "threads", "processes"
_MANY = 16  # items in a row on which an encoder raises: is it they, or the encoder?
# Waiting for a disk or a network needs threads, not cores.
_READERS_PER_DECODER = 2
_READERS_PER_DECODER_REMOTE = 16


@dataclass(frozen=True, slots=True)
class Todo:
    """An item that some view needs a vector of."""

    row: int  # in the listing
    source: str
    uri: str | None  # of an image
    text: str | None
    views: tuple[int, ...] = (0,)  # those that need it


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of one item in one view: a vector, or one of the reasons for having none."""

    row: int
    content_hash: str | None  # None where the bytes could not be read
    vector: NDArray[np.float32] | None = None
    failed_stage: str | None = None  # read | decode | encode
    error: str = ""
    view: int = 0
    is_cut: bool = False  # a text longer than the encoder reads

    @property
    def is_known(self) -> bool:
        """Whether the content has a vector already (or soon): nothing was encoded."""
        return self.vector is None and self.failed_stage is None


@dataclass(slots=True, eq=False)
class _Ready:
    todo: Todo
    content_hash: str
    content: Any  # what the encoder takes
    views: tuple[int, ...]  # of its lane, those that want a vector
    work: int = 1  # in the units of the batch size
    is_cut: bool = False


@dataclass(slots=True, eq=False)
class _UnderWay:
    batch: list[_Ready]
    staged: Future[Any]
    launched: Any = None


class Lane:
    """Encoders on one network (several layers of it, or just one): they see a batch once.

    Parameters
    ----------
    encoders : sequence of Encoder
        All on one network; they prepare items alike.
    views : sequence of int
        The number of each one's view in this run.
    modality : Modality
        What is fed to them.
    batch_size : BatchSize
    """

    def __init__(
        self,
        encoders: Sequence[Any],
        views: Sequence[int],
        modality: Modality,
        batch_size: BatchSize,
    ) -> None:
        self.encoder = encoders[0]
        self.views = tuple(views)
        self.batch_size = batch_size
        self.is_text = modality is Modality.TEXT
        self.counts_tokens = self.is_text and batch_size.counts_tokens
        run = getattr(self.encoder, "runner", None)
        # A network of ours runs in three steps, so that a GPU never waits: stage (pinned copy),
        # launch (returns at once), fetch. Any other encoder is one function.
        steps: tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]] = (
            run(encoders, modality) if run else _in_one_step(self.encoder, modality)
        )
        self.stage, self.launch, self.fetch = steps
        self.is_async = str(self.encoder.device).startswith("cuda")
        self.waiting: list[_Ready] = []
        self.hashes: dict[str, frozenset[int]] = {}  # of what waits or is under way → views
        self.under_way: deque[_UnderWay] = deque()
        self.suspects: list[list[Outcome]] = []  # items that failed since the last that passed
        self.broken: EncoderFailed | None = None

    @property
    def decode_px(self) -> int | None:
        """The side in pixels below which this encoder lets a JPEG be shrunk while decoding."""
        found: int | None = getattr(self.encoder, "decode_px", None)
        return found

    def has_full_batch(self) -> bool:
        """Whether what waits fills a batch."""
        return len(self.waiting) >= self.batch_size.size


def _in_one_step(
    encoder: Any, modality: Modality
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    encode = encoder.encode_texts if modality is Modality.TEXT else encoder.encode_images
    return (lambda contents: contents), encode, (lambda vectors: [vectors])


def embed_items(
    todos: Iterable[Todo],
    lanes: Sequence[Lane],
    *,
    modality: Modality,
    known: Sequence[Set[str]],
    readers: Mapping[str, Callable[[str], bytes]],
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
    known : sequence of set of str
        For each view, content hashes that need no encoding. The caller may add to them while
        the stream runs, and then no content is encoded twice.
    readers : mapping of str to callable
        For each source, uri → bytes; one with ``is_remote`` is asked for more at once.
    n_workers : int, optional
        Decode threads or processes; the number of cores by default.
    decode_in : {"threads", "processes"}
        Where images are decoded; see `pictures`.
    clock : Clock, optional
        Filled as the run goes.

    Yields
    ------
    Outcome
        One for each item and view that needs it.
    """
    clock = clock or Clock()
    n_workers = n_workers or os.cpu_count() or 1
    if modality is Modality.TEXT:
        prepared = _texts(todos, lanes, known, n_workers, clock)
    else:
        prepared = _pictures(todos, lanes, known, readers, n_workers, clock, decode_in)
    with closing(prepared), ThreadPoolExecutor(1, thread_name_prefix="stage") as stager:
        for outcomes, ready in clock.timed("wait", prepared):
            yield from outcomes
            for lane, items in zip(lanes, ready, strict=True):
                for one in items if lane.broken is None else ():
                    yield from _enqueue(lane, one, known, stager, clock)
                if lane.is_text:  # the next window begins with its shortest texts
                    yield from _drain(lane, stager, clock)
            if all(lane.broken for lane in lanes):
                break
        for lane in lanes:
            yield from _drain(lane, stager, clock)
            yield from _settle(lane, 0, clock)
            _judge(lane)
            yield from _blame(lane)
        for lane in lanes:
            if lane.broken is not None:  # the others are done
                raise lane.broken


# Outcomes that are settled already, and for each lane what is to be encoded.
_Prepared = tuple[list[Outcome], list[list[_Ready]]]


def _enqueue(
    lane: Lane,
    one: _Ready,
    known: Sequence[Set[str]],
    stager: ThreadPoolExecutor,
    clock: Clock,
) -> Iterator[Outcome]:
    # Prepared ahead, before its equal was encoded.
    pending = lane.hashes.get(one.content_hash, frozenset())
    views = tuple(
        view for view in one.views if one.content_hash not in known[view] and view not in pending
    )
    for view in one.views:
        if view not in views:
            yield Outcome(one.todo.row, one.content_hash, view=view)
    if not views:
        return
    one.views = views
    if lane.is_text and _overflows(lane, one):
        yield from _drain(lane, stager, clock)
    lane.waiting.append(one)
    lane.hashes[one.content_hash] = pending | frozenset(views)
    if not lane.is_text and lane.has_full_batch():
        yield from _drain(lane, stager, clock)


def _overflows(lane: Lane, one: _Ready) -> bool:
    """Whether a text, padded to the longest of its batch, no longer fits."""
    if not lane.waiting:
        return False
    longest = max(lane.waiting[-1].work, one.work) if lane.counts_tokens else 1  # sorted
    return (len(lane.waiting) + 1) * longest > lane.batch_size.size


def _drain(lane: Lane, stager: ThreadPoolExecutor, clock: Clock) -> Iterator[Outcome]:
    batch, lane.waiting = lane.waiting, []
    if not batch or lane.broken is not None:
        return
    if not lane.is_async or not lane.batch_size.settled:
        yield from _settle(lane, 0, clock)
        yield from _encode(lane, batch, clock)
        return
    staged = stager.submit(lane.stage, [one.content for one in batch])
    lane.under_way.append(_UnderWay(batch, staged))
    yield from _settle(lane, 2, clock)  # one computes, the next one is launched, one is staged


def _settle(lane: Lane, n_left: int, clock: Clock) -> Iterator[Outcome]:
    """Launch all that is under way but the last batch; fetch all but the last ``n_left``."""
    while len(lane.under_way) > n_left:
        first = lane.under_way[0]
        try:
            with clock.stage("encode", len(first.batch)):
                for one in list(lane.under_way)[: -1 if n_left else None]:
                    if one.launched is None:
                        one.launched = lane.launch(one.staged.result())
                vectors = lane.fetch(first.launched)
        except FeatureStoreError:
            raise
        except Exception as error:  # an encoder raises what it likes
            vectors, is_memory = None, _is_out_of_memory(error)
        if vectors is None:
            # Whatever else is under way may have failed with it: all of it again, in order.
            again = [one.batch for one in lane.under_way]
            lane.under_way.clear()
            if is_memory:
                lane.batch_size.out_of_memory(_size(lane, again[0]))
            for batch in again:
                yield from _encode(lane, batch, clock)
            return
        lane.under_way.popleft()
        yield from _blame(lane)
        yield from _outcomes(lane, first.batch, vectors)


def _encode(lane: Lane, batch: list[_Ready], clock: Clock) -> Iterator[Outcome]:
    """Encode a batch; one that fails is halved until the items that fail stand alone."""
    if lane.broken is not None:
        return
    failure = ""
    try:
        with clock.stage("encode", len(batch)) as timing:
            vectors = lane.fetch(lane.launch(lane.stage([one.content for one in batch])))
    except FeatureStoreError:
        raise
    except Exception as error:  # an encoder raises what it likes
        is_memory = _is_out_of_memory(error)
        failure = "out of memory on one item: " if is_memory else f"{type(error).__name__}: "
        failure += str(error)
    if failure:  # behind the except block, which holds on to what the failed pass had allocated
        if len(batch) == 1:
            lane.hashes.pop(batch[0].content_hash, None)
            views = batch[0].views
            lane.suspects.append([_failure(batch[0], view, "encode", failure) for view in views])
            if len(lane.suspects) >= _MANY:
                _judge(lane)
                yield from _blame(lane)
            return
        middle = len(batch) // 2
        if is_memory:
            lane.batch_size.out_of_memory(_size(lane, batch))
        yield from _encode(lane, batch[:middle], clock)
        yield from _encode(lane, batch[middle:], clock)
        return
    work = sum(one.work for one in batch)
    lane.batch_size.record(_size(lane, batch), work, timing.seconds)
    yield from _blame(lane)
    yield from _outcomes(lane, batch, vectors)


def _judge(lane: Lane) -> None:
    """Find out whether items failed or their encoder: it worked on such a probe when it came."""
    if not lane.suspects:
        return
    try:
        if lane.is_text:
            probe, _, _ = _tokens(lane, ["a probe"])
        else:
            probe = [lane.encoder.prepare_image(Image.new("RGB", (64, 64), (120, 60, 30)))]
        lane.fetch(lane.launch(lane.stage(probe)))
    except Exception as error:  # an encoder raises what it likes
        lane.broken = EncoderFailed(
            f"{lane.encoder.resolved.spec} no longer works ({type(error).__name__}: {error}); "
            f"{len(lane.suspects)} items on which it failed are not counted as failed, and the "
            f"next run goes on with them. The last one: {lane.suspects[-1][0].error}"
        )
        lane.suspects.clear()


def _blame(lane: Lane) -> Iterator[Outcome]:
    """Yield the failures that were held back: it was the items, not the encoder."""
    for outcomes in lane.suspects:
        yield from outcomes
    lane.suspects.clear()


def _size(lane: Lane, batch: list[_Ready]) -> int:
    """Return what a batch takes, in the units of the batch size: images, or padded tokens."""
    return len(batch) * (max(one.work for one in batch) if lane.counts_tokens else 1)


def _outcomes(
    lane: Lane, batch: list[_Ready], vectors: Sequence[NDArray[np.float32]]
) -> Iterator[Outcome]:
    for view, matrix in zip(lane.views, vectors, strict=True):
        finite = np.asarray(np.isfinite(matrix).all(axis=1))
        for one, vector, is_finite in zip(batch, matrix, finite.tolist(), strict=True):
            if view not in one.views:
                continue
            if is_finite:
                yield Outcome(one.todo.row, one.content_hash, vector, view=view, is_cut=one.is_cut)
            else:
                reason = "the encoder returned NaN or infinite values"
                yield _failure(one, view, "encode", reason)
    for one in batch:
        lane.hashes.pop(one.content_hash, None)


def _is_out_of_memory(error: Exception) -> bool:
    # torch raises OutOfMemoryError (a RuntimeError) on GPUs, a plain RuntimeError on CPUs.
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate" in text


def _failure(one: _Ready, view: int, stage: str, error: str) -> Outcome:
    return Outcome(one.todo.row, one.content_hash, None, stage, error, view)


def _pictures(
    todos: Iterable[Todo],
    lanes: Sequence[Lane],
    known: Sequence[Set[str]],
    readers: Mapping[str, Callable[[str], bytes]],
    n_workers: int,
    clock: Clock,
    decode_in: str,
) -> Generator[_Prepared, None, None]:
    """Prepare images, some ahead of the encoders: enough to feed a growing batch, no more."""
    preparers = [(lane.decode_px, lane.encoder.prepare_image) for lane in lanes]

    def window() -> int:
        return 2 * max(lane.batch_size.size for lane in lanes)

    if decode_in == PROCESSES:
        stream = in_processes(
            todos, lambda todo: (todo.source, todo.uri, _wanting(todo, lanes)), readers,
            [(lane.decode_px, lane.encoder.preparer) for lane in lanes],
            known=frozenset.intersection(
                *(frozenset(known[view]) for lane in lanes for view in lane.views)
            ),
            n_workers=n_workers, window=window,
        )  # fmt: skip
        with closing(stream):
            for todo, picture in stream:
                if _lacks_an_input(todo, picture, lanes, known):
                    picture = prepare_picture(readers[todo.source], todo.uri, preparers)
                yield _prepared(todo, picture, lanes, known, clock)
        return
    decoders = Semaphore(n_workers)
    todos = iter(todos)
    first = list(islice(todos, 1))
    todos = chain(first, todos)
    is_remote = any(getattr(one, "is_remote", False) for one in readers.values())
    is_remote = is_remote or any("://" in (one.uri or "") for one in first)  # a table of URLs
    n_threads = n_workers * (_READERS_PER_DECODER_REMOTE if is_remote else _READERS_PER_DECODER)

    def prepare(todo: Todo) -> _Prepared:
        def wanted(content_hash: str) -> list[bool]:
            return _wanting(todo, lanes, content_hash, known)

        picture = prepare_picture(
            readers[todo.source], todo.uri, preparers, wanted=wanted, decoders=decoders
        )
        return _prepared(todo, picture, lanes, known, clock)

    with ThreadPoolExecutor(n_threads, thread_name_prefix="decode") as pool:
        found = ahead(lambda todo: pool.submit(prepare, todo), todos, lambda: window() + n_threads)
        with closing(found):
            for _, one in found:
                yield one


def _wanting(
    todo: Todo, lanes: Sequence[Lane], content_hash: str = "", known: Sequence[Set[str]] = ()
) -> list[bool]:
    """Return which lanes have a view that wants an item, and does not know its content."""
    views = [view for view in todo.views if not known or content_hash not in known[view]]
    return [any(view in views for view in lane.views) for lane in lanes]


def _lacks_an_input(
    todo: Todo, picture: Picture, lanes: Sequence[Lane], known: Sequence[Set[str]]
) -> bool:
    """Whether a process took wanted content for known: hashes that begin alike."""
    if picture.content_hash is None or picture.failed_stage is not None:
        return False
    wanting = _wanting(todo, lanes, picture.content_hash, known)
    found = zip(wanting, picture.inputs, picture.errors, strict=True)
    return any(is_wanted and pixels is None and not error for is_wanted, pixels, error in found)


def _prepared(
    todo: Todo,
    picture: Picture,
    lanes: Sequence[Lane],
    known: Sequence[Set[str]],
    clock: Clock,
) -> _Prepared:
    """Say what a picture is to each lane, and what it settles already."""
    ready: list[list[_Ready]] = [[] for _ in lanes]
    content_hash = picture.content_hash
    if picture.failed_stage != "read":
        clock.add("read", picture.read_s)
    if picture.failed_stage is not None:
        clock.add("decode", picture.decode_s, int(picture.failed_stage == "decode"))
        outcomes = [
            Outcome(todo.row, content_hash, None, picture.failed_stage, picture.error, view)
            for view in todo.views
        ]
        return outcomes, ready
    assert content_hash is not None
    wanting = [view for view in todo.views if content_hash not in known[view]]
    outcomes = [
        Outcome(todo.row, content_hash, view=view) for view in todo.views if view not in wanting
    ]
    if picture.decode_s:
        clock.add("decode", picture.decode_s)
    for lane, pixels, error, of_lane in zip(
        lanes, picture.inputs, picture.errors, ready, strict=True
    ):
        views = tuple(view for view in lane.views if view in wanting)
        if pixels is not None and views:
            of_lane.append(_Ready(todo, content_hash, pixels, views))
        elif views:
            outcomes += [
                Outcome(todo.row, content_hash, None, "encode", error, view) for view in views
            ]
    return outcomes, ready


def _texts(
    todos: Iterable[Todo],
    lanes: Sequence[Lane],
    known: Sequence[Set[str]],
    n_workers: int,
    clock: Clock,
) -> Generator[_Prepared, None, None]:
    """Tokenize texts, some windows ahead of the encoders."""
    n = TEXT_WINDOW_GPU if any(lane.is_async for lane in lanes) else TEXT_WINDOW
    windows = _windows(todos, n, n * _WINDOW_CHARACTERS)

    def prepare(window: list[Todo]) -> _Prepared:
        return _prepare_texts(window, lanes, known, clock)

    with ThreadPoolExecutor(n_workers, thread_name_prefix="tokenize") as pool:
        # A tokenizer is one thread's at a time: more windows ahead would only take memory.
        found = ahead(lambda window: pool.submit(prepare, window), windows, lambda: 2)
        with closing(found):
            for _, one in found:
                yield one


def _windows(todos: Iterable[Todo], n: int, n_characters: int) -> Iterator[list[Todo]]:
    """Cut into windows of texts: so many, or so long together."""
    window: list[Todo] = []
    length = 0
    for todo in todos:
        window.append(todo)
        length += len(todo.text or "")
        if len(window) == n or length >= n_characters:
            yield window
            window, length = [], 0
    if window:
        yield window


def _prepare_texts(
    window: list[Todo],
    lanes: Sequence[Lane],
    known: Sequence[Set[str]],
    clock: Clock,
) -> _Prepared:
    """Hash and tokenize a window of texts; those of each lane come sorted by length."""
    settled: list[Outcome] = []
    wanted: list[tuple[Todo, str, list[int]]] = []
    with clock.stage("read", len(window)):
        for todo in window:
            if todo.text is None or not todo.text.strip():
                content_hash = None if todo.text is None else text_hash(todo.text)
                reason = "no text, or none in UTF-8" if todo.text is None else "the text is empty"
                settled += [
                    Outcome(todo.row, content_hash, None, "read", reason, view)
                    for view in todo.views
                ]
                continue
            content_hash = text_hash(todo.text)
            wanting = [view for view in todo.views if content_hash not in known[view]]
            settled += [
                Outcome(todo.row, content_hash, view=view)
                for view in todo.views
                if view not in wanting
            ]
            if wanting:
                wanted.append((todo, content_hash, wanting))
    ready: list[list[_Ready]] = [[] for _ in lanes]
    if not wanted:
        return settled, ready
    for number, lane in enumerate(lanes):
        of_lane = [
            (todo, content_hash, views)
            for todo, content_hash, wanting in wanted
            if (views := tuple(view for view in lane.views if view in wanting))
        ]
        texts = [todo.text or "" for todo, _, _ in of_lane]
        with clock.stage("tokenize", len(texts)):
            tokens, work, is_cut = _tokens(lane, texts)
        order = np.argsort(work, kind="stable")
        for i in order.tolist():
            todo, content_hash, views = of_lane[i]
            one = _Ready(todo, content_hash, tokens[i], views, work[i], is_cut[i])
            ready[number].append(one)
    return settled, ready


def _tokens(lane: Lane, texts: list[str]) -> tuple[list[Any], list[int], list[bool]]:
    tokenize = getattr(lane.encoder, "tokenize", None)
    if tokenize is None:  # an encoder that takes texts as they are; four letters are a token
        return list(texts), [1 + len(text) // 4 for text in texts], [False] * len(texts)
    tokens, lengths, is_cut = tokenize(texts)
    return tokens, lengths, is_cut


def text_hash(text: str) -> str:
    """Return the SHA-256 (hex) of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()
