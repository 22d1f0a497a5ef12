"""The encoders of one or more heads, opened once, and the batches that go through them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featurestore.encoders.base import Encoder
from featurestore.encoders.encode_now import check_reads
from featurestore.encoders.images import decode_image, size_of
from featurestore.errors import Undecodable
from featurestore.terms.activations import Activations
from featurestore.terms.specs import Modality
from heads.saved.answers import Answers
from heads.saved.bundle import FittedHead
from heads.saved.serve import Inputs, answer, as_read
from heads.saved.tapped import READS_TAP
from heads.serving.batches import Batches
from heads.serving.limits import Limits

Content: TypeAlias = str | bytes  # a text, or the bytes of a picture


@dataclass(frozen=True, eq=False)
class Asked:
    """One item on its way through a lane."""

    text: str  # empty of a picture
    pictures: tuple[NDArray[Any], ...] = ()  # as each encoder of the lane takes it
    head: FittedHead | None = None  # who is asked; None: its vectors are wanted
    as_query: bool = False  # a text that items are looked for with
    beside: NDArray[np.float32] | None = None  # numbers of columns that the head reads, (·,)


@dataclass(frozen=True, eq=False)
class Said:
    """What came of it."""

    answers: Answers | None = None  # of the batch, of which this item is one row
    row: int = 0
    vectors: tuple[NDArray[np.float32], ...] = field(default=())  # of each encoder, (dim,)


class Unanswered(Exception):
    """An item without an answer, and the reason."""


class OpenEncoder(NamedTuple):
    """An encoder, and the lock that its lanes take while it encodes."""

    encoder: Encoder
    lock: Lock


class Lane:
    """Encoders that an item goes through, all of them, and then to the head that is asked.

    ``encoders`` is empty for heads that read texts as they are.
    """

    def __init__(self, encoders: Sequence[OpenEncoder], limits: Limits) -> None:
        self.encoders, self.limits = tuple(encoders), limits
        self.batches: Batches[Asked, Said] = Batches(
            self._work, limits.batch_items, limits.batch_wait_s
        )

    def prepare(
        self, content: Content, head: FittedHead | None = None, *, as_query: bool = False
    ) -> Asked:
        """Decode a picture, or look at a text, ahead of its batch; any thread may do so.

        Raises
        ------
        Undecodable, ModalityMismatch
            If it is no picture, too large, or not what the encoders read.
        """
        is_text = isinstance(content, str)
        for encoder, _ in self.encoders:
            known = encoder.resolved
            check_reads(known.spec, known.modalities, Modality.TEXT if is_text else Modality.IMAGE)
        if isinstance(content, str):
            return Asked(content, (), head, as_query)
        width, height = size_of(content)
        if width * height > self.limits.pixels:
            raise Undecodable(
                f"{width} × {height} pixels: over the limit of {self.limits.pixels:,}"
            )
        decoded = {px: decode_image(content, at_least_px=px) for px in self._sizes()}
        pictures = [one.prepare_image(decoded[one.decode_px]) for one, _ in self.encoders]
        return Asked("", tuple(pictures), head)

    def _sizes(self) -> set[int | None]:
        return {one.decode_px for one, _ in self.encoders}

    def ask(self, asked: Sequence[Asked]) -> list[Future[Said]]:
        """Queue items; a future each."""
        return self.batches.ask(asked)

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """Say that items are on their way during a block."""
        with self.batches.arriving():
            yield

    def close(self) -> None:
        """Answer what is waiting, then end."""
        self.batches.close()

    def _work(self, asked: Sequence[Asked]) -> list[Said]:
        said: list[Said] = [Said()] * len(asked)
        kinds = {(one.as_query, bool(one.pictures)) for one in asked}
        for as_query, is_picture in kinds:
            rows = [
                n
                for n, one in enumerate(asked)
                if (one.as_query, bool(one.pictures)) == (as_query, is_picture)
            ]
            some = [asked[n] for n in rows]
            for n, one in zip(rows, self._of_a_kind(some, as_query=as_query), strict=True):
                said[n] = one
        return said

    def _of_a_kind(self, asked: Sequence[Asked], *, as_query: bool) -> list[Said]:
        """Answer items of one kind: texts, queries or pictures."""
        found = []
        for at, (encoder, lock) in enumerate(self.encoders):
            with lock:
                found.append(_encoded(encoder, at, asked, as_query=as_query))
        said: list[Said] = [Said()] * len(asked)
        for head in dict.fromkeys(one.head for one in asked):
            rows = [n for n, one in enumerate(asked) if one.head is head]
            if head is None:
                for n in rows:
                    said[n] = Said(vectors=tuple(one[n] for one in found))
                continue
            inputs = self._inputs(
                head, [[one[n] for n in rows] for one in found], [asked[n] for n in rows]
            )
            answers = answer(head, np.array(rows, dtype=object), inputs)
            for at, n in enumerate(rows):
                said[n] = Said(answers, at)
        return said

    def _inputs(
        self, head: FittedHead, found: Sequence[Sequence[Any]], asked: Sequence[Asked]
    ) -> Inputs:
        texts = [one.text for one in asked]
        if head.card.reads == "texts":
            return texts
        if head.card.reads == READS_TAP:
            tap = self.encoders[0].encoder.tap
            assert tap is not None, "the encoder of a tap"
            (held,) = found
            return Activations.of(list(held) if tap.is_ragged else np.stack(held), tap.variants)
        beside = [one.beside for one in asked if one.beside is not None]
        return as_read(
            head, [np.stack(one) for one in found], texts, np.stack(beside) if beside else None
        )


def _encoded(encoder: Encoder, at: int, asked: Sequence[Asked], *, as_query: bool) -> list[Any]:
    """Return what one encoder gives of each item: a vector, or activations."""
    if asked[0].pictures:
        return list(encoder.encode_images([one.pictures[at] for one in asked]))
    encode = encoder.encode_queries if as_query else encoder.encode_texts
    found = encode([one.text for one in asked])
    return list(found) if encoder.tap else list(np.asarray(found, dtype=np.float32))
