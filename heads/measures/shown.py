"""How a comparison looks: its line, its chart, and what one row takes for what."""

from __future__ import annotations

from typing import Any

import numpy as np

from featurestore.terms.shown import Tabular
from featurestore.terms.specs import encoder_label
from heads.charts.charts import Spans
from heads.charts.plotted import Plotted
from heads.charts.results import leaderboard_chart
from heads.labels.tasks import Task
from heads.measures.confusion import Confusion
from heads.measures.metrics import METRICS


class ShownComparison(Tabular, Plotted):
    """The part of a comparison that people look at."""

    dataset: str
    label: str
    metric: str
    task: Task
    classes: tuple[str, ...]

    def cell(self, encoder: str, head: str) -> Any:
        """Return one row with its report."""
        raise NotImplementedError

    def about(self) -> str:
        """Name the data set and the best row."""
        rows = self.rows()
        best = f"{rows[0]['head']} on {encoder_label(rows[0]['encoder'])} {rows[0]['value']:.3f}"
        return f"of {self.dataset}, label {self.label!r}: {len(rows)} rows, best {best}"

    def chart(self) -> Spans:
        """Return what is drawn: each row with its interval."""
        return leaderboard_chart(self.rows(), METRICS[self.task][self.metric].is_share)

    def confusion(self, encoder: str, head: str) -> Confusion:
        """Return what one row takes for what; its `Confusion.plot` draws it."""
        report = self.cell(encoder, head).report
        names = np.array(self.classes, dtype=object)
        return Confusion.of(names[report.truth], names[report.predicted])
