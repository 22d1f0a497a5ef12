"""Rows of a CSV, TSV, JSONL or Parquet file: texts, or paths of images relative to the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import BadSource
from featurestore.sources import (
    LISTING,
    RESERVED,
    SPLITS,
    Listing,
    SourceOptions,
    canonical_split,
    checked,
    evaluate_group,
    require_column,
    with_group,
)
from featurestore.values import Modality

_BLOCK_BYTES = 64 << 20  # a row must fit into a block


@dataclass(frozen=True)
class TableFile:
    """One table; each row is an item."""

    location: Path

    kind = "table"

    @property
    def root(self) -> Path:
        """The folder of the file."""
        return self.location.parent

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.location.name

    def listing(self, options: SourceOptions) -> Listing:
        """Read the table; columns that no option names are kept as free metadata."""
        table = READERS[self.location.suffix.lower()](self.location, options)
        repeated = [name for name, n in Counter(table.column_names).items() if n > 1]
        if repeated:
            raise BadSource(
                f"{self.name} has columns of one name: {', '.join(repeated)}; rename them"
            )
        modality, content = self._content(table, options)
        known = table.column_names
        notes = []
        if options.id is not None:
            require_column(options.id, known, "--id", self.location)
            ids = table.column(options.id).cast(pa.string())
        elif modality is Modality.IMAGE:
            ids = content
        else:
            ids = pa.array([f"{self.name}:{row}" for row in range(len(table))], pa.string())
            notes.append(
                f"no --id: items of {self.name} are named by row; inserting rows shifts the names"
            )
        splits = self._splits(table, options)
        text = modality is Modality.TEXT
        values = content.to_pylist()
        sizes, times = (
            _stats(self.root, values) if not text else (_text_sizes(values), [0] * len(values))
        )
        empty = pa.nulls(len(table), pa.string())
        columns = [
            ids,
            empty if text else content,
            content if text else empty,
            pa.array(sizes, pa.int64()),
            pa.array(times, pa.int64()),
            pa.array(splits, pa.string()),
            empty,
        ]
        rows = pa.Table.from_arrays(columns, schema=LISTING)
        labels = tuple(options.label or ())
        for name in labels:
            require_column(name, known, "--label", self.location)
        used = {options.text if text else options.image, options.id, options.split}
        for name in known:
            if name in labels or name not in used:
                rows = rows.append_column(_free_name(name), _plain(table.column(name)))
        rows = checked(rows, self)
        if options.group in known:  # a table's own column, whatever ours are called
            rows = with_group(rows, table.column(options.group))
        elif options.group is not None:
            rows = evaluate_group(rows, options.group)
        return Listing(rows, modality, tuple(map(_free_name, labels)), tuple(notes))

    def _content(self, table: pa.Table, options: SourceOptions) -> tuple[Modality, pa.ChunkedArray]:
        known = table.column_names
        if options.image is not None and options.text is not None:
            raise BadSource(
                "--image and --text name two contents: a data set has one; give one of them"
            )
        if options.image is not None:
            require_column(options.image, known, "--image", self.location)
            return Modality.IMAGE, _strings(table, options.image)
        if options.text is not None:
            require_column(options.text, known, "--text", self.location)
            return Modality.TEXT, _strings(table, options.text)
        raise BadSource(
            f"{self.name} is a table: say what to embed with --text COLUMN or --image COLUMN "
            f"(columns: {', '.join(known)})"
        )

    def _splits(self, table: pa.Table, options: SourceOptions) -> list[str | None]:
        if options.split is not None:
            require_column(options.split, table.column_names, "--split", self.location)
            return [canonical_split(value) for value in table.column(options.split).to_pylist()]
        stem = self.location.stem.lower()
        return [SPLITS.get(stem)] * len(table)


def _strings(table: pa.Table, name: str) -> pa.ChunkedArray:
    column = table.column(name)
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        raise BadSource(f"column {name!r} holds {column.type}: expected texts or paths")
    return column.cast(pa.string())


def _as_written(options: SourceOptions) -> dict[str, pa.DataType]:
    """Return the columns that are text whatever they look like: an id 007 is not 7."""
    named = (options.id, options.text, options.image, options.split, options.group)
    return {name: pa.string() for name in named if name is not None}


def _read_csv(path: Path, options: SourceOptions, delimiter: str = ",") -> pa.Table:
    from pyarrow import csv

    columns = options.columns

    # In TSV files quotes are mostly text (sms_spam has them unpaired); in CSV they are quotes.
    quotes = '"' if delimiter == "," else False
    return csv.read_csv(
        path,
        read_options=csv.ReadOptions(
            column_names=list(columns) if columns else None, block_size=_BLOCK_BYTES
        ),
        parse_options=csv.ParseOptions(
            delimiter=delimiter, quote_char=quotes, newlines_in_values=delimiter == ","
        ),
        convert_options=csv.ConvertOptions(
            column_types=_as_written(options),
            null_values=[""],  # "NA" and "null" may be texts and labels
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _read_tsv(path: Path, options: SourceOptions) -> pa.Table:
    return _read_csv(path, options, "\t")


def _read_jsonl(path: Path, options: SourceOptions) -> pa.Table:
    from pyarrow import json

    _no_columns(path, options.columns)
    read = json.ReadOptions(block_size=_BLOCK_BYTES)
    written = pa.schema(list(_as_written(options).items()))
    try:
        table = json.read_json(path, read, json.ParseOptions(explicit_schema=written))
    except pa.ArrowInvalid:  # a number where we expected a string: then it is one
        return json.read_json(path, read)
    # A column that is named but not there comes as nulls; say later that it is missing.
    absent = [name for name in written.names if table.column(name).null_count == len(table)]
    return table.drop_columns(absent)


def _read_parquet(path: Path, options: SourceOptions) -> pa.Table:
    import pyarrow.parquet as pq

    _no_columns(path, options.columns)
    return pq.read_table(path)


def _no_columns(path: Path, columns: tuple[str, ...] | None) -> None:
    if columns:
        raise BadSource(
            f"--columns names the columns of a CSV or TSV file; {path.name} has its own"
        )


def _clear(read: Callable[[Path, SourceOptions], pa.Table]) -> Callable[..., pa.Table]:
    def reader(path: Path, options: SourceOptions) -> pa.Table:
        try:
            table = read(path, options)
            table.column_names  # noqa: B018 - decodes the header
            table.validate(full=True)
            return table
        except (pa.ArrowException, UnicodeError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise BadSource(f"cannot read {path} as {path.suffix.lstrip('.')}: {reason}") from None

    return reader


READERS: dict[str, Callable[[Path, SourceOptions], pa.Table]] = {
    ".csv": _clear(_read_csv),
    ".tsv": _clear(_read_tsv),
    ".jsonl": _clear(_read_jsonl),
    ".ndjson": _clear(_read_jsonl),
    ".parquet": _clear(_read_parquet),
}


def _stats(root: Path, paths: list[str | None]) -> tuple[list[int], list[int]]:
    """Return sizes and times; 0 where there is no file, which then fails when it is read."""
    sizes, times = [], []
    for path in paths:
        try:
            status = (root / (path or "\x00")).stat()
        except (OSError, ValueError):
            sizes.append(0)
            times.append(0)
        else:
            sizes.append(status.st_size)
            times.append(status.st_mtime_ns)
    return sizes, times


def _text_sizes(texts: list[str | None]) -> list[int]:
    return [0 if text is None else len(text.encode()) for text in texts]


def _free_name(name: str) -> str:
    return f"{name}_" if name in RESERVED or name == "stem" else name


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column in a type that every store keeps: dictionaries and nulls become strings."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    if pa.types.is_null(kind) or pa.types.is_large_string(kind):
        return column.cast(pa.string())
    if pa.types.is_integer(kind) and kind != pa.int64():
        return column.cast(pa.float64() if kind == pa.uint64() else pa.int64(), safe=False)
    if pa.types.is_floating(kind) and kind != pa.float64():
        return column.cast(pa.float64())
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_temporal(kind):
        return pc.cast(
            pa.array([None if v is None else str(v) for v in column.to_pylist()]), pa.string()
        )
    return column
