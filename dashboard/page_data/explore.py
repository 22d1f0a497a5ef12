"""What the map shows: items and their places in, colors and selections out, no Streamlit."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dashboard.colors import NEUTRAL, PALETTE, SCALE, colors
from dashboard.page_data.wording import NO_LABEL, Row
from featurestore.curation.slices import Slice
from featurestore.errors import BadQuery
from featurestore.store.view import View
from featurestore.terms.labels import MOST_CLASSES

MOST_POINTS = 200_000  # on one map: more are shown as a sample of that many
MOST_NAMES = 60  # categories with a color and a line in the legend
NOTHING = "nothing"  # a value that is not there
ONE_COLOR = "nothing, all alike"
RIGHT, WRONG, UNTESTED = "right", "wrong", "not tested"
_RIGHT_COLORS = {RIGHT: PALETTE[0], WRONG: PALETTE[5], UNTESTED: NEUTRAL}

Outline = list[tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Coloring:
    """One category a point, each with a color: classes, or steps of a scale."""

    codes: NDArray[np.int32]  # (n,), places in names
    names: list[str]
    hues: list[str]  # of each name

    def take(self, rows: NDArray[np.intp]) -> Coloring:
        """Return the colors of some points; names keep theirs."""
        return Coloring(self.codes[rows], self.names, self.hues)

    def legend(self) -> list[Row]:
        """Return a line for each category that some point has."""
        counts = np.bincount(self.codes, minlength=len(self.names))
        return [
            {"name": name, "color": hue, "n": int(n)}
            for name, hue, n in zip(self.names, self.hues, counts, strict=True)
            if n
        ]


def columns_to_color(items: pa.Table) -> list[str]:
    """Return the columns that a map can be colored by."""
    hidden = {"item_id", "content_hash", "uri", "text", "source", "mtime_ns", "size"}
    return [
        name
        for name in items.column_names
        if name not in hidden
        and not pa.types.is_nested(items.schema.field(name).type)
        and items.column(name).null_count < len(items)
    ]


def item_coloring(items: pa.Table, column: str) -> Coloring:
    """Color a view's items by one of their columns; classes have the colors of other pages."""
    if column == ONE_COLOR:
        return Coloring(np.zeros(len(items), np.int32), ["items"], [PALETTE[0]])
    return coloring(items.column(column))


def head_coloring(
    items: pa.Table, predictions: pa.Table, card: Mapping[str, Any], column: str
) -> Coloring:
    """Color a view's items by what a head said of them."""
    said = predicted(items.column("item_id"), predictions).column(column)
    if column == "outcome":
        return coloring(said, _RIGHT_COLORS)
    if column == "confidence":
        return coloring(said)
    label = card["label"]
    known = items.column(label).cast(pa.string()) if label in items.column_names else said
    names = {*pc.unique(known.drop_null()).to_pylist(), *card["classes"]}
    return coloring(said, colors(names))


def coloring(values: pa.ChunkedArray, palette: Mapping[str, str] | None = None) -> Coloring:
    """Color by category, or in ten steps where there are many different numbers.

    Of very many categories the largest have colors of their own, the others one together.

    Parameters
    ----------
    values : ChunkedArray of length n
    palette : mapping of str to str, optional
        The colors of categories; by default those that their names have together.
    """
    is_number = pa.types.is_floating(values.type) or pa.types.is_integer(values.type)
    if is_number and pc.count_distinct(values).as_py() > MOST_CLASSES:
        return _stepped(np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False)))
    encoded = values.cast(pa.string()).combine_chunks().dictionary_encode()
    names = [name or NOTHING for name in encoded.dictionary.to_pylist()]
    code = np.asarray(pc.fill_null(encoded.indices, len(names)))
    counts = np.bincount(code, minlength=len(names) + 1)
    names.append(NOTHING)
    order = sorted(
        (i for i in range(len(names)) if counts[i]),
        key=lambda i: (names[i] == NOTHING, -counts[i], names[i]),
    )
    known = palette or colors(name for name in names if name != NOTHING)
    shown = order if len(order) <= MOST_NAMES else order[: MOST_NAMES - 1]
    place = np.full(len(names), len(shown), np.int32)
    place[shown] = np.arange(len(shown))
    said = [names[i] for i in shown]
    hues = [known.get(name, NEUTRAL) for name in said]
    if len(shown) < len(order):
        said.append(f"{len(order) - len(shown):,} others")
        hues.append(NEUTRAL)
    return Coloring(place[code], said, hues)


def _stepped(values: NDArray[np.float64]) -> Coloring:
    """Color numbers in steps of equal width, from dark to light; what is missing is grey."""
    known = np.isfinite(values)
    low, high = (values[known].min(), values[known].max()) if known.any() else (0.0, 1.0)
    edges = np.linspace(low, high, len(SCALE) + 1)
    step = np.searchsorted(edges[1:-1], values, side="right")
    codes = np.where(known, step, len(SCALE)).astype(np.int32)
    names = [f"{a:.3g} to {b:.3g}" for a, b in pairwise(edges)]
    return Coloring(codes, [*names, NOTHING], [*SCALE, NEUTRAL])


