"""How a long fit says how far it is, and hears until when it may take."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from featurestore.terms.words import in_time

_log = logging.getLogger(__name__)
TOLD_EVERY_S = 0.5


def _nobody(_: str) -> None:
    pass


class Work:
    """Steps of fits that run beside each other, counted together: the time left is that of all."""

    def __init__(self, n: int) -> None:
        self.n, self.n_done = n, 0
        self._began = self._told = 0.0
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Note that the first step begins now, if none did before."""
        with self._lock:
            self._began = self._began or time.monotonic()
            self._told = self._told or self._began

    def step(self, tell: Callable[[str], None]) -> None:
        """Count a step, and now and then say how far the steps are."""
        with self._lock:
            self.n_done += 1
            now = time.monotonic()
            is_told = now - self._told >= TOLD_EVERY_S or self.n_done == self.n
            self._told = now if is_told else self._told
        if is_told:
            tell(str(self))

    def drop(self, n: int) -> None:
        """Note that so many steps are not needed: kept from before, or of a run that broke off."""
        with self._lock:
            self.n -= n

    def __str__(self) -> str:
        left = (time.monotonic() - self._began) / max(1, self.n_done) * (self.n - self.n_done)
        return f"step {self.n_done:,} of {self.n:,}, about {in_time(left)} left"


@dataclass(frozen=True)
class Pace:
    """Who hears of a fit while it runs, and its end on the monotonic clock."""

    tell: Callable[[str], None] = _nobody  # how far it is: the next call replaces the last
    say: Callable[[str], None] = _log.warning  # what is to stay on the screen
    until: float = math.inf
    may_stop: bool = False  # Ctrl-C ends a fit with what it has; else it ends the work
    may_shorten: bool = True  # a fit that has too little time takes fewer steps; else it ends late
    work: Work | None = None  # the steps of all fits that are under way

    def share(self, n: float) -> Pace:
        """Return the pace of one of n fits that are still to come, one after another."""
        now = time.monotonic()
        return replace(self, until=now + (self.until - now) / max(1, n))


_pace: ContextVar[Pace] = ContextVar("pace")


def pace() -> Pace:
    """Return the pace of the fit that runs here."""
    return _pace.get(Pace())


@contextmanager
def pacing(one: Pace) -> Iterator[None]:
    """Give fits in this thread a pace."""
    token = _pace.set(one)
    try:
        yield
    finally:
        _pace.reset(token)
