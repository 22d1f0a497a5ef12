"""From the bytes of an image file to RGB pixels; what is ambiguous is refused."""

from __future__ import annotations

import io
import logging
import struct
import warnings
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from featurestore.encoders.bare_files import orientation_of, without_metadata
from featurestore.encoders.crops import REMARKS_ON_BOXES, TURNED, cut_out
from featurestore.errors import Undecodable
from featurestore.terms.boxes import unboxed

# In `Image.info`: what is to be said of a picture that was decoded.
METADATA_UNREAD = "featurestore: metadata unread"
RANGE_ASSUMED = "featurestore: range assumed"
REMARKS = (METADATA_UNREAD, RANGE_ASSUMED, *REMARKS_ON_BOXES)
# What Pillow warns of is metadata, mostly: a file that cannot be embedded is a failure of ours.
# Once for the process, behind the filters that a user has; to switch them meets other threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.", append=True)
logging.getLogger("PIL").addHandler(logging.NullHandler())

_UNREAD = {"EPS"}  # for which Pillow starts Ghostscript
_LONGEST = 500  # times as long as wide: resized to an encoder's width, it would fill the memory
# TIFF tags.
_BITS, _PHOTOMETRIC, _N_SAMPLES, _MIN_VALUE, _MAX_VALUE, _EXTRA = 258, 262, 277, 280, 281, 338
_WHITE_IS_ZERO = 0
_N_COLORS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # by photometric interpretation
_ALPHA = {1, 2}  # kinds of an extra sample
_TAGS = (_BITS, _PHOTOMETRIC, _N_SAMPLES, _MIN_VALUE, _MAX_VALUE, _EXTRA)
_ORIENTATION = 0x112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WIDE = {"I;16", "I;16B", "I;16L", "I;16N", "I"}


def decode_image(content: bytes, *, at_least_px: int | None = None) -> Image.Image:
    """Decode the first frame as 8-bit RGB, turned the way its EXIF data says.

    16-bit gray pictures are scaled by their declared range. Bands beyond color and alpha are
    refused, since which of them are red, green and blue is not ours to guess. Metadata that
    cannot be read cost nothing but themselves: the picture has `METADATA_UNREAD` in its info.

    Parameters
    ----------
    content : bytes
    at_least_px : int, optional
        Lets a JPEG be halved, up to three times, while it is decoded, as long as both sides
        keep so many pixels: faster, and other pixels than decoding it whole. A box is always
        cut out of the whole picture.

    Raises
    ------
    Undecodable
        If the bytes are no image, cut short, too large, or of a kind that has no one
        reading as RGB.
    """
    picture, box = unboxed(content)
    if box is None:
        return _whole(picture, at_least_px)
    crop = cut_out(picture, box, lambda whole: _whole(whole, None))
    _check_shape(crop.size)
    return crop


def _whole(content: bytes, at_least_px: int | None) -> Image.Image:
    """Decode a picture; raises as `decode_image` does."""
    if not content:
        raise Undecodable("the file is empty")
    try:
        return _decoded(content, at_least_px)
    except (Undecodable, MemoryError):
        raise
    except Exception as error:  # decoders raise what they like on damaged bytes
        image = _without_metadata(content, at_least_px)
        if image is not None:
            return image
        if isinstance(error, UnidentifiedImageError):
            begins = f"begins with {content[:8]!r}"
            raise Undecodable(f"not an image that we can read ({begins})") from None
        raise Undecodable(f"{type(error).__name__}: {error}") from None


def size_of(content: bytes) -> tuple[int, int]:
    """Return the width and height that a picture's header says; its pixels are not decoded.

    Of a box, those of the picture that has to be decoded for it.

    Raises
    ------
    Undecodable
        If the bytes are no image.
    """
    content, bare = unboxed(content)[0], None
    for _ in range(2):
        try:
            with _opened(content if bare is None else bare[0]) as image:
                return image.size
        except MemoryError:
            raise
        except Exception:  # decoders raise what they like on damaged bytes
            bare = without_metadata(content)
        if bare is None:
            break
    begins = f"begins with {content[:8]!r}" if content else "the file is empty"
    raise Undecodable(f"not an image that we can read ({begins})")


def _without_metadata(content: bytes, at_least_px: int | None) -> Image.Image | None:
    """Decode a picture from its pixels alone; None where these are damaged too."""
    bare = without_metadata(content)
    if bare is None:
        return None
    try:
        image = _decoded(bare[0], at_least_px, orientation=bare[1])
    except Undecodable:
        raise
    except Exception:  # then the first error tells more
        return None
    image.info[METADATA_UNREAD] = True
    return image


def _decoded(
    content: bytes, at_least_px: int | None, orientation: int | None = None
) -> Image.Image:
    image: Image.Image = _opened(content)
    _check_size(image)
    is_tiff, every_tag = hasattr(image, "tag_v2"), getattr(image, "tag_v2", {})
    tags = {number: every_tag[number] for number in _TAGS if number in every_tag}
    _check_bands(tags)
    if at_least_px is not None:
        image.draft(None, (at_least_px, at_least_px))
    # torchcodec 0.17 gives a JPEG's same pixels, but with Pillow's header and an Image made of
    # them it is 0.8 to 1.0 times as fast (128 × 128 to 640 × 427, one core): not taken.
    image.load()
    image = _turned(image, orientation)
    if image.mode in _WIDE:
        return _scaled(image, tags, is_tiff=is_tiff)
    if image.mode == "F":
        raise Undecodable("32-bit float pixels have no declared range: convert to 8 or 16 bits")
    return image if image.mode == "RGB" else image.convert("RGB")


