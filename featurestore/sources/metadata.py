"""From a table of metadata to a listing: what tables, shards and saved data sets share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import BadSource
from featurestore.sources.as_written import about, mixed_notes, number_note
from featurestore.sources.bad_rows import without, without_blanks
from featurestore.sources.listing import (
    LISTING,
    RESERVED,
    Listing,
    Source,
    SourceOptions,
    as_strings,
    canonical_split,
    checked,
    evaluate_group,
    require_column,
    with_group,
)
from featurestore.storage.columns import without_nan
from featurestore.terms.labels import SEPARATOR
from featurestore.terms.specs import Modality

_DELTA_DIGITS = 38  # of its decimals


@dataclass(frozen=True, eq=False)
class SourceItems:
    """The items of a source before options are applied; all that has rows has one an item."""

    table: pa.Table  # all other columns that the source has
    modality: Modality
    content: pa.Array | pa.ChunkedArray  # texts, or the uris of images
    ids: pa.Array | pa.ChunkedArray  # used unless options name a column
    names: pa.ChunkedArray | None = None  # of rows without an id in that column; ``ids`` if None
    sizes: Sequence[int] | None = None  # bytes of an image; of a text, its own length counts
    stamps: Sequence[int] | None = None  # with the size, tells whether an image has changed
    splits: Sequence[str | None] | None = None  # used unless options name a column
    labels: tuple[str, ...] = ()  # label columns, used unless options name some
    used: frozenset[str | None] = frozenset()  # columns that are content, not metadata
    notes: Sequence[str] = ()
    covers: tuple[str, ...] | None = None  # these two as in `Listing`
    unread: tuple[str, ...] = ()
    bad: Mapping[int, str] = field(default_factory=dict)  # rows that cannot be taken → why


def as_listing(source: Source, options: SourceOptions, items: SourceItems) -> Listing:
    """Make a listing; columns that no option names are kept as free metadata."""
    table, ids, splits, bad = items.table, items.ids, items.splits, dict(items.bad)
    names_by_row = ids if items.names is None else items.names
    known = table.column_names
    check_names(known, source.name)
    if options.id is not None:
        require_column(options.id, known, "--id", source.location)
        ids, nameless = own_ids(table.column(options.id), options.id)
        bad = nameless | bad
        ids = pc.coalesce(ids, names_by_row)
    unread = items.unread
    if ids is not names_by_row and any(ids[row] == names_by_row[row] for row in items.bad):
        unread = ("",)  # nobody can say which item such a row is
    content = without(items.content, bad) if bad else items.content
    if options.split is not None:
        require_column(options.split, known, "--split", source.location)
        splits = [canonical_split(value) for value in table.column(options.split).to_pylist()]
    labels = items.labels if options.label is None else options.label
    for name in labels:
        require_column(name, known, "--label", source.location)
    n, is_text = len(table), items.modality is Modality.TEXT
    empty = pa.nulls(n, pa.string())
    if is_text and items.sizes is None:
        sizes = pc.cast(pc.fill_null(pc.binary_length(content), 0), pa.int64())
    else:
        sizes = pa.array(items.sizes or [0] * n, pa.int64())
    columns = [
        ids,
        empty if is_text else content,
        content if is_text else empty,
        sizes,
        pa.array(items.stamps or [0] * n, pa.int64()),
        pa.array(splits, pa.string()) if splits is not None else empty,
        empty,
    ]
    rows = pa.Table.from_arrays(columns, schema=LISTING)
    used = items.used | {options.id, options.split}
    notes = [*items.notes, *mixed_notes(table, {*known} - used, source.name)]
    for name in known:
        column = table.column(name)
        if name in labels or (name not in used and not pa.types.is_null(column.type)):
            column = plain(column)  # one of nothing but nulls has its type from later values
        if name in labels or name not in used:
            rows = rows.append_column(free_name(name), column)
        if name in labels:
            said = (number_note(name, column, table), bar_note(name, table.column(name)))
            notes += [note for note in said if note]
    rows = checked(rows, source)
    if options.group in known:  # a table's own column, whatever ours are called
        rows = with_group(rows, table.column(options.group))
    elif options.group is not None:
        rows = evaluate_group(rows, options.group)
    names = tuple(map(free_name, labels))
    pointed = frozenset(map(free_name, about(table).get("point", ())))
    failed = {rows["item_id"][row].as_py(): why for row, why in bad.items()}
    return Listing(rows, items.modality, names, tuple(notes), items.covers, unread, pointed, failed)


def own_ids(column: pa.ChunkedArray, name: str) -> tuple[pa.ChunkedArray, dict[int, str]]:
    """Return the ids in a column, and the rows that have none: nothing, or blanks."""
    ids = without_blanks(as_strings(column))
    rows = np.flatnonzero(np.asarray(ids.is_null())).tolist()
    return ids, dict.fromkeys(rows, f"no id in the column {name!r}")


def check_names(names: Sequence[str], where: str) -> None:
    """Refuse a table with two columns of one name."""
    repeated = [name for name, n in Counter(names).items() if n > 1]
    if repeated:
        raise BadSource(f"{where} has columns of one name: {', '.join(repeated)}; rename them")


def free_name(name: str) -> str:
    """Name a column of a source so that it does not meet one of ours."""
    return f"{name}_" if name in RESERVED or name == "stem" else name


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column in a type that every store keeps.

    Dictionaries and nulls become strings, lists of plain values texts such as ``cat|dog``,
    other nested values JSON, bytes hexadecimal digits.
    """
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        storage = [chunk.storage for chunk in column.chunks]
        return plain(pa.chunked_array(storage, kind.storage_type))
    if pa.types.is_run_end_encoded(kind):
        return plain(pc.run_end_decode(column))
    if pa.types.is_dictionary(kind):
        return plain(column.cast(kind.value_type))
    if pa.types.is_null(kind) or _is_text(kind):
        return column.cast(pa.string())
    if pa.types.is_integer(kind):
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            return column.cast(pa.string())  # over 63 bits: exact as a text
    if pa.types.is_floating(kind):
        return without_nan(column).cast(pa.float64())
    if _is_any_list(kind) and _has_names(kind.value_type):
        return _joined(column)
    if pa.types.is_decimal(kind) and kind.precision <= _DELTA_DIGITS:
        return column.cast(pa.decimal128(kind.precision, kind.scale))
    if pa.types.is_boolean(kind):
        return column
    return pa.chunked_array([pa.array(map(_as_text, column.to_pylist()), pa.string())])


