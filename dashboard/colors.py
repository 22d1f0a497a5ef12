"""One color for each class and each encoder, the same on every page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

# Okabe and Ito (2008), https://jfly.uni-koeln.de/color/, which color-blind people tell apart; black
# is left out, and the four lightest are darkened: each has a contrast of 3 and more with light and
# with dark pages.
PALETTE = (
    "#0072B2",
    "#C38600",
    "#009E73",
    "#CC79A7",
    "#4896C3",
    "#D55E00",
    "#9C942B",
    "#8F8F8F",
)
NEUTRAL = "#888888"  # what has no class
_TONES = (0.135, 0.2, 0.29)  # luminances with a contrast of 3 and more with light and dark pages
# For numbers: from blue over grey to orange, which color-blind people tell apart; each step has a
# contrast of 3 and more with light and with dark pages.
SCALE = (
    "#0062BE",
    "#1C69B0",
    "#396FA2",
    "#557695",
    "#727D87",
    "#887B72",
    "#977255",
    "#A66939",
    "#B55F1C",
    "#C45600",
)


def colors(names: Iterable[str]) -> Mapping[str, str]:
    """Give each name its color.

    Names are sorted first, so that a filter changes no color. After eight names they come again
    in two other tones; after 24 they repeat, so names are always written beside them.

    >>> colors(["dog", "cat"])["cat"]
    '#0072B2'
    """
    n = len(PALETTE)
    return {name: _toned(PALETTE[i % n], i // n % 3) for i, name in enumerate(sorted(set(names)))}


def _toned(hue: str, turn: int) -> str:
    """Return a color as it is, or in one of two tones that light and dark pages can show."""
    if not turn:
        return hue
    own = luminance(hue)
    toned = sorted(_TONES, key=lambda tone: -abs(math.log(tone / own)))[turn - 1]
    linear = [_linear(part) for part in _parts(hue)]
    if toned < own:
        mixed = [part * toned / own for part in linear]
    else:
        share = (toned - own) / (1 - own)  # of white
        mixed = [part + (1 - part) * share for part in linear]
    return "#" + "".join(f"{round(255 * _encoded(part)):02X}" for part in mixed)


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colors, 1 to 21: WCAG 2.2, "contrast ratio"."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(hue: str) -> float:
    """Return how light a color is, 0 to 1: WCAG 2.2, "relative luminance" of sRGB."""
    red, green, blue = (_linear(part) for part in _parts(hue))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _parts(hue: str) -> list[float]:
    return [int(hue[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4


def _encoded(part: float) -> float:
    return 12.92 * part if part <= 0.0031308 else float(1.055 * part ** (1 / 2.4) - 0.055)