def predicted(ids: pa.ChunkedArray, predictions: pa.Table) -> pa.Table:
    """Return what a head said of items, null where it was not asked.

    Columns: item_id, predicted, outcome (right, wrong, not tested), confidence, in the order of
    ``ids``.
    """
    place = pc.index_in(ids, value_set=predictions.column("item_id"))
    known = predictions.take(place)
    is_right = pc.equal(known.column("label"), known.column("predicted"))
    outcome = pc.if_else(is_right, RIGHT, WRONG)
    columns = {
        "item_id": ids,
        "predicted": known.column("predicted"),
        "outcome": pc.fill_null(outcome, UNTESTED),
    }
    if "confidence" in known.column_names:
        columns["confidence"] = known.column("confidence")
    return pa.table(columns)


def sampled(rows: NDArray[np.intp], most: int = MOST_POINTS) -> NDArray[np.intp]:
    """Return at most so many rows, drawn evenly at random, ascending."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


def is_in(ids: pa.ChunkedArray, wanted: Sequence[str]) -> NDArray[np.bool_]:
    """Mark the ids that are among the wanted ones, (n,)."""
    return np.asarray(pc.is_in(ids, value_set=pa.array(wanted, pa.string())))


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


def outline_text(method: str, outline: Sequence[Sequence[float]]) -> str:
    """Write an outline on a map for an address: ``pca:0.1,0.2;0.3,0.4;…``."""
    return f"{method}:" + ";".join(f"{x:.6g},{y:.6g}" for x, y in outline)


def parse_outline(text: str) -> tuple[str, Outline]:
    """Read what `outline_text` wrote: the map, and the corners.

    Raises
    ------
    BadQuery
        If it is no outline of 3 to 500 corners.
    """
    method, _, rest = text.partition(":")
    try:
        corners = [tuple(float(one) for one in part.split(",")) for part in rest.split(";")]
        found = [(x, y) for x, y in corners]
    except ValueError:
        found = []
    if not 3 <= len(found) <= 500 or not np.isfinite(found).all():
        raise BadQuery(f"{text[:60]!r} is no outline: expected map:x,y;x,y;… with 3 to 500 corners")
    return method, found


def point_data(
    xy: NDArray[np.float32],
    found: Coloring,
    *,
    name: str,
    key: str,
    color_key: str,
    lasso: Outline | None,
    item: int | None,
    has_points: bool = False,
) -> Row:
    """Return what the map's component draws.

    ``key`` names the points, ``color_key`` their colors: what is drawn already is not drawn
    again, and with ``has_points`` not sent again.
    """
    return {
        "name": name,
        "key": key,
        "color_key": color_key,
        "points": None if has_points else _base64(xy),
        "codes": None if has_points else _base64(found.codes.astype(np.float32)),
        "names": found.names,
        "hues": found.hues,
        "legend": found.legend(),
        "lasso": lasso,
        "item": item,
    }


def _base64(values: NDArray[np.float32]) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def label_breakdown(labels: pa.ChunkedArray, most: int = 6) -> str:
    """Say which labels a selection has: ``cat: 12 · dog: 3``."""
    found = pc.value_counts(labels.cast(pa.string())).to_pylist()
    counts = sorted(((one["counts"], one["values"] or NO_LABEL) for one in found),
                    key=lambda one: (-one[0], one[1]))  # fmt: skip
    said = [f"{name}: {n:,}" for n, name in counts[:most]]
    more = len(counts) - most
    return " · ".join(said) + (f" · {more} more" if more > 0 else "")


def exported(view: View, ids: Sequence[str], kind: str, extra: pa.Table | None = None) -> bytes:
    """Return chosen items as a file: ``csv`` (item columns), or ``parquet`` (vectors as well).

    Parameters
    ----------
    ids : sequence of str
        In the order that the file is to have; those that are gone are left out.
    extra : Table, optional
        Further columns by item_id, such as predictions or scores.
    """
    part = view.within(Slice("selection", tuple(ids), ""))
    items = part.to_arrow() if kind == "parquet" else part.items()
    place = pc.index_in(pa.array(ids, pa.string()), value_set=items.column("item_id")).drop_null()
    items = items.take(place)
    if extra is not None:
        beside = extra.take(pc.index_in(items.column("item_id"), value_set=extra.column("item_id")))
        for name in beside.column_names:
            if name != "item_id":
                free = name if name not in items.column_names else f"head {name}"
                items = items.append_column(free, beside.column(name))
    sink = io.BytesIO()
    if kind == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(items, sink)
    else:
        from pyarrow import csv

        flat = [f.name for f in items.schema if not pa.types.is_nested(f.type)]
        csv.write_csv(items.select(flat), sink)
    return sink.getvalue()
