"""What a search of a view is asked, and what it looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.errors import BadSource, nearest
from featurestore.sources.locations import Location
from featurestore.store.view_index import Index
from featurestore.store.view_rows import look_up
from featurestore.terms.embeddings import Neighbors


class SearchAmong(TypedDict, total=False):
    """Which items a search looks at, and how; see `View.search`."""

    where: str | None
    split: str | None
    metric: str
    exact: bool


class SearchOptions(SearchAmong, total=False):
    """All keywords of `View.search`."""

    k: int
    dedupe: float | None


def checked(among: SearchAmong) -> SearchAmong:
    """Return the keywords; raises TypeError for one that there is not."""
    for keyword in among.keys() - SearchAmong.__annotations__.keys():
        known = nearest(keyword, list(SearchAmong.__annotations__))
        raise TypeError(f"like() got an unexpected keyword argument {keyword!r}: {known}")
    return among


@dataclass(frozen=True, eq=False)
class Scope:
    """What one search looks at, all of one state."""

    index: Index
    among: NDArray[np.bool_] | None  # (n,), the rows that count; None: all
    items: pa.Table  # row by row as in the index
    draw: Callable[[Sequence[str]], str]  # items as HTML

    def with_columns(self, found: Neighbors) -> Neighbors:
        """Let a result look up the items' columns."""
        return replace(found, look_up=partial(look_up, self.items), draw=self.draw)


def content_of(image: str | Path | bytes) -> bytes:
    """Return the bytes of a picture, given as a file or as bytes."""
    if isinstance(image, bytes):
        return image
    path = Path(image)
    try:
        return Location(str(path)).read()
    except OSError as error:
        raise BadSource(f"cannot read {path}: {error.strerror}") from None
