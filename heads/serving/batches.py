"""Many small questions answered together: a thread that takes what is waiting, batch by batch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Condition, Thread
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Said = TypeVar("Said")


class Batches(Generic[Asked, Said]):
    """Answers questions in the order in which they came, up to ``most_items`` at once.

    A batch is begun as soon as the last one is done. It waits for further questions only while
    some are on their way (`arriving`), and for ``wait_s`` at most. A batch on which ``work``
    raises is halved until the failing questions stand alone.

    Parameters
    ----------
    work : function from n questions to their n answers
    most_items : int
    wait_s : float
    """

    def __init__(
        self, work: Callable[[Sequence[Asked]], Sequence[Said]], most_items: int, wait_s: float
    ) -> None:
        self.work, self.most_items, self.wait_s = work, most_items, wait_s
        self._waiting: deque[tuple[Asked, Future[Said]]] = deque()
        self._changed = Condition()
        self._n_arriving = 0
        self._is_closed = False
        self._thread = Thread(target=self._run, name="featurestore-batches", daemon=True)
        self._thread.start()

    def ask(self, questions: Sequence[Asked]) -> list[Future[Said]]:
        """Queue questions; a future each."""
        pairs: list[tuple[Asked, Future[Said]]] = [(one, Future()) for one in questions]
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the server is stopping")
            self._waiting.extend(pairs)
            self._changed.notify()
        return [future for _, future in pairs]

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """Say that a question is on its way during a block, which ends by asking it."""
        with self._changed:
            self._n_arriving += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_arriving -= 1
                self._changed.notify()

    def close(self) -> None:
        """Answer what is waiting, then end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            asked = [pair for pair in batch if pair[1].set_running_or_notify_cancel()]
            if asked:
                self._answer(asked)

    def _next(self) -> list[tuple[Asked, Future[Said]]]:
        """Return the next batch; an empty one at the end."""
        with self._changed:
            while not self._waiting and not self._is_closed:
                self._changed.wait()
            until = time.monotonic() + self.wait_s
            while (
                self._n_arriving
                and len(self._waiting) < self.most_items
                and not self._is_closed
                and (left := until - time.monotonic()) > 0
            ):
                self._changed.wait(left)
            n = min(self.most_items, len(self._waiting))
            return [self._waiting.popleft() for _ in range(n)]

    def _answer(self, pairs: Sequence[tuple[Asked, Future[Said]]]) -> None:
        try:
            found = self.work([question for question, _ in pairs])
            assert len(found) == len(pairs), "an answer for each question"
        except BaseException as error:  # an answer of a sort: the thread goes on
            if len(pairs) == 1:
                pairs[0][1].set_exception(error)
                return
            middle = len(pairs) // 2
            self._answer(pairs[:middle])
            self._answer(pairs[middle:])
            return
        for (_, future), answer in zip(pairs, found, strict=True):
            future.set_result(answer)
