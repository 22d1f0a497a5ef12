"""How many items a forward pass takes: found by measuring, not asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

_T = TypeVar("_T")

START = 32  # smaller ones leave decode workers and the forward pass in each other's way
_LARGEST = 1024
_SAMPLES = 3  # batches timed at each size at least; the first only warms up
_SAMPLE_S = 1.0  # and for so long: on a busy machine single batches say little
_WORTH = 1.03  # a larger batch must be this much faster: memory is not free
_PATIENCE = 2  # doublings without a gain before we stop: one measurement may be unlucky


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
        self._timed: list[tuple[float, float]] = []  # work and seconds at the present size
        self._best: dict[int, float] = {}  # size → its rate

    def record(self, n_items: int, work: float, seconds: float) -> None:
        """Tell how long a full batch took; ``work`` is what it held (items, characters)."""
        if self.settled or n_items < self.size:
            return
        self._timed.append((work, seconds))
        counted = self._timed[1:]
        total_s = sum(s for _, s in counted)
        if len(self._timed) < _SAMPLES or total_s < _SAMPLE_S:
            return
        self._best[self.size] = sum(w for w, _ in counted) / max(total_s, 1e-9)
        self._timed = []
        top = max(self._best.values())
        best = min(size for size, rate in self._best.items() if rate * _WORTH >= top)
        if self.size >= self.largest or self.size >= best * 2**_PATIENCE:
            self.size, self.settled = best, True
        else:
            self.size = min(self.size * 2, self.largest)

    def out_of_memory(self, n_items: int) -> None:
        """Tell that a batch of ``n_items`` did not fit: go to half of it, and stay there."""
        self.size, self.settled = max(1, min(self.size, n_items // 2)), True


def batched(items: Iterable[_T], size: Callable[[], int]) -> Iterator[list[_T]]:
    """Cut into lists whose length is asked for each time.

    >>> list(batched("abcde", lambda: 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    iterator = iter(items)
    while batch := list(islice(iterator, size())):
        yield batch
