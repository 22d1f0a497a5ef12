"""Where the time of a run went: seconds and items by stage, summed over threads."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar

_T = TypeVar("_T")

# In the order of the pipeline; in "wait" the encoder waits for items to be decoded.
STAGES = ("list", "load", "read", "decode", "tokenize", "wait", "encode", "commit")


@dataclass
class Timing:
    """Seconds that a block took, known when it is over."""

    seconds: float = 0.0


@dataclass
class Clock:
    """Seconds and items of each stage."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    items: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    _lock: Lock = field(default_factory=Lock)

    @contextmanager
    def stage(self, name: str, n_items: int = 1) -> Iterator[Timing]:
        """Add the time inside the block to a stage, unless the block raises."""
        timing = Timing()
        started = time.perf_counter()
        yield timing
        timing.seconds = time.perf_counter() - started
        self.add(name, timing.seconds, n_items)

    def add(self, name: str, seconds: float, n_items: int = 1) -> None:
        """Add time that was measured elsewhere to a stage."""
        with self._lock:
            self.seconds[name] += seconds
            self.items[name] += n_items

    def timed(self, name: str, stream: Iterable[_T]) -> Iterator[_T]:
        """Pass a stream on, adding to a stage the time that its reader waits."""
        iterator = iter(stream)
        while True:
            started = time.perf_counter()
            try:
                one = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds[name] += time.perf_counter() - started
            yield one

    @property
    def limit(self) -> str:
        """The stage that sets the pace."""
        s = self.seconds
        if s["commit"] > max(s["wait"], s["encode"]):
            return "commit"
        if s["wait"] <= s["encode"]:
            return "encode"
        return max(("read", "decode", "tokenize"), key=lambda name: s[name])

    def rows(self) -> list[tuple[str, float, int]]:
        """Return (stage, seconds, items) of the stages that took any time."""
        taken = [name for name in STAGES if self.seconds[name] > 0]
        return [(name, self.seconds[name], self.items[name]) for name in taken]
