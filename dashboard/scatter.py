"""A map of many points, drawn in WebGL: a lasso, a box, a click."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard.page_data.wording import Row

_STATIC = Path(__file__).with_name("static")
# regl-scatterplot (MIT), bundled by tools/bundle_scatter.sh: plotly sends each point of a lasso
# back as an object of its own.
_LIBRARY = (_STATIC / "vendor" / "regl-scatterplot.js").read_text(encoding="utf-8")
_scatter = st.components.v2.component(
    "featurestore.scatter",
    css=(_STATIC / "scatter.css").read_text(encoding="utf-8"),
    js=_LIBRARY + (_STATIC / "scatter.js").read_text(encoding="utf-8"),
)


def scatter(
    data: Row,
    *,
    key: str,
    on_lasso: Callable[[list[list[float]]], None],
    on_click: Callable[[int], None],
    on_brush: Callable[[list[int]], None],
    on_clear: Callable[[], None],
    on_lost: Callable[[], None],
) -> None:
    """Draw a map from `dashboard.page_data.explore.point_data`.

    Parameters
    ----------
    key : str
        Streamlit's key.
    on_lasso, on_click, on_brush, on_clear : callable
        Get the corners of what was drawn, the number of the point that was clicked, the
        categories whose bars were brushed, nothing; before the page runs again.
    on_lost : callable
        Hears that the browser does not have the points that were not sent again.
    """

    def heard(name: str, act: Callable[[Any], None]) -> Callable[[], None]:
        def hear() -> None:
            points, value = getattr(st.session_state[key], name)
            if points == data["key"]:  # else it is about points that were drawn before these
                act(value)

        return hear

    _scatter(
        key=key,
        data=data,
        on_lasso_change=heard("lasso", on_lasso),
        on_clicked_change=heard("clicked", on_click),
        on_brushed_change=heard("brushed", on_brush),
        on_cleared_change=lambda: on_clear(),
        on_lost_change=lambda: on_lost(),
    )
