"""Charts as plain values: what is drawn, but not with what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

# Readable for color-blind people, on light and dark ground. Okabe and Ito (2008).
PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A800", "#999999",
)  # fmt: skip
RIGHT, WRONG = PALETTE[0], PALETTE[5]  # cells of a confusion


@dataclass(frozen=True)
class Span:
    """A value with its interval, which may be missing."""

    name: str
    value: float
    low: float | None
    high: float | None
    kind: str  # spans of one kind have one color
    said: str  # the value in words


@dataclass(frozen=True)
class Spans:
    """Values with intervals, one below the other."""

    spans: Sequence[Span]
    axis: str
    margin: float | None = None  # differences: 0 is marked, and what is within the margin


@dataclass(frozen=True)
class Line:
    """Values over x, with the limits of their band or interval."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Lines:
    """Lines over one axis."""

    lines: Sequence[Line]
    x_axis: str
    y_axis: str
    is_log: bool = False
    is_square: bool = False  # from 0 to 100 both ways, with the diagonal


@dataclass(frozen=True)
class Grid:
    """Counts of true (rows) against predicted (columns) classes."""

    names: Sequence[str]
    counts: Sequence[Sequence[int]]  # a row for each name


Chart: TypeAlias = Spans | Lines | Grid


def kinds(names: Sequence[str]) -> dict[str, str]:
    """Give each name its color, by its place in the alphabet; after eight they repeat."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(sorted(set(names)))}


def limits(chart: Spans) -> tuple[float, float]:
    """Return where the axis of values begins and ends."""
    ends = [x for one in chart.spans for x in (one.value, one.low, one.high) if x is not None]
    ends = [x for x in ends if math.isfinite(x)] or [0.0, 1.0]
    if chart.margin is not None:
        ends += [-chart.margin, chart.margin]
    return padded(min(ends), max(ends))


def padded(low: float, high: float) -> tuple[float, float]:
    """Return limits with a little room at both ends."""
    room = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - room, high + room


def ticks(low: float, high: float, n: int = 6) -> list[float]:
    """Return round numbers within limits, about n of them.

    >>> ticks(81.3, 99.2)
    [85.0, 90.0, 95.0]
    """
    raw = (high - low) / n
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def shade(counts: Sequence[int], column: int) -> float:
    """Return the share of its row that a cell of a grid holds."""
    return counts[column] / max(1, sum(counts))
