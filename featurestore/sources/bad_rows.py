"""Rows of a table that cannot be taken: each is a failure of its own, with its reason."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_BAD = b"featurestore: rows that cannot be taken"  # in the metadata of a schema


def bad_rows(table: pa.Table) -> dict[int, str]:
    """Return why rows of a table that was read cannot be taken, by row."""
    return dict(json.loads((table.schema.metadata or {}).get(_BAD, b"[]")))


def line_note(failures: Sequence[str]) -> str | None:
    """Say where a row stands that is named by its number; None where none is.

    >>> line_note(["t.csv:1: no id in the column 'id'"])
    't.csv:1 is line 3 of the file if no cell has several lines: rows count from 0 after the header'
    """
    for one in failures:
        if named := re.match(r"(\S+\.(?:csv|tsv)(?:\.\w+)?):(\d+): ", one):
            line = int(named[2]) + 2
            return (
                f"{named[1]}:{named[2]} is line {line:,} of the file if no cell has several lines: "
                "rows count from 0 after the header"
            )
    return None


def with_bad_rows(table: pa.Table, bad: Mapping[int, str]) -> pa.Table:
    """Note rows that cannot be taken, beside those that were noted before."""
    if not bad:
        return table
    noted = sorted((bad_rows(table) | dict(bad)).items())
    known = table.schema.metadata or {}
    return table.replace_schema_metadata({**known, _BAD: json.dumps(noted)})


def emptied(table: pa.Table, rows: Collection[int]) -> pa.Table:
    """Return a table with nulls in some rows."""
    for at, name in enumerate(table.column_names):
        table = table.set_column(at, name, without(table.column(at), rows))
    return table


def without(column: pa.ChunkedArray, rows: Collection[int]) -> pa.ChunkedArray:
    """Return a column with nulls in some rows."""
    is_bad = np.zeros(len(column), bool)
    is_bad[list(rows)] = True
    return pc.if_else(pa.array(is_bad), pa.scalar(None, column.type), column)


def without_blanks(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return texts with null for those in which nothing but blanks stands."""
    is_blank = pc.equal(pc.utf8_trim_whitespace(texts), "")
    return pc.if_else(is_blank, pa.scalar(None, pa.string()), texts)


def as_texts(column: pa.ChunkedArray, name: str) -> tuple[pa.ChunkedArray, dict[int, str]]:
    """Return a column of bytes as texts, and the rows whose bytes are not UTF-8, which are null."""
    try:
        return column.cast(pa.string()), {}
    except pa.ArrowInvalid:
        values = column.to_pylist()
    bad: dict[int, str] = {}
    for row, value in enumerate(values):
        try:
            values[row] = None if value is None else value.decode()
        except UnicodeDecodeError:
            values[row] = None
            bad[row] = f"column {name!r} is not UTF-8 in this row: convert the file"
    return pa.chunked_array([pa.array(values, pa.string())]), bad


def with_texts(table: pa.Table) -> tuple[pa.Table, dict[int, str]]:
    """Return a table whose texts are UTF-8, and the rows that had others, now null.

    Some programs write any bytes as texts. Other damage raises ArrowInvalid.
    """
    bad: dict[int, str] = {}
    for at, field in enumerate(table.schema):
        column = table.column(at)
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            try:
                column.validate(full=True)
            except pa.ArrowInvalid as error:
                if "UTF8" not in str(error):
                    raise
                column, odd = as_texts(column.cast(pa.large_binary()), field.name)
                table, bad = table.set_column(at, field.name, column), odd | bad
    return table, bad
