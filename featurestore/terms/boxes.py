"""A box in a picture: how a uri names it, which pixels it means, and what stands for its content.

``a.jpg#xywh=10,20,30,40`` is a part of a picture as the W3C's Media Fragments name it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from featurestore.errors import Undecodable

_NUMBER = r"-?\d+(?:\.\d+)?"
_FRAGMENT = re.compile(
    rf"xywh=(percent:)?({_NUMBER}),({_NUMBER}),({_NUMBER}),({_NUMBER})"
    rf"(?:&of=(\d+),(\d+))?(?:&margin=(\d+(?:\.\d+)?))?"
)
BOX_MARK = "#xywh="
_HEADER = b"featurestore box "
_MOST_HEADER = 200  # bytes
_DIGITS = 6  # behind the point
# From a stored picture of (width, height) to the one that is turned as EXIF says: where a corner
# comes to lie, for those orientations that exchange width and height.
EXCHANGED = {
    5: lambda x, y, width, height: (y, x),
    6: lambda x, y, width, height: (height - y, x),
    7: lambda x, y, width, height: (height - y, width - x),
    8: lambda x, y, width, height: (y, width - x),
}


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in a picture: its upper left corner, its width and its height.

    Numbers are pixels, or percent of the picture's width and height; six digits behind the point
    are kept.
    """

    x: float
    y: float
    w: float
    h: float
    is_percent: bool = False
    drawn_on: tuple[int, int] | None = None  # width and height of that picture, where it is known
    margin: float = 0.0  # share of its sides by which it grows, at each side

    def __post_init__(self) -> None:
        for name in ("x", "y", "w", "h"):
            object.__setattr__(self, name, round(float(getattr(self, name)), _DIGITS) + 0.0)

    @property
    def wrong(self) -> str:
        """Why no picture has such a box; "" where one may have it."""
        numbers = (self.x, self.y, self.w, self.h)
        if not all(map(math.isfinite, numbers)):
            return "a box has four numbers: x, y, width and height"
        if self.w <= 0 or self.h <= 0:
            return f"the box is empty: {_short(self.w)} wide and {_short(self.h)} high"
        return ""

    @property
    def name(self) -> str:
        """The box as an item's id has it."""
        unit = "percent:" if self.is_percent else ""
        return f"xywh={unit}{','.join(map(_short, (self.x, self.y, self.w, self.h)))}"

    @property
    def fragment(self) -> str:
        """All that decides its pixels, as a uri has it behind the ``#``."""
        of = f"&of={self.drawn_on[0]},{self.drawn_on[1]}" if self.drawn_on else ""
        margin = f"&margin={_short(self.margin)}" if self.margin else ""
        return f"{self.name}{of}{margin}"

    @classmethod
    def of_numbers(cls, numbers: object) -> tuple[Box | None, str]:
        """Return the box of x, y, width and height in pixels, or why there is none."""
        try:
            x, y, w, h = map(float, numbers)  # type: ignore[call-overload]  # whatever was written
        except (TypeError, ValueError):
            return None, f"a box has four numbers (x, y, width, height), not {numbers!r:.80}"
        box = cls(x, y, w, h)
        return box, box.wrong

    @classmethod
    def of_fragment(cls, fragment: str) -> Box | None:
        """Return the box that a fragment names; None for another text."""
        match = _FRAGMENT.fullmatch(fragment)
        if match is None:
            return None
        percent, *numbers, width, height, margin = match.groups()
        size = (int(width), int(height)) if width else None
        x, y, w, h = map(float, numbers)
        return cls(x, y, w, h, bool(percent), size, float(margin or 0))

    def pixels(
        self, size: tuple[int, int], orientation: int | None = None
    ) -> tuple[tuple[int, int, int, int], bool]:
        """Return which pixels of a picture it means, and whether it reaches over the edge.

        The picture is the one that people see. A box that was drawn on the stored one, which its
        size tells, is turned with it. Edges lie at the nearest whole pixel.

        Parameters
        ----------
        size : (width, height)
            Of the picture as EXIF turns it.
        orientation : int, optional
            Of EXIF, by which it was turned.

        Returns
        -------
        (left, upper, right, lower) : tuple of int
            Within the picture; right and lower are the first pixels outside of the box.
        is_clipped : bool
            Whether the box, without its margin, reaches over the edge of the picture.

        Raises
        ------
        Undecodable
            If it was drawn on a picture of another size, or has no pixel in this one.
        """
        width, height = size
        left, upper, right, lower = self._corners(size, orientation)
        is_clipped = round(left) < 0 or round(upper) < 0
        is_clipped |= round(right) > width or round(lower) > height
        wide, high = self.margin * (right - left), self.margin * (lower - upper)
        if right <= 0 or lower <= 0 or left >= width or upper >= height:
            raise Undecodable(
                f"the box {self.name} lies outside of the picture, which has {width} × {height} "
                "pixels"
            )
        inside = (
            max(0, round(left - wide)), max(0, round(upper - high)),
            min(width, round(right + wide)), min(height, round(lower + high)),
        )  # fmt: skip
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            raise Undecodable(
                f"the box {self.name} has no whole pixel of the picture, which has "
                f"{width} × {height} pixels"
            )
        return inside, is_clipped

    def _corners(
        self, size: tuple[int, int], orientation: int | None
    ) -> tuple[float, float, float, float]:
        """Return left, upper, right and lower edge in a picture, in pixels."""
        if self.wrong:
            raise Undecodable(self.wrong)
        width, height = size
        across, down = (width / 100, height / 100) if self.is_percent else (1.0, 1.0)
        x, y, w, h = self.x * across, self.y * down, self.w * across, self.h * down
        if self.is_percent or self.drawn_on in (None, size):
            return x, y, x + w, y + h
        turn = EXCHANGED.get(orientation or 1)
        if turn is None or self.drawn_on != (height, width):
            assert self.drawn_on is not None
            raise Undecodable(
                f"the box was drawn on a picture of {self.drawn_on[0]} × {self.drawn_on[1]} "
                f"pixels, and this one has {width} × {height}: give the picture, or boxes of it"
            )
        one, other = turn(x, y, *self.drawn_on), turn(x + w, y + h, *self.drawn_on)
        (left, right), (upper, lower) = sorted([one[0], other[0]]), sorted([one[1], other[1]])
        return left, upper, right, lower

    def drawn(self, size: tuple[int, int] | None, margin: float) -> Box:
        """Return it with the size of the picture that it was drawn on, and a margin."""
        return replace(self, drawn_on=None if self.is_percent else size, margin=margin)


