"""Charts of results: rows of tables in, charts out; shares in percent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from featurestore.terms.specs import encoder_label
from heads.charts.charts import Line, Lines, Span, Spans


def axis_of(metric: str, is_share: bool) -> str:
    """Name the axis of a metric: ``balanced accuracy (%)``."""
    return metric.replace("_", " ") + (" (%)" if is_share else "")


def span_of(
    name: str, values: Sequence[float | None], is_share: bool, *, kind: str, sign: str = ""
) -> Span:
    """Return a value with its limits, as drawn; ``values`` are value, low, high."""
    as_said = f"{sign}.1f" if is_share else f"{sign}.3g"
    scale = 100.0 if is_share else 1.0
    value, low, high = (math.nan if x is None else scale * x for x in values)
    said = "–" if math.isnan(value) else f"{value:{as_said}}"
    if not (math.isfinite(low) and math.isfinite(high)):
        return Span(name, value, None, None, kind, said)
    return Span(name, value, low, high, kind, f"{said} ({low:{as_said}} to {high:{as_said}})")


def leaderboard_chart(rows: Sequence[Mapping[str, Any]], is_share: bool) -> Spans:
    """Return the chart of the rows of a comparison, one color for each encoder.

    The most frequent class is left out where another row is: its score lies far below.
    """
    axis = f"{axis_of(rows[0]['metric'], is_share)}, 95 % interval"
    spans = []
    for row in [row for row in rows if row["head"] != "majority"] or rows:
        encoder, values = encoder_label(row["encoder"]), (row["value"], row["low"], row["high"])
        spans.append(span_of(f"{row['head']} on {encoder}", values, is_share, kind=encoder))
    return Spans(spans, axis)


def curve_chart(rows: Sequence[Mapping[str, Any]], is_share: bool) -> Lines:
    """Return the chart of the rows of a learning curve, a line for each encoder."""
    scale = 100.0 if is_share else 1.0
    lines = []
    for encoder in dict.fromkeys(row["encoder"] for row in rows):
        own = [row for row in rows if row["encoder"] == encoder]
        value, low, high = ([scale * row[key] for row in own] for key in ("value", "low", "high"))
        x = [row["n_labels"] for row in own]
        lines.append(Line(encoder_label(encoder), x, value, low, high))
    return Lines(lines, "labels in all", axis_of(rows[0]["metric"], is_share), is_log=True)


def verdict_chart(rows: Sequence[Mapping[str, Any]], is_share: bool, unit: str) -> Spans:
    """Return the chart of the rows of an assessment, all against one reference."""
    spans = []
    for row in rows:
        encoder, values = encoder_label(row["encoder"]), (row["value"], row["low"], row["high"])
        name = f"{encoder}: {row['kind']}"
        spans.append(span_of(name, values, is_share, kind=encoder, sign="+"))
    axis = (
        f"difference to {rows[0]['reference']} ({unit}), 95 % interval; shaded: too small to matter"
    )
    return Spans(spans, axis, margin=(100.0 if is_share else 1.0) * rows[0]["margin"])
