"""A grid of items that can be clicked: pictures or texts, with label and score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import streamlit as st

from dashboard.page_data.wording import Row

_STATIC = Path(__file__).with_name("static")
_gallery = st.components.v2.component(
    "featurestore.gallery",
    css=(_STATIC / "gallery.css").read_text(encoding="utf-8"),
    js=(_STATIC / "gallery.js").read_text(encoding="utf-8"),
)


def gallery(
    cards: Sequence[Row],
    *,
    name: str,
    key: str,
    on_click: Callable[[str], None],
    selected: str | None = None,
) -> None:
    """Draw cards.

    Parameters
    ----------
    cards : sequence of dict
        From `dashboard.page_data.item_rows.card`; their values reach the page as text, never
        as HTML.
    name : str
        What screen readers call the grid.
    key : str
        Streamlit's key.
    on_click : callable
        Gets the id of a clicked card, before the page runs again.
    selected : str, optional
        The id to mark.
    """

    def clicked() -> None:
        on_click(st.session_state[key].clicked)

    data = {"cards": list(cards), "name": name, "selected": selected}
    _gallery(key=key, data=data, on_clicked_change=clicked)
