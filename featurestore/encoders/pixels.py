"""``baseline:pixels``: the picture itself, shrunk. No pretraining, no state, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featurestore.encoders import families
from featurestore.encoders.base import Encoder
from featurestore.errors import BadName
from featurestore.terms.specs import EncoderSpec, Modality, ResolvedEncoder

_DEFAULT_SIZE_PX = 32


@dataclass(frozen=True)
class Pixels(Encoder):
    """RGB values in [0, 1] of the picture squeezed to a square."""

    resolved: ResolvedEncoder
    size_px: int

    def prepare_image(self, image: Image.Image) -> NDArray[Any]:
        """Shrink; returns (size_px, size_px, 3) uint8."""
        return np.asarray(image.resize((self.size_px, self.size_px), Image.Resampling.BILINEAR))

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Flatten; returns (n, size_px * size_px * 3) float32 in [0, 1]."""
        return np.stack(prepared).reshape(len(prepared), -1).astype(np.float32) / np.float32(255)


def load(spec: EncoderSpec) -> Pixels:
    """Make the baseline that the spec names."""
    text = spec.option("size", str(_DEFAULT_SIZE_PX))
    if not text.isdecimal() or not 1 <= int(text) <= 512:
        raise BadName(f"size={text} in {spec}: expected whole pixels from 1 to 512")
    size_px = int(text)
    chosen = {"family": "baseline", "model": "pixels", "size": size_px, "resize": "squash-bilinear"}
    resolved = ResolvedEncoder(
        spec, size_px * size_px * 3, frozenset({Modality.IMAGE}), chosen, families.versions(spec), 0
    )
    return Pixels(resolved, size_px)
