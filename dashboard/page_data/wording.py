"""How names and values are written on pages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from featurestore.store.store import Store

Row = dict[str, Any]
NO_LABEL = "no label"


# After its Markdown is parsed, Streamlit still looks for addresses and arrows in what is text:
# links are made of them, a dash of two hyphens. An element that shows nothing parts them.
_NOTHING = ":small[]"
_TURNED = re.compile(r"(?=://|@)|(?<=www)(?=\.)|(?<=[-<>~])(?=[-=>])", re.IGNORECASE)


def plain(text: str) -> str:
    r"""Return Markdown that shows a text as it is; only `code` in backticks stays code.

    >>> print(plain("try `ls *` on ![x](y)"))
    try `ls *` on \!\[x\]\(y\)
    """
    parts = re.split(r"(`[^`\n]+`)", text)
    return "".join(part if i % 2 else _escaped(part) for i, part in enumerate(parts))


def _escaped(text: str) -> str:
    pieces = _TURNED.split(text)
    return _NOTHING.join(re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", one) for one in pieces)


def when(card: Mapping[str, Any]) -> str:
    """Return when a run or a head was made: ``2026-11-26 10:30 UTC``."""
    return f"{str(card['created'])[:16].replace('T', ' ')} UTC"


def command(store: Store, *words: str) -> str:
    """Return a line to type, with this store."""
    return line_of([*words, "--store", str(store.path)])


def line_of(words: Sequence[str]) -> str:
    """Return words of ours as a line to type."""
    return shlex.join(["featurestore", *words])
