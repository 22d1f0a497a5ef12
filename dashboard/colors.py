"""One color for each class and each encoder, the same on every page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# Readable for color-blind people. Black is left out (dark pages); the last is ours.
# Okabe and Ito (2008), https://jfly.uni-koeln.de/color/
PALETTE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#999999",
)
NEUTRAL = "#888888"  # what has no class
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
    darker, then lighter; after 24 they repeat, so names are always written beside them.

    >>> colors(["dog", "cat"])["cat"]
    '#0072B2'
    """
    n = len(PALETTE)
    return {name: _toned(PALETTE[i % n], i // n % 3) for i, name in enumerate(sorted(set(names)))}


def _toned(hue: str, turn: int) -> str:
    """Return a color as it is, darker, or lighter."""
    toward, share = ((0, 0.0), (0, 0.4), (255, 0.5))[turn]
    parts = (int(hue[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + (toward - part) * share):02X}" for part in parts)
