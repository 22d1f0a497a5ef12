"""The rows of a source as they were written, to stand beside what a head says of them."""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import FeatureStoreError
from featurestore.sources.csv_rows import form_of, header_of, read_csv
from featurestore.sources.folder import ImageFolder
from featurestore.sources.json_rows import json_rows
from featurestore.sources.listing import RESERVED, Source, SourceOptions
from featurestore.sources.locations import Location
from featurestore.sources.table import READERS, TableFile
from featurestore.terms.boxes import picture_of

JSON_TEXT = {b"featurestore": b"json"}  # marks a column whose values are JSON, one a row
_FIRST_LINES = 100  # of JSON lines, looked at for names of columns


@dataclass(frozen=True, eq=False)
class InputRows:
    """The rows of an input, in its order, with its own columns."""

    ids: pa.Array  # (n,) str, the item that a row is
    columns: pa.Table  # (n rows), as they were written
    id_column: str | None = None  # the one of ``columns`` that holds the ids, if any

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.columns) or not self.columns.column_names


def is_json(field: pa.Field) -> bool:
    """Whether a column's values are JSON texts of what was written."""
    return bool(field.metadata == JSON_TEXT)


def input_rows(source: Source, options: SourceOptions, listed: pa.Table) -> InputRows:
    """Return the rows of a source with all their columns.

    Rows of a table file are read once more as text, and matched with the listing by item id.

    Parameters
    ----------
    listed : Table
        The rows of the source's listing.
    """
    if isinstance(source, TableFile):
        try:
            table = _WRITTEN.get(source.location.suffix, _read_typed)(source.location, options)
        except (FeatureStoreError, pa.ArrowException, ValueError, KeyError, OSError):
            return _listed_rows(source, listed)  # what the listing made of it is what there is
        found = _matched(table, source, options, listed)
        if found is not None:
            return found
    return _listed_rows(source, listed)


def _matched(
    table: pa.Table, source: TableFile, options: SourceOptions, listed: pa.Table
) -> InputRows | None:
    """Name the rows of a table as its listing does; None where the listing names others."""
    names = table.column_names
    holder = options.id or (options.image if options.image in names else None)
    if holder is not None and holder not in names:
        return None
    ids: list[str] = [f"{source.name}:{row}" for row in range(len(table))]
    if holder is not None:
        own = table.column(holder).cast(pa.string()).to_pylist()
        ids = [
            value if value and value.strip() else by_row
            for value, by_row in zip(own, ids, strict=True)
        ]
    if options.box is not None and options.id is None:  # a row is named by picture and box
        if len(listed) != len(table):
            return None
        holder, ids = None, listed.column("item_id").to_pylist()
    known = set(ids)
    if len(known) < len(ids) or not known.issuperset(listed.column("item_id").to_pylist()):
        return None
    if holder is None and options.text is not None and options.text in names:
        said = dict(zip(listed.column("item_id").to_pylist(), listed.column("text").to_pylist(),
                        strict=True))  # fmt: skip
        texts = table.column(options.text).to_pylist()
        if any(said.get(one) not in (None, text) for one, text in zip(ids, texts, strict=True)):
            return None  # rows were counted otherwise
    return InputRows(pa.array(ids, pa.string()), table, holder)


def _listed_rows(source: Source, listed: pa.Table) -> InputRows:
    """Return what a listing kept of its source: paths of pictures, texts, labels, free columns."""
    columns: dict[str, Any] = {}
    if isinstance(source, ImageFolder):
        root = Location(source.root)
        uris = listed["uri"].to_pylist()
        paths = [None if one is None else root.join(picture_of(one)).text for one in uris]
        columns["path"] = pa.array(paths, pa.string())
    for name in ("text", "split", "group"):
        if listed.column(name).null_count < len(listed):
            columns[name] = listed.column(name)
    for name in listed.column_names:
        if name not in RESERVED:
            own = name.removesuffix("_")  # a "_" had kept it apart from a column of ours
            free = own in RESERVED | {"stem"} and own not in columns
            columns[own if free else name] = listed.column(name)
    table = pa.table(columns) if columns else listed.select([])
    return InputRows(listed.column("item_id").combine_chunks(), table)


def table_columns(location: Location) -> list[str]:
    """Return the names of a table's columns, as far as its beginning shows; none if unreadable."""
    try:
        return _COLUMNS[location.suffix](location)
    except (pa.ArrowException, ValueError, KeyError, OSError):
        return []


def _csv_columns(location: Location) -> list[str]:
    return header_of(location, form_of(location))


def _json_columns(location: Location) -> list[str]:
    with location.open() as file:
        lines = [line for line in islice(file, _FIRST_LINES) if line.strip()]
    rows = [json.loads(line.removeprefix(codecs.BOM_UTF8)) for line in lines]
    return list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))


def _parquet_columns(location: Location) -> list[str]:
    import pyarrow.parquet as pq

    with location.open() as file:
        return list(pq.read_schema(file).names)


_COLUMNS = {
    ".csv": _csv_columns,
    ".tsv": _csv_columns,
    ".jsonl": _json_columns,
    ".ndjson": _json_columns,
    ".parquet": _parquet_columns,
}


# -- tables as they were written -----------------------------------------------------------


def _read_csv(location: Location, options: SourceOptions) -> pa.Table:
    """Read every column of a CSV or TSV file as text."""
    table, _ = read_csv(location, form_of(location, options.columns), has_gaps=False)
    return pa.table([_decoded(column) for column in table.columns], table.column_names)


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:  # bytes that are no UTF-8 are written as \xff
        values = [
            None if one is None else one.decode("utf-8", "backslashreplace")
            for one in column.to_pylist()
        ]
        return pa.chunked_array([pa.array(values, pa.string())])


def _read_jsonl(location: Location, options: SourceOptions) -> pa.Table:
    """Read JSON lines; a column of one plain type has it, any other is JSON, value by value."""
    rows, _ = json_rows(location, is_clean=False)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [_json_column([row.get(name) for row in rows]) for name in names]
    fields = [
        pa.field(_clean(name), column.type, metadata=None if is_plain else JSON_TEXT)
        for name, (column, is_plain) in zip(names, columns, strict=True)
    ]
    return pa.Table.from_arrays([column for column, _ in columns], schema=pa.schema(fields))


def _json_column(values: Sequence[Any]) -> tuple[pa.Array, bool]:
    """Return a column, and whether it holds the values themselves, not their JSON."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 and kinds <= {bool, int, float, str}:
        if kinds == {str}:
            values = [None if value is None else _clean(value) for value in values]
        try:
            return pa.array(values), True
        except (pa.ArrowException, OverflowError):  # an integer over 64 bits
            pass
    written = [
        None if value is None else _clean(json.dumps(value, ensure_ascii=False)) for value in values
    ]
    return pa.array(written, pa.string()), False


def _clean(text: str) -> str:
    r"""Write half a surrogate pair, which no UTF-8 holds, as \ud800."""
    return text.encode("utf-8", "backslashreplace").decode()


def _read_typed(location: Location, options: SourceOptions) -> pa.Table:
    r"""Read a table whose columns have types; dictionaries become their values."""
    table = READERS[location.suffix](location, SourceOptions())
    for at, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(
                at, field.name, pc.cast(table.column(at), field.type.value_type)
            )
    return table.replace_schema_metadata(None)


_WRITTEN = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
}
