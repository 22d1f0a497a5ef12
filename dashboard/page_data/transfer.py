"""What the pages on transfer show: stored assessments and curves in, tables and figures out."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import plotly.graph_objects as go

from dashboard.colors import NEUTRAL, PALETTE, colors
from dashboard.page_data.wording import Row, when
from featurestore.terms.specs import encoder_label
from heads.experiments.learning_curve import Curve
from heads.labels.tasks import Task
from heads.measures.comparison import metric_of, unit_of
from heads.transfer.assessment import Assessment
from heads.transfer.cast import by_depth
from heads.transfer.verdict import Kind, Verdict

# Readable for color-blind people, and named in words beside.
VERDICT_COLORS = {
    Kind.POSITIVE: PALETTE[2],
    Kind.NEGATIVE: PALETTE[5],
    Kind.NEUTRAL: PALETTE[0],
    Kind.INCONCLUSIVE: NEUTRAL,
}
WOULD_SHOW = "smallest difference that would show"


def scale_of(run: Assessment | Curve) -> float:
    """Return what values are multiplied by: shares are shown in percent."""
    return 100.0 if metric_of(run.metric).is_share else 1.0


def assessment_title(assessment: Assessment) -> str:
    """Name a stored assessment in a list."""
    return f"{when(assessment.card)} · {assessment.label} · {assessment.metric.replace('_', ' ')}"


def verdict_sentence(assessment: Assessment, encoder: str) -> str:
    """Say a verdict in a sentence for people."""
    return f"{assessment.verdict(encoder).sentence()}."


def verdict_rows(assessment: Assessment) -> list[Row]:
    """Return the table of verdicts; where one is inconclusive, with what it would take to know."""
    scale = scale_of(assessment)
    is_open = any(one.kind is Kind.INCONCLUSIVE for one in assessment.verdicts)
    return [
        {
            "encoder": encoder_label(one.encoder),
            "verdict": str(one.kind),
            "encoder's": scale * one.encoder_value,
            "reference": scale * one.reference_value,
            "difference": scale * one.value,
            "low": scale * one.low,
            "high": scale * one.high,
            **(_to_know(one, scale) if is_open else {}),
        }
        for one in assessment.verdicts
    ]


def _to_know(verdict: Verdict, scale: float) -> Row:
    if verdict.kind is not Kind.INCONCLUSIVE:
        return {WOULD_SHOW: None, "items needed": None}
    return {
        WOULD_SHOW: scale * verdict.detectable,
        "items needed": verdict.rows_needed if verdict.rows_needed >= 0 else None,  # no end
    }


def verdict_figure(assessment: Assessment) -> go.Figure:
    """Draw each interval of Δ against 0 and the margin."""
    scale, unit = scale_of(assessment), unit_of(assessment.metric)
    figure = go.Figure()
    margin = scale * assessment.verdicts[0].margin
    figure.add_vrect(-margin, margin, fillcolor=NEUTRAL, opacity=0.15, line_width=0)
    figure.add_vline(0, line={"color": NEUTRAL, "width": 1})
    for one in assessment.verdicts:
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
        height=130 + 60 * len(assessment.verdicts),
        margin={"l": 0, "r": 0, "t": 20, "b": 40},
        xaxis={
            "title": f"difference to {assessment.verdicts[0].reference} ({unit}), "
            "95 % interval; gray: the margin"
        },
        yaxis={"automargin": True, "range": [len(assessment.verdicts) - 0.4, -0.6]},
    )
    return figure


def ranking_rows(assessment: Assessment) -> list[Row]:
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
        for one in assessment.ranking
    ]


def depth_figure(assessment: Assessment) -> go.Figure | None:
    """Draw the head's value layer by layer of each network; None where none has several."""
    networks = by_depth(assessment.ranking)
    if not networks:
        return None
    scale, palette = scale_of(assessment), colors(networks)
    figure = go.Figure()
    for network, found in networks.items():
        figure.add_scatter(
            name=escape(encoder_label(network)),
            x=[layer for layer, _ in found],
            y=[scale * (one.head_value or 0.0) for _, one in found],
            customdata=[[one.dim] for _, one in found],
            mode="lines+markers",
            line={"color": palette[network]},
            marker={"size": 9},
            hovertemplate="layer %{x}: %{y:.3g} (%{customdata[0]:,} numbers)",
        )
    figure.update_layout(
        height=320,
        margin={"l": 0, "r": 0, "t": 10, "b": 40},
        xaxis={"title": "layer, from the lowest to the last", "type": "category"},
        yaxis={"title": _metric_title(assessment)},
        legend={"orientation": "h", "y": 1.15},
        showlegend=True,
    )
    return figure


