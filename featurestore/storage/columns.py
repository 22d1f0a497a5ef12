"""Rules for columns of tables: which are new, which rows are equal, what a table takes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.errors import BadSource


def new_columns(have: pa.Schema, come: pa.Schema) -> list[pa.Field]:
    """Return the fields that ``come`` adds to ``have``.

    Raises
    ------
    BadSource
        If a column exists with a type that does not fit, or in another case: Delta treats
        ``Label`` and ``label`` as one column.
    """
    fields = []
    spelt = {name.lower(): name for name in have.names}
    for field in come:
        other = spelt.setdefault(field.name.lower(), field.name)
        if other != field.name:
            raise BadSource(
                f"columns {other!r} and {field.name!r} differ in case alone: rename one"
            )
        if field.name not in have.names:
            if pa.types.is_null(field.type):
                continue  # its type comes with its first value
            fields.append(pa.field(field.name, field.type))
        elif not fits(field.type, have.field(field.name).type):
            raise BadSource(
                f"column {field.name!r} is {have.field(field.name).type} in the data set, "
                f"but {field.type} in this source: rename it, convert it in the source, or embed "
                "into another data set"
            )
    return fields


def drop_equal(
    values: Mapping[str, pa.Array], keys: list[str]
) -> Callable[[pa.Table], NDArray[np.bool_]]:
    """Return a ``drop`` for `Table.merge` that marks rows whose key columns are in ``values``.

    It takes a table of n rows and returns a mask of shape (n,).
    """
    wanted = row_keys([values[key] for key in keys])

    def drop(rows: pa.Table) -> NDArray[np.bool_]:  # (n,)
        return np.asarray(pc.is_in(row_keys([rows.column(key) for key in keys]), value_set=wanted))

    return drop


def item_keys(rows: pa.Table) -> pa.Array:
    """Return a key of id and content for each row: equal keys have the same vector."""
    return row_keys([rows.column("item_id"), rows.column("content_hash")])


def row_keys(columns: Sequence[pa.Array | pa.ChunkedArray]) -> pa.Array:
    """Join string columns into one key a row; null counts as a value of its own."""
    strings = [pc.fill_null(column, "\x00") for column in columns]
    joined = strings[0] if len(strings) == 1 else pc.binary_join_element_wise(*strings, "\x1f")
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def fits(come: pa.DataType, have: pa.DataType) -> bool:
    """Whether a column of type ``come`` can be added to one of type ``have``."""
    if come == have or pa.types.is_null(come) or pa.types.is_null(have):
        return True
    if pa.types.is_fixed_size_list(come):  # Delta knows plain lists alone
        return bool(pa.types.is_list(have) and come.value_type == have.value_type)
    return bool(pa.types.is_floating(have) and pa.types.is_integer(come))


def fit_to(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return rows with the columns of a schema: absent ones null, vectors of their fixed size."""
    columns = []
    for field in schema:
        if field.name == "vector":
            columns.append(rows.column(field.name))
        elif field.name in rows.column_names:
            columns.append(rows.column(field.name).cast(field.type))
        else:
            columns.append(pa.nulls(len(rows), field.type))
    return pa.Table.from_arrays(columns, names=schema.names)


def is_equal(rows: pa.Table, items: pa.Table, positions: pa.Array, name: str) -> NDArray[np.bool_]:
    """Mark the listed rows whose value in a column is the stored one, (n_rows,).

    ``positions``, (n_rows,), says where in ``items`` each row stands; two nulls are equal.
    """
    ours = rows.column(name)
    if name not in items.column_names:
        return np.asarray(pc.is_null(ours))
    theirs = items.column(name).take(positions)
    same = pc.fill_null(pc.equal(ours.cast(theirs.type), theirs), False)
    both_null = pc.and_(pc.is_null(ours), pc.is_null(theirs))
    return np.asarray(pc.or_(same, both_null))


def text_hash(text: str) -> str:
    """Return the SHA-256 (hex) of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()
