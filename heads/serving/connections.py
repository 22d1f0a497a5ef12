"""The connections of a server: how many there may be, and which one ends where there are more."""

from __future__ import annotations

import asyncio
from collections import deque

from uvicorn.protocols.http.h11_impl import H11Protocol

from heads.serving.limits import Limits


class Connection(H11Protocol):
    """A connection that knows since when it waits.

    Where there are too many, the one that has waited longest without a request ends, so that idle
    ones keep nobody out; the new one, where all others have a request.
    """

    most: int  # of all together
    waiting: deque[tuple[Connection, float]]  # and since when; some have a request by now

    since = 0.0
    is_ended = False  # by us; the loop has still to say so

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take part; end another one where there are too many."""
        super().connection_made(transport)
        self._waits()
        if len(self.connections) > self.most:
            self._end_one()

    def data_received(self, data: bytes) -> None:
        """Note when a request begins."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self.since = self.loop.time()

    def on_response_complete(self) -> None:
        """Wait again."""
        super().on_response_complete()
        self._waits()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count no more."""
        super().connection_lost(exc)
        self.is_ended = True

    @property
    def is_idle(self) -> bool:
        """Whether no request is on its way."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def is_overdue(self, limits: Limits) -> bool:
        """Whether it is idle, or its request or answer on its way, for too long."""
        return self.loop.time() - self.since > (limits.idle_s if self.is_idle else limits.whole_s)

    def _waits(self) -> None:
        self.since = self.loop.time()
        while self.waiting and not self.waiting[0][0]._has_waited_since(self.waiting[0][1]):
            self.waiting.popleft()
        self.waiting.append((self, self.since))

    def _has_waited_since(self, since: float) -> bool:
        return not self.is_ended and self.is_idle and self.since == since

    def _end_one(self) -> None:
        while self.waiting:
            one, since = self.waiting.popleft()
            if one._has_waited_since(since):
                one.end()
                return
        self.end()

    def end(self) -> None:
        """Close it at once."""
        self.is_ended = True
        self.connections.discard(self)  # counted no more, before the loop has closed it
        self.transport.abort()


def connections_of(most: int) -> type[Connection]:
    """Return the class of one server's connections, of which there may be so many."""
    return type("Connection", (Connection,), {"most": most, "waiting": deque()})
