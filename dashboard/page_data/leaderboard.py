"""What the leaderboard shows: comparisons in, tables and figures out."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from dashboard.colors import NEUTRAL, colors
from dashboard.page_data.wording import Row, when
from featurestore.store.dataset import DataSet
from featurestore.terms.specs import encoder_label
from heads.measures.choice import choose

if TYPE_CHECKING:
    from heads import Comparison


def head_title(card: Mapping[str, Any]) -> str:
    """Name a registered head in a list: ``logistic · 2026-11-26 10:30 UTC · 0.93``."""
    metric, found = next(iter(card["metrics"].items()))
    value = "–" if found["value"] is None else f"{found['value']:.3f}"
    return f"{card['head']} · {when(card)} · {metric.replace('_', ' ')} {value}"


# -- leaderboard ---------------------------------------------------------------------------


def run_title(run: Comparison) -> str:
    """Name a stored comparison in a list."""
    return (
        f"{when(run.card)} · {run.label} · {run.metric.replace('_', ' ')} · {len(run.heads)} rows"
    )


def row_name(row: Row) -> str:
    """Name a row of a comparison: ``logistic on timm:resnet18``."""
    return f"{row['head']} on {encoder_label(row['encoder'])}"


def leaderboard(run: Comparison) -> list[Row]:
    """Return a comparison's table, best first, shares as percentages.

    As good as the best are the rows of which the sentence below says so (`heads.measures.choice`).
    """
    choice = choose(run)
    as_good = {choice.taken, *choice.as_good}
    return [
        {
            "head": row["head"],
            "encoder": encoder_label(row["encoder"]),
            "value": _shown(run, row["value"]),
            "low": _shown(run, row["low"]),
            "high": _shown(run, row["high"]),
            "as good": (row["encoder"], row["head"]) in as_good,
            "seconds": row["seconds"],
            **({"as reviewed": _shown(run, row["as_reviewed"])} if "as_reviewed" in row else {}),
            **(
                {"without twins": _shown(run, row["without_twins"])}
                if "without_twins" in row
                else {}
            ),
        }
        for row in run.rows()
    ]


def _shown(run: Comparison, value: float | None) -> float | None:
    return None if value is None else 100 * value if run.is_share else value


def metric_name(run: Comparison) -> str:
    """Name a comparison's metric with its unit: ``balanced accuracy (%)``."""
    return f"{run.metric.replace('_', ' ')}{' (%)' if run.is_share else ''}"


def encoder_colors(dataset: DataSet, run: Comparison) -> Mapping[str, str]:
    """Return the color of each encoder of a comparison; grey for rows without a view."""
    views = colors(str(view.spec) for view in dataset.views())
    return {cell.encoder: views.get(cell.encoder, NEUTRAL) for cell in run.heads}


def interval_figure(run: Comparison, palette: Mapping[str, str]) -> go.Figure:
    """Draw each row's value with its 95 % interval, best on top, colored by encoder."""
    rows = run.rows()
    order = [escape(row_name(row)) for row in rows]  # plotly reads tags in names
    figure = go.Figure()
    for encoder in dict.fromkeys(row["encoder"] for row in rows):
        own = [row for row in rows if row["encoder"] == encoder]
        value = [_shown(run, row["value"]) or 0.0 for row in own]
        low = [_shown(run, row["low"]) for row in own]
        high = [_shown(run, row["high"]) for row in own]
        figure.add_scatter(
            name=encoder_label(encoder),
            mode="markers",
            x=value,
            y=[escape(row_name(row)) for row in own],
            error_x={
                "array": [0 if h is None else h - v for h, v in zip(high, value, strict=True)],
                "arrayminus": [0 if w is None else v - w for w, v in zip(low, value, strict=True)],
                "thickness": 2,
                "width": 5,
            },
            marker={"color": palette[encoder], "size": 10},
            customdata=list(zip(low, high, strict=True)),
            hovertemplate="%{y}<br>%{x:.3g} (%{customdata[0]:.3g} to %{customdata[1]:.3g})"
            "<extra></extra>",
        )
    figure.update_layout(
        height=110 + 28 * len(rows),
        margin={"l": 0, "r": 0, "t": 10, "b": 40},
        showlegend=False,  # the rows name their encoder
        xaxis={"title": f"{metric_name(run)}, with 95 % interval"},
        yaxis={
            "categoryorder": "array",
            "categoryarray": order,
            "autorange": "reversed",
            "automargin": True,
        },
    )
    return figure


def is_outdated(dataset: DataSet, run: Comparison) -> bool:
    """Tell whether the data set or its vectors changed since a comparison."""
    now = {view.fingerprint: view.snapshot for view in dataset.views()}
    return any(
        one["fingerprint"] not in now
        or (one["snapshot"]["items"], one["snapshot"]["view"])
        != (now[one["fingerprint"]].items, now[one["fingerprint"]].view)
        for one in run.card["views"]
    )