def score_figure(assessment: Assessment, score: str) -> go.Figure | None:
    """Draw a score without training against the trained head, a point an encoder."""
    known = [
        one for one in assessment.ranking if one.head_value is not None and score in one.scores
    ]
    if len(known) < 2:
        return None
    scale, palette = scale_of(assessment), colors(one.encoder for one in known)
    figure = go.Figure()
    for one in known:
        figure.add_scatter(
            x=[one.scores[score]],
            y=[scale * (one.head_value or 0.0)],
            name=escape(encoder_label(one.encoder)),
            mode="markers",
            marker={"color": palette[one.encoder], "size": 12},
            hovertemplate=f"{score} %{{x:.3g}}, head %{{y:.3g}}",
        )
    figure.update_layout(
        height=320,
        margin={"l": 0, "r": 0, "t": 10, "b": 40},
        xaxis={"title": f"{score}, without training"},
        yaxis={"title": _metric_title(assessment)},
        legend={"orientation": "h", "y": 1.15},
        showlegend=True,
    )
    return figure


def _metric_title(run: Assessment | Curve) -> str:
    return f"{run.metric.replace('_', ' ')}{' (%)' if scale_of(run) == 100 else ''}"


def slice_rows(assessment: Assessment, encoder: str) -> list[Row]:
    """Return classes or values of a column, worst first: percent right, or error saved."""
    scale = 1.0 if assessment.task is Task.REGRESSION else 100.0
    return [
        {
            "class or value": one.name,
            "items": one.n_rows,
            "difference": scale * one.value,
            "low": scale * one.low,
            "high": scale * one.high,
            "found": one.is_found,
        }
        for one in assessment.slices.get(encoder, ())
    ]


def more_sentences(assessment: Assessment) -> list[str]:
    """Return what stands beside the verdicts: random weights, layers, blends, few labels, shift."""
    return assessment.sentences() + [
        assessment.shift_sentence(encoder) for encoder in assessment.shifts
    ]


def curve_title(curve: Curve) -> str:
    """Name a stored curve in a list."""
    metric = curve.metric.replace("_", " ")
    return f"{when(curve.card)} · {curve.label} · {curve.card['head']} · {metric}"


def curve_figure(curve: Curve) -> go.Figure:
    """Draw each encoder's mean over label budgets, with the band of one new draw."""
    scale = scale_of(curve)
    palette: Mapping[str, str] = colors(curve.encoders)
    figure = go.Figure()
    for encoder in curve.encoders:
        budgets = curve.of(encoder)
        x = [one.n_labels for one in budgets]
        bands = [metric_of(curve.metric).within(*one.band()) for one in budgets]
        low, high = [scale * b[0] for b in bands], [scale * b[1] for b in bands]
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
    ticks = sorted({one.n_labels for one in curve.budgets})
    figure.update_layout(
        height=420,
        margin={"l": 0, "r": 0, "t": 10, "b": 40},
        xaxis={
            "title": "labels in all",
            "type": "log",
            "tickvals": ticks,
            "ticktext": [f"{n:,}" for n in ticks],
        },
        yaxis={"title": _metric_title(curve)},
        legend={"orientation": "h", "y": 1.12},
    )
    return figure
