"""Choices kept in the URL."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from dashboard.page_data import wording
from featurestore.errors import FeatureStoreError, nearest
from featurestore.store.store import Store

CLEARED = (  # by another data set
    "encoder", "item", "run", "assessment", "of", "curve", "head", "color", "where", "slice",
    "lasso", "map_head", "look", "q", "beside", "first", "second", "by", "report", "kind", "at",
    "grid", "cell", "label", "strategy", "rows", "only", "second_map", "score",
)  # fmt: skip


class UnknownChoice(FeatureStoreError, LookupError):
    """The URL asks for something that the store does not have."""


# -- choices -------------------------------------------------------------------------------


def recall(key: str) -> str | None:
    """Return the URL's value, else what was chosen last in this session."""
    chosen: str | None = st.query_params.get(key) or st.session_state.get(f"chosen {key}")
    return chosen


def kept(key: str) -> str | None:
    """Return a choice, and write it into the URL."""
    value = recall(key)
    remember(key, value)
    return value


def remember(key: str, value: str | None) -> None:
    """Keep a choice; None forgets it."""
    st.session_state[f"chosen {key}"] = value
    if value is None:
        st.query_params.pop(key, None)
    elif st.query_params.get(key) != value:
        st.query_params[key] = value


def select(
    label: str,
    options: Sequence[str],
    *,
    key: str,
    default: str | None = None,
    show: Callable[[str], str] = str,
    clears: Sequence[str] = (),
) -> str:
    """Draw a select box whose choice is kept under ``key``; by default the first.

    A new choice forgets those named in ``clears``. If another box has changed the options and
    this session's choice is no longer among them, the default is chosen.

    Raises
    ------
    UnknownChoice
        If the URL's value is not among the options.
    """
    chosen = recall(key) or default or options[0]
    known = chosen in options
    if not known and st.session_state.get(f"chosen {key}") == chosen:
        chosen, known = default or options[0], True
    widget = f"{key} box"

    def changed() -> None:
        remember(key, st.session_state[widget])
        for other in clears:
            remember(other, None)

    st.session_state[widget] = chosen if known else None
    index = 0 if known else None  # only None allows an empty box
    st.selectbox(label, options, index=index, key=widget, format_func=show, on_change=changed)
    if not known:
        raise UnknownChoice(f"no {label.lower()} {chosen!r} here: {nearest(chosen, options)}")
    remember(key, chosen)
    return chosen


def slider(label: str, low: float, high: float, step: float, *, key: str, default: float) -> float:
    """Draw a slider whose value is kept under ``key``; invalid URL values are ignored."""
    widget = f"{key} slider"
    try:
        value = float(recall(key) or default)
    except ValueError:
        value = default
    st.session_state[widget] = value if low <= value <= high else default  # NaN is neither
    st.slider(
        label,
        low,
        high,
        step=step,
        key=widget,
        on_change=lambda: remember(key, f"{st.session_state[widget]:g}"),
    )
    value = float(st.session_state[widget])
    remember(key, f"{value:g}")
    return value


def text(label: str, *, key: str, placeholder: str = "") -> str:
    """Draw a text box whose value is kept under ``key``; return "" where it is empty."""
    widget = f"{key} text"
    st.session_state[widget] = recall(key) or ""
    st.text_input(
        label,
        key=widget,
        placeholder=placeholder,
        on_change=lambda: remember(key, st.session_state[widget].strip() or None),
    )
    said = recall(key)
    remember(key, said)
    return said or ""


def show(error: FeatureStoreError) -> None:
    """Show an error in one sentence."""
    said = str(error)
    st.error(wording.plain(said[:1].upper() + said[1:]), icon=":material/error:")


def show_command(store: Store, *words: str) -> None:
    """Show a line to type."""
    st.code(wording.command(store, *words), language="bash", wrap_lines=True)