def bar_note(name: str, column: pa.ChunkedArray) -> str | None:
    """Say that names within lists of labels hold a |, which stands between labels here."""
    if not _is_any_list(column.type) or not _has_names(column.type.value_type):
        return None
    for chunk in column.chunks:
        names = as_strings(pa.chunked_array([chunk.flatten()]))
        barred = names.filter(pc.match_substring(names, SEPARATOR))
        if len(barred):
            first = barred[0].as_py()
            return (
                f"label {name!r} holds {first!r}, and {SEPARATOR!r} stands between labels here: it "
                f"is kept as {first.replace(SEPARATOR, '/')!r}"
            )
    return None


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()
    )


def _has_names(kind: pa.DataType) -> bool:
    """Whether values of lists are names or numbers."""
    if pa.types.is_dictionary(kind):
        return _has_names(kind.value_type)
    is_kind = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return _is_text(kind) or pa.types.is_null(kind) or any(one(kind) for one in is_kind)


def _as_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (dict, list)):
        return json.dumps(_without_nan(value), ensure_ascii=False, default=_as_text)
    return str(value)


def _without_nan(value: Any) -> Any:
    """Return nested values with null for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if value != value else value


def _is_any_list(kind: pa.DataType) -> bool:
    is_kind = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(one(kind) for one in is_kind)


def _joined(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """Write lists of names as one text each, without their nulls; a | within a name becomes /."""
    parts = []
    for chunk in lists.chunks:
        flat = chunk.flatten()
        names = iter(as_strings(pa.chunked_array([flat])).to_pylist())
        lengths = pc.list_value_length(chunk).to_pylist()
        parts.append([None if n is None else [*islice(names, n)] for n in lengths])
    texts = [
        None
        if one is None
        else SEPARATOR.join(t.replace(SEPARATOR, "/") for t in one if t is not None)
        for part in parts
        for one in part
    ]
    return pa.chunked_array([pa.array(texts, pa.string())])
