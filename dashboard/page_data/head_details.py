"""One trained head: its metrics, classes, confusions, and how far to trust its confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import heads
from dashboard.colors import NEUTRAL, PALETTE
from dashboard.page_data.wording import Row
from featurestore.store.dataset import DataSet
from featurestore.store.view import View
from heads.labels.tasks import Task
from heads.measures.confusion import Calibration, Confusion
from heads.measures.metrics import METRICS

FEW_CLASSES = 40  # that a confusion table shows at once


def heads_of(view: View) -> list[dict[str, Any]]:
    """Return the cards of the heads that were trained on a view's classes, newest first."""
    return [
        card
        for card in heads.list_heads(view.dataset)
        if card["fingerprint"] == view.fingerprint and is_of_classes(card)
    ]


def is_of_classes(card: Mapping[str, Any]) -> bool:
    """Whether a head predicts one class an item; cards of 0.1 have no task."""
    return bool(card.get("task", Task.MULTICLASS) == Task.MULTICLASS)


def tells_unlike(head: heads.FittedHead) -> bool:
    """Whether a head can tell from one view's vectors which items are unlike its own."""
    return head.familiar is not None and head.card.reads == "vectors"


def view_of_head(dataset: DataSet, card: Mapping[str, Any]) -> View | None:
    """Return the view that a head reads, else any; None without views."""
    views = dataset.views()
    own = [view for view in views if view.fingerprint == card["fingerprint"]]
    return next(iter([*own, *views]), None)


def member_rows(card: Mapping[str, Any]) -> list[Row]:
    """Return how much each member of a mix counts, and what leaving it out costs."""
    return [
        {"member": one["name"], "weight": one["weight"], "without it": one["without"]}
        for one in card.get("members", ())
    ]


def metric_rows(card: Mapping[str, Any]) -> list[Row]:
    """Return the metrics of a head with their intervals; shares in percent.

    Where test rows were reviewed, also what it scores against the reviewers' labels.
    """
    metrics = METRICS[Task(card.get("task", Task.MULTICLASS))]
    reviewed = card.get("as_reviewed", {}).get("metrics", {})
    rows = []
    for name, found in card["metrics"].items():
        scale = 100.0 if metrics[name].is_share else 1.0
        rows.append(
            {
                "metric": name.replace("_", " ") + (" (%)" if scale == 100 else ""),
                "value": None if found["value"] is None else scale * found["value"],
                "from": None if found["low"] is None else scale * found["low"],
                "to": None if found["high"] is None else scale * found["high"],
                **(
                    {"as reviewed": scale * reviewed[name]}
                    if reviewed.get(name) is not None
                    else {}
                ),
            }
        )
    return rows


def class_rows(predictions: pa.Table) -> list[Row]:
    """Return recall, precision and F1 of each class, in percent, the worst first.

    The interval is Wilson's of the recall, over the rows of this one pass: it looks at single
    classes, so it is exploration.
    """
    return [
        {
            "class": row["class"],
            "items": row["items"],
            "recall": _percent(row["recall"]),
            "from": _percent(row["low"]),
            "to": _percent(row["high"]),
            "precision": _percent(row["precision"]),
            "F1": _percent(row["f1"]),
        }
        for row in _confusion(predictions).rows()
    ]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def confusion(predictions: pa.Table) -> tuple[list[str], NDArray[np.intp]]:
    """Return the classes, and counts of true (rows) against predicted classes (columns).

    Counts are (n_shown, n_shown): of many classes, those with the most confusions.
    """
    shown = _confusion(predictions).most_confused(FEW_CLASSES)
    return list(shown.classes), shown.counts


def _confusion(predictions: pa.Table) -> Confusion:
    both = [predictions.column(name).cast(pa.string()) for name in ("label", "predicted")]
    return Confusion.of(*(one.to_pylist() for one in both))


def confusion_style(classes: Sequence[str], counts: NDArray[np.intp]) -> Any:
    """Return counts, (n_classes, n_classes), as a table shaded by row share; right is blue."""
    import pandas as pd

    table = pd.DataFrame(counts, index=list(classes), columns=list(classes))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def shade(_: object) -> Any:
        red, blue = "213, 94, 0", "0, 114, 178"
        css = [
            [
                f"background-color: rgba({blue if i == j else red}, {0.75 * share:.2f})"
                for j, share in enumerate(row)
            ]
            for i, row in enumerate(shares)
        ]
        return pd.DataFrame(css, index=table.index, columns=table.columns)

    return table.style.apply(shade, axis=None)


def confused_ids(predictions: pa.Table, label: str, predicted: str) -> list[str]:
    """Return the items of one class that were taken for another, the surest first."""
    is_it = pc.and_(
        pc.equal(predictions.column("label"), label),
        pc.equal(predictions.column("predicted"), predicted),
    )
    found = predictions.filter(is_it)
    if "confidence" in found.column_names:
        found = found.sort_by([("confidence", "descending"), ("item_id", "ascending")])
    ids: list[str] = found.column("item_id").to_pylist()
    return ids


def reliability(predictions: pa.Table) -> list[Row]:
    """Return, for each bin of confidence that holds items, its mean and the share right."""
    is_right = pc.equal(predictions.column("label"), predictions.column("predicted"))
    return Calibration.of(predictions.column("confidence"), is_right).rows()


def reliability_figure(rows: Sequence[Row]) -> go.Figure:
    """Draw the share right over the confidence, with the diagonal of perfect calibration."""
    x = [100 * row["confidence"] for row in rows]
    y = [100 * row["right"] for row in rows]
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 100], y=[0, 100], mode="lines", line={"color": NEUTRAL, "dash": "dot"},
        hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines+markers",
        marker={"color": PALETTE[0], "size": 9},
        error_y={
            "array": [100 * row["high"] - v for row, v in zip(rows, y, strict=True)],
            "arrayminus": [v - 100 * row["low"] for row, v in zip(rows, y, strict=True)],
            "thickness": 1.5,
        },
        customdata=[row["items"] for row in rows],
        hovertemplate="confidence %{x:.0f} %<br>right %{y:.0f} %<br>%{customdata:,} items"
        "<extra></extra>",
        showlegend=False,
    )
    figure.update_layout(
        height=360,
        margin={"l": 0, "r": 0, "t": 10, "b": 40},
        xaxis={"title": "confidence (%)", "range": [0, 102]},
        yaxis={"title": "right (%)", "range": [0, 102]},
    )
    return figure
