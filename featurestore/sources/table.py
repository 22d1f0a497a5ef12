"""Rows of a CSV, TSV, JSONL or Parquet file: texts, paths of images, or images themselves."""

from __future__ import annotations

import json as json_text
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import BadSource
from featurestore.sources.as_written import WrittenFloat, columns_of, typed
from featurestore.sources.bad_rows import (
    as_texts,
    bad_rows,
    with_bad_rows,
    with_texts,
    without_blanks,
)
from featurestore.sources.boxed import BoxedRows, boxes_of_rows
from featurestore.sources.class_names import hub_features, with_class_names
from featurestore.sources.csv_rows import BLOCK_BYTES, form_of, n_blank_lines, read_csv
from featurestore.sources.json_rows import is_deep, json_rows
from featurestore.sources.listing import SPLITS, Listing, SourceOptions, require_column
from featurestore.sources.locations import Location, check_regular, is_url
from featurestore.sources.metadata import (
    SourceItems,
    as_listing,
    check_names,
)
from featurestore.sources.uris import value_uri
from featurestore.storage.columns import EXACT
from featurestore.terms.specs import Modality

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_AT_ONCE = 64  # requests over a network
PART_ROWS = 1 << 17  # of a Parquet file, more are read part by part


@dataclass(frozen=True)
class TableFile:
    """One table; each row is an item."""

    location: Location

    kind = "table"

    @property
    def root(self) -> str:
        """The folder of the file."""
        return self.location.parent.text

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.location.name

    def listing(self, options: SourceOptions) -> Listing:
        """Read the table; columns that no option names are kept as free metadata."""
        return self._listing_of(READERS[self.location.suffix](self.location, options), options)

    def parts(self, options: SourceOptions) -> Iterator[Listing] | None:
        """Read a large Parquet file part by part; None where it must be read whole.

        What is said of a column is not to depend on where a part ends.
        """
        if self.location.suffix != ".parquet" or options.group is not None or options.columns:
            return None
        tables = _parquet_parts(self.location)
        return None if tables is None else self._listings_of(tables, options)

    def holds_all(self, options: SourceOptions) -> bool:
        """Whether the file tells all: its texts or pictures are in it, not beside it."""
        if options.text is not None or options.image is None or self.location.suffix != ".parquet":
            return options.text is not None
        try:
            with _parquet(self.location) as file:
                return options.image in _columns_to_read(file)[1]
        except (pa.ArrowException, OSError):
            return False

    def _listings_of(self, tables: Iterator[pa.Table], options: SourceOptions) -> Iterator[Listing]:
        first = 0
        for table in tables:
            yield self._listing_of(table, options, first)
            first += len(table)

    def _listing_of(self, table: pa.Table, options: SourceOptions, first: int = 0) -> Listing:
        """List the rows of a table, which begin at the row ``first`` of the file."""
        check_names(table.column_names, self.name)
        name = self._content_column(table, options)
        is_text = options.text is not None
        rows = range(first, first + len(table))
        names = pa.chunked_array([[f"{self.name}:{row}" for row in rows]], pa.string())
        bad = bad_rows(table)
        notes, sizes, stamps, ids = self._blank_lines(table, options), None, None, names
        kind = table.column(name).type if name in table.column_names else None
        if kind is None and options.box is not None:
            raise BadSource(
                f"column {name!r} of {self.name} holds the bytes of pictures, and --box cuts boxes "
                "out of files: write the pictures to files and name their paths with --image"
            )
        if kind is None:  # images in a column, which is not read here
            uris = [value_uri(self.name, name, row) for row in rows]
            content = pa.chunked_array([uris], pa.string())
            size, stamp = self.location.stat()
            sizes, stamps = [size] * len(table), [stamp] * len(table)
        else:
            content, odd = _strings(table, name)
            bad = odd | bad
            if not is_text:  # of blanks alone, a path is none
                content = without_blanks(content)
            table = table.set_column(table.column_names.index(name), name, content)
            if not is_text:  # a row without a path is a failure, which has a name
                ids = pc.coalesce(content, names)
                sizes, stamps = _stats(Location(self.root), content.to_pylist())
            if options.box is not None:
                found = self._boxes(table, content, options)
                content, ids = found.uris, pc.coalesce(found.ids, names)
                bad = found.bad | bad
                options = replace(options, group=options.group or name)
        unread = [one for one in _unread_columns(table) if one != name]
        if unread:
            notes.append(f"columns of bytes in {self.name} were left out: {', '.join(unread)}")
        if options.id is None and (is_text or kind is None):
            notes.append(
                f"no --id: items of {self.name} are named by row; inserting rows shifts the names"
            )
        split = SPLITS.get(self.location.stem.lower())
        items = SourceItems(
            table,
            modality=Modality.TEXT if is_text else Modality.IMAGE,
            content=content,
            sizes=sizes,
            stamps=stamps,
            ids=ids,
            names=names,
            splits=[split] * len(table),
            used=frozenset({name}),
            notes=notes,
            bad=bad,
        )
        return as_listing(self, options, items)

    def _boxes(
        self, table: pa.Table, content: pa.ChunkedArray, options: SourceOptions
    ) -> BoxedRows:
        for column in options.box or ():
            require_column(column, table.column_names, "--box", self.location)
        if options.text is not None:
            raise BadSource("--box is about pictures: name their paths with --image COLUMN")
        return boxes_of_rows(table, content.to_pylist(), options)

    def _blank_lines(self, table: pa.Table, options: SourceOptions) -> list[str]:
        """Say how many lines of a single column are blank: they might be meant as rows."""
        if len(table.column_names) > 1 or self.location.suffix not in (".csv", ".tsv"):
            return []
        n = n_blank_lines(self.location, form_of(self.location, options.columns))
        return [f"{n:,} blank lines of {self.name} are not rows"] if n else []

    def _content_column(self, table: pa.Table, options: SourceOptions) -> str:
        known = [*table.column_names, *_unread_columns(table)]
        if options.image is not None and options.text is not None:
            raise BadSource(
                "--image and --text name two contents: a data set has one; give one of them"
            )
        if options.image is not None:
            return require_column(options.image, known, "--image", self.location)
        if options.text is not None:
            return require_column(options.text, table.column_names, "--text", self.location)
        raise BadSource(
            f"{self.name} is a table: say what to embed with --text COLUMN or --image COLUMN "
            f"(columns: {', '.join(known)})"
        )


