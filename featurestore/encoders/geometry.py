"""Resize and crop as torchvision does, without torch: what a process that decodes must load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_TO_RGB = {"MaybeConvertMode", "_convert_to_rgb"}  # what we decode is RGB


@dataclass(frozen=True)
class ResizeAndCrop:
    """Resize the shorter side of a picture to ``resize_px``, and cut ``crop`` from the middle."""

    resize_px: int
    resample: Image.Resampling
    crop: tuple[int, int]  # height, width; neither above resize_px

    @classmethod
    def of(cls, steps: Sequence[Any]) -> ResizeAndCrop | None:
        """Return what torchvision's steps do; None where they do anything else."""
        names = [getattr(step, "__name__", type(step).__name__) for step in steps]
        if names[:2] != ["Resize", "CenterCrop"] or not _TO_RGB.issuperset(names[2:]):
            return None
        resize, crop = steps[:2]
        size = resize.size[0] if isinstance(resize.size, (list, tuple)) else resize.size
        is_plain = isinstance(resize.size, int) or len(resize.size) == 1
        resample = getattr(Image.Resampling, resize.interpolation.name, None)
        if not is_plain or resize.max_size is not None or resample is None or max(crop.size) > size:
            return None
        return cls(int(size), resample, (int(crop.size[0]), int(crop.size[1])))

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return (height, width, 3) uint8 of an RGB picture."""
        width, height = image.size
        longer = int(self.resize_px * max(width, height) / min(width, height))
        resized = (self.resize_px, longer) if width <= height else (longer, self.resize_px)
        if resized != image.size:
            image = image.resize(resized, self.resample)
        left, top = (round((a - b) / 2) for a, b in zip(resized, self.crop[::-1], strict=True))
        return np.asarray(image.crop((left, top, left + self.crop[1], top + self.crop[0])))


@dataclass(frozen=True)
class Gray:
    """What a network of one channel sees of a picture: its gray values."""

    geometry: Callable[[Image.Image], Any]

    def __call__(self, image: Image.Image) -> Any:
        """Return (height, width, 1) uint8, or what the geometry makes of a gray picture."""
        ready = self.geometry(image.convert("L"))
        is_pixels = isinstance(ready, (Image.Image, np.ndarray))
        return np.asarray(ready)[..., None] if is_pixels else ready
