"""Read vectors and activations straight from Parquet pages, as `shards` writes them.

Arrow decodes the levels of every value (0.3 GB/s on 2 cores). Plain pages without nulls hold their
values side by side, so they can be read into an array. All other pages are left to Arrow.
Pages and their headers: https://parquet.apache.org/docs/file-format/data-pages/, and
parquet.thrift for the numbers of fields; Thrift's compact protocol for how they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_KIND, _SIZE, _PAGE_V2 = 1, 3, 8  # fields of PageHeader; then those of DataPageHeaderV2
_N_VALUES, _N_NULLS, _N_ROWS, _ENCODING, _DEFINITION_BYTES, _REPETITION_BYTES = range(1, 7)
_DATA_PAGE_V2, _PLAIN = 3, 0
_PREFIX_BYTES = 4  # before each binary: its length
_HEADER_BYTES = 256  # a header without statistics takes some 30
# Thrift's compact protocol: types of fields.
_TRUE, _FALSE, _I8, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


class NotPlain(Exception):
    """Arrow should read this."""


def plain_pages(
    path: Path,
    schema: pa.Schema,
    row_group: pq.RowGroupMetaData,
    column: str,
    dim: int,
    *,
    out: NDArray[np.float32] | None = None,
    is_wanted: Callable[[int, int], bool] = lambda first, n: True,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the pages of one row group's column: first row within it, and (n, dim) vectors.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of the file; the column must be a fixed-size list of ``dim`` floats.
    row_group : pyarrow.parquet.RowGroupMetaData
    out : ndarray of shape (n_rows, dim), float32 and contiguous, optional
        Where to read to; else each page has memory of its own.
    is_wanted : callable, optional
        Told of a page's first row and how many follow; others are not read.

    Raises
    ------
    NotPlain
        If Arrow should read it, from the beginning: ``out`` may hold anything.
    OSError
        If the file cannot be read.
    """
    kind = schema.field(column).type
    if not pa.types.is_fixed_size_list(kind):
        raise NotPlain
    if (kind.list_size, kind.value_type) != (dim, pa.float32()):
        raise NotPlain
    n_rows = row_group.num_rows
    chunk = _plain_chunk(row_group, column, n_rows * dim)
    first = 0
    with path.open("rb", buffering=0) as file:
        for page in _pages(file, chunk, n_rows):
            n, n_bytes = page.n_rows, page.n_rows * dim * 4
            if page.n_values * 4 != n_bytes or page.n_bytes != n_bytes:
                raise NotPlain
            if is_wanted(first, n):
                vectors = np.empty((n, dim), np.float32) if out is None else out[first : first + n]
                file.seek(page.at)
                if file.readinto(vectors.reshape(-1).view(np.uint8).data) != n_bytes:
                    raise NotPlain  # cut short: Arrow says what is wrong
                yield first, vectors
            first += n


def binary_places(
    path: Path, row_group: pq.RowGroupMetaData, column: str, n_bytes: int | None
) -> NDArray[np.int64]:
    """Return where the values of a column of binaries lie in a file: first byte, bytes; (n, 2).

    Parameters
    ----------
    n_bytes : int, optional
        Of each value, where all have the same; else each length is read.

    Raises
    ------
    NotPlain
        If Arrow should read it.
    OSError
        If the file cannot be read.
    """
    n_rows = row_group.num_rows
    chunk = _plain_chunk(row_group, column, n_rows)
    found: list[NDArray[np.int64]] = []
    with path.open("rb", buffering=0) as file:
        for page in _pages(file, chunk, n_rows):
            if n_bytes is None:
                sizes = _sizes(file, page)
            else:
                sizes = np.full(page.n_rows, n_bytes, np.int64)
            ends = np.cumsum(sizes + _PREFIX_BYTES)
            if len(sizes) != page.n_rows or ends[-1] != page.n_bytes:
                raise NotPlain
            found.append(np.stack([page.at + ends - sizes, sizes], axis=1))
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def _sizes(file: FileIO, page: _Page) -> NDArray[np.int64]:
    """Return the length of each value of a page, which stands before it; up to the page's end."""
    sizes, at, end = [], page.at, page.at + page.n_bytes
    while at < end:
        file.seek(at)
        sizes.append(int.from_bytes(file.read(_PREFIX_BYTES), "little"))
        at += _PREFIX_BYTES + sizes[-1]
    return np.array(sizes, np.int64)


class _Page(NamedTuple):
    n_rows: int
    n_values: int
    at: int  # where its values begin in the file
    n_bytes: int  # of its values


def _plain_chunk(
    row_group: pq.RowGroupMetaData, column: str, n_values: int
) -> pq.ColumnChunkMetaData:
    """Return a column's chunk of a row group, if its values lie there as they are."""
    chunks = [row_group.column(i) for i in range(row_group.num_columns)]
    chunk = next((one for one in chunks if one.path_in_schema.split(".")[0] == column), None)
    if (
        chunk is None
        or chunk.compression != "UNCOMPRESSED"
        or chunk.has_dictionary_page
        or not {"RLE", "PLAIN"}.issuperset(chunk.encodings)
        or chunk.num_values != n_values
    ):
        raise NotPlain
    return chunk


def _pages(file: FileIO, chunk: pq.ColumnChunkMetaData, n_rows: int) -> Iterator[_Page]:
    """Yield the pages of a chunk, all of plain values without nulls."""
    at, end = chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size
    first = 0
    while first < n_rows:
        try:
            file.seek(at)
            header, n_header = _struct(file.read(_HEADER_BYTES), 0)
            page = header[_PAGE_V2]
            levels = page[_DEFINITION_BYTES] + page[_REPETITION_BYTES]
            n, size = page[_N_ROWS], header[_SIZE] - levels
            is_plain = (
                header[_KIND] == _DATA_PAGE_V2
                and page[_ENCODING] == _PLAIN
                and page[_N_NULLS] == 0
                and 0 < n <= n_rows - first
            )
            one = _Page(n, page[_N_VALUES], at + n_header + levels, size)
        except (KeyError, IndexError, TypeError):
            raise NotPlain from None
        if not is_plain:
            raise NotPlain
        yield one
        first += n
        at = one.at + size
    if at != end:
        raise NotPlain


def _struct(raw: bytes, at: int) -> tuple[dict[int, Any], int]:
    """Return the fields of a struct by number, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while kind := int(raw[at]):
        at += 1
        step, kind = kind >> 4, kind & 15
        if step:
            number += step
        else:
            number, at = _integer(raw, at)
        fields[number], at = _value(raw, at, kind)
    return fields, at + 1


def _value(raw: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, at
    if kind == _I8:
        return int(raw[at]), at + 1
    if kind in (_I16, _I32, _I64):
        return _integer(raw, at)
    if kind == _DOUBLE:
        return None, at + 8
    if kind == _BINARY:
        size, at = _varint(raw, at)
        return None, at + size
    if kind == _STRUCT:
        return _struct(raw, at)
    raise KeyError(kind)  # headers of pages hold no lists


def _integer(raw: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(raw, at)
    return (value >> 1) ^ -(value & 1), at  # zigzag


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = int(raw[at])
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
