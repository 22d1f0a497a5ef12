"""The colors of a map's points: by a column of the items, or by what a head predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dashboard.colors import NEUTRAL, PALETTE, SCALE, colors
from dashboard.page_data.wording import Row
from featurestore.terms.labels import MOST_CLASSES

MOST_NAMES = 60  # categories with a color and a line in the legend
NOTHING = "nothing"  # a value that is not there
ONE_COLOR = "nothing, all alike"
RIGHT, WRONG, UNTESTED = "right", "wrong", "not tested"
_RIGHT_COLORS = {RIGHT: PALETTE[0], WRONG: PALETTE[5], UNTESTED: NEUTRAL}


@dataclass(frozen=True, eq=False)
class Coloring:
    """One category a point, each with a color: classes, or steps of a scale."""

    codes: NDArray[np.int32]  # (n,), positions in names
    names: list[str]
    hues: list[str]  # of each name

    def take(self, rows: NDArray[np.intp]) -> Coloring:
        """Return the colors of some points, rows of shape (n_shown,); names keep theirs."""
        return Coloring(self.codes[rows], self.names, self.hues)

    def legend(self) -> list[Row]:
        """Return a line for each category that some point has."""
        counts = np.bincount(self.codes, minlength=len(self.names))
        return [
            {"name": name, "color": hue, "n": int(n), "code": code}
            for code, (name, hue, n) in enumerate(zip(self.names, self.hues, counts, strict=True))
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
    if column in ("confidence", "margin"):
        return coloring(said)
    label = card["label"]
    known = items.column(label).cast(pa.string()) if label in items.column_names else said
    names = {*pc.unique(known.drop_null()).to_pylist(), *card["classes"]}
    return coloring(said, colors(names))


def coloring(values: pa.ChunkedArray, palette: Mapping[str, str] | None = None) -> Coloring:
    """Color by category, or in ten steps where there are many different numbers.

    Of very many categories the largest have their own color; the others share one.

    Parameters
    ----------
    values : ChunkedArray of length n
    palette : mapping of str to str, optional
        The color of each category; `colors` of their names by default.
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
    code_of = np.full(len(names), len(shown), np.int32)  # in the order shown
    code_of[shown] = np.arange(len(shown))
    said = [names[i] for i in shown]
    hues = [known.get(name, NEUTRAL) for name in said]
    if len(shown) < len(order):
        said.append(f"{len(order) - len(shown):,} others")
        hues.append(NEUTRAL)
    return Coloring(code_of[code], said, hues)


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
    """Return what a head predicted of items, null for those that it was not tested on.

    Columns: item_id, predicted, outcome (right, wrong, not tested), confidence, margin (the
    highest probability less the second), in the order of ``ids``.
    """
    rows = pc.index_in(ids, value_set=predictions.column("item_id"))
    known = predictions.take(rows)
    is_right = pc.equal(known.column("label"), known.column("predicted"))
    outcome = pc.if_else(is_right, RIGHT, WRONG)
    columns = {
        "item_id": ids,
        "predicted": known.column("predicted"),
        "outcome": pc.fill_null(outcome, UNTESTED),
    }
    if "confidence" in known.column_names:
        columns["confidence"] = known.column("confidence")
    if "probabilities" in known.column_names:
        columns["margin"] = _margins(predictions).take(rows)
    return pa.table(columns)


def _margins(predictions: pa.Table) -> pa.Array:
    proba = predictions.column("probabilities").combine_chunks()
    ordered = np.sort(proba.flatten().to_numpy().reshape(len(proba), -1), axis=1)
    return pa.array(ordered[:, -1] - ordered[:, -2])
