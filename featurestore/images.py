"""From the bytes of an image file to RGB pixels, never guessing silently."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from featurestore.errors import Undecodable

_MAX_SAMPLE_VALUE = 281  # TIFF tag: the declared range of a sample
_WIDE = {"I;16", "I;16B", "I;16L", "I;16N", "I"}


def decode_image(content: bytes, *, at_least_px: int | None = None) -> Image.Image:
    """Decode the first frame as 8-bit RGB, turned the way its EXIF data says.

    16-bit grey pictures are scaled by their declared range.

    Parameters
    ----------
    content : bytes
    at_least_px : int, optional
        Lets a JPEG be halved, up to three times, while it is decoded, as long as both sides
        keep so many pixels: faster, and other pixels than decoding it whole.

    Raises
    ------
    Undecodable
        If the bytes are no image, cut short, too large, or of a kind that has no one
        reading as RGB.
    """
    if not content:
        raise Undecodable("the file is empty")
    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise Undecodable(f"{image.width} × {image.height} pixels: over the limit of {limit}")
        if at_least_px is not None:
            image.draft(None, (at_least_px, at_least_px))
        image.load()
        top = _declared_range(image)
        image = ImageOps.exif_transpose(image)
        if image.mode in _WIDE:
            return _scaled(image, top)
        if image.mode == "F":
            raise Undecodable("32-bit float pixels have no declared range: convert to 8 or 16 bits")
        return image if image.mode == "RGB" else image.convert("RGB")
    except UnidentifiedImageError:
        raise Undecodable(f"not an image that we can read (begins with {content[:8]!r})") from None
    except Undecodable:
        raise
    except (
        Exception
    ) as error:  # decoders raise what they like on damaged bytes: it is this file's fault
        raise Undecodable(f"{type(error).__name__}: {error}") from None


def _declared_range(image: Image.Image) -> int:
    declared = getattr(image, "tag_v2", {}).get(_MAX_SAMPLE_VALUE, 65_535)
    top = int(declared[0] if isinstance(declared, tuple) else declared)
    return top if top > 0 else 65_535


def _scaled(image: Image.Image, top: int) -> Image.Image:
    pixels = np.asarray(image).astype(np.float64)
    if pixels.max(initial=0) > top or pixels.min(initial=0) < 0:
        raise Undecodable(f"pixels from {pixels.min():g} to {pixels.max():g}: outside 0 to {top}")
    grey = np.round(pixels * (255.0 / top)).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def thumbnail(content: bytes, size_px: int = 128) -> bytes:
    """Return a JPEG no larger than ``size_px`` on its longer side."""
    image = decode_image(content)
    image.thumbnail((size_px, size_px))
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=85)
    return sink.getvalue()
