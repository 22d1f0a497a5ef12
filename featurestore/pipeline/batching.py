"""The batch size, found by measuring.

It counts images; of texts it counts tokens, padding included, since they set the cost of a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

_T = TypeVar("_T")

START = 32  # with smaller ones, decode workers and the forward pass slow each other down
_LARGEST = 1024
_SAMPLES = 3  # batches timed at each size, at least; the first one is not counted
SAMPLE_S = 1.0  # and seconds, at least: single batches vary on a busy machine
_WORTH = 1.03  # a larger batch takes memory: it must be this many times as fast
_FULL = 0.75  # texts rarely fill a batch to the last token
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
    counts_tokens : bool
        Whether sizes are tokens, for texts; otherwise they are items.
    sample_s : float
        For how long each size is measured, at least.
    """

    def __init__(
        self,
        start: int = START,
        *,
        settled: bool = False,
        largest: int = _LARGEST,
        counts_tokens: bool = False,
        sample_s: float = SAMPLE_S,
    ) -> None:
        self.counts_tokens = counts_tokens
        self.sample_s = sample_s
        self.size = min(start, largest)
        self.settled = settled
        self.ran_out = False  # of memory: then the size is not remembered for later runs
        self.largest = largest
        self._timed: list[tuple[float, float]] = []  # work and seconds at the present size
        self._best: dict[int, float] = {}  # size → its rate

    def record(self, filled: int, work: float, seconds: float) -> None:
        """Record how long a batch of size ``filled`` took; ``work`` is its size unpadded."""
        if self.settled or filled < self.size * _FULL:
            return
        self._timed.append((work, seconds))
        counted = self._timed[1:]
        total_s = sum(s for _, s in counted)
        if len(self._timed) < _SAMPLES or total_s < self.sample_s:
            return
        self._best[self.size] = sum(w for w, _ in counted) / max(total_s, 1e-9)
        self._timed = []
        top = max(self._best.values())
        best = min(size for size, rate in self._best.items() if rate * _WORTH >= top)
        if self.size >= self.largest or self.size >= best * 2**_PATIENCE:
            self.size, self.settled = best, True
        else:
            self.size = min(self.size * 2, self.largest)

    def out_of_memory(self, filled: int) -> None:
        """Halve the size for good: a batch of size ``filled`` did not fit into memory."""
        self.size, self.settled = max(1, min(self.size, filled // 2)), True
        self.ran_out = True


def batched(items: Iterable[_T], size: Callable[[], int]) -> Iterator[list[_T]]:
    """Cut into lists; ``size()`` gives the length of each.

    >>> list(batched("abcde", lambda: 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    iterator = iter(items)
    while batch := list(islice(iterator, size())):
        yield batch
