"""Charts drawn by matplotlib: the only file that knows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import BadName, MissingExtra
from featurestore.storage.files import make_folder
from heads.charts.charts import (
    RIGHT,
    WRONG,
    Chart,
    Grid,
    Lines,
    Spans,
    kinds,
    limits,
    shade,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")
NEUTRAL = "#888888"


def draw(chart: Chart, ax: Axes | None = None) -> Axes:
    """Draw a chart on axes, by default those of a new figure of pyplot, which notebooks show."""
    if ax is None:
        _matplotlib()
        from matplotlib import pyplot

        figure = pyplot.figure(figsize=_size(chart), layout="constrained")
        return draw(chart, figure.subplots())
    if isinstance(chart, Spans):
        _spans(chart, ax)
    elif isinstance(chart, Lines):
        _lines(chart, ax)
    else:
        _grid(chart, ax)
    return ax


def check_plot_file(path: str | Path) -> Path:
    """Return the path of a plot that can be written; say why it cannot before anything is run.

    Raises
    ------
    BadName
        If the name ends otherwise than .png, .svg or .pdf.
    MissingExtra
        If matplotlib is not installed.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise BadName(f"{path}: a plot is written as .png, .svg or .pdf; give such a name")
    _matplotlib()
    return target


def save_plot(chart: Chart, path: str | Path) -> Path:
    """Write a chart as a picture; the ending of the name says which kind."""
    target = check_plot_file(path)
    make_folder(target.parent)
    from matplotlib.figure import Figure

    figure = Figure(figsize=_size(chart), layout="constrained")  # no window, no list keeps it
    draw(chart, figure.subplots())
    figure.savefig(target, dpi=150, bbox_inches="tight")
    return target


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise MissingExtra("plots need matplotlib: pip install 'featurestore[plot]'") from None
    return matplotlib


def _size(chart: Chart) -> tuple[float, float]:
    """Return inches."""
    if isinstance(chart, Spans):
        return 8.0, 1.2 + 0.32 * len(chart.spans)
    if isinstance(chart, Lines):
        return (5.0, 4.6) if chart.is_square else (8.0, 4.6)
    side = 2.0 + 0.4 * len(chart.names)
    return side, side


def _spans(chart: Spans, ax: Axes) -> None:
    color = kinds([one.kind for one in chart.spans])
    if chart.margin is not None:
        ax.axvspan(-chart.margin, chart.margin, color=NEUTRAL, alpha=0.15, linewidth=0)
        ax.axvline(0, color=NEUTRAL, linewidth=1)
    for i, one in enumerate(chart.spans):
        if one.low is not None and one.high is not None:
            ax.plot([one.low, one.high], [i, i], color=color[one.kind], linewidth=2.5)
        ax.plot([one.value], [i], "o", color=color[one.kind])
        ax.annotate(
            one.said, (1.01, i), xycoords=("axes fraction", "data"), va="center", fontsize=9,
            annotation_clip=False,
        )  # fmt: skip
    ax.set_xlim(*limits(chart))
    ax.set_ylim(len(chart.spans) - 0.5, -0.5)
    ax.set_yticks(range(len(chart.spans)), [_plain(one.name) for one in chart.spans])
    ax.set_xlabel(_plain(chart.axis))
    ax.grid(axis="x", alpha=0.3)


def _lines(chart: Lines, ax: Axes) -> None:
    color = kinds([one.name for one in chart.lines])
    for one in chart.lines:
        ax.fill_between(one.x, one.low, one.high, color=color[one.name], alpha=0.18, linewidth=0)
        ax.plot(one.x, one.y, "o-", color=color[one.name], label=_plain(one.name))
    if chart.is_square:
        ax.plot([0, 100], [0, 100], ":", color=NEUTRAL)
        ax.set_aspect("equal")
    if chart.is_log:
        ax.set_xscale("log")
        xs = sorted({x for one in chart.lines for x in one.x})
        ax.set_xticks(xs, [f"{x:,g}" for x in xs])
        ax.minorticks_off()
    if len(chart.lines) > 1:
        ax.legend(frameon=False)
    ax.set_xlabel(_plain(chart.x_axis))
    ax.set_ylabel(_plain(chart.y_axis))
    ax.grid(axis="y", alpha=0.3)


def _grid(chart: Grid, ax: Axes) -> None:
    from matplotlib.colors import to_rgba

    n = len(chart.names)
    ax.imshow([
        [to_rgba(RIGHT if i == j else WRONG, 0.04 + 0.7 * shade(row, j)) for j in range(n)]
        for i, row in enumerate(chart.counts)
    ])  # fmt: skip
    for i, row in enumerate(chart.counts):
        for j, count in enumerate(row):
            if count:
                ax.text(j, i, f"{count}", ha="center", va="center", fontsize=9)
    names = [_plain(name) for name in chart.names]
    ax.set_xticks(range(n), names, rotation=40, ha="right")
    ax.set_yticks(range(n), names)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")


def _plain(text: str) -> str:
    r"""Keep matplotlib from reading formulas in names.

    >>> _plain("$5 or $6")
    '\\$5 or \\$6'
    """
    return text.replace("$", r"\$")
