"""How a long fit says how far it is, and hears until when it may take."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

_log = logging.getLogger(__name__)


def _nobody(_: str) -> None:
    pass


@dataclass(frozen=True)
class Pace:
    """Who hears of a fit while it runs, and its end on the monotonic clock."""

    tell: Callable[[str], None] = _nobody  # how far it is: the next call replaces the last
    say: Callable[[str], None] = _log.warning  # what is to stay on the screen
    until: float = math.inf
    may_stop: bool = False  # Ctrl-C ends a fit with what it has; else it ends the work

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
