"""Boxes cut out of pictures: a picture is decoded once for all boxes of it that come together."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import TYPE_CHECKING

from featurestore.terms.boxes import EXCHANGED, Box

if TYPE_CHECKING:
    from PIL import Image

# In `Image.info`: by which orientation of EXIF the picture was turned.
TURNED = "featurestore: turned"
# In `Image.info`: what is to be said of a box that was cut out.
CLIPPED = "featurestore: box reaches over the edge"
TINY = "featurestore: box is tiny"
ON_TURNED = "featurestore: box on a turned picture"
REMARKS_ON_BOXES = (CLIPPED, TINY, ON_TURNED)
TINY_PX = 8  # of the shorter side: fewer hardly show anything
_KEPT_PIXELS = 1 << 26  # 200 MB; of the pictures that were used last


def cut_out(picture: bytes, box: Box, decode: Callable[[bytes], Image.Image]) -> Image.Image:
    """Return a box of a picture, as RGB; its info has those of `REMARKS_ON_BOXES` that hold.

    Parameters
    ----------
    picture : bytes
        Of the file.
    decode : callable
        From the file's bytes to the whole picture.

    Raises
    ------
    Undecodable
        If the picture cannot be decoded, or has no such box.
    """
    whole = _PICTURES.get(picture, decode)
    orientation = whole.info.get(TURNED)
    place, is_clipped = box.pixels(whole.size, orientation)
    crop = whole.crop(place)
    # Its size tells whether it was drawn on the picture as stored, unless both have one size.
    is_told = box.drawn_on is not None and (orientation or 1) in EXCHANGED
    is_told &= whole.width != whole.height
    said = {
        CLIPPED: is_clipped,
        TINY: min(crop.size) < TINY_PX,
        ON_TURNED: orientation is not None and not is_told,
    }
    crop.info |= {name: True for name, holds in said.items() if holds}
    return crop


class _Pictures:
    """The pictures that boxes were last cut out of, by the bytes of their files.

    Threads that ask for one picture wait for the first of them to decode it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: dict[bytes, Future[Image.Image]] = {}  # the last used is the last

    def get(self, content: bytes, decode: Callable[[bytes], Image.Image]) -> Image.Image:
        with self._lock:
            future = self._kept.pop(content, None)
            is_ours = future is None
            future = self._kept[content] = future or Future()
        if is_ours:
            try:
                future.set_result(decode(content))
            except BaseException as error:
                with self._lock:
                    self._kept.pop(content, None)
                future.set_exception(error)
            else:
                self._trim()
        return future.result()

    def _trim(self) -> None:
        """Forget what was not used for the longest time; the last picture stays."""
        with self._lock:
            n_pixels = 0
            for content, future in reversed(list(self._kept.items())):
                if not future.done():
                    continue
                image = future.result()
                if n_pixels and n_pixels + image.width * image.height > _KEPT_PIXELS:
                    del self._kept[content]
                n_pixels += image.width * image.height


_PICTURES = _Pictures()
