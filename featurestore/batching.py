"""How many items a forward pass takes: found by measuring, not asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

_T = TypeVar("_T")

START = 8
_LARGEST = 1024
_SAMPLES = 3  # batches timed at each size; the first only warms up
_WORTH = 1.03  # a larger batch must be this much faster: memory is not free


class BatchSize:
    """Grow while items per second grow; halve when memory runs out.

    Parameters
    ----------
    start : int
        First size; what an earlier run found, or a small one.
    settled : bool
        True keeps ``start`` and measures nothing.
    largest : int
        Never more than this.
    """

    def __init__(
        self, start: int = START, *, settled: bool = False, largest: int = _LARGEST
    ) -> None:
        self.size = min(start, largest)
        self.settled = settled
        self.largest = largest
        self._rates: list[float] = []
        self._before: tuple[int, float] | None = None  # the smaller size and its rate

    def record(self, n_items: int, work: float, seconds: float) -> None:
        """Tell how long a full batch took; ``work`` is what it held (items, characters)."""
        if self.settled or n_items < self.size:
            return
        self._rates.append(work / max(seconds, 1e-9))
        if len(self._rates) < _SAMPLES:
            return
        rate = max(self._rates[1:])
        self._rates = []
        if self._before is not None and rate < self._before[1] * _WORTH:
            self.size, self.settled = self._before[0], True
        elif self.size >= self.largest:
            self.settled = True
        else:
            self._before = (self.size, rate)
            self.size = min(self.size * 2, self.largest)

    def out_of_memory(self, n_items: int) -> None:
        """Tell that a batch of ``n_items`` did not fit: go to half of it, and stay there."""
        self.size, self.settled, self._rates = max(1, min(self.size, n_items // 2)), True, []


def batched(items: Iterable[_T], size: Callable[[], int]) -> Iterator[list[_T]]:
    """Cut into lists whose length is asked for each time.

    >>> list(batched("abcde", lambda: 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    iterator = iter(items)
    while batch := list(islice(iterator, size())):
        yield batch
