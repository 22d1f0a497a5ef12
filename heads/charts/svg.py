"""Charts as SVG that stands inside a page: colors of text and lines are those of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from heads.charts.charts import (
    RIGHT,
    WRONG,
    Chart,
    Grid,
    Line,
    Lines,
    Spans,
    kinds,
    limits,
    padded,
    shade,
    ticks,
)

WIDTH = 860
LETTER = 6.7  # px, of 12 px text
MOST_NAMES, VALUES = 400, 150  # px beside intervals
CELL = 34
Scale = Callable[[float], float]


def svg(chart: Chart, about: str) -> str:
    """Draw a chart; ``about`` is read aloud in its place."""
    if isinstance(chart, Spans):
        return _spans(chart, about)
    return _lines(chart, about) if isinstance(chart, Lines) else _grid(chart, about)


def _spans(chart: Spans, about: str) -> str:
    row, top = 24, 8
    bottom = top + row * len(chart.spans)
    names = min(MOST_NAMES, LETTER * max(len(one.name) for one in chart.spans))
    low, high = limits(chart)
    x = _scale(low, high, names + 10, WIDTH - VALUES)
    color = kinds([one.kind for one in chart.spans])
    parts = []
    if chart.margin is not None:
        left, right = x(-chart.margin), x(chart.margin)
        parts.append(
            f'<rect x="{left:.1f}" y="{top}" width="{right - left:.1f}" height="{bottom - top}" '
            'fill="currentColor" opacity=".12"/>'
        )
        parts.append(_line(x(0), top, x(0), bottom, 1))
    for tick in ticks(low, high):
        parts.append(_line(x(tick), top, x(tick), bottom, 0.15))
        parts.append(_text(x(tick), bottom + 16, f"{tick:g}", "middle"))
    for i, one in enumerate(chart.spans):
        y = top + row * (i + 0.5)
        shown, fill = _cut(one.name, names), color[one.kind]
        parts.append(_text(names, y + 4, shown, "end", one.name))
        if one.low is not None and one.high is not None:
            left, right = x(max(one.low, low)), x(min(one.high, high))
            parts.append(
                f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y}" y2="{y}" stroke="{fill}" '
                'stroke-width="2.5"/>'
            )
        if math.isfinite(one.value):
            parts.append(f'<circle cx="{x(one.value):.1f}" cy="{y}" r="4.5" fill="{fill}"/>')
        parts.append(_text(WIDTH - VALUES + 12, y + 4, one.said))
    middle = (names + 10 + WIDTH - VALUES) / 2
    parts.append(_text(middle, bottom + 36, chart.axis, "middle"))
    return _whole(parts, WIDTH, bottom + 44, about)


def _lines(chart: Lines, about: str) -> str:
    legend = 20 * len(chart.lines) if len(chart.lines) > 1 else 0
    left, right, top, bottom = 60, WIDTH - 20, legend + 10, legend + 320
    if chart.is_square:
        right = left + bottom - top
    xs = sorted({value for one in chart.lines for value in one.x})
    ends = [value for one in chart.lines for value in (*one.low, *one.high) if math.isfinite(value)]
    far = math.log10 if chart.is_log else float
    x_low, x_high = (0, 100) if chart.is_square else padded(far(xs[0]), far(xs[-1]))
    y_low, y_high = (0, 100) if chart.is_square else padded(min(ends), max(ends))
    along, y = _scale(x_low, x_high, left, right), _scale(y_low, y_high, bottom, top)

    def x(value: float) -> float:
        return along(far(value))

    parts = [_line(left, bottom, right, bottom, 0.6)]
    for tick in ticks(y_low, y_high):
        parts.append(_line(left, y(tick), right, y(tick), 0.15))
        parts.append(_text(left - 8, y(tick) + 4, f"{tick:g}", "end"))
    for tick in _apart(xs, x) if chart.is_log else ticks(x_low, x_high):
        parts.append(_text(x(tick), bottom + 16, f"{tick:,g}", "middle"))
    if chart.is_square:
        parts.append(_line(x(0), y(0), x(100), y(100), 0.4))
    color = kinds([one.name for one in chart.lines])
    for i, one in enumerate(chart.lines):
        parts += _one_line(one, x, y, color[one.name])
        if legend:
            parts.append(f'<circle cx="{left + 6}" cy="{20 * i + 10}" r="5" '
                         f'fill="{color[one.name]}"/>')  # fmt: skip
            parts.append(_text(left + 18, 20 * i + 14, one.name))
    parts.append(_text((left + right) / 2, bottom + 36, chart.x_axis, "middle"))
    parts.append(
        f'<text transform="translate(14 {(top + bottom) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(chart.y_axis)}</text>'
    )
    return _whole(parts, right + 20, bottom + 44, about)


def _one_line(one: Line, x: Scale, y: Scale, color: str) -> list[str]:
    points = [f"{x(a):.1f},{y(b):.1f}" for a, b in zip(one.x, one.y, strict=True)]
    upper = [f"{x(a):.1f},{y(b):.1f}" for a, b in zip(one.x, one.high, strict=True)]
    lower = [f"{x(a):.1f},{y(b):.1f}" for a, b in zip(one.x, one.low, strict=True)]
    dots = [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5" fill="{color}"/>'
            for a, b in zip(one.x, one.y, strict=True)]  # fmt: skip
    return [
        f'<polygon points="{" ".join([*upper, *reversed(lower)])}" fill="{color}" opacity=".18"/>',
        f'<polyline points="{" ".join(points)}" fill="none" stroke="{color}" stroke-width="2"/>',
        *dots,
    ]


def _grid(chart: Grid, about: str) -> str:
    left = 30 + LETTER * min(28, max(map(len, chart.names)))
    top, n = 26, len(chart.names)
    parts = [_text(left + CELL * n / 2, 14, "predicted", "middle")]
    for i, (name, counts) in enumerate(zip(chart.names, chart.counts, strict=True)):
        y = top + CELL * i
        parts.append(_text(left - 8, y + CELL / 2 + 4, _cut(name, 190), "end", name))
        below = top + CELL * n + 12
        parts.append(
            f'<text transform="translate({left + CELL * (i + 0.5) + 4:.1f} {below}) rotate(-40)" '
            f'text-anchor="end">{escape(_cut(name, 130))}</text>'
        )
        for j, count in enumerate(counts):
            share = shade(counts, j)
            x, fill = left + CELL * j, RIGHT if i == j else WRONG
            about_cell = escape(f"{name} taken for {chart.names[j]}: {count:,}")
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" fill="{fill}" '
                f'fill-opacity="{0.04 + 0.7 * share:.2f}"><title>{about_cell}</title></rect>'
            )
            if count:
                parts.append(_text(x + CELL / 2, y + CELL / 2 + 4, f"{count}", "middle"))
    longest = LETTER * min(20, max(map(len, chart.names)))
    return _whole(parts, left + CELL * n + 10, top + CELL * n + 24 + 0.7 * longest, about)


def _whole(parts: Sequence[str], width: float, height: float, about: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" '
        f'aria-label="{escape(about)}" font-size="12" fill="currentColor">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, said: str, anchor: str = "start", about: str = "") -> str:
    title = f"<title>{escape(about)}</title>" if about and about != said else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{title}{escape(said)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, opacity: float) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" '
        f'opacity="{opacity}"/>'
    )


def _scale(low: float, high: float, first: float, last: float) -> Scale:
    return lambda value: first + (value - low) / (high - low) * (last - first)


def _apart(values: Sequence[float], x: Scale) -> list[float]:
    """Return values whose numbers do not touch when they are written below an axis."""
    kept: list[float] = []
    for value in values:
        if not kept or x(value) - x(kept[-1]) > LETTER * (len(f"{value:,g}") + 1):
            kept.append(value)
    return kept


def _cut(name: str, width: float) -> str:
    """Cut a name to a width in px."""
    most = int(width / LETTER)
    return name if len(name) <= most else f"{name[: most - 1]}…"
