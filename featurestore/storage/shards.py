"""Shards: Parquet files named by the SHA-256 of their bytes, written whole and never changed."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from featurestore.errors import StoreCorrupt
from featurestore.storage.exhausted import naming
from featurestore.storage.files import publish, temporary_beside, write_file
from featurestore.storage.plain_pages import NotPlain, plain_pages
from featurestore.storage.remote import RemotePath, StorePath
from featurestore.storage.user_cache import local_side

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ROW_GROUP_ROWS = 16_384
VECTOR, ACTIVATIONS = "vector", "activations"  # the column that a view is about
_GROUP_BYTES, _PAGE_BYTES = 32 << 20, 1 << 20  # of activations, which may be large
_FETCH_BYTES = 8 << 20  # of an object store's files, those up to this are fetched whole
_HASH_LENGTH = 64
_DIM = b"featurestore.dim"  # in a file's metadata: the length of each list in ``vector``

_log = logging.getLogger(__name__)


def view_schema(dim: int) -> pa.Schema:
    """Return the schema of a view's shards: vectors as non-null float32[dim]."""
    element = pa.field("element", pa.float32(), nullable=False)
    return pa.schema(
        [
            pa.field("item_id", pa.string(), nullable=False),
            pa.field("content_hash", pa.string(), nullable=False),
            pa.field("vector", pa.list_(element, dim), nullable=False),
        ]
    )


def view_rows(ids: pa.Array, hashes: pa.Array, vectors: NDArray[np.float32]) -> pa.Table:
    """Make rows of a view from an array of shape (n, dim)."""
    schema = view_schema(vectors.shape[1])
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1), pa.float32())
    column = pa.FixedSizeListArray.from_arrays(flat, type=schema.field("vector").type)
    return pa.Table.from_arrays([ids, hashes, column], schema=schema)


def vectors_of(column: pa.ChunkedArray, dim: int) -> NDArray[np.float32]:
    """Return a vector column as an array of shape (n, dim), without a copy for one chunk."""
    blocks = [chunk.flatten().to_numpy(zero_copy_only=True) for chunk in column.chunks]
    if not blocks:
        return np.empty((0, dim), np.float32)
    flat = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    return flat.reshape(-1, dim)


def write_shard(rows: pa.Table, folder: StorePath) -> tuple[str, int]:
    """Write rows as a file; return its name and its size in bytes."""
    with temporary_beside(local_side(folder) / "shard.parquet") as temporary:
        with naming(folder), temporary.open("wb", buffering=0) as file:
            sink = _Hashed(file)
            write_rows(rows.schema, [rows], pa.PythonFile(sink, mode="w"))
        name = f"{sink.digest.hexdigest()}.parquet"
        publish(temporary, folder / name)
    return name, sink.n_bytes


