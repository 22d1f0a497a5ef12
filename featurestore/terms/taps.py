"""What a tap holds: pure values, no numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

PLAIN = ("plain",)
HALF_BYTES = 2  # activations are stored in float16


@dataclass(frozen=True)
class TapShape:
    """Where a network is cut, and what it holds there of one item.

    An encoder of a ``#tap=`` spec has it in ``chosen["tap"]`` as `to_json` writes it, so that
    it decides the fingerprint and stands in encoder.json; `ResolvedEncoder.tap` reads it.
    """

    cut: int  # the number that `#tap=` came to mean
    shape: tuple[int, ...]  # of one variant: (channels, height, width), (length, width); (0, width)
    variants: tuple[str, ...] = PLAIN

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(int(value["cut"]), tuple(value["shape"]), tuple(value["variants"]))

    def to_json(self) -> dict[str, Any]:
        """Return it with lists for tuples."""
        return {**asdict(self), "shape": list(self.shape), "variants": list(self.variants)}

    @property
    def is_ragged(self) -> bool:
        """Whether items have different lengths, as texts have."""
        return self.shape[0] == 0

    @property
    def unit_bytes(self) -> int:
        """Bytes of an item in one variant; of ragged ones, of one token."""
        return math.prod(self.shape[self.is_ragged :]) * HALF_BYTES

    @property
    def item_bytes(self) -> int | None:
        """Bytes of an item in all variants; None where lengths differ."""
        return None if self.is_ragged else self.unit_bytes * len(self.variants)
