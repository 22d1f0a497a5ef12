"""Encoders on one network: they see a batch once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featurestore.encoders.base import Encoder
from featurestore.errors import EncoderFailed, FeatureStoreError
from featurestore.pipeline.batching import SAMPLE_S, START, BatchSize
from featurestore.pipeline.options import EmbedOptions
from featurestore.pipeline.profile import Clock
from featurestore.pipeline.todo import Outcome, Ready
from featurestore.storage import user_cache
from featurestore.terms.specs import Modality

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
        self.waiting: list[Ready] = []
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


def enqueue(
    lane: Lane,
    one: Ready,
    known: Sequence[Set[str]],
    stager: ThreadPoolExecutor,
    clock: Clock,
) -> Iterator[Outcome]:
    """Take an item that is ready; encode a batch when one is full."""
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
        yield from drain(lane, stager, clock)
    lane.waiting.append(one)
    lane.hashes[one.content_hash] = pending | frozenset(views)
    if not lane.is_text and lane.has_full_batch():
        yield from drain(lane, stager, clock)


def _overflows(lane: Lane, one: Ready) -> bool:
    """Whether a text, padded to the longest of its batch, no longer fits."""
    if not lane.waiting:
        return False
    longest = max(lane.waiting[-1].work, one.work) if lane.counts_tokens else 1  # sorted
    return (len(lane.waiting) + 1) * longest > lane.batch_size.size


def drain(lane: Lane, stager: ThreadPoolExecutor, clock: Clock) -> Iterator[Outcome]:
    """Encode what waits, or on a GPU start it and yield what an earlier batch gave."""
    batch, lane.waiting = lane.waiting, []
    if not batch or lane.broken is not None:
        return
    if not lane.is_async or not lane.batch_size.settled:
        yield from settle(lane, 0, clock)
        yield from _encode(lane, batch, clock)
        return
    staged = stager.submit(lane.stage, [one.content for one in batch])
    lane.under_way.append(_UnderWay(batch, staged))
    yield from settle(lane, 2, clock)  # one computes, the next one is launched, one is staged


def settle(lane: Lane, n_left: int, clock: Clock) -> Iterator[Outcome]:
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
        yield from blame(lane)
        yield from _outcomes(lane, first.batch, vectors)


def _encode(lane: Lane, batch: list[Ready], clock: Clock) -> Iterator[Outcome]:
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
                judge(lane)
                yield from blame(lane)
            return
        middle = len(batch) // 2
        if is_memory:
            lane.batch_size.out_of_memory(_size(lane, batch))
        yield from _encode(lane, batch[:middle], clock)
        yield from _encode(lane, batch[middle:], clock)
        return
    work = sum(one.work for one in batch)
    lane.batch_size.record(_size(lane, batch), work, timing.seconds)
    yield from blame(lane)
    yield from _outcomes(lane, batch, vectors)


def judge(lane: Lane) -> None:
    """Find out whether items failed or their encoder: it worked on such a probe when it came."""
    if not lane.suspects:
        return
    try:
        if lane.is_text:
            probe, _, _ = tokens_of(lane, ["a probe"])
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


def blame(lane: Lane) -> Iterator[Outcome]:
    """Yield the failures that were held back: it was the items, not the encoder."""
    for outcomes in lane.suspects:
        yield from outcomes
    lane.suspects.clear()


def _size(lane: Lane, batch: list[Ready]) -> int:
    """Return what a batch takes, in the units of the batch size: images, or padded tokens."""
    return len(batch) * (max(one.work for one in batch) if lane.counts_tokens else 1)


def _outcomes(
    lane: Lane, batch: list[Ready], vectors: Sequence[NDArray[np.float32]]
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


def _failure(one: Ready, view: int, stage: str, error: str) -> Outcome:
    return Outcome(one.todo.row, one.content_hash, None, stage, error, view)


def tokens_of(lane: Lane, texts: list[str]) -> tuple[list[Any], list[int], list[bool]]:
    """Return the tokens of texts, how many each has, and whether it was cut."""
    tokenize = getattr(lane.encoder, "tokenize", None)
    if tokenize is None:  # an encoder that takes texts as they are; four letters are a token
        return list(texts), [1 + len(text) // 4 for text in texts], [False] * len(texts)
    tokens, lengths, is_cut = tokenize(texts)
    return tokens, lengths, is_cut


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
        by_network.setdefault(id(getattr(encoder, "network", encoder)), []).append(i)
    lanes = []
    for views in by_network.values():
        first = encoders[views[0]]
        is_gpu = str(first.device) != "cpu"
        counts_tokens = modality is Modality.TEXT and options.batch_size is None
        remembered = user_cache.recall("batch_sizes", _batch_key(first, modality))
        start, largest = (_TOKENS if counts_tokens else _IMAGES)["gpu" if is_gpu else "cpu"]
        if counts_tokens and not is_gpu and getattr(first, "tokenize", None) is not None:
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
