"""From items to what encoders take: read, hashed, decoded or tokenized, ahead of the encoders."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from threading import Semaphore

import numpy as np

from featurestore.encoders.base import Prepare
from featurestore.pipeline.contents import Known, known_to_all
from featurestore.pipeline.decode_ahead import Picture, ahead, in_processes, prepare_picture
from featurestore.pipeline.lane import Lane
from featurestore.pipeline.profile import Clock
from featurestore.pipeline.todo import CUT, UNKNOWN, Outcome, Ready, Todo
from featurestore.sources.reading import Reader
from featurestore.storage import stopping
from featurestore.storage.columns import text_hash

TEXT_WINDOW = 2048  # texts that are sorted by length together
TEXT_WINDOW_GPU = 16_384  # batches on a GPU are larger
_WINDOW_CHARACTERS = 512  # a text, on average: a window of longer ones holds fewer
# Threads that read, for each that decodes: most of them wait for a disk or a network.
_READERS_PER_DECODER = 2
_READERS_PER_DECODER_REMOTE = 16
# Outcomes that are settled already, and for each lane what is to be encoded.
Prepared = tuple[list[Outcome], list[list[Ready]]]


@dataclass(frozen=True, eq=False)
class Preparation:
    """How the items of a run are prepared: for whom, from where, by how many workers.

    Parameters
    ----------
    lanes : sequence of Lane
    known : sequence of set of str
        For each view, content hashes that need no encoding.
    readers : mapping of str to Reader
        One for each source.
    n_workers : int
        Threads or processes that decode.
    clock : Clock
    """

    lanes: Sequence[Lane]
    known: Sequence[Known]
    readers: Mapping[str, Reader]
    n_workers: int
    clock: Clock

    def pictures_in_threads(self, todos: Iterable[Todo]) -> Generator[Prepared, None, None]:
        """Prepare images ahead of the encoders: enough to feed a growing batch, no more."""
        preparers = [(lane.encoder.decode_px, lane.encoder.prepare_image) for lane in self.lanes]
        decoders = Semaphore(self.n_workers)
        todos = iter(todos)
        first = list(islice(todos, 1))
        todos = chain(first, todos)
        per_decoder = readers_per_decoder(self.readers, [one.uri for one in first])
        n_threads = self.n_workers * per_decoder

        def prepare(todo: Todo) -> Prepared:
            def wanted(content_hash: str) -> list[bool]:
                return self._wanting(todo, content_hash)

            picture = prepare_picture(
                self.readers[todo.source], todo.uri, preparers, wanted=wanted, decoders=decoders
            )
            return self._prepared(todo, picture)

        def n_ahead() -> int:
            return self._window() + n_threads

        pool = ThreadPoolExecutor(n_threads, thread_name_prefix="decode")
        try:
            stream = ahead(lambda todo: pool.submit(prepare, todo), todos, n_ahead)
            with closing(stream):
                for _, prepared in stream:
                    yield prepared
        finally:  # where a signal came, nobody waits for a read that hangs
            pool.shutdown(wait=stopping.exit_code() is None, cancel_futures=True)

    def pictures_in_processes(self, todos: Iterable[Todo]) -> Generator[Prepared, None, None]:
        """Prepare images in other processes, ahead of the encoders."""
        preparers = [(lane.encoder.decode_px, lane.encoder.prepare_image) for lane in self.lanes]
        views = [view for lane in self.lanes for view in lane.views]
        stream = in_processes(
            todos,
            lambda todo: (todo.source, todo.uri, self._wanting(todo)),
            self.readers,
            [(lane.encoder.decode_px, _preparer(lane)) for lane in self.lanes],
            known=known_to_all(self.known[view] for view in views),
            n_workers=self.n_workers,
            window=self._window,
        )
        with closing(stream):
            for todo, picture in stream:
                if self._lacks_an_input(todo, picture):
                    picture = prepare_picture(self.readers[todo.source], todo.uri, preparers)
                yield self._prepared(todo, picture)

    def _window(self) -> int:
        return 2 * max(lane.batch_size.size for lane in self.lanes)

    def _wanting(self, todo: Todo, content_hash: str | None = None) -> list[bool]:
        """Return which lanes have a view that wants an item and lacks its content, if given."""
        views = todo.views
        if content_hash is not None:
            views = tuple(view for view in views if content_hash not in self.known[view])
        return [any(view in views for view in lane.views) for lane in self.lanes]

    def _lacks_an_input(self, todo: Todo, picture: Picture) -> bool:
        """Whether a process took wanted content for known: hashes that begin alike."""
        if picture.content_hash is None or picture.failed_stage is not None:
            return False
        wanting = self._wanting(todo, picture.content_hash)
        of_lanes = zip(wanting, picture.inputs, picture.errors, strict=True)
        return any(wants and pixels is None and not error for wants, pixels, error in of_lanes)

    def _prepared(self, todo: Todo, picture: Picture) -> Prepared:
        """Return what a picture settles already, and what each lane has to encode of it."""
        ready: list[list[Ready]] = [[] for _ in self.lanes]
        content_hash = picture.content_hash
        if picture.failed_stage != "read":
            self.clock.add("read", picture.read_s)
        if picture.failed_stage is not None:
            self.clock.add("decode", picture.decode_s, int(picture.failed_stage == "decode"))
            outcomes = [
                Outcome(todo.row, content_hash, None, picture.failed_stage,
                        todo.reason or picture.error, view)
                for view in todo.views
            ]  # fmt: skip
            return outcomes, ready
        assert content_hash is not None
        wanting, outcomes = self._known_or_wanting(todo, content_hash)
        if picture.decode_s:
            self.clock.add("decode", picture.decode_s)
        for lane, pixels, error, of_lane in zip(
            self.lanes, picture.inputs, picture.errors, ready, strict=True
        ):
            views = tuple(view for view in lane.views if view in wanting)
            if pixels is not None and views:
                ready_one = Ready(todo, content_hash, pixels, views, remarks=picture.remarks)
                of_lane.append(ready_one)
            elif views:
                outcomes += [
                    Outcome(todo.row, content_hash, None, "encode", error, view) for view in views
                ]
        return outcomes, ready

    def _known_or_wanting(self, todo: Todo, content_hash: str) -> tuple[list[int], list[Outcome]]:
        """Return the views that need a content, and outcomes for those that have it."""
        wanting = [view for view in todo.views if content_hash not in self.known[view]]
        outcomes = [
            Outcome(todo.row, content_hash, view=view) for view in todo.views if view not in wanting
        ]
        return wanting, outcomes

    def texts(self, todos: Iterable[Todo]) -> Generator[Prepared, None, None]:
        """Tokenize texts, some windows ahead of the encoders."""
        n = TEXT_WINDOW_GPU if any(lane.is_async for lane in self.lanes) else TEXT_WINDOW
        windows = _windows(todos, n, n * _WINDOW_CHARACTERS)
        with ThreadPoolExecutor(self.n_workers, thread_name_prefix="tokenize") as pool:
            # A tokenizer is one thread's at a time: more windows ahead would only take memory.
            stream = ahead(lambda one: pool.submit(self._window_of_texts, one), windows, lambda: 2)
            with closing(stream):
                for _, prepared in stream:
                    yield prepared

    def _window_of_texts(self, window: list[Todo]) -> Prepared:
        """Hash and tokenize a window of texts; those of each lane come sorted by length."""
        settled: list[Outcome] = []
        wanted: list[tuple[Todo, str, list[int]]] = []
        with self.clock.stage("read", len(window)):
            for todo in window:
                if todo.text is None or not todo.text.strip():
                    settled += _unreadable(todo)
                    continue
                content_hash = todo.content_hash or text_hash(todo.text)
                wanting, outcomes = self._known_or_wanting(todo, content_hash)
                settled += outcomes
                if wanting:
                    wanted.append((todo, content_hash, wanting))
        return settled, [self._tokenized(lane, wanted) if wanted else [] for lane in self.lanes]

    def _tokenized(self, lane: Lane, wanted: list[tuple[Todo, str, list[int]]]) -> list[Ready]:
        """Return the texts of a lane with their tokens, the shortest first."""
        of_lane = [
            (todo, content_hash, views)
            for todo, content_hash, wanting in wanted
            if (views := tuple(view for view in lane.views if view in wanting))
        ]
        texts = [todo.text or "" for todo, _, _ in of_lane]
        with self.clock.stage("tokenize", len(texts)):
            tokens, lengths, is_cut = lane.encoder.tokenize(texts)
        ready = []
        for i in np.argsort(lengths, kind="stable").tolist():
            todo, content_hash, views = of_lane[i]
            said = {CUT: is_cut[i], UNKNOWN: lane.encoder.knows_none(tokens[i])}
            remarks = tuple(one for one, holds in said.items() if holds)
            ready.append(Ready(todo, content_hash, tokens[i], views, lengths[i], remarks))
        return ready


def any_is_remote(readers: Mapping[str, Reader]) -> bool:
    """Whether one of the sources is read over a network."""
    return any(one.is_remote for one in readers.values())


def readers_per_decoder(readers: Mapping[str, Reader], uris: Iterable[str | None]) -> int:
    """Return how many threads read for each that decodes; ``uris`` are some of the items'."""
    is_remote = any_is_remote(readers) or any("://" in (uri or "") for uri in uris)  # URLs
    return _READERS_PER_DECODER_REMOTE if is_remote else _READERS_PER_DECODER


def _preparer(lane: Lane) -> Prepare:
    assert lane.encoder.preparer is not None, "else threads prepare"
    return lane.encoder.preparer


def _unreadable(todo: Todo) -> list[Outcome]:
    content_hash = None if todo.text is None else text_hash(todo.text)
    reason = "no text, or none in UTF-8" if todo.text is None else "the text is empty"
    reason = todo.reason or reason
    return [Outcome(todo.row, content_hash, None, "read", reason, view) for view in todo.views]


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
