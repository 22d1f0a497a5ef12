"""What a tap holds of an item: a pure value, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

PLAIN = "plain"
AUTO = "auto"  # #tap=auto
_BYTES = 2  # of a number in float16


@dataclass(frozen=True)
class TapShape:
    """The activations of an item after ``cut`` blocks of a network.

    >>> TapShape(5, (96, 14, 14), ("plain", "flip")).nbytes
    75264
    """

    cut: int  # blocks below it
    shape: tuple[int, ...]  # of one item in one variant; (0, width): of texts, each of its length
    variants: tuple[str, ...] = (PLAIN,)

    @classmethod
    def of(cls, chosen: Mapping[str, Any]) -> Self | None:
        """Read it from what decides an encoder's numbers; None for an encoder of vectors."""
        tap = chosen.get("tap")
        return tap and cls(tap["cut"], tuple(tap["shape"]), tuple(tap["variants"]))

    @property
    def chosen(self) -> dict[str, Any]:
        """What goes into the fingerprint."""
        return {"cut": self.cut, "shape": list(self.shape), "variants": list(self.variants)}

    @property
    def is_ragged(self) -> bool:
        """Whether items have different lengths."""
        return self.shape[0] == 0

    @property
    def dim(self) -> int:
        """Numbers of an item in one variant; 0 where items have different lengths."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of an item, all variants; of a text, bytes of a token."""
        each = self.shape[1] if self.is_ragged else self.dim
        return each * len(self.variants) * _BYTES