def _short(number: float) -> str:
    """Write a number without needless digits: 10 for 10.0, never as 1e-05."""
    return f"{number:.{_DIGITS}f}".rstrip("0").rstrip(".")


def box_uri(uri: str, box: Box) -> str:
    """Name a box in the picture that a uri names."""
    return f"{uri}#{box.fragment}"


def split_box(uri: str) -> tuple[str, Box | None]:
    """Return the uri of a picture, and the box in it; None where the uri names none.

    >>> split_box("a.jpg#xywh=1,2,3,4")[0], split_box("a.jpg#xywh=1")
    ('a.jpg', ('a.jpg#xywh=1', None))
    """
    picture, mark, rest = uri.rpartition(BOX_MARK)
    box = Box.of_fragment(f"xywh={rest}") if mark else None
    return (uri, None) if box is None else (picture, box)


def picture_of(name: str) -> str:
    """Return what stands before the box in a uri or an item's id.

    >>> picture_of("a.jpg#xywh=1,2,3,4&n=2"), picture_of("a.jpg")
    ('a.jpg', 'a.jpg')
    """
    return name.rpartition(BOX_MARK)[0] or name


def boxed(picture: bytes, box: Box) -> bytes:
    """Return what stands for the content of a box: a line that names it, then the file's bytes."""
    return _HEADER + box.fragment.encode() + b"\n" + picture


def unboxed(content: bytes) -> tuple[bytes, Box | None]:
    """Return the bytes of a picture, and the box of it that is meant; None for all of it.

    Raises
    ------
    Undecodable
        If the content begins as that of a box does, and names none.
    """
    if not content.startswith(_HEADER):
        return content, None
    end = content.find(b"\n", 0, _MOST_HEADER)
    line = content[len(_HEADER) : max(end, 0)].decode("ascii", "replace")
    box = Box.of_fragment(line)
    if box is None:
        raise Undecodable("the content begins as that of a box does, and names none")
    return content[end + 1 :], box
