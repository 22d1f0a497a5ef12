"""What travels through the pipeline: items to embed in, outcomes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CUT = "longer than the encoder reads"  # remarks on texts; those on pictures: `encoders.images`
UNKNOWN = "without a token that the encoder knows"


@dataclass(frozen=True, slots=True)
class Todo:
    """An item that some view needs a vector of."""

    row: int  # in the listing
    source: str
    uri: str | None  # of an image
    text: str | None
    views: tuple[int, ...] = (0,)  # those that need it
    reason: str = ""  # for having neither
    content_hash: str | None = None  # of a text, where it is known


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of one item in one view: a vector, or one of the reasons for having none.

    In a tap, the item's activations stand for the vector.
    """

    row: int
    content_hash: str | None  # None where the bytes could not be read
    vector: NDArray[np.floating[Any]] | None = None  # (dim,) float32; of a tap, see `TapShape`
    failed_stage: str | None = None  # read | decode | encode
    error: str = ""
    view: int = 0
    remarks: tuple[str, ...] = ()  # what is counted of items embedded; see `report`

    @property
    def is_known(self) -> bool:
        """Whether nothing was encoded, since the content has a vector or soon will."""
        return self.vector is None and self.failed_stage is None


@dataclass(slots=True, eq=False)
class Ready:
    """An item that a lane can encode."""

    todo: Todo
    content_hash: str
    content: Any  # an image prepared, or a text's tokens, as its encoder takes it
    views: tuple[int, ...]  # of its lane, those that want a vector
    work: int = 1  # in units of the batch size: images, or tokens
    remarks: tuple[str, ...] = ()
