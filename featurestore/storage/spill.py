"""Rows and numbers that wait on the disk, in a file without a name: a kill leaves nothing of it."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.storage.exhausted import naming
from featurestore.storage.remote import StorePath
from featurestore.storage.user_cache import local_side


class Spill:
    """Blocks of bytes in a file, which is gone when nobody holds this any more."""

    def __init__(self, near: StorePath) -> None:
        self._near = local_side(near)
        self._file = _unnamed_file(self._near)
        weakref.finalize(self, self._file.close)
        self._end = 0

    def write(self, content: bytes | pa.Buffer) -> tuple[int, int]:
        """Append a block; return where it begins, and its size."""
        view = memoryview(content)
        start = self._end
        with naming(self._near):
            while self._end < start + view.nbytes:
                done = self._end - start
                self._end += os.pwrite(self._file.fileno(), view[done:], self._end)
        return start, view.nbytes

    def read(self, place: tuple[int, int]) -> bytes:
        """Return a block."""
        start, size = place
        parts = []
        while size:  # one call reads 2 GB at most
            parts.append(os.pread(self._file.fileno(), size, start))
            start, size = start + len(parts[-1]), size - len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)


class RowSpill:
    """Tables, in the order in which they come; each has columns of its own."""

    def __init__(self, near: StorePath) -> None:
        self.n_rows = 0
        self._spill = Spill(near)
        self._places: list[tuple[int, int]] = []

    def add(self, rows: pa.Table) -> None:
        """Append rows."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows.combine_chunks())
        self._places.append(self._spill.write(sink.getvalue()))
        self.n_rows += len(rows)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[pa.Table]:
        """Yield the tables."""
        for place in self._places:
            with pa.ipc.open_stream(pa.py_buffer(self._spill.read(place))) as reader:
                yield reader.read_all()


class NumberSpill:
    """Records of numbers, in buckets."""

    def __init__(self, near: StorePath, kind: np.dtype[Any], n_buckets: int) -> None:
        self.n_buckets = n_buckets
        self._kind = kind
        self._spill = Spill(near)
        self._places: list[list[tuple[int, int]]] = [[] for _ in range(n_buckets)]

    def add(self, records: NDArray[Any], buckets: NDArray[np.integer[Any]]) -> None:
        """Put records, (n,), into the buckets that are named for them, (n,)."""
        order = np.argsort(buckets, kind="stable")
        ends = np.cumsum(np.bincount(buckets, minlength=self.n_buckets))
        for places, some in zip(self._places, np.split(records[order], ends[:-1]), strict=True):
            if len(some):
                places.append(self._spill.write(some.tobytes()))

    def read(self, bucket: int) -> NDArray[Any]:
        """Return the records of a bucket, (n,)."""
        content = b"".join(self._spill.read(place) for place in self._places[bucket])
        return np.frombuffer(content, self._kind)


def _unnamed_file(near: Path) -> IO[bytes]:
    """Open a new file of no name in the file system of a folder, which may not exist yet."""
    folders: Sequence[Path] = [near, *near.parents]
    folder = next(one for one in folders if one.is_dir())
    try:
        return tempfile.TemporaryFile(dir=folder, buffering=0)
    except OSError:  # a store that is read-only, whose listing is asked for
        return tempfile.TemporaryFile(buffering=0)
