"""What the leaderboard shows: comparisons in, tables and figures out."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from dashboard.colors import NEUTRAL, colors
from dashboard.page_data.wording import Row, when
from featurestore.curation.run_notes import RunNote
from featurestore.store.dataset import DataSet
from featurestore.terms.specs import encoder_label
from heads.measures.choice import choose

if TYPE_CHECKING:
    from heads import Comparison


TAKE, AS_GOOD = "take this", "as good"  # what is said of rows beside their score


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
    standing = {**dict.fromkeys(choice.as_good, AS_GOOD), choice.taken: TAKE}
    return [
        {
            "head": row["head"],
            "encoder": encoder_label(row["encoder"]),
            "value": _shown(run, row["value"]),
            "low": _shown(run, row["low"]),
            "high": _shown(run, row["high"]),
            "standing": standing.get((row["encoder"], row["head"]), ""),
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


def all_rows(
    runs: Sequence[Comparison], label: str, metric: str, notes: Mapping[str, RunNote] | None = None
) -> list[Row]:
    """Return the rows of all comparisons by a label and a metric, best first.

    Each has ``run``, the time that names its comparison, and what rows were tested on: rows of
    one run are tested on the same items, those of others need not be.
    """
    found = [
        {
            "head": row["head"],
            "encoder": encoder_label(row["encoder"]),
            "value": _shown(run, row["value"]),
            "low": _shown(run, row["low"]),
            "high": _shown(run, row["high"]),
            "when": f"{str(run.card['created'])[:16].replace('T', ' ')}",
            "items": run.n_items,
            "tested on": run.estimand.rpartition(", ")[2].removeprefix("on "),
            "slice": next((view.slice for view in run.card.views if view.slice), ""),
            **_noted((notes or {}).get(str(run.card["created"]))),
            "run": str(run.card["created"]),
        }
        for run in runs
        if (run.label, run.metric) == (label, metric)
        for row in run.rows()
    ]
    sign = -1 if next((run.higher_is_better for run in runs if run.metric == metric), True) else 1
    return sorted(found, key=lambda row: sign * row["value"])


def _noted(one: RunNote | None) -> Row:
    return {"tags": ", ".join(one.tags) if one else "", "note": one.note if one else ""}


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Return the columns of `all_rows` to show: slices, tags and notes where there are some."""
    empty = {name for name in ("slice", "tags", "note") if not any(row[name] for row in rows)}
    return [name for name in (rows[0] if rows else {}) if name not in empty | {"run"}]


def holding(rows: Sequence[Row], words: str) -> list[Row]:
    """Return the rows that hold all words, in any of their columns."""
    wanted = words.casefold().split()
    return [
        row for row in rows
        if all(word in " ".join(map(str, row.values())).casefold() for word in wanted)
    ]  # fmt: skip


def better_before(rows: Sequence[Row], run: Comparison) -> str | None:
    """Say that the best row of all runs is of another one; None where it is not."""
    if not rows or rows[0]["run"] == str(run.card["created"]):
        return None
    best = rows[0]
    own = next((row for row in rows if row["run"] == str(run.card["created"])), None)
    if own is not None and own["value"] == best["value"]:
        return None
    place = f", slice {best['slice']}" if best["slice"] else ""
    return (
        f"The best row of all runs is of {best['when']} UTC{place}: {best['head']} on "
        f"{best['encoder']}, {best['value']:.4g}. It was tested on {best['items']:,} items."
    )


def csv_of(rows: Sequence[Row]) -> bytes:
    """Write rows as CSV."""
    sink = io.StringIO()
    if rows:
        writer = csv.DictWriter(sink, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return sink.getvalue().encode()


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
