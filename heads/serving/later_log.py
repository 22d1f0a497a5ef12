"""A log of answers that no request waits for."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np

from heads.saved.answer_log import About, AnswerLog, digest_of
from heads.saved.answers import Answers
from heads.saved.bundle import FittedHead
from heads.saved.unlike import Unlike
from heads.serving.lane import Content, Said, Unanswered

_MOST_WAITING = 10_000  # items: where a disk is too slow, further ones are lost and counted


class LaterLog:
    """Writes answers in a thread of its own, in the order in which they were given."""

    def __init__(self, log: AnswerLog) -> None:
        self.log = log
        self._thread = ThreadPoolExecutor(1, "featurestore-log")
        self._n_waiting, self._n_dropped, self._lock = 0, 0, Lock()

    @property
    def n_lost(self) -> int:
        """Answers that are not in the log."""
        return self.log.n_lost + self._n_dropped

    def write(
        self,
        head: FittedHead,
        contents: Sequence[Content],
        found: Sequence[Said | Unanswered],
        ids: Sequence[str] | None,
    ) -> None:
        """Log the items of one request that have an answer, soon."""
        n = len(contents)
        with self._lock:
            if self._n_waiting + n > _MOST_WAITING:
                self._n_dropped += n
                return
            self._n_waiting += n
        self._thread.submit(self._write, head, contents, found, ids)

    def close(self) -> None:
        """Write what is waiting, then end."""
        self._thread.shutdown()

    def _write(
        self,
        head: FittedHead,
        contents: Sequence[Content],
        found: Sequence[Said | Unanswered],
        ids: Sequence[str] | None,
    ) -> None:
        try:
            for n, (content, said) in enumerate(zip(contents, found, strict=True)):
                if isinstance(said, Unanswered) or said.answers is None:
                    continue
                digest = digest_of(content)
                name = digest[:16] if ids is None else ids[n]
                is_text = isinstance(content, str)
                about = About(
                    digest,
                    content if isinstance(content, str) else None,
                    content=None if is_text else content,  # type: ignore[arg-type]
                )
                self.log.write(head, _one(said.answers, said.row, name), [about])
        finally:
            with self._lock:
                self._n_waiting -= len(contents)


def _one(answers: Answers, row: int, name: str) -> Answers:
    """Return the answer about one item under another id."""
    some = slice(row, row + 1)
    unlike = answers.unlike
    return Answers(
        np.array([name], dtype=object),
        answers.predicted[some],
        answers.classes,
        confidence=None if answers.confidence is None else answers.confidence[some],
        unlike=None if unlike is None else Unlike(unlike.shares[some], unlike.n_training),
        vectors=None if answers.vectors is None else answers.vectors[some],
    )
