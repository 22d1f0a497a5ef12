"""Rows of a CSV or TSV file; a row that cannot be read is one failure, and the others are read."""

from __future__ import annotations

import codecs
import csv as csv_text
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.sources.bad_rows import emptied
from featurestore.sources.locations import Location

BLOCK_BYTES = 64 << 20  # a row must fit into a block
_HEAD_BYTES = 1 << 18
_SHOWN = 60  # characters of a row that cannot be read
_BREAK = re.compile(rb"\r\n|\n|\r")
_TWO_BREAKS = re.compile(rb"\n\r?\n|\r\r")
_OPEN = "a quotation mark opens a cell, and none closes it"


@dataclass(frozen=True)
class Form:
    """How a file is written."""

    encoding: str  # utf8 | utf16
    delimiter: str
    has_quotes: bool
    names: tuple[str, ...] | None = None  # of a file without a header

    @cached_property
    def whole(self) -> re.Pattern[bytes]:
        """What a file is up to the first quote that is not closed where its cell ends."""
        other = re.escape(self.delimiter.encode()) + rb"\r\n"
        opens, closes = rb"(?<![^%b])" % other, rb"(?![^%b])" % other
        cells = rb'[^"]++|(?<=[^%b])"|%b"(?:[^"]++|"")*+"%b' % (other, opens, closes)
        return re.compile(rb"(?:%b)*+" % cells)

    @cached_property
    def cell(self) -> re.Pattern[bytes]:
        """What Arrow takes for a cell; ``tail`` is what stands behind a closing quote."""
        other = re.escape(self.delimiter.encode()) + rb"\r\n"
        return re.compile(
            rb'"(?:[^"]++|"")*+"(?P<tail>[^%b]*+)|[^"%b][^%b]*+|' % (other, other, other)
        )

    def row(self, n_cells: int) -> re.Pattern[bytes]:
        """Return what a sound row of so many cells is, with its line break."""
        delimiter = re.escape(self.delimiter.encode())
        if self.has_quotes:
            plain = rb'(?:"(?:[^"]++|"")*+"|[^"%b\r\n][^%b\r\n]*+|)' % (delimiter, delimiter)
        else:
            plain = rb"[^%b\r\n]*+" % delimiter
        cells = rb"%b(?:%b%b){%d}" % (plain, delimiter, plain, n_cells - 1)
        return re.compile(rb"%b(?:\r\n|\n|\r|\Z)" % cells)


def form_of(location: Location, names: tuple[str, ...] | None = None) -> Form:
    """Say how a file is written: spreadsheets may write UTF-16, or ``;`` between columns.

    Parameters
    ----------
    names : tuple of str, optional
        Of the columns of a file without a header.
    """
    # In TSV files quotes are mostly text (sms_spam has them unpaired); in CSV they are quotes.
    is_tsv = location.suffix == ".tsv"
    with location.open() as file:
        head = file.read(_HEAD_BYTES)
    encoding = "utf16" if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf8"
    header = head.decode(encoding, "replace").splitlines()[:1]
    has_semicolons = not is_tsv and bool(header) and ";" in header[0] and "," not in header[0]
    has_semicolons = has_semicolons and len(names or ()) != 1
    delimiter = "\t" if is_tsv else ";" if has_semicolons else ","
    return Form(encoding, delimiter, not is_tsv, names)


def header_of(location: Location, form: Form) -> list[str]:
    """Return the names of the columns, from the first line that is not blank."""
    if form.names:
        return list(form.names)
    with location.open() as file:
        text = file.read(_HEAD_BYTES).decode(form.encoding, "replace").removeprefix("\ufeff")
    lines = csv_text.reader(
        io.StringIO(text, newline=""),
        delimiter=form.delimiter,
        quoting=csv_text.QUOTE_MINIMAL if form.has_quotes else csv_text.QUOTE_NONE,
    )
    try:
        return next((line for line in lines if line), [])
    except csv_text.Error:  # a name of 100,000 letters
        return []


