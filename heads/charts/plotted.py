"""What results that have a chart share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heads.charts.charts import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Plotted:
    """A result that can be drawn."""

    def chart(self) -> Chart:
        """Return what is drawn, as a value."""
        raise NotImplementedError

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw it with matplotlib, on the given axes or a figure of its own.

        Raises
        ------
        MissingExtra
            If matplotlib is not installed.
        """
        from heads.charts.axes import draw

        return draw(self.chart(), ax)