def write_rows(schema: pa.Schema, parts: Iterable[pa.Table], target: str | pa.NativeFile) -> None:
    """Write tables of one schema as a Parquet file."""
    names, group_rows, more = schema.names, ROW_GROUP_ROWS, {}
    as_it_is = {VECTOR}  # neither packed nor in a dictionary: read where it lies
    parts = iter(parts)
    first = next(parts, schema.empty_table())
    if ACTIVATIONS in names and pa.types.is_binary(schema.field(ACTIVATIONS).type):
        as_it_is.add(ACTIVATIONS)  # after each batch it is seen whether a page is full
        one = 1 + first.nbytes // max(1, len(first))
        group_rows = max(1, min(group_rows, _GROUP_BYTES // one))
        more = {"write_batch_size": max(1, min(1024, _PAGE_BYTES // one))}
    with pq.ParquetWriter(
        target,
        schema,
        compression={name: "none" if name in as_it_is else "zstd" for name in names},
        use_dictionary=[name for name in names if name not in as_it_is | {"item_id"}],
        write_statistics=["item_id"],
        data_page_version="2.0",
        # Arrow's own schema says fixed-size lists; Delta's has none, and polars compares.
        store_schema=False,
        **more,
    ) as writer:
        if VECTOR in names and pa.types.is_fixed_size_list(kind := schema.field(VECTOR).type):
            writer.add_key_value_metadata({_DIM.decode(): str(kind.list_size)})
        for part in (first, *parts):
            writer.write_table(part, row_group_size=group_rows)


class _Hashed:
    """A write-only file that hashes what passes, so that a shard is not read again for its name."""

    closed = False

    def __init__(self, file: FileIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.n_bytes = 0

    def write(self, data: ReadableBuffer) -> int:
        view = memoryview(data)
        self.digest.update(view)
        self.n_bytes += view.nbytes
        done = 0
        while done < view.nbytes:  # a raw file may take less than it is given
            done += self.file.write(view[done:])
        return done

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def read_shard(path: StorePath, columns: list[str] | None = None, *, keep: bool = True) -> pa.Table:
    """Read one Parquet file; columns that it lacks are left out.

    Without ``keep``, no copy of a file from an object store stays on this machine.
    """
    with opened_shard(path, keep=keep) as file:
        names = file.schema_arrow.names
        chosen = None if columns is None else [name for name in columns if name in names]
        return _fixed(file.read(chosen), file)


def rows_in(path: StorePath) -> int:
    """Return how many rows one Parquet file has; its rows are not read."""
    with opened_shard(path) as file:
        return int(file.metadata.num_rows)


def shard_schema(path: StorePath) -> pa.Schema:
    """Return the columns of one Parquet file."""
    with opened_shard(path) as file:
        return _schema_of(file)


def _schema_of(file: pq.ParquetFile) -> pa.Schema:
    """Return a shard's columns, vectors as fixed-size lists."""
    schema = file.schema_arrow
    dim = (file.metadata.metadata or {}).get(_DIM)
    if dim is None:  # before November 2026 Arrow's own schema said so
        return schema
    at = schema.get_field_index("vector")
    field = schema.field(at)
    return schema.set(at, field.with_type(pa.list_(field.type.value_field, int(dim))))


def _fixed(rows: pa.Table, file: pq.ParquetFile) -> pa.Table:
    """Return rows of a shard with their vectors as fixed-size lists, without a copy."""
    if "vector" not in rows.column_names:
        return rows
    at = rows.column_names.index("vector")
    field = _schema_of(file).field("vector")
    if rows.schema.field(at).type == field.type:
        return rows
    dim = field.type.list_size
    chunks = []
    for chunk in rows.column(at).chunks:
        if chunk.null_count or (np.diff(chunk.offsets.to_numpy()) != dim).any():
            raise pa.ArrowInvalid(f"expected {dim} numbers in each vector")
        chunks.append(pa.FixedSizeListArray.from_arrays(chunk.flatten(), type=field.type))
    return rows.set_column(at, field, pa.chunked_array(chunks, field.type))


def _source(path: StorePath, *, keep: bool = True) -> Any:
    """Return what Arrow reads a file from.

    Of a large file in an object store, only the parts that are read are fetched. A small one that
    is named by the hash of its bytes is fetched whole and kept on this machine.
    """
    if not isinstance(path, RemotePath):
        return path
    if len(path.stem) != _HASH_LENGTH:
        return path.open_parts()
    near = local_copy(path)
    try:
        content = near.read_bytes()
    except OSError:  # there is none, or it has just been deleted
        content = b""
    if hashlib.sha256(content).hexdigest() == path.stem:
        return pa.BufferReader(content)
    if path.stat().st_size > _FETCH_BYTES:
        return path.open_parts()
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != path.stem:
        raise StoreCorrupt(f"{path} is not what was written (SHA-256): restore it from a backup")
    if keep:
        try:
            write_file(near, content)
            if not path.is_file():  # erased meanwhile
                near.unlink(missing_ok=True)
        except OSError as error:  # a full disk, a home that is read-only
            _log.info("no copy of %s is kept: %s", path, error)
    return pa.BufferReader(content)


def local_copy(path: StorePath) -> Path:
    """Return where a small shard of a store elsewhere is kept on this machine."""
    return local_side(path.parent) / path.name


@contextmanager
def opened_shard(path: StorePath, *, keep: bool = True) -> Iterator[pq.ParquetFile]:
    """Open a shard; without ``keep``, no copy of a remote one stays on this machine."""
    try:
        with pq.ParquetFile(_source(path, keep=keep), memory_map=False) as file:
            yield file
    except (OSError, pa.ArrowInvalid) as error:
        raise StoreCorrupt(
            f"cannot read {path}: {error}; the log names this file, so restore it from a backup "
            "(an old version may have lost it to vacuum)"
        ) from error


def each_block(
    paths: Sequence[StorePath],
    dim: int,
    work: Callable[[int, NDArray[np.float32]], None],
    target: Callable[[int, int], NDArray[np.float32] | None] = lambda first, n: None,
    is_wanted: Callable[[int, int], bool] = lambda first, n: True,
) -> None:
    """Read the vectors of several shards block by block, in threads.

    Parameters
    ----------
    work : callable
        Called with the first row of a block and its vectors, (n, dim).
    target : callable, optional
        Called with a first row and a number of rows; returns an array (n, dim) to read their
        vectors into, for which ``work`` is then not always called, or None.
    is_wanted : callable, optional
        Called likewise; row groups and pages for which it is False are not read.
    """
    groups, start = [], 0
    for path in paths:
        with opened_shard(path) as file:
            for number in range(file.num_row_groups):
                n_rows = file.metadata.row_group(number).num_rows
                if is_wanted(start, n_rows):
                    groups.append((path, number, start))
                start += n_rows

    def read(group: tuple[StorePath, int, int]) -> None:
        path, number, first = group
        with opened_shard(path) as file:
            row_group = file.metadata.row_group(number)
            out = target(first, row_group.num_rows)
            try:
                if not isinstance(path, Path):
                    raise NotPlain  # a request a page would be slow
                for at, page in plain_pages(
                    path, _schema_of(file), row_group, "vector", dim, out=out,
                    is_wanted=lambda at, n: is_wanted(first + at, n),
                ):  # fmt: skip
                    if out is None:
                        work(first + at, page)
            except NotPlain:
                table = file.read_row_group(number, ["vector"], use_threads=False)
                work(first, vectors_of(table.column("vector"), dim))

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(read, groups))


def each_shard(paths: Sequence[StorePath], columns: list[str]) -> Iterator[pa.Table]:
    """Read shards one after another, the next ones ahead in threads."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        ahead = [pool.submit(read_shard, path, columns) for path in paths[:4]]
        for number in range(len(paths)):
            table = ahead.pop(0).result()
            if number + 4 < len(paths):
                ahead.append(pool.submit(read_shard, paths[number + 4], columns))
            yield table


def each_group(path: StorePath) -> Iterator[pa.Table]:
    """Read a shard one row group after another."""
    with opened_shard(path) as file:
        for number in range(file.num_row_groups):
            yield _fixed(file.read_row_group(number), file)
