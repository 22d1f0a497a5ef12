"""Rules for columns of tables: which are new, which rows are equal, what a table takes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.errors import BadSource
from featurestore.terms.labels import class_name

EXACT = 2**53  # whole numbers up to this size are exact as floats
_FLOAT_DIGITS, _INT_DIGITS = 15, 19  # decimals that a float keeps; digits of 64 bits
_DELTA_DIGITS = 38  # of a decimal


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


def joined(parts: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of all parts; a column of several types has one that holds all its values."""
    parts = agreed(parts, [frozenset()] * len(parts))
    return pa.concat_tables(parts, promote_options="default")


def agreed(
    parts: Sequence[pa.Table],
    pointed: Sequence[frozenset[str]],
    stored: pa.Table | None = None,
) -> list[pa.Table]:
    """Return tables that have one type a column, whatever their order.

    Parameters
    ----------
    parts : sequence of pyarrow.Table
    pointed : sequence of frozenset of str
        The columns of each part whose whole numbers are written with a point, 1.0.
    stored : pyarrow.Table, optional
        Columns that the store has; they count, and are not returned.

    Raises
    ------
    BadSource
        If no type holds the values of a column.
    """
    made = list(parts)
    for name in dict.fromkeys(name for part in made for name in part.column_names):
        columns = [part.column(name) for part in made if name in part.column_names]
        # One without values has the type of the others.
        columns = [one for one in columns if one.null_count < len(one)] or columns[:1]
        if stored is not None and name in stored.column_names:
            columns.append(stored.column(name))
        kind = common_type(name, columns)
        for at, part in enumerate(made):
            if name in part.column_names and part.schema.field(name).type != kind:
                column = converted(part.column(name), kind, has_point=name in pointed[at])
                made[at] = part.set_column(part.column_names.index(name), name, column)
    return made


def common_type(name: str, columns: Sequence[pa.ChunkedArray]) -> pa.DataType:
    """Return the type that holds the values of a column in all places where there is one.

    Raises
    ------
    BadSource
        If there is none.
    """
    if (kind := shared_type(columns)) is not None:
        return kind
    kinds = dict.fromkeys(str(column.type) for column in columns)
    raise BadSource(
        f"column {name!r} is {' here and '.join(kinds)} there: rename it, "
        "convert it in one of the sources, or embed them into several data sets"
    )


def widened(have: pa.Schema, come: pa.Schema) -> pa.Schema:
    """Return the schema ``have`` with types that hold what comes as well."""
    fields = []
    for field in have:
        if field.name in come.names and field.name != "vector":
            kind = wider(field.type, come.field(field.name).type) or field.type
            field = pa.field(field.name, kind, field.nullable)
        fields.append(field)
    return pa.schema(fields)


def shared_type(columns: Sequence[pa.ChunkedArray]) -> pa.DataType | None:
    """Return the type that holds the values of all columns as they are; None if none does.

    Whole numbers beside others are floats, unless some have too many digits for one; anything
    beside texts is text.
    """
    kind: pa.DataType | None = pa.null()
    for column in columns:
        kind = kind if kind is None else wider(kind, column.type)
    wholes = [column for column in columns if pa.types.is_integer(column.type)]
    is_float = kind is not None and pa.types.is_floating(kind)
    return pa.string() if is_float and any(_largest(one) > EXACT for one in wholes) else kind


def wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return a type for the values of both types; None if there is none."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    kinds = (one, other)
    if not all(map(_is_simple, kinds)):
        return one if _is_vector(one) and _is_vector(other) else None
    if any(map(_is_text, kinds)) or any(map(pa.types.is_boolean, kinds)):
        return pa.string()
    if any(map(pa.types.is_floating, kinds)):
        digits = max(getattr(kind, "precision", 0) for kind in kinds)
        return pa.float64() if digits <= _FLOAT_DIGITS else pa.string()
    if all(map(pa.types.is_integer, kinds)):
        return pa.int64()
    scale = max(getattr(kind, "scale", 0) for kind in kinds)
    before = max(
        kind.precision - kind.scale if pa.types.is_decimal(kind) else _INT_DIGITS for kind in kinds
    )
    digits = before + scale
    return pa.decimal128(digits, scale) if digits <= _DELTA_DIGITS else pa.string()


def _is_vector(kind: pa.DataType) -> bool:
    """Whether values are lists of float32: Delta knows plain lists alone."""
    is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and kind.value_type == pa.float32())


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_simple(kind: pa.DataType) -> bool:
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return bool(is_number or _is_text(kind) or pa.types.is_boolean(kind))


def _largest(column: pa.ChunkedArray) -> int:
    ends = pc.min_max(column)
    return int(max(abs(ends["min"].as_py() or 0), abs(ends["max"].as_py() or 0)))


def converted(
    column: pa.ChunkedArray, kind: pa.DataType, *, has_point: bool = False
) -> pa.ChunkedArray:
    """Return a column as a wider type.

    Numbers and truth values become the names that they have as classes; whole ones keep a point
    where the file has it (``has_point``).

    Raises
    ------
    BadSource
        If a whole number has too many digits for a float.
    """
    if column.type == kind:
        return column
    is_value = pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)
    if pa.types.is_string(kind) and is_value:
        distinct = pc.unique(column)
        name_of = str if has_point else class_name
        texts = [None if one is None else name_of(one) for one in distinct.to_pylist()]
        positions = pc.index_in(column, value_set=distinct)
        chunk = pa.array(texts, pa.string()).take(positions.combine_chunks())
        return pa.chunked_array([chunk])
    try:
        return column.cast(kind)
    except pa.ArrowInvalid:
        raise BadSource(
            f"the data set has {column.type} that are no {kind} without loss, and now fractions "
            "come: write both as texts, or embed into another data set"
        ) from None


def fits(come: pa.DataType, have: pa.DataType) -> bool:
    """Whether a column of type ``have`` holds all values of type ``come``."""
    return bool(wider(have, come) == have or pa.types.is_null(have))


def fit_to(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return rows with the columns of a schema: absent ones null, vectors of their fixed size."""
    columns = []
    for field in schema:
        if field.name == "vector":
            columns.append(rows.column(field.name))
        elif field.name in rows.column_names:
            columns.append(converted(rows.column(field.name), field.type))
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
    kind = wider(theirs.type, ours.type) or theirs.type
    same = pc.fill_null(pc.equal(converted(ours, kind), converted(theirs, kind)), False)
    both_null = pc.and_(pc.is_null(ours), pc.is_null(theirs))
    return np.asarray(pc.or_(same, both_null))


def without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column with null for NaN: both say that there is no value."""
    if not pa.types.is_floating(column.type):
        return column
    if column.type == pa.float16():
        column = column.cast(pa.float64())
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def text_hash(text: str) -> str:
    """Return the SHA-256 (hex) of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()
