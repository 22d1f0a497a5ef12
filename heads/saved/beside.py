"""Columns that a head reads beside vectors: of items that it is asked about, as numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadSource, MissingColumn
from featurestore.sources.written import InputRows, is_json

if TYPE_CHECKING:
    from heads.saved.bundle import FittedHead


def columns_of(head: FittedHead) -> tuple[str, ...]:
    """Return the columns that a head reads beside vectors."""
    coding = head.card.metadata_columns
    return () if coding is None else coding.names


def numbers_of(
    head: FittedHead, given: Mapping[str, Any] | None, n: int
) -> tuple[NDArray[np.float32] | None, list[str]]:
    """Return what stands beside the vectors of n items, (n, dim), and what was unusual about it.

    None of a head that reads no columns.

    Raises
    ------
    MissingColumn, BadSource
        If a column is missing, of another length, or given to a head that reads none.
    """
    coding = head.card.metadata_columns
    if coding is None:
        if given:
            raise BadSource(f"{head.head_id} reads no columns, and {', '.join(given)} was given")
        return None, []
    if given is None:
        raise MissingColumn(
            f"this head also reads {_named(head)}: give their values, in a table that has them, or "
            "as `columns` of head.ask and of POST /predict"
        )
    numbers, notes = coding.coded(given)
    if len(numbers) != n:
        raise BadSource(f"{len(numbers):,} values of {_named(head)} for {n:,} items")
    return numbers, notes


def check_beside(head: FittedHead, rows: InputRows) -> None:
    """Make sure that an input has the columns that a head reads, before it is embedded.

    Raises
    ------
    MissingColumn
    """
    missing = [one for one in columns_of(head) if one not in rows.columns.column_names]
    if missing:
        held = ", ".join(rows.columns.column_names)
        raise MissingColumn(
            f"this head also reads {_named(head)}, and the input has no column "
            f"{', '.join(missing)}: "
            + (f"it has {held}" if held else "predict a table that has one row an item")
        )


def values_beside(head: FittedHead, rows: InputRows, ids: NDArray[Any]) -> dict[str, Any] | None:
    """Return the values of some items of an input by column; None where the head reads none."""
    if not (names := columns_of(head)):
        return None
    place = {one: at for at, one in enumerate(rows.ids.to_pylist())}
    at = [place[one] for one in ids.tolist()]
    found: dict[str, Any] = {}
    for name in names:
        values = rows.columns.column(name).take(at).to_pylist()
        if is_json(rows.columns.schema.field(name)):
            values = [None if one is None else json.loads(one) for one in values]
        found[name] = values
    return found


def _named(head: FittedHead) -> str:
    names = columns_of(head)
    return ("column " if len(names) == 1 else "columns ") + ", ".join(names)