def _turned(image: Image.Image, orientation: int | None) -> Image.Image:
    """Turn a picture the way its EXIF data say, as far as they can be read."""
    unread = False
    if orientation is None:
        try:
            orientation = image.getexif().get(_ORIENTATION)
        except Exception:  # on damaged data, too
            unread = True
        exif = image.info.get("exif")
        if not isinstance(orientation, int) and isinstance(exif, bytes):
            orientation = orientation_of(exif)
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    if turn is not None:
        image = image.transpose(turn)
        image.info[TURNED] = orientation
    if unread:
        image.info[METADATA_UNREAD] = True
    return image


def _opened(content: bytes) -> Image.Image:
    """Open an image as `Image.open` does, but without its warning about large ones.

    `_check_size` refuses those. To silence a warning changes the whole process, for all threads.
    """
    Image.init()
    for name, (factory, accepts) in Image.OPEN.items():
        if name in _UNREAD:
            continue
        try:
            may_be = accepts is None or accepts(content[:16])
            if isinstance(may_be, str) or not may_be:  # a text says what is missing
                continue
            return factory(io.BytesIO(content), "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # not of this format after all
    raise UnidentifiedImageError


def _check_size(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Undecodable(
            f"{image.width} × {image.height} pixels: over the limit of {limit}; scale it down or, "
            "from Python and if you trust the file, raise PIL.Image.MAX_IMAGE_PIXELS"
        )
    _check_shape(image.size)


def _check_shape(size: tuple[int, int]) -> None:
    if max(size) > _LONGEST * min(size):
        raise Undecodable(
            f"{size[0]} × {size[1]} pixels: over {_LONGEST} times as long as wide; cut it into "
            "pieces"
        )


def _check_bands(tags: dict[int, Any]) -> None:
    """Refuse a TIFF of which Pillow would read the first bands, or the upper byte, alone."""
    n_samples, photometric = _tag(tags, _N_SAMPLES, 1), _tag(tags, _PHOTOMETRIC, 2)
    if _BITS not in tags or photometric not in _N_COLORS:
        return  # no TIFF, or of a kind that Pillow knows better
    extra = tags.get(_EXTRA, ())
    n_alpha = sum(kind in _ALPHA for kind in (extra if isinstance(extra, tuple) else (extra,)))
    n_colors = _N_COLORS[photometric]
    if _EXTRA not in tags and n_samples == n_colors + 1:
        n_alpha = 1  # as Pillow takes it, and as it is meant by who leaves the tag out
    if n_samples > n_colors + n_alpha:
        raise Undecodable(
            f"{n_samples} bands, {n_colors} of them colors: choose the three to use and "
            "write them as 8-bit RGB (gdal_translate -b 4 -b 3 -b 2 "
            "-ot Byte -scale)"
        )
    top = _tag(tags, _MAX_VALUE, 65_535)
    # A range such as 4095; the tag may as well hold the largest value that was seen.
    is_range = top < 2**15 and (top + 1) & top == 0
    if n_samples > 1 and _tag(tags, _BITS, 8) == 16 and is_range:
        raise Undecodable(
            f"16-bit colors from 0 to {top}, of which we would read the upper byte: write it "
            "with 8 bits (gdal_translate -ot Byte -scale)"
        )


def _tag(tags: dict[int, Any], number: int, default: int) -> int:
    value = tags.get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _scaled(image: Image.Image, tags: dict[int, Any], *, is_tiff: bool) -> Image.Image:
    """Scale pixels of 16 or 32 bits by their declared range: formats but TIFF declare it all."""
    low, top = _tag(tags, _MIN_VALUE, 0), _tag(tags, _MAX_VALUE, 65_535)
    is_declared = top > low and (_MAX_VALUE in tags or not is_tiff)
    if top <= low:
        low, top = 0, 65_535
    pixels = np.asarray(image).astype(np.float64)
    if pixels.max(initial=low) > top or pixels.min(initial=top) < low:
        span = f"pixels from {pixels.min():g} to {pixels.max():g}"
        if is_declared:
            raise Undecodable(f"{span}: outside the {low} to {top} that it declares")
        raise Undecodable(
            f"{span}, and no declared range (without one, {low} to {top:,} is taken): write it "
            f"with 8 bits (gdal_translate -ot Byte -scale {pixels.min():g} {pixels.max():g})"
        )
    if _tag(tags, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO:
        pixels = low + top - pixels
    gray = np.round((pixels - low) * (255.0 / (top - low))).astype(np.uint8)
    scaled = Image.fromarray(gray).convert("RGB")
    scaled.info |= {one: image.info[one] for one in (*REMARKS, TURNED) if one in image.info}
    if not is_declared:
        scaled.info[RANGE_ASSUMED] = True
    return scaled


def thumbnail(content: bytes, size_px: int = 128) -> bytes:
    """Return a JPEG no larger than ``size_px`` on its longer side."""
    image = decode_image(content)
    image.thumbnail((size_px, size_px))
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=85)
    return sink.getvalue()


def as_file(content: bytes) -> bytes:
    """Return the bytes of a picture's file as they are; of a box, a PNG of its pixels alone."""
    if unboxed(content)[1] is None:
        return content
    sink = io.BytesIO()
    decode_image(content).save(sink, "PNG", exif=b"")
    return sink.getvalue()
