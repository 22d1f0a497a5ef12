"""How much of the time is left, and for what."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from heads.experiments.cells import Progress

LEAST = 0.02  # minutes that each step gets in any case: results that are kept are read


@dataclass(frozen=True)
class Clock:
    """Minutes that may be used, and since when."""

    minutes: float
    begin: float  # of ``now``, in seconds
    progress: Progress | None = None  # hears of each fit
    now: Callable[[], float] = time.monotonic

    @property
    def used_s(self) -> float:
        """Seconds since the begin."""
        return self.now() - self.begin

    def left(self, share: float = 1.0) -> float:
        """Minutes until a share of the time is used."""
        return max(LEAST, share * self.minutes - self.used_s / 60)
