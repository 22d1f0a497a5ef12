"""How items are spread over classes and splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc

from dashboard.colors import NEUTRAL, colors
from dashboard.page_data.wording import NO_LABEL, Row
from featurestore.store.dataset import DataSet

NO_SPLIT = "no split"
SPLIT_PATTERNS = {"train": "", "val": ".", "test": "/", NO_SPLIT: ""}
OTHER_SPLIT_PATTERN = "x"
N_CLASSES_DRAWN = 24


def class_column(dataset: DataSet) -> str | None:
    """Return the first label column that holds classes."""
    labels = dataset.description.labels.items()
    return next((name for name, facts in labels if facts["task"] != "regression"), None)


def _split_order(split: str) -> tuple[int, str]:
    """Order splits as they are used; names of the user's own stand between."""
    known = list(SPLIT_PATTERNS)
    return (2 * known.index(split) if split in known else 2 * len(known) - 3), split


def class_counts(items: pa.Table) -> list[Row]:
    """Count items by class and split, largest class first; items of no class come last."""
    pairs = zip(items.column("label").to_pylist(), items.column("split").to_pylist(), strict=True)
    counts = Counter(pairs)
    totals: Counter[str | None] = Counter()
    for (label, _), n in counts.items():
        totals[label] += n
    ordered = sorted(
        counts.items(),
        key=lambda one: (
            one[0][0] is None,
            -totals[one[0][0]],
            str(one[0][0]),
            _split_order(one[0][1] or NO_SPLIT),
        ),
    )
    return [
        {"label": label or NO_LABEL, "split": split or NO_SPLIT, "items": n}
        for (label, split), n in ordered
    ]


def class_colors(items: pa.Table) -> Mapping[str, str]:
    """Return the color of each class of a data set; items of no class are grey."""
    labels = pc.unique(items.column("label").drop_null()).to_pylist()
    return {**colors(labels), NO_LABEL: NEUTRAL}


def class_figure(counts: Sequence[Row], palette: Mapping[str, str]) -> go.Figure:
    """Draw the class balance: a bar for each of the largest classes, splits by pattern."""
    shown = list(dict.fromkeys(row["label"] for row in counts))[:N_CLASSES_DRAWN]
    splits = sorted({row["split"] for row in counts}, key=_split_order)
    items = {(row["label"], row["split"]): row["items"] for row in counts}
    figure = go.Figure()
    for split in splits:
        figure.add_bar(
            name=escape(split),
            y=[escape(label) for label in shown],
            x=[items.get((label, split), 0) for label in shown],
            orientation="h",
            marker={
                "color": [palette[label] for label in shown],
                "pattern": {"shape": SPLIT_PATTERNS.get(split, OTHER_SPLIT_PATTERN)},
            },
            hovertemplate="%{y}: %{x:,} items (" + escape(split) + ")<extra></extra>",
        )
    figure.update_layout(
        barmode="stack",
        height=90 + 24 * len(shown),
        margin={"l": 0, "r": 0, "t": 10, "b": 40},
        showlegend=splits != [NO_SPLIT],
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        xaxis={"title": "items"},
        yaxis={"autorange": "reversed", "automargin": True, "type": "category"},
    )
    return figure


def split_sentence(items: pa.Table) -> str:
    """Say how many items each split has."""
    counts = Counter(split or NO_SPLIT for split in items.column("split").to_pylist())
    known = [f"{counts[name]:,} {name}" for name in sorted(counts, key=_split_order)]
    return " · ".join(known)
