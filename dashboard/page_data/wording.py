"""How names and values are written on pages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from featurestore.store.store import Store

Row = dict[str, Any]
NO_LABEL = "no label"


def plain(text: str) -> str:
    r"""Return Markdown that shows a text as it is; only `code` in backticks stays code.

    >>> print(plain("try `ls *` on ![x](y)"))
    try `ls *` on \!\[x\]\(y\)
    """
    parts = re.split(r"(`[^`\n]+`)", text)
    return "".join(
        part if i % 2 else re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", part)
        for i, part in enumerate(parts)
    )


def when(card: Mapping[str, Any]) -> str:
    """Return when a run or a head was made: ``2026-11-26 10:30 UTC``."""
    return f"{str(card['created'])[:16].replace('T', ' ')} UTC"


def command(store: Store, *words: str) -> str:
    """Return a line to type, with this store."""
    return shlex.join(["featurestore", *words, "--store", str(store.path)])
