"""What the map shows: items and their places in, colours and selections out, no Streamlit."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dashboard.colors import NEUTRAL, PALETTE, SCALE, colors
from dashboard.views import NO_LABEL, Row
from featurestore.errors import BadQuery
from featurestore.values import MOST_CLASSES
from featurestore.view import View

MOST_POINTS = 200_000  # on one map: more are shown as a sample of that many
MOST_NAMES = 60  # categories with a line in the legend
NOTHING = "nothing"  # a value that is not there
RIGHT, WRONG, UNTESTED = "right", "wrong", "not tested"
_RIGHT_COLORS = {RIGHT: PALETTE[0], WRONG: PALETTE[5], UNTESTED: NEUTRAL}

Outline = list[tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Coloring:
    """One colour a point: of its category, or along a scale."""

    values: NDArray[np.float32]  # (n,), category numbers, or places on the scale in [0, 1]
    palette: list[str]
    legend: list[Row]  # name, color and n of each category; the ends of a scale
    is_number: bool = False
    low: float = 0.0
    high: float = 1.0


def columns_to_color(items: pa.Table) -> list[str]:
    """Return the columns that a map can be coloured by."""
    hidden = {"item_id", "content_hash", "uri", "text", "source", "mtime_ns", "size"}
    return [
        name
        for name in items.column_names
        if name not in hidden
        and not pa.types.is_nested(items.schema.field(name).type)
        and items.column(name).null_count < len(items)
    ]


def coloring(values: pa.ChunkedArray, palette: Mapping[str, str] | None = None) -> Coloring:
    """Colour by category, or along a scale where there are many different numbers.

    Parameters
    ----------
    values : ChunkedArray of length n
    palette : mapping of str to str, optional
        Colours that the categories have on other pages.
    """
    is_number = pa.types.is_floating(values.type) or pa.types.is_integer(values.type)
    if is_number and pc.count_distinct(values).as_py() > MOST_CLASSES:
        return _scaled(np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False)))
    encoded = values.cast(pa.string()).combine_chunks().dictionary_encode()
    names = [name or NOTHING for name in encoded.dictionary.to_pylist()]
    code = np.asarray(pc.fill_null(encoded.indices, len(names)))
    if (code == len(names)).any():
        names.append(NOTHING)
    counts = np.bincount(code, minlength=len(names))
    order = sorted(range(len(names)), key=lambda i: (names[i] == NOTHING, -counts[i], names[i]))
    place = np.empty(len(names), np.float32)
    place[order] = np.arange(len(names))
    known = palette or colors(name for name in names if name != NOTHING)
    hues = [known.get(names[i], NEUTRAL) for i in order]
    legend = [
        {"name": names[i], "color": hue, "n": int(counts[i])}
        for i, hue in zip(order, hues, strict=True)
    ]
    return Coloring(place[code], hues, legend)


def _scaled(values: NDArray[np.float64]) -> Coloring:
    known = np.isfinite(values)
    low, high = (values[known].min(), values[known].max()) if known.any() else (0.0, 1.0)
    place = np.where(known, (values - low) / max(high - low, 1e-12), 0).astype(np.float32)
    legend = [
        {"name": f"{low:.3g} (lowest)", "color": SCALE[0]},
        {"name": f"{high:.3g} (highest)", "color": SCALE[-1]},
    ]
    return Coloring(place, list(SCALE), legend, True, float(low), float(high))


def predicted(ids: pa.ChunkedArray, predictions: pa.Table) -> pa.Table:
    """Return what a head said of items, null where it was not asked.

    Columns: predicted, outcome (right, wrong, not tested), confidence, in the order of ``ids``.
    """
    place = pc.index_in(ids, value_set=predictions.column("item_id"))
    known = predictions.take(place)
    is_right = pc.equal(known.column("label"), known.column("predicted"))
    outcome = pc.if_else(is_right, RIGHT, WRONG)
    columns = {
        "predicted": known.column("predicted"),
        "outcome": pc.fill_null(outcome, UNTESTED),
    }
    if "confidence" in known.column_names:
        columns["confidence"] = known.column("confidence")
    return pa.table(columns)


def outcome_palette() -> Mapping[str, str]:
    """Return the colours of right, wrong and not tested."""
    return _RIGHT_COLORS


def sampled(rows: NDArray[np.intp], most: int = MOST_POINTS) -> NDArray[np.intp]:
    """Return at most so many rows, drawn evenly at random, ascending."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