def read_csv(
    location: Location, form: Form, *, has_gaps: bool = True
) -> tuple[pa.Table, dict[int, str]]:
    """Read all values as bytes.

    Parameters
    ----------
    has_gaps : bool
        Whether a cell without anything in it is null; an empty text if false.

    Returns
    -------
    table : Table
        A row that cannot be read is one of nulls.
    bad : dict of int to str
        Why, by row.

    Raises
    ------
    ValueError
        If no row can be read; Arrow's errors are such.
    """
    names = header_of(location, form)
    source = location.open if location.is_url else lambda: location.text
    whole: pa.Table | None = None
    reason: Exception = ValueError(_OPEN)
    try:
        whole = _read(source, form, names, has_gaps)
    except (pa.ArrowInvalid, UnicodeError) as error:
        reason = error
    if whole is not None and not (form.has_quotes and _has_breaks(whole)):
        return whole, {}
    with location.open() as file:
        content = _as_utf8(file.read(), form)
    if whole is not None and form.whole.fullmatch(content):
        return whole, {}
    mended, n_rows, bad = _mended(content, form)
    if not bad and whole is not None:
        return whole, {}
    if len(bad) == n_rows:
        raise ValueError(next(iter(bad.values()))) if bad else reason
    form = replace(form, encoding="utf8")
    table = _read(lambda: pa.BufferReader(mended), form, names, has_gaps)
    if len(table) != n_rows:
        raise reason  # Arrow counts otherwise
    return emptied(table, bad), bad


def n_blank_lines(location: Location, form: Form) -> int:
    """Count empty lines between rows."""
    with location.open() as file:
        content = _as_utf8(file.read(), form).strip(b"\r\n")
    at = n = 0
    length = len(content) if _TWO_BREAKS.search(content) else 0
    while at < length:
        end = _row_at(content, at, form).end
        n += end == at
        at = _next(content, end)
    return n


def _read(source: Callable[[], Any], form: Form, names: list[str], has_gaps: bool) -> pa.Table:
    """Read with Arrow; all columns are bytes."""
    from pyarrow import csv

    def read(names: list[str]) -> pa.Table:
        return csv.read_csv(
            source(),
            read_options=csv.ReadOptions(
                column_names=list(form.names) if form.names else None,
                block_size=BLOCK_BYTES,
                encoding=form.encoding,
            ),
            parse_options=csv.ParseOptions(
                delimiter=form.delimiter,
                quote_char='"' if form.has_quotes else False,
                newlines_in_values=form.has_quotes,
            ),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.binary()),
                null_values=[""],  # "NA" and "null" may be texts and labels
                strings_can_be_null=has_gaps,
                quoted_strings_can_be_null=False,
            ),
        )

    table = read(names)
    if not all(pa.types.is_binary(field.type) for field in table.schema):
        table = read(table.column_names)  # a header that we had read otherwise
    return table


def _as_utf8(content: bytes, form: Form) -> bytes:
    """Return UTF-8; halves of surrogate pairs become invalid bytes, in their row alone."""
    if form.encoding == "utf8":
        return content.removeprefix(codecs.BOM_UTF8)
    return content.decode(form.encoding, "surrogatepass").encode("utf8", "surrogatepass")


def _has_breaks(table: pa.Table) -> bool:
    """Whether a value may hold a line break: then an open quote may have swallowed rows."""
    for column in table.columns:
        for buffer in (chunk.buffers()[2] for chunk in column.chunks):
            if buffer is None or not buffer.size:
                continue
            values = np.frombuffer(buffer, np.uint8)
            # Most columns have no byte so low, which is seen at once.
            if values.min() <= ord("\r") and any((values == ord(one)).any() for one in "\n\r"):
                return True
    return False


class _Row(NamedTuple):
    """Where a row ends in a file, before its line break."""

    end: int
    n_cells: int
    problem: str = ""


