"""An encoder's own transform, cut in two: geometry on the CPU, numbers on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from featurestore.encoders.geometry import Gray, ResizeAndCrop
from featurestore.errors import BadName
from featurestore.terms.specs import EncoderSpec

if TYPE_CHECKING:
    from torchvision.transforms import Compose


@dataclass(frozen=True)
class Preprocessing:
    """The encoder's own transform, cut in two: geometry on the CPU, numbers on the device.

    ``geometry`` gives pixels or, for a transform that we cannot cut, a float tensor.
    """

    geometry: Callable[[Image.Image], Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    description: str  # for the fingerprint
    resize_px: int | None = None  # what the shorter side is resized to

    @classmethod
    def split(cls, transform: Compose) -> Preprocessing:
        """Cut a torchvision ``Compose`` at its ToTensor.

        What stands behind it must be one Normalize, which is done on the device instead;
        the arithmetic is the same. Otherwise the whole transform runs in the workers.
        """
        from torchvision import transforms

        steps = list(transform.transforms)
        names = [type(step).__name__ for step in steps]
        description = " | ".join(map(repr, steps))
        size = getattr(steps[0], "size", None) if names[0] == "Resize" else None
        resize_px = size if isinstance(size, int) else max(size) if size else None
        cut = next((i for i, name in enumerate(names) if name.endswith("ToTensor")), None)
        if cut is None or names[cut + 1 :] != ["Normalize"]:
            return cls(transform, (), (), description, resize_px)
        normalize = steps[cut + 1]
        mean, std = (tuple(float(x) for x in values) for values in (normalize.mean, normalize.std))
        geometry = ResizeAndCrop.of(steps[:cut]) or transforms.Compose(steps[:cut])
        return cls(geometry, mean, std, description, resize_px)

    def in_gray(self) -> Preprocessing:
        """Return this for a network of one channel; means of three are averaged, as timm does."""
        mean, std = (
            (sum(values) / len(values),) if values else () for values in (self.mean, self.std)
        )
        return replace(self, geometry=Gray(self.geometry), mean=mean, std=std)

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """Return (height, width, channels) uint8, or (channels, height, width) float32 if uncut."""
        ready = self.geometry(image)
        return ready.numpy() if isinstance(ready, torch.Tensor) else np.asarray(ready)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (n, channels, height, width) float32 of stacked outputs of `prepare`."""
        if pixels.dtype != torch.uint8:
            return pixels
        mean, std = (_on(values, str(pixels.device)) for values in (self.mean, self.std))
        return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255).sub_(mean).div_(std)


@cache
def _on(values: tuple[float, ...], device: str) -> torch.Tensor:
    return torch.tensor(values, device=device).view(1, -1, 1, 1)


def decode_px_of(spec: EncoderSpec, preprocessing: Preprocessing) -> int | None:
    """Read ``#decode=…``: ``full`` (None), or ``fast``, the side a JPEG may shrink to."""
    decode = spec.option("decode", "full")
    if decode not in ("full", "fast"):
        raise BadName(f"decode={decode} in {spec}: expected full or fast")
    if decode == "fast" and preprocessing.resize_px is None:
        raise BadName(
            f"decode=fast in {spec}: this encoder does not resize, so it needs all pixels"
        )
    return preprocessing.resize_px if decode == "fast" else None
