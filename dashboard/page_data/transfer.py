"""What the pages on transfer show: stored assessments and curves in, tables and figures out."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import plotly.graph_objects as go

from dashboard.colors import NEUTRAL, PALETTE, colors
from featurestore.terms.specs import encoder_label
from heads.experiments.learning_curve import Curve
from heads.labels.tasks import Task
from heads.measures.comparison import metric_of, number, unit_of
from heads.transfer.assessment import Assessment
from heads.transfer.verdict import Kind

Row = dict[str, Any]

# Readable for color-blind people, and named in words beside.
VERDICT_COLORS = {
    Kind.POSITIVE: PALETTE[2],
    Kind.NEGATIVE: PALETTE[5],
    Kind.NEUTRAL: PALETTE[0],
    Kind.INCONCLUSIVE: NEUTRAL,
}
VERDICT_WORDS = {
    Kind.POSITIVE: "helps",
    Kind.NEGATIVE: "harms",
    Kind.NEUTRAL: "makes no difference that matters",
    Kind.INCONCLUSIVE: "cannot be told from these items",
}


def scale_of(found: Assessment | Curve) -> float:
    """Return what values are multiplied by: shares are shown in percent."""
    return 100.0 if metric_of(found.metric).is_share else 1.0


def assessment_title(found: Assessment) -> str:
    """Name a stored assessment in a list."""
    when = str(found.card["created"])[:16].replace("T", " ")
    return f"{when} UTC · {found.label} · {found.metric.replace('_', ' ')}"


def verdict_sentence(found: Assessment, encoder: str) -> str:
    """Say a verdict in a sentence for people."""
    verdict = found.verdict(encoder)
    value, low, high = (
        number(x, found.metric, "+") for x in (verdict.value, verdict.low, verdict.high)
    )
    return (
        f"{encoder_label(encoder)} {VERDICT_WORDS[verdict.kind]}: {value} {unit_of(found.metric)} "
        f"({low} to {high}) against {verdict.reference}."
    )


def verdict_rows(found: Assessment) -> list[Row]:
    """Return the table of verdicts."""
    scale = scale_of(found)
    return [
        {
            "encoder": encoder_label(one.encoder),
            "verdict": str(one.kind),
            "encoder's": scale * one.encoder_value,
            "reference": scale * one.reference_value,
            "difference": scale * one.value,
            "low": scale * one.low,
            "high": scale * one.high,
            "would be seen": scale * one.detectable,
            "items needed": one.rows_needed if one.rows_needed >= 0 else None,  # no end
        }
        for one in found.verdicts
    ]


def verdict_figure(found: Assessment) -> go.Figure:
    """Draw each interval of Δ against 0 and the margin."""
    scale, unit = scale_of(found), unit_of(found.metric)
    figure = go.Figure()
    margin = scale * found.verdicts[0].margin
    figure.add_vrect(-margin, margin, fillcolor=NEUTRAL, opacity=0.15, line_width=0)
    figure.add_vline(0, line={"color": NEUTRAL, "width": 1})
    for one in found.verdicts:
        value, low, high = (scale * x for x in (one.value, one.low, one.high))
        figure.add_scatter(
            x=[value],
            y=[escape(encoder_label(one.encoder))],
            error_x={
                "array": [high - value],
                "arrayminus": [value - low],
                "thickness": 2,
                "width": 6,
            },
            mode="markers+text",
            text=[str(one.kind)],
            textposition="top center",
            marker={"color": VERDICT_COLORS[one.kind], "size": 12},
            customdata=[[low, high]],
            hovertemplate="%{y}<br>%{x:+.3g} (%{customdata[0]:+.3g} to %{customdata[1]:+.3g})"
            "<extra></extra>",
            showlegend=False,
        )
    figure.update_layout(
        height=130 + 60 * len(found.verdicts),
        margin={"l": 0, "r": 0, "t": 20, "b": 40},
        xaxis={"title": f"difference to {found.verdicts[0].reference} ({unit}), 95 % interval; "
                        "gray: the margin"},
        yaxis={"automargin": True, "range": [len(found.verdicts) - 0.4, -0.6]},
    )  # fmt: skip
    return figure


def ranking_rows(found: Assessment) -> list[Row]:
    """Return the scores without training, best first."""
    return [
        {
            "rank": one.rank,
            "95 %": f"{one.rank_low} – {one.rank_high}",
            "encoder": encoder_label(one.encoder),
            "dim": one.dim,
            "parameters": one.n_parameters,
            **one.scores,
            "head": one.head_value,
        }
        for one in found.ranking
    ]


def slice_rows(found: Assessment, encoder: str) -> list[Row]:
    """Return classes or values of a column, worst first: percent right, or error saved."""
    scale = 1.0 if found.task is Task.REGRESSION else 100.0
    return [
        {
            "class or value": one.name,
            "items": one.n_rows,
            "difference": scale * one.value,
            "low": scale * one.low,
            "high": scale * one.high,
            "found": one.is_found,
        }
        for one in found.slices.get(encoder, ())
    ]


def more_sentences(found: Assessment) -> list[str]:
    """Return what stands beside the verdicts: random weights, layers, blends, few labels, shift."""
    lines = []
    for spec, values in found.pretraining.items():
        value, low, high = (number(x, found.metric, "+") for x in values)
        lines.append(
            f"{encoder_label(spec)} less random weights of its architecture: {value} "
            f"{unit_of(found.metric)} ({low} to {high}): what pretraining adds."
        )
    lines += [
        f"{one.over_encoder.sentence()}." for tried in found.alternatives.values() for one in tried
    ]
    lines += found.budget_sentences()
    lines += [
        f"Shift in {encoder_label(spec)} between {shift.between}: A-distance "
        f"{shift.a_distance:.2f} of 2, chance stays below {shift.floor:.2f}; {shift.beyond:.0%} "
        "lie farther out than 95 % of the others."
        for spec, shift in found.shifts.items()
    ]
    return lines


def curve_title(found: Curve) -> str:
    """Name a stored curve in a list."""
    when = str(found.card["created"])[:16].replace("T", " ")
    return f"{when} UTC · {found.label} · {found.card['head']} · {found.metric.replace('_', ' ')}"


def curve_figure(found: Curve) -> go.Figure:
    """Draw each encoder's mean over label budgets, with the band of one new draw."""
    scale = scale_of(found)
    palette: Mapping[str, str] = colors(found.encoders)
    figure = go.Figure()
    for encoder in found.encoders:
        budgets = found.of(encoder)
        x = [one.n_labels for one in budgets]
        bands = [one.band() for one in budgets]
        top = 100.0 if scale == 100 else float("inf")
        low = [max(0.0 if scale == 100 else -float("inf"), scale * b[0]) for b in bands]
        high = [min(top, scale * b[1]) for b in bands]
        color = palette[encoder]
        figure.add_scatter(
            x=[*x, *reversed(x)],
            y=[*high, *reversed(low)],
            fill="toself",
            fillcolor=color,
            opacity=0.15,
            mode="lines",
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=x,
            y=[scale * one.mean for one in budgets],
            name=escape(encoder_label(encoder)),
            mode="lines+markers",
            line={"color": color},
            customdata=list(zip(low, high, strict=True)),
            hovertemplate="%{x} labels: %{y:.3g} (%{customdata[0]:.3g} to %{customdata[1]:.3g})",
        )
    name = found.metric.replace("_", " ")
    ticks = sorted({one.n_labels for one in found.budgets})
    figure.update_layout(
        height=420,
        margin={"l": 0, "r": 0, "t": 10, "b": 40},
        xaxis={
            "title": "labels in all",
            "type": "log",
            "tickvals": ticks,
            "ticktext": [f"{n:,}" for n in ticks],
        },
        yaxis={"title": f"{name}{' (%)' if scale == 100 else ''}"},
        legend={"orientation": "h", "y": 1.12},
    )
    return figure