def inside(xy: NDArray[np.float32], outline: Outline) -> NDArray[np.bool_]:
    """Mark the points within an outline, (n,); crossings of a ray to the right are counted."""
    x, y = xy[:, 0], xy[:, 1]
    found = np.zeros(len(xy), bool)
    for (ax, ay), (bx, by) in zip(outline, [*outline[-1:], *outline[:-1]], strict=True):
        if ay == by:
            continue
        crosses = (ay > y) != (by > y)
        found ^= crosses & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return found


def outline_text(outline: Sequence[Sequence[float]]) -> str:
    """Write an outline for an address: ``0.1,0.2;0.3,0.4;…``."""
    return ";".join(f"{x:.3f},{y:.3f}" for x, y in outline)


def parse_outline(text: str) -> Outline:
    """Read what `outline_text` wrote.

    Raises
    ------
    BadQuery
        If it is no outline of 3 to 500 corners.
    """
    try:
        corners = [tuple(float(one) for one in part.split(",")) for part in text.split(";")]
        found = [(x, y) for x, y in corners]
    except ValueError:
        found = []
    if not 3 <= len(found) <= 500 or not np.isfinite(found).all():
        raise BadQuery(f"{text[:60]!r} is no outline: expected x,y;x,y;… with 3 to 500 corners")
    return found


def point_data(
    xy: NDArray[np.float32],
    found: Coloring,
    *,
    name: str,
    key: str,
    colour_key: str,
    lasso: Outline | None,
    item: int | None,
) -> Row:
    """Return what the map's component draws.

    ``key`` names the points, ``colour_key`` their colours: what is drawn already is not drawn
    again.
    """
    return {
        "name": name,
        "key": key,
        "colour_key": colour_key,
        "points": _base64(xy),
        "values": _base64(found.values),
        "palette": found.palette,
        "legend": found.legend[:MOST_NAMES],
        "is_number": found.is_number,
        "low": found.low,
        "high": found.high,
        "lasso": lasso,
        "item": item,
    }


def _base64(values: NDArray[np.float32]) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def label_breakdown(labels: Sequence[str | None], most: int = 6) -> str:
    """Say which labels a selection has: ``12 cat · 3 dog``."""
    values, counts = np.unique([one or NO_LABEL for one in labels], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    said = [f"{counts[i]:,} {values[i]}" for i in order[:most]]
    more = len(order) - most
    return " · ".join(said) + (f" · {more} more" if more > 0 else "")


def exported(view: View, ids: Sequence[str], kind: str, extra: pa.Table | None = None) -> bytes:
    """Return chosen items as a file: ``csv`` (item columns), or ``parquet`` (vectors as well).

    Parameters
    ----------
    extra : Table, optional
        Further columns of all the view's items, such as predictions.
    """
    items = view.to_arrow() if kind == "parquet" else view.items()
    if extra is not None:
        for name in extra.column_names:
            if name not in items.column_names:
                items = items.append_column(name, extra.column(name))
    wanted = pa.array(ids, pa.string())
    chosen = items.filter(pc.is_in(items.column("item_id"), value_set=wanted))
    sink = io.BytesIO()
    if kind == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(chosen, sink)
    else:
        from pyarrow import csv

        flat = [f.name for f in chosen.schema if not pa.types.is_nested(f.type)]
        csv.write_csv(chosen.select(flat), sink)
    return sink.getvalue()


def as_row(item: Mapping[str, Any], label_column: str | None) -> Row:
    """Return an item of `View.items` as the gallery takes it."""
    label = item.get(label_column) if label_column else None
    return {
        "item_id": item["item_id"],
        "content_hash": item["content_hash"],
        "text": item.get("text"),
        "split": item.get("split"),
        "label": None if label is None else str(label),
    }
