"""From the items of a question to the JSON of its answer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from joblib import cpu_count
from numpy.typing import NDArray

from featurestore.errors import FeatureStoreError
from featurestore.terms.embeddings import Neighbors
from featurestore.terms.specs import Modality
from heads.labels.tasks import Task
from heads.saved.answer_log import AnswerLog
from heads.saved.beside import numbers_of
from heads.saved.bundle import FittedHead
from heads.saved.serve import modality_of
from heads.serving.lane import Content, Lane, Said, Unanswered
from heads.serving.later_log import LaterLog
from heads.serving.limits import Limits, Refused, Room
from heads.serving.reading import Question
from heads.serving.served import Served

T = TypeVar("T")
_DIGITS = 6  # of numbers in answers

_OTHER_HEADS = "; `head` names another head than the first (GET /heads lists them)"


class Desk:
    """Takes questions of requests to the lanes, and their answers back."""

    def __init__(self, served: Served, limits: Limits, log: AnswerLog | None = None) -> None:
        self.served, self.limits = served, limits
        self.log = None if log is None else LaterLog(log)
        self.room = Room(limits.waiting, "items")
        self.decoders = ThreadPoolExecutor(min(4, cpu_count()), "featurestore-decode")

    def close(self) -> None:
        """Answer what was taken, then end."""
        self.decoders.shutdown()
        self.served.close()
        if self.log is not None:
            self.log.close()

    async def predict(self, question: Question) -> dict[str, Any]:
        """Answer what a head says of each item."""
        question.check_options("head", "min_confidence", "columns", "ids")
        one = self.served.head(question.text("head"))
        least = question.number("min_confidence", 0.0, 0.0, 1.0)
        if least and one.head.task is not Task.MULTICLASS:
            raise Refused(422, "min_confidence is for heads that name one class an item")
        check_contents(question.contents, modality_of(one.head), hint=_OTHER_HEADS)
        beside, notes = numbers_of(one.head, question.columns(), len(question.contents))
        found = await self.ask(one.lane, question.contents, one.head, beside=beside)
        predictions = [
            {"error": said.args[0]} if isinstance(said, Unanswered) else told(one.head, said, least)
            for said in found
        ]
        if self.log is not None:
            self.log.write(one.head, question.contents, found, question.ids())
        return {
            "head": one.head.head_id,
            "predictions": predictions,
            "unlike_from": unlike_from(found),
            "cannot_tell_unlike": one.head.cannot_tell,
            **({"notes": notes} if notes else {}),
            "versions": one.versions(),
        }

    async def embed(self, question: Question) -> dict[str, Any]:
        """Answer the vector of each item."""
        question.check_options("encoder")
        lane, at = self.served.lane(question.text("encoder"))
        known = lane.encoders[at].encoder.resolved
        check_contents(question.contents, *known.modalities)
        found = await self.ask(lane, question.contents)
        vectors = [
            {"error": said.args[0]}
            if isinstance(said, Unanswered)
            else {"vector": said.vectors[at].tolist()}
            for said in found
        ]
        return {
            "encoder": str(known.spec),
            "fingerprint": known.fingerprint,
            "dim": known.dim,
            "vectors": vectors,
        }

    async def search(self, question: Question) -> dict[str, Any]:
        """Answer the nearest items of a data set for each text, picture, or item by its id."""
        question.check_options("dataset", "item", "k", "encoder")
        dataset, item = question.text("dataset"), question.text("item")
        if dataset is None:
            raise Refused(422, 'say which data set: {"dataset": "…", "texts": ["…"]}')
        if item is not None and question.contents:
            raise Refused(422, "give an item, or texts or images, not both")
        k = int(question.number("k", 10, 1, 1000))
        encoder = question.text("encoder")
        view, index = await self.beside(lambda: self.served.index(dataset, encoder))
        answer = {"view": view.name, "snapshot": str(view.snapshot)}
        if item is not None:
            found = await self.beside(lambda: index.neighbors(item, k=k))
            return {**answer, "neighbors": [_neighbors(found, 0)]}
        check_contents(question.contents, *view.modalities)
        lane = await self.beside(lambda: self.served.lane_of_view(view))
        said = await self.ask(lane, question.contents, as_query=True)
        rows = [n for n, one in enumerate(said) if isinstance(one, Said)]
        neighbors: list[Any] = [{"error": str(one)} for one in said]
        if rows:
            queries = np.stack([one.vectors[0] for one in said if isinstance(one, Said)])
            found = await self.beside(lambda: index.search(queries, k=k))
            for at, n in enumerate(rows):
                neighbors[n] = _neighbors(found, at)
        return {**answer, "neighbors": neighbors}

    async def beside(self, work: Callable[[], T]) -> T:
        """Do work in a thread; the request is given up when its time is over."""
        try:
            async with asyncio.timeout(self.limits.answer_s):
                return await asyncio.to_thread(work)
        except TimeoutError:
            raise self._late() from None

    async def ask(
        self,
        lane: Lane,
        contents: Sequence[Content],
        head: FittedHead | None = None,
        *,
        as_query: bool = False,
        beside: NDArray[np.float32] | None = None,
    ) -> list[Said | Unanswered]:
        """Take items through a lane; an item that cannot be read has its reason.

        ``beside`` are the numbers of columns that the head reads, (n, ·).

        Raises
        ------
        Refused
            429 if too many items wait, 503 if the answer takes too long, 422 if no item can be
            read.
        """
        loop = asyncio.get_running_loop()

        def prepared(content: Content, row: NDArray[np.float32] | None) -> Any:
            return replace(lane.prepare(content, head, as_query=as_query), beside=row)

        rows = [None] * len(contents) if beside is None else list(beside)
        pairs = list(zip(contents, rows, strict=True))

        with self.room.held(len(contents)):
            try:
                async with asyncio.timeout(self.limits.answer_s):
                    with lane.arriving():
                        asked = await _all(
                            [loop.run_in_executor(self.decoders, prepared, *one) for one in pairs]
                            if contents and isinstance(contents[0], bytes)
                            else [_at_once(prepared, *one) for one in pairs]
                        )
                        good = [one for one in asked if not isinstance(one, Unanswered)]
                        futures = [asyncio.wrap_future(one) for one in lane.ask(good)]
                    answers = iter(await _all(futures))
            except TimeoutError:
                raise self._late() from None
        found = [one if isinstance(one, Unanswered) else next(answers) for one in asked]
        if all(isinstance(one, Unanswered) for one in found):
            raise Refused(422, "; ".join(dict.fromkeys(map(str, found)))[:2000])
        return found

    def _late(self) -> Refused:
        return Refused(503, f"no answer within {self.limits.answer_s:g} s", {"Retry-After": "5"})


async def _all(futures: Sequence[asyncio.Future[Any]]) -> list[Any]:
    """Wait for all; where one raises an error that people are told, `Unanswered` takes its place.

    All are cancelled where the request is given up.
    """
    try:
        found = await asyncio.gather(*futures, return_exceptions=True)
    except asyncio.CancelledError:
        for future in futures:
            future.cancel()
        raise
    for n, one in enumerate(found):
        if isinstance(one, FeatureStoreError):
            found[n] = Unanswered(str(one))
        elif isinstance(one, BaseException):
            raise one
    return found


def _at_once(
    work: Callable[[Content, NDArray[np.float32] | None], Any],
    content: Content,
    row: NDArray[np.float32] | None,
) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    try:
        future.set_result(work(content, row))
    except FeatureStoreError as error:
        future.set_exception(error)
    return future


def check_contents(contents: Sequence[Content], *modalities: str, hint: str = "") -> None:
    """Refuse a request without items, or with items that are not read here."""
    if not contents:
        raise Refused(422, "nothing was sent: give texts, images or paths, under these names")
    kinds = {Modality.TEXT if isinstance(one, str) else Modality.IMAGE for one in contents}
    if len(kinds) > 1:
        raise Refused(422, "texts and pictures in one request: send them one by one")
    (kind,) = kinds
    if kind not in modalities:
        raise Refused(422, f"{kind}s cannot be read here: {' and '.join(modalities)}s can{hint}")


def told(head: FittedHead, said: Said, least_confidence: float = 0.0) -> dict[str, Any]:
    """Return what a head said of one item, as plain values."""
    answers, row = said.answers, said.row
    assert answers is not None, "a head was asked"
    found: dict[str, Any] = {"predicted": _plain(answers.predicted[row])}
    if answers.confidence is not None:
        confidence = float(answers.confidence[row])
        found["confidence"] = _plain(confidence)
        if confidence < least_confidence:
            found["predicted"] = None
    if answers.probabilities is not None:
        values = answers.probabilities[row].tolist()
        found["probabilities"] = dict(zip(answers.classes, map(_plain, values), strict=True))
    if answers.in_set is not None:
        inside = answers.in_set[row].tolist()
        found["set"] = [name for name, is_in in zip(answers.classes, inside, strict=True) if is_in]
    if answers.interval is not None:
        found["interval"] = [_plain(one) for one in answers.interval[row].tolist()]
    if answers.unlike is not None:
        found["unlike_training"] = _plain(float(answers.unlike.shares[row]))
        found["is_unlike"] = bool(answers.unlike.is_unlike[row])
    return found


def unlike_from(found: Sequence[Said | Unanswered]) -> float | None:
    """Return the share from which an item is unlike the training items; None: none can be."""
    for one in found:
        if isinstance(one, Said) and one.answers is not None and one.answers.unlike is not None:
            least = one.answers.unlike.least
            return None if least > 1 else _plain(least)
    return None


def _neighbors(found: Neighbors, row: int) -> list[dict[str, Any]]:
    pairs = zip(found.ids[row].tolist(), found.scores[row].tolist(), strict=True)
    return [{"item_id": item, "score": _plain(score)} for item, score in pairs]


def _plain(value: object) -> Any:
    """Return a value as JSON has it: an undefined number is null."""
    if isinstance(value, float):
        return round(value, _DIGITS) if math.isfinite(value) else None
    return value