_BYTES = b"featurestore: texts are bytes"
_UNREAD = b"featurestore: columns of bytes"


def _unread_columns(table: pa.Table) -> list[str]:
    names: list[str] = json_text.loads((table.schema.metadata or {}).get(_UNREAD, b"[]"))
    return names


def _strings(table: pa.Table, name: str) -> tuple[pa.ChunkedArray, dict[int, str]]:
    """Return a column as texts, and why rows have none."""
    column = table.column(name)
    if (table.schema.metadata or {}).get(_BYTES) and pa.types.is_binary(column.type):
        return as_texts(column, name)
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        raise BadSource(f"column {name!r} holds {column.type}: expected texts, paths or images")
    return column.cast(pa.string()), {}


def _as_written(options: SourceOptions) -> dict[str, pa.DataType]:
    """Return the columns that are read as text even if they look like numbers: 007 is not 7."""
    named = (options.id, options.text, options.image, options.split, options.group)
    return {name: pa.string() for name in named if name is not None}


def _as_bytes(options: SourceOptions) -> dict[str, pa.DataType]:
    """Return the text column, read as bytes: one text that is not UTF-8 fails alone."""
    return {options.text: pa.binary()} if options.text else {}


def _read_csv(location: Location, options: SourceOptions) -> pa.Table:
    form = form_of(location, options.columns)
    table, bad = read_csv(location, form)
    check_names(table.column_names, location.name)
    for at, name in enumerate(table.column_names):
        if name == options.text:
            continue  # stays bytes: one text that is not UTF-8 fails alone
        column, odd = as_texts(table.column(name), name)
        table, bad = table.set_column(at, name, column), odd | bad
    table = typed(table.replace_schema_metadata({_BYTES: b"1"}), _as_written(options))
    return with_bad_rows(table, bad)


def _read_jsonl(location: Location, options: SourceOptions) -> pa.Table:
    _no_columns(location, options.columns)
    if is_deep(location):
        return _exact_jsonl(location)
    try:
        table = _fast_jsonl(location, options)
        table.validate(full=True)
    except (pa.ArrowInvalid, UnicodeError) as error:  # a column of two kinds, NaN, a bad line
        try:
            return _exact_jsonl(location)
        except ValueError as exact:
            raise (exact if str(exact) else error) from None
    return _exact_jsonl(location) if any(map(_may_be_cut, table.columns)) else table


def _fast_jsonl(location: Location, options: SourceOptions) -> pa.Table:
    from pyarrow import json

    def read(types: dict[str, pa.DataType]) -> pa.Table:
        schema = json.ParseOptions(explicit_schema=pa.schema(list(types.items())))
        return json.read_json(_input(location), json.ReadOptions(block_size=BLOCK_BYTES), schema)

    named = _as_written(options) | _as_bytes(options)
    try:
        table = read(named)
    except pa.ArrowInvalid:  # a number where we expected a string: then it is one
        named = {}
        table = read(named)
    dates = {
        field.name: kind
        for field in table.schema
        if (kind := _without_times(field.type)) != field.type
    }
    if dates:  # a text that looks like a date is a text
        table = read(named | dates)
    # A column that is named but not there comes as nulls; say later that it is missing.
    absent = [name for name in named if table.column(name).null_count == len(table)]
    return table.drop_columns(absent).replace_schema_metadata({_BYTES: b"1"} if named else None)


def _without_times(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_without_times(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _without_times(field.type)) for field in kind])
    return kind


def _may_be_cut(column: pa.ChunkedArray | pa.Array) -> bool:
    """Whether floats may stand for whole numbers of more digits than they hold."""
    kind = column.type
    if pa.types.is_floating(kind):
        largest = pc.max(pc.abs(column)).as_py()
        return largest is not None and largest >= EXACT
    if pa.types.is_list(kind):
        return _may_be_cut(pc.list_flatten(column))
    if pa.types.is_struct(kind):
        return any(_may_be_cut(pc.struct_field(column, [at])) for at in range(kind.num_fields))
    return False


