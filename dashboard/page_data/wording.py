"""How names and values are written on pages."""

from __future__ import annotations

import re
import shlex
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


def command(store: Store, *words: str) -> str:
    """Return a line to type, with this store."""
    return shlex.join(["featurestore", *words, "--store", str(store.path)])
