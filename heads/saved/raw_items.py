"""Items as users hold them: texts, paths, bytes and pictures; and how they differ from vectors."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadSource
from featurestore.terms.specs import Modality

_READS = {
    Modality.TEXT: "texts (str)",
    Modality.IMAGE: "pictures: paths, bytes, or PIL images",
}
_LOSSLESS_PNG = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})


def is_raw(items: Any) -> bool:
    """Whether items are texts, paths, bytes or pictures, not vectors."""
    if isinstance(items, (str, bytes, Path)):
        return True
    if isinstance(items, np.ndarray) and items.dtype.kind not in "OUS":
        return False
    kinds = [_is_raw_one(one) for one in items]
    if any(kinds) and not all(kinds):
        at = kinds.index(not kinds[0])
        raise BadSource(
            f"items are of two kinds: item 0 is a {type(items[0]).__name__}, item {at} a "
            f"{type(items[at]).__name__}; give vectors, or raw items, in one call"
        )
    return any(kinds)


def _is_raw_one(item: Any) -> bool:
    return item is None or isinstance(item, (str, bytes, Path)) or _is_picture(item)


def _is_picture(item: Any) -> bool:
    """Whether it is a PIL image, without importing PIL for other types."""
    return hasattr(item, "getexif") and hasattr(item, "save")


def contents_of(items: Sequence[Any] | NDArray[Any], modality: str) -> list[str | bytes]:
    """Return the n items as texts, or as the bytes of pictures, in the order given.

    Raises
    ------
    BadSource
        If an item is of another type than the head reads, or a picture is not there.
    """
    if isinstance(items, (str, bytes, Path)):
        raise BadSource("expected a sequence of items: put the one into a list")
    return [content_of(one, modality, at) for at, one in enumerate(items)]


def content_of(item: Any, modality: str, at: int) -> str | bytes:
    """Return the text, or the bytes of the picture, of item number ``at``."""
    if modality == Modality.TEXT:
        if isinstance(item, str):
            return str(item)
    elif isinstance(item, bytes):
        return bytes(item)
    elif isinstance(item, (str, Path)):
        path = Path(item)
        if not path.is_file():
            raise BadSource(
                f"there is not a file {path}: this head reads images, as paths or bytes"
            )
        return path.read_bytes()
    elif _is_picture(item):
        return _bytes_of(item)
    reads = _READS[Modality(modality)]
    raise BadSource(f"item {at} is a {type(item).__name__}: this head reads {reads}")


def _bytes_of(picture: Any) -> bytes:
    """Write a PIL image without loss, with its EXIF data, which may turn it."""
    sink = io.BytesIO()
    kind = "PNG" if picture.mode in _LOSSLESS_PNG else "TIFF"
    picture.save(sink, kind, exif=picture.getexif(), compress_level=1)
    return sink.getvalue()
