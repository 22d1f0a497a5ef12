"""From items to what encoders take: read, hashed, decoded or tokenized, ahead of the encoders."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain, islice
from threading import Semaphore

import numpy as np

from featurestore.pipeline.decode_ahead import Picture, ahead, in_processes, prepare_picture
from featurestore.pipeline.lane import Lane, tokens_of
from featurestore.pipeline.options import PROCESSES
from featurestore.pipeline.profile import Clock
from featurestore.pipeline.todo import Outcome, Ready, Todo
from featurestore.storage.columns import text_hash

TEXT_WINDOW = 2048  # texts that are sorted by length together
TEXT_WINDOW_GPU = 16_384  # there full batches are large
_WINDOW_CHARACTERS = 512  # of a text in the mean: a window of longer ones holds fewer
# Waiting for a disk or a network needs threads, not cores.
_READERS_PER_DECODER = 2
_READERS_PER_DECODER_REMOTE = 16
# Outcomes that are settled already, and for each lane what is to be encoded.
Prepared = tuple[list[Outcome], list[list[Ready]]]


def prepare_pictures(
    todos: Iterable[Todo],
    lanes: Sequence[Lane],
    known: Sequence[Set[str]],
    readers: Mapping[str, Callable[[str], bytes]],
    n_workers: int,
    clock: Clock,
    decode_in: str,
) -> Generator[Prepared, None, None]:
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

    def prepare(todo: Todo) -> Prepared:
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
) -> Prepared:
    """Say what a picture is to each lane, and what it settles already."""
    ready: list[list[Ready]] = [[] for _ in lanes]
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
            of_lane.append(Ready(todo, content_hash, pixels, views))
        elif views:
            outcomes += [
                Outcome(todo.row, content_hash, None, "encode", error, view) for view in views
            ]
    return outcomes, ready


def prepare_texts(
    todos: Iterable[Todo],
    lanes: Sequence[Lane],
    known: Sequence[Set[str]],
    n_workers: int,
    clock: Clock,
) -> Generator[Prepared, None, None]:
    """Tokenize texts, some windows ahead of the encoders."""
    n = TEXT_WINDOW_GPU if any(lane.is_async for lane in lanes) else TEXT_WINDOW
    windows = _windows(todos, n, n * _WINDOW_CHARACTERS)

    def prepare(window: list[Todo]) -> Prepared:
        return _prepare_window(window, lanes, known, clock)

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


def _prepare_window(
    window: list[Todo],
    lanes: Sequence[Lane],
    known: Sequence[Set[str]],
    clock: Clock,
) -> Prepared:
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
    ready: list[list[Ready]] = [[] for _ in lanes]
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
            tokens, work, is_cut = tokens_of(lane, texts)
        order = np.argsort(work, kind="stable")
        for i in order.tolist():
            todo, content_hash, views = of_lane[i]
            one = Ready(todo, content_hash, tokens[i], views, work[i], is_cut[i])
            ready[number].append(one)
    return settled, ready