def _row_at(content: bytes, start: int, form: Form) -> _Row:
    """Find the end of a row, as Arrow would, but for a quote that swallows more than its cell."""
    delimiter = form.delimiter.encode()
    end = _line_end(content, start)
    if not form.has_quotes or content.find(b'"', start, end) < 0:
        return _Row(end, content.count(delimiter, start, end) + 1)
    at, n_cells, match = start, 0, form.cell.match
    while True:
        found = match(content, at)
        assert found is not None, "an empty cell always matches"
        n_cells += 1
        tail = found["tail"]
        if tail and not tail.isspace() and _line_end(content, at) < found.end():
            return _Row(end, n_cells, _OPEN)
        at = found.end()
        if content.startswith(delimiter, at):
            at += 1
        elif at == len(content) or content[at] in b"\r\n":
            return _Row(at, n_cells)
        elif _line_end(content, at) == len(content):
            return _Row(len(content), n_cells)  # it swallowed nothing
        else:
            return _Row(end, n_cells, _OPEN)


def _line_end(content: bytes, at: int) -> int:
    found = _BREAK.search(content, at)
    return found.start() if found else len(content)


def _next(content: bytes, end: int) -> int:
    """Return where the row begins that follows one that ends at ``end``."""
    found = _BREAK.match(content, end)
    return found.end() if found else end


def _mended(content: bytes, form: Form) -> tuple[bytes, int, dict[int, str]]:
    """Return a file with an empty row for each that cannot be read.

    Returns
    -------
    mended : bytes
    n_rows : int
        Below the header.
    bad : dict of int to str
        Why rows cannot be read, by row.
    """
    bad: dict[int, str] = {}
    parts: list[memoryview | bytes] = []
    view, kept_from = memoryview(content), 0
    at, expected, line = _below_header(content, form)
    n_rows, counted_to, sound = 0, at, form.row(expected).match
    while at < len(content):
        if content[at] in b"\r\n":  # a blank line is no row
            at = _next(content, at)
            continue
        if (found := sound(content, at)) and found.end() - at <= BLOCK_BYTES:
            n_rows, at = n_rows + 1, found.end()
            continue
        row = _row_at(content, at, form)
        next_at = _next(content, row.end)
        instead = None
        if row.n_cells == 1 < expected and content[at : row.end].isspace():
            instead = b""  # a blank line, too
        else:
            if problem := _problem(row, row.end - at, expected, form):
                line, counted_to = line + _n_breaks(content, counted_to, at), at
                shown = content[at : min(row.end, at + 4 * _SHOWN)].decode(errors="replace")
                bad[n_rows] = f"line {line}: {problem}: {shown[:_SHOWN]}"
                instead = (form.delimiter.encode() * (expected - 1) or b"-") + b"\n"
            n_rows += 1
        if instead is not None:
            parts += [view[kept_from:at], instead]
            kept_from = next_at
        at = next_at
    return b"".join([*parts, view[kept_from:]]), n_rows, bad


def _below_header(content: bytes, form: Form) -> tuple[int, int, int]:
    """Return where the first row begins, how many cells a row has, and the number of its line."""
    if form.names:
        return 0, len(form.names), 1
    at = len(content) - len(content.lstrip(b"\r\n"))
    header = _row_at(content, at, form)
    if header.problem:
        raise ValueError(f"line {1 + _n_breaks(content, 0, at)}: {header.problem}")
    below = _next(content, header.end)
    return below, header.n_cells, 1 + _n_breaks(content, 0, below)


def _n_breaks(content: bytes, start: int, end: int) -> int:
    n_pairs = content.count(b"\r\n", start, end)
    return content.count(b"\n", start, end) + content.count(b"\r", start, end) - n_pairs


def _problem(found: _Row, n_bytes: int, expected: int, form: Form) -> str:
    if found.problem:
        return found.problem
    if n_bytes > BLOCK_BYTES:
        return f"it is longer than {BLOCK_BYTES >> 20} MB"
    if found.n_cells == expected:
        return ""
    cells = f"{found.n_cells} cell{'s' if found.n_cells != 1 else ''}"
    return f"{cells}, where {'--columns names' if form.names else 'the header has'} {expected}"