def _exact_jsonl(location: Location) -> pa.Table:
    """Read line by line: slower, but each value stays what it is, and a bad line fails alone.

    Raises
    ------
    ValueError
        If no line is an object.
    """
    facts, bad = json_rows(location, parse_float=WrittenFloat)
    table = columns_of(facts, list(dict.fromkeys(name for one in facts for name in one)))
    return with_bad_rows(table, bad)


def _read_parquet(location: Location, options: SourceOptions) -> pa.Table:
    """Read all but columns of images, whose names go into the schema's metadata."""
    _no_columns(location, options.columns)
    with _parquet(location) as file:
        chosen, images = _columns_to_read(file)
        table = file.read(chosen)
        if not chosen:
            table = pa.table({"row": range(file.metadata.num_rows)})
        return _read_as_texts(table, file.schema_arrow, images)


def _parquet_parts(location: Location) -> Iterator[pa.Table] | None:
    """Read as `_read_parquet` does, part by part; None where the file is small or has odd types."""
    check_regular(location.text)
    try:
        with _parquet(location) as file:
            chosen, _ = _columns_to_read(file)
            is_large = file.metadata.num_rows > PART_ROWS
            kinds = [file.schema_arrow.field(name).type for name in chosen]
    except (pa.ArrowException, OSError):
        return None  # whoever reads it whole says what is wrong
    return (
        _each_part(location) if is_large and kinds and all(map(_is_same_in_parts, kinds)) else None
    )


def _each_part(location: Location) -> Iterator[pa.Table]:
    with _saying_what(location), _parquet(location) as file:
        chosen, images = _columns_to_read(file)
        for batch in file.iter_batches(PART_ROWS, columns=chosen):
            table = pa.Table.from_batches([batch])
            table.validate(full=True)
            yield _read_as_texts(table, file.schema_arrow, images)


def _is_same_in_parts(kind: pa.DataType) -> bool:
    """Whether what becomes of values does not depend on those in other rows."""
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_signed = pa.types.is_signed_integer(kind)
    return bool(is_text or is_signed or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


@contextmanager
def _parquet(location: Location) -> Iterator[pq.ParquetFile]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(_input(location), pre_buffer=True) as file:
        yield file


def _columns_to_read(file: pq.ParquetFile) -> tuple[list[str], list[str]]:
    """Return the columns to read, and those of images, which stay where they are."""
    schema = file.schema_arrow
    images = [field.name for field in schema if _holds_bytes(field.type)]
    return [name for name in schema.names if name not in images], images


def _read_as_texts(table: pa.Table, schema: pa.Schema, images: list[str]) -> pa.Table:
    table = with_class_names(table, hub_features(schema))
    table = table.replace_schema_metadata({_UNREAD: json_text.dumps(images)})
    return with_bad_rows(*with_texts(table))


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether values are bytes, or the hub's struct of bytes and path."""
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _input(location: Location) -> Any:
    return location.open() if location.is_url else location.text


def _no_columns(location: Location, columns: tuple[str, ...] | None) -> None:
    if columns:
        raise BadSource(
            f"--columns names the columns of a CSV or TSV file; {location.name} has its own"
        )


def _clear(read: Callable[[Location, SourceOptions], pa.Table]) -> Callable[..., pa.Table]:
    def reader(location: Location, options: SourceOptions) -> pa.Table:
        check_regular(location.text)
        with _saying_what(location):
            table = read(location, options)
            table.column_names  # noqa: B018 - decodes the header
            table.validate(full=True)
            return table

    return reader


@contextmanager
def _saying_what(location: Location) -> Iterator[None]:
    """Turn what is raised for a damaged file into BadSource."""
    try:
        yield
    except BadSource:
        raise
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadSource(
            f"cannot read {location} as {location.suffix.lstrip('.')}: {reason}; nothing of "
            "it was taken: mend it and run again"
        ) from None


READERS: dict[str, Callable[[Location, SourceOptions], pa.Table]] = {
    ".csv": _clear(_read_csv),
    ".tsv": _clear(_read_csv),
    ".jsonl": _clear(_read_jsonl),
    ".ndjson": _clear(_read_jsonl),
    ".parquet": _clear(_read_parquet),
}


def _stats(root: Location, paths: list[str | None]) -> tuple[list[int], list[int]]:
    """Return sizes (bytes) and stamps; 0 for a file that is not there: reading it fails later."""

    def of(path: str | None) -> tuple[int, int]:
        try:
            return root.join(path or "\x00").stat()
        except Exception:  # file systems raise what they like, and reading it will say what
            return 0, 0

    if not (root.is_url or any(path and is_url(path) for path in paths)):
        stats = [of(path) for path in paths]
    else:  # over a network, each is a request
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            stats = list(pool.map(of, paths))
    return [size for size, _ in stats], [stamp for _, stamp in stats]
