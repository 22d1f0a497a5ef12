"""From a table of metadata to a listing: what tables, shards and saved data sets share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import BadSource
from featurestore.sources.as_written import mixed_notes, number_note
from featurestore.sources.listing import (
    LISTING,
    RESERVED,
    Listing,
    Source,
    SourceOptions,
    canonical_split,
    checked,
    evaluate_group,
    require_column,
    with_group,
)
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
    sizes: Sequence[int] | None = None  # bytes of an image; of a text, its own length counts
    stamps: Sequence[int] | None = None  # with the size, tells whether an image has changed
    splits: Sequence[str | None] | None = None  # used unless options name a column
    labels: tuple[str, ...] = ()  # label columns, used unless options name some
    used: frozenset[str | None] = frozenset()  # columns that are content, not metadata
    notes: Sequence[str] = ()
    covers: tuple[str, ...] | None = None  # these two as in `Listing`
    unread: tuple[str, ...] = ()


def as_listing(source: Source, options: SourceOptions, items: SourceItems) -> Listing:
    """Make a listing; columns that no option names are kept as free metadata."""
    table, ids, splits = items.table, items.ids, items.splits
    known = table.column_names
    check_names(known, source.name)
    if options.id is not None:
        require_column(options.id, known, "--id", source.location)
        ids = table.column(options.id).cast(pa.string())
    if options.split is not None:
        require_column(options.split, known, "--split", source.location)
        splits = [canonical_split(value) for value in table.column(options.split).to_pylist()]
    labels = items.labels if options.label is None else options.label
    for name in labels:
        require_column(name, known, "--label", source.location)
    n, is_text = len(table), items.modality is Modality.TEXT
    empty = pa.nulls(n, pa.string())
    if is_text and items.sizes is None:
        sizes = pc.cast(pc.fill_null(pc.binary_length(items.content), 0), pa.int64())
    else:
        sizes = pa.array(items.sizes or [0] * n, pa.int64())
    columns = [
        ids,
        empty if is_text else items.content,
        items.content if is_text else empty,
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
        if name in labels and (note := number_note(name, column, table)):
            notes.append(note)
    rows = checked(rows, source)
    if options.group in known:  # a table's own column, whatever ours are called
        rows = with_group(rows, table.column(options.group))
    elif options.group is not None:
        rows = evaluate_group(rows, options.group)
    names = tuple(map(free_name, labels))
    return Listing(rows, items.modality, names, tuple(notes), items.covers, items.unread)


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
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    if pa.types.is_null(kind) or pa.types.is_large_string(kind) or kind == pa.string_view():
        return column.cast(pa.string())
    if pa.types.is_integer(kind) and kind != pa.int64():
        return column.cast(pa.float64() if kind == pa.uint64() else pa.int64(), safe=False)
    if pa.types.is_floating(kind) and kind != pa.float64():
        return column.cast(pa.float64())
    if _is_any_list(kind) and _is_plain(kind.value_type):
        return _joined(pc.cast(column, pa.list_(pa.string())))
    if _is_plain(kind) or (pa.types.is_decimal(kind) and kind.precision <= _DELTA_DIGITS):
        return column
    return pa.chunked_array([pa.array(map(_as_text, column.to_pylist()), pa.string())])


def _is_plain(kind: pa.DataType) -> bool:
    is_kind = (pa.types.is_boolean, pa.types.is_string, pa.types.is_integer, pa.types.is_floating)
    return any(one(kind) for one in is_kind)


def _as_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, default=_as_text)
    return str(value)


def _is_any_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _joined(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """Write lists of texts as one text each, without their nulls; a | within a text becomes /."""
    texts = [
        None
        if one is None
        else SEPARATOR.join(t.replace(SEPARATOR, "/") for t in one if t is not None)
        for one in lists.to_pylist()
    ]
    return pa.chunked_array([pa.array(texts, pa.string())])


def hub_class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return class names by column, where Hugging Face wrote them into a schema's metadata."""
    noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return {
        name: kind["names"]
        for name, kind in noted.get("info", {}).get("features", {}).items()
        if isinstance(kind, dict) and kind.get("_type") == "ClassLabel" and kind.get("names")
    }


def with_class_names(table: pa.Table, names: Mapping[str, Sequence[str]]) -> pa.Table:
    """Replace class numbers by names, column by column; -1 and null mean that there is no label."""
    for column in names.keys() & set(table.column_names):
        of = names[column]
        numbers = [-1 if one is None else int(one) for one in table.column(column).to_pylist()]
        values = [of[number] if 0 <= number < len(of) else None for number in numbers]
        at = table.schema.get_field_index(column)
        table = table.set_column(at, column, pa.array(values, pa.string()))
    return table
