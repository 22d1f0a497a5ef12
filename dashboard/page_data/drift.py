"""What the Drift page shows of a log of answers: days, items and shares; no Streamlit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import plotly.graph_objects as go

from dashboard.page_data.wording import Row
from featurestore.encoders.images import thumbnail
from featurestore.errors import FeatureStoreError
from featurestore.store.dataset import DataSet
from featurestore.terms.labels import SEPARATOR
from heads.drift.compare import Drift, UnlikeItem, drift
from heads.drift.training import training_vectors
from heads.saved.answer_log import read_log
from heads.saved.bundle import FittedHead

THUMB_PX = 160
MOST_BYTES = 64 << 20  # of a picture: the log may be somebody else's


def found_in(
    folder: str, head: FittedHead, dataset: DataSet, since: datetime | None
) -> tuple[Drift, str]:
    """Compare a log with the training items; return also why vectors are not compared, or "".

    Raises
    ------
    BadSource
        If the folder holds no log of this head.
    """
    log = read_log(Path(folder).expanduser(), head, since=since)
    training, why = None, ""
    if any("vector" in row for row in log.rows):
        training, why = training_vectors(head, dataset.store)
    return drift(head, log, training=training), why


def days_figure(found: Drift) -> go.Figure:
    """Draw items a day, and the share of them that is unlike the training items."""
    days = [one.day for one in found.days]
    figure = go.Figure()
    figure.add_bar(x=days, y=[one.n for one in found.days], name="items", opacity=0.35, yaxis="y2")
    figure.add_scatter(
        x=days,
        y=[100 * one.n_unlike / one.n for one in found.days],
        name="unlike the training items (%)",
        mode="lines+markers",
    )
    figure.add_hline(y=5, line_dash="dot", annotation_text="5 %: without drift, on average")
    figure.update_layout(
        height=320,
        margin={"l": 0, "r": 0, "t": 10, "b": 40},
        xaxis={"type": "category"},
        yaxis={"title": "unlike (%)", "rangemode": "tozero"},
        yaxis2={"title": "items", "overlaying": "y", "side": "right", "showgrid": False},
        legend={"orientation": "h", "y": 1.1},
    )
    return figure


def rows(found: Drift) -> list[Row]:
    """Return a row for each item that is unlike the training items, the farthest first."""
    return [
        {
            "item": one.item_id,
            "at (UTC)": f"{one.at:%Y-%m-%d %H:%M}",
            "farther out than (% of training)": 100 * one.share,
            "prediction": _said(one.predicted),
            "what": one.text or one.path or "",
        }
        for one in found.items
    ]


def pictures(items: Sequence[UnlikeItem]) -> list[tuple[UnlikeItem, bytes]]:
    """Return the items whose picture is there, each with a thumbnail."""
    found = [(one, picture_of(one)) for one in items]
    return [(one, picture) for one, picture in found if picture is not None]


def picture_of(one: UnlikeItem) -> bytes | None:
    """Return a thumbnail of an item, if its picture is there and can be read."""
    if one.picture is None:
        return None
    try:
        if one.picture.stat().st_size > MOST_BYTES:
            return None
        return thumbnail(one.picture.read_bytes(), THUMB_PX)
    except (FeatureStoreError, OSError):  # the file has changed since
        return None


def _said(value: object) -> object:
    return SEPARATOR.join(map(str, value)) if isinstance(value, list) else value
