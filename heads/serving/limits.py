"""How much a server takes: what one request may hold, and all of them together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from featurestore.errors import BadName


@dataclass(frozen=True)
class Limits:
    """Limits of a server; whatever is beyond them is refused, never cut."""

    body_bytes: int = 32 << 20  # of one request
    held_bytes: int = 256 << 20  # of all bodies that are in memory
    items: int = 256  # of one request
    letters: int = 200_000  # of one text
    pixels: int = 50_000_000  # of one picture
    waiting: int = 512  # items of all requests that have no answer yet
    batch_items: int = 32  # that go through the encoder together
    batch_wait_s: float = 0.01  # for further requests that are being read
    body_s: float = 20.0  # to send a request
    answer_s: float = 30.0  # to answer it
    idle_s: float = 10.0  # of a connection without a request, or that does not take its answer
    connections: int = 1000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise BadName(f"{name} is {value}: expected more than 0")

    @property
    def whole_s(self) -> float:
        """Seconds from the first line of a request to the last byte of its answer."""
        return self.body_s + self.answer_s + self.idle_s


class Refused(Exception):
    """A request that gets no answer: the status and the reason that its sender is told."""

    def __init__(self, status: int, why: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(why)
        self.status, self.why, self.headers = status, why, dict(headers or {})


class Room:
    """A number of things that may be there at once."""

    def __init__(self, most: int, what: str) -> None:
        self.most, self.what, self.taken = most, what, 0
        self._lock = Lock()

    def take(self, n: int) -> None:
        """Take room for n more.

        Raises
        ------
        Refused
            With 429, if there is too little.
        """
        with self._lock:
            if self.taken + n > self.most:
                raise Refused(
                    429, f"too many {self.what} are waiting: ask again later", {"Retry-After": "1"}
                )
            self.taken += n

    def give_back(self, n: int) -> None:
        """Give room back."""
        with self._lock:
            self.taken -= n

    @contextmanager
    def held(self, n: int) -> Iterator[None]:
        """Hold room for n during a block."""
        self.take(n)
        try:
            yield
        finally:
            self.give_back(n)


class Hold:
    """What one request holds of a room; all of it is given back together."""

    def __init__(self, room: Room) -> None:
        self.room, self.n = room, 0

    def take(self, n: int) -> None:
        """Take room for n more.

        Raises
        ------
        Refused
            With 413, if one request would hold more than there is; 429, if there is too little now.
        """
        if self.n + n > self.room.most:
            raise Refused(413, "the request would take more memory than the server has for all")
        self.room.take(n)
        self.n += n

    def give_back(self) -> None:
        """Give all of it back."""
        self.room.give_back(self.n)
        self.n = 0
