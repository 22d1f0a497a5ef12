"""How names and values are written on pages."""

from __future__ import annotations

import re
import shlex
from typing import Any

from featurestore.store.store import Store
from featurestore.terms.specs import EncoderSpec

Row = dict[str, Any]
NO_LABEL = "no label"


# -- words ---------------------------------------------------------------------------------


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


def encoder_label(spec: str) -> str:
    """Return the short name of an encoder."""
    return EncoderSpec.parse(spec).label


# -- overview ------------------------------------------------------------------------------


def stamp(store: Store) -> tuple[Any, ...]:
    """Return a value that changes whenever the overview does."""
    found: list[Any] = []
    for name in store.datasets():
        dataset = store.dataset(name)
        snapshots = [(view.slug, view.state) for view in dataset.views()]
        n_runs = len(dataset.folder.runs("embed"))
        tables = dataset.folder.items, dataset.folder.failures
        items, failures = (table.digest(table.version()) for table in tables)
        found.append((name, items, failures, n_runs, *snapshots))
    return tuple(found)
