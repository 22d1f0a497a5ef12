"""What the pipeline asks of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featurestore.terms.specs import ResolvedEncoder

if TYPE_CHECKING:
    from PIL import Image


class Encoder(Protocol):
    """What every frozen encoder has."""

    @property
    def resolved(self) -> ResolvedEncoder:
        """What it is and what decides its vectors."""

    @property
    def device(self) -> str:
        """Where it runs: ``cpu``, ``cuda:0``, ``mps``."""


class ImageEncoder(Encoder, Protocol):
    """An encoder whose modalities include images."""

    def prepare_image(self, image: Image.Image) -> NDArray[Any]:
        """Turn an RGB picture into what `encode_images` takes; runs in decode workers."""

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Encode a batch; returns (n, dim) float32, as the encoder's library returns it."""


class TextEncoder(Encoder, Protocol):
    """An encoder whose modalities include texts."""

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode a batch; returns (n, dim) float32, as the encoder's library returns it."""


@dataclass(frozen=True)
class LoadOptions:
    """How to load an encoder; none of it is part of its name."""

    device: str = "auto"  # a GPU where there is one; cpu, cuda, cuda:1, mps
    trust_remote_code: bool = False  # run code that comes with a model from a hub
    compile: bool = False  # torch.compile: slow to start, faster on long runs
