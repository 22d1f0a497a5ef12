"""Views of one data set on the items that all have."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadSource
from featurestore.terms.embeddings import Embeddings
from heads.labels.views import AnyView


def load_shared(views: Sequence[AnyView]) -> tuple[list[Embeddings], int]:
    """Load views of one data set on the items that all have; count the others.

    Raises
    ------
    BadSource
        If the views are of different data sets.
    """
    if not views or len({str(view.dataset.path) for view in views}) > 1:
        raise BadSource(
            "a comparison needs views of one data set, got "
            + (", ".join(view.name for view in views) or "none")
        )
    tables = [view.load() for view in views]
    if len(tables) == 1 and (tables[0].ids[1:] > tables[0].ids[:-1]).all():
        return tables, 0  # as `View.load` gives them: nothing to sort, or to copy
    ids = [table.ids.astype(str) for table in tables]
    shared = reduce(np.intersect1d, ids)
    n_apart = len(reduce(np.union1d, ids)) - len(shared)
    return [table.take(positions_in(table, shared)) for table in tables], n_apart


def left_out_of(table: Embeddings, ids: Collection[str]) -> Embeddings:
    """Return a table without some items, by id."""
    return table.take(np.flatnonzero(~np.isin(table.ids.astype(str), np.array(list(ids)))))


def apart_notes(n_apart: int) -> list[str]:
    """Say how many items are left out, because some view has no vector of them."""
    if not n_apart:
        return []
    said = (
        "item lacks a vector in some view and is"
        if n_apart == 1
        else ("items lack a vector in some view and are")
    )
    return [f"{n_apart:,} {said} not used."]


def positions_in(table: Embeddings, ids: NDArray[Any]) -> NDArray[np.intp]:
    """Return where items (n,) stand in a table, (n,); -1 for those that it lacks."""
    own = table.ids.astype(str)
    order = np.argsort(own, kind="stable")
    rows = order[np.minimum(np.searchsorted(own[order], ids.astype(str)), len(own) - 1)]
    return np.asarray(np.where(own[rows] == ids.astype(str), rows, -1))
