"""Encoders on one network: they see a batch once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featurestore.encoders.base import Encoder
from featurestore.errors import EncoderFailed, FeatureStoreError
from featurestore.pipeline.batching import SAMPLE_S, START, BatchSize
from featurestore.pipeline.contents import Known
from featurestore.pipeline.options import EmbedOptions
from featurestore.pipeline.profile import Clock
from featurestore.pipeline.todo import Outcome, Ready
from featurestore.storage import user_cache
from featurestore.storage.exhausted import is_out_of_memory
from featurestore.storage.stopping import finishing
from featurestore.terms.specs import Modality

# Of a batch, one an item: (n, dim), or activations as an encoder of a tap gives them.
Vectors = NDArray[np.floating[Any]] | Sequence[NDArray[np.floating[Any]]]

_MANY = 16  # items in a row on which an encoder raises: is it they, or the encoder?


@dataclass(slots=True, eq=False)
class _UnderWay:
    batch: list[Ready]
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
        encoders: Sequence[Encoder],
        views: Sequence[int],
        modality: Modality,
        batch_size: BatchSize,
    ) -> None:
        self.encoder = encoders[0]
        self.views = tuple(views)
        self.batch_size = batch_size
        self.is_text = modality is Modality.TEXT
        self.counts_tokens = self.is_text and batch_size.counts_tokens
        self.stage, self.launch, self.fetch = self.encoder.runner(encoders, modality)
        self.is_async = self.encoder.device.startswith("cuda")
        self.waiting: list[Ready] = []
        self.hashes: dict[str, frozenset[int]] = {}  # of what waits or is under way → views
        self.under_way: deque[_UnderWay] = deque()
        self.suspects: list[list[Outcome]] = []  # items that failed since the last that passed
        self.broken: EncoderFailed | None = None

    def enqueue(
        self, item: Ready, known: Sequence[Known], stager: ThreadPoolExecutor, clock: Clock
    ) -> Iterator[Outcome]:
        """Take an item that is ready; encode a batch when one is full.

        ``known`` holds, for each view of the run, the contents that have a vector.
        """
        # An item of equal content may have been encoded since this one was prepared.
        pending = self.hashes.get(item.content_hash, frozenset())
        views = tuple(
            view
            for view in item.views
            if item.content_hash not in known[view] and view not in pending
        )
        for view in item.views:
            if view not in views:
                yield Outcome(item.todo.row, item.content_hash, view=view)
        if not views:
            return
        item.views = views
        if self.is_text and self._overflows(item):
            yield from self.drain(stager, clock)
        self.waiting.append(item)
        self.hashes[item.content_hash] = pending | frozenset(views)
        if not self.is_text and len(self.waiting) >= self.batch_size.size:
            yield from self.drain(stager, clock)

    def _overflows(self, item: Ready) -> bool:
        """Whether a text, padded to the longest of its batch, no longer fits."""
        if not self.waiting:
            return False
        longest = max(self.waiting[-1].work, item.work) if self.counts_tokens else 1  # sorted
        return (len(self.waiting) + 1) * longest > self.batch_size.size

    def drain(self, stager: ThreadPoolExecutor, clock: Clock) -> Iterator[Outcome]:
        """Encode what waits; on a GPU, start it and yield the outcomes of an earlier batch."""
        batch, self.waiting = self.waiting, []
        if not batch or self.broken is not None:
            return
        if not self.is_async or not self.batch_size.settled:
            yield from self.settle(0, clock)
            yield from self._encode(batch, clock)
            return
        staged = stager.submit(self.stage, [item.content for item in batch])
        self.under_way.append(_UnderWay(batch, staged))
        yield from self.settle(2, clock)  # one computes, the next one is launched, one is staged

    def settle(self, n_left: int, clock: Clock) -> Iterator[Outcome]:
        """Launch all that is under way but the last batch; fetch all but the last ``n_left``."""
        while len(self.under_way) > n_left:
            first = self.under_way[0]
            vectors: Sequence[Vectors] | None
            try:
                with finishing(), clock.stage("encode", len(first.batch)):
                    self._launch_staged(-1 if n_left else None)
                    vectors = self.fetch(first.launched)
            except FeatureStoreError:
                raise
            except Exception as error:  # an encoder raises what it likes
                vectors, is_memory = None, is_out_of_memory(error)
            if vectors is None:
                # Whatever else is under way may have failed with it: all of it again, in order.
                again = [one.batch for one in self.under_way]
                self.under_way.clear()
                if is_memory:
                    self.batch_size.out_of_memory(self._size(again[0]))
                for batch in again:
                    yield from self._encode(batch, clock)
                return
            self.under_way.popleft()
            yield from self.blame()
            yield from self._outcomes(first.batch, vectors)

    def _launch_staged(self, end: int | None) -> None:
        for one in list(self.under_way)[:end]:
            if one.launched is None:
                one.launched = self.launch(one.staged.result())

    def _encode(self, batch: list[Ready], clock: Clock) -> Iterator[Outcome]:
        """Encode a batch; one that fails is halved until the items that fail stand alone."""
        if self.broken is not None:
            return
        failure = ""
        try:
            with finishing(), clock.stage("encode", len(batch)) as timing:
                vectors = self.fetch(self.launch(self.stage([item.content for item in batch])))
        except FeatureStoreError:
            raise
        except Exception as error:  # an encoder raises what it likes
            is_memory = is_out_of_memory(error)
            failure = "out of memory on one item: " if is_memory else f"{type(error).__name__}: "
            failure += str(error)
        # Behind the except block, which holds on to what the failed pass had allocated.
        if failure and len(batch) == 1:
            yield from self._suspect(batch[0], failure)
        elif failure:
            middle = len(batch) // 2
            if is_memory:
                self.batch_size.out_of_memory(self._size(batch))
            yield from self._encode(batch[:middle], clock)
            yield from self._encode(batch[middle:], clock)
        else:
            work = sum(item.work for item in batch)
            self.batch_size.record(self._size(batch), work, timing.seconds)
            yield from self.blame()
            yield from self._outcomes(batch, vectors)

    def _suspect(self, item: Ready, failure: str) -> Iterator[Outcome]:
        """Hold back the failure of an item, until it is clear that its encoder works."""
        self.hashes.pop(item.content_hash, None)
        self.suspects.append([_failure(item, view, failure) for view in item.views])
        if len(self.suspects) >= _MANY:
            self.judge()
            yield from self.blame()

    def judge(self) -> None:
        """Encode a probe, to tell whether the items failed or their encoder, and mark it broken.

        The encoder worked on such a probe when it was loaded.
        """
        if not self.suspects:
            return
        try:
            if self.is_text:
                probe: list[Any] = self.encoder.tokenize(["a probe"])[0]
            else:
                probe = [self.encoder.prepare_image(Image.new("RGB", (64, 64), (120, 60, 30)))]
            self.fetch(self.launch(self.stage(probe)))
        except Exception as error:  # an encoder raises what it likes
            self.broken = EncoderFailed(
                f"{self.encoder.resolved.spec} no longer works ({type(error).__name__}: {error}); "
                f"{len(self.suspects)} items on which it failed are not counted as failed, and "
                f"the next run goes on with them. The last one: {self.suspects[-1][0].error}"
            )
            self.suspects.clear()

    def blame(self) -> Iterator[Outcome]:
        """Report held-back failures as item failures."""
        for outcomes in self.suspects:
            yield from outcomes
        self.suspects.clear()

    def _size(self, batch: list[Ready]) -> int:
        """Return what a batch takes, in units of the batch size: images, or padded tokens."""
        return len(batch) * (max(item.work for item in batch) if self.counts_tokens else 1)

    def _outcomes(self, batch: list[Ready], vectors: Sequence[Vectors]) -> Iterator[Outcome]:
        """Yield the outcomes of a batch; ``vectors`` are those of each view, one an item."""
        for view, made in zip(self.views, vectors, strict=True):
            for item, vector, is_finite in zip(batch, made, _are_finite(made), strict=True):
                if view not in item.views:
                    continue
                if is_finite:
                    yield Outcome(
                        item.todo.row,
                        item.content_hash,
                        vector,
                        view=view,
                        remarks=item.remarks,
                    )
                else:
                    yield _failure(item, view, "the encoder returned NaN or infinite values")
        for item in batch:
            self.hashes.pop(item.content_hash, None)


def _are_finite(vectors: Vectors) -> list[bool]:
    """Tell of each item whether all its numbers are finite."""
    if isinstance(vectors, np.ndarray) and vectors.ndim == 2:  # at once: there are many
        return [bool(one) for one in np.asarray(np.isfinite(vectors).all(axis=1))]
    return [bool(np.isfinite(one).all()) for one in vectors]


def _failure(item: Ready, view: int, error: str) -> Outcome:
    return Outcome(item.todo.row, item.content_hash, None, "encode", error, view)


# The first batch size and the largest, in images or in tokens; on CPUs larger ones gained nothing.
_IMAGES = {"cpu": (START, 64), "gpu": (4 * START, 1024)}
_TOKENS = {"cpu": (512, 2048), "gpu": (4096, 1 << 18)}  # on a CPU for each core: its own pass
_GPU_SAMPLE_S = 0.1  # a GPU keeps its pace, and a second of it is a data set


def make_lanes(
    encoders: Mapping[int, Encoder], modality: Modality, options: EmbedOptions
) -> list[Lane]:
    """Put encoders that share a network (layers of it) into one lane; keys number the views."""
    from joblib import cpu_count  # what a container grants, not what the machine has

    by_network: dict[int, list[int]] = {}
    for i, encoder in encoders.items():
        by_network.setdefault(encoder.network_id, []).append(i)
    lanes = []
    for views in by_network.values():
        first = encoders[views[0]]
        is_gpu = first.device != "cpu"
        counts_tokens = modality is Modality.TEXT and options.batch_size is None
        remembered = user_cache.recall("batch_sizes", _batch_key(first, modality))
        start, largest = (_TOKENS if counts_tokens else _IMAGES)["gpu" if is_gpu else "cpu"]
        if counts_tokens and first.pass_per_core:
            start, largest = start * cpu_count(), largest * cpu_count()
        size = BatchSize(
            options.batch_size or remembered or start,
            sample_s=_GPU_SAMPLE_S if is_gpu else SAMPLE_S,
            settled=bool(options.batch_size or remembered),
            largest=max(largest, options.batch_size or 0),
            counts_tokens=counts_tokens,
        )
        lanes.append(Lane([encoders[i] for i in views], views, modality, size))
    return lanes


def remember_batch_sizes(lanes: Sequence[Lane], options: EmbedOptions) -> None:
    """Keep batch sizes that were found by measuring, for the next run on this machine."""
    for lane in lanes:
        size = lane.batch_size
        if size.settled and not size.ran_out and not options.batch_size:
            modality = Modality.TEXT if lane.is_text else Modality.IMAGE
            key = _batch_key(lane.encoder, modality)
            if user_cache.recall("batch_sizes", key) != size.size:
                user_cache.remember("batch_sizes", key, size.size)


def _batch_key(encoder: Encoder, modality: Modality) -> str:
    from joblib import cpu_count

    where = f"{cpu_count()} cores" if encoder.device == "cpu" else encoder.device
    return f"{encoder.resolved.fingerprint[:16]} {where} {modality}"
