"""The map itself: a sample of its points, an outline drawn on it, what the browser gets."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dashboard.page_data.coloring import Coloring
from dashboard.page_data.wording import Row
from featurestore.errors import BadQuery

MOST_POINTS = 200_000  # on one map: more are shown as a sample of that many

Outline = list[tuple[float, float]]


def sampled(rows: NDArray[np.intp], most: int = MOST_POINTS) -> NDArray[np.intp]:
    """Return at most ``most`` of the rows, (n,), drawn evenly at random, ascending."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


def is_in(ids: pa.ChunkedArray, wanted: Sequence[str]) -> NDArray[np.bool_]:
    """Mark the ids that are among the wanted ones, (n,)."""
    return np.asarray(pc.is_in(ids, value_set=pa.array(wanted, pa.string())))


def inside(xy: NDArray[np.float32], outline: Outline) -> NDArray[np.bool_]:
    """Mark the points, (n, 2), within an outline: (n,), by the crossings of a ray to the right."""
    x, y = xy[:, 0], xy[:, 1]
    is_inside = np.zeros(len(xy), bool)
    for (ax, ay), (bx, by) in zip(outline, [*outline[-1:], *outline[:-1]], strict=True):
        if ay == by:
            continue
        crosses = (ay > y) != (by > y)
        is_inside ^= crosses & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return is_inside


def outline_text(method: str, outline: Sequence[Sequence[float]]) -> str:
    """Write an outline on a map for the URL: ``pca:0.1,0.2;0.3,0.4;…``."""
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
        corners = [tuple(map(float, corner.split(","))) for corner in rest.split(";")]
        outline = [(x, y) for x, y in corners]
    except ValueError:
        outline = []
    if not 3 <= len(outline) <= 500 or not np.isfinite(outline).all():
        raise BadQuery(
            f"{text[:60]!r} is not an outline: expected map:x,y;x,y;… with 3 to 500 corners"
        )
    return method, outline


@dataclass(frozen=True, eq=False)
class Chosen:
    """What is selected of a map's n points."""

    lasso: Outline | None  # drawn on this map
    item: int | None  # a point
    only: Sequence[int] = ()  # the categories that were brushed; none: all
    among: NDArray[np.bool_] | None = None  # (n,), what was selected on another map


def point_data(
    xy: NDArray[np.float32],
    coloring: Coloring,
    *,
    name: str,
    key: str,
    color_key: str,
    rows: NDArray[np.intp],
    hover: str,
    chosen: Chosen,
    has_points: bool = False,
) -> Row:
    """Return what the map's component draws of points, (n, 2).

    ``key`` names the points, ``color_key`` their colors: while both stay, nothing is drawn
    anew. With ``has_points`` the browser has the points already, and they are not sent.

    Parameters
    ----------
    rows : ndarray of shape (n,)
        The points' rows in the table that ``hover`` names (`dashboard.hover`).
    """
    return {
        "name": name,
        "key": key,
        "color_key": color_key,
        "points": None if has_points else _base64(xy),
        "codes": None if has_points else _base64(coloring.codes),
        "rows": None if has_points else _base64(rows),
        "hover": hover,
        "only": list(chosen.only),
        "among": None if chosen.among is None else _base64(chosen.among),
        "names": coloring.names,
        "hues": coloring.hues,
        "legend": coloring.legend(),
        "lasso": chosen.lasso,
        "item": chosen.item,
    }


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def parse_only(text: str | None, coloring: Coloring) -> list[int]:
    """Read the brushed categories of the URL, ``0,3``; other values are ignored."""
    said = [part for part in (text or "").split(",") if part.isdecimal()]
    return [code for code in map(int, said) if code < len(coloring.names)]


def places(ids: pa.ChunkedArray, of: pa.ChunkedArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return which of n ids another view has, (m,), and their rows there, (m,)."""
    found = pc.index_in(ids, value_set=of)
    known = np.flatnonzero(np.asarray(found.is_valid()))
    return known, np.asarray(found.drop_null()).astype(np.intp)
