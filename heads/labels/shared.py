"""What several heads need of the same rows is made once: means, normalised rows, decompositions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

MOST_BYTES = 64 * 2**20  # of the rows: what is made of more is not kept

T = TypeVar("T")


@dataclass(eq=False)
class Kept:
    """What was made while one `sharing` lasts, and the seconds that others saved by it."""

    made: dict[Hashable, tuple[Any, Sequence[Any], float]] = field(default_factory=dict)
    saved_s: float = 0.0


_here = threading.local()


@contextmanager
def sharing() -> Iterator[Kept]:
    """Keep what `once` makes in this thread until the block ends; blocks may lie in each other.

    Fits within the block must get the same array objects: nothing is compared by content.
    """
    outer = getattr(_here, "kept", None)
    _here.kept = kept = outer or Kept()
    try:
        yield kept
    finally:
        _here.kept = outer


def once(what: Hashable, arrays: Sequence[Any], make: Callable[[], T]) -> T:
    """Return what ``make`` gives for these arrays, from the first such call within `sharing`.

    ``what`` names it, with all else that decides it; it must not be changed by whoever gets it.
    """
    kept: Kept | None = getattr(_here, "kept", None)
    if kept is None or sum(getattr(one, "nbytes", 0) for one in arrays) > MOST_BYTES:
        return make()
    key = (what, *map(id, arrays))
    if key in kept.made:
        found, _, seconds = kept.made[key]
        kept.saved_s += seconds
        return found  # type: ignore[no-any-return]
    begin, saved = time.perf_counter(), kept.saved_s
    found = make()
    seconds = time.perf_counter() - begin + kept.saved_s - saved
    kept.made[key] = found, arrays, seconds  # the arrays live on, so that ids stay theirs
    return found
