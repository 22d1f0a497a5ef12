"""Rows of whole activations: written as binaries, and read where they lie in Parquet files."""

from __future__ import annotations

import logging
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.errors import StoreCorrupt
from featurestore.storage.files import make_folder, written_beside
from featurestore.storage.plain_pages import NotPlain, binary_places
from featurestore.storage.remote import StorePath
from featurestore.storage.shards import ACTIVATIONS, opened_shard, write_rows
from featurestore.storage.sums import damage_of, write_sums
from featurestore.terms.activations import HALF

TAP = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field(ACTIVATIONS, pa.binary(), nullable=False),
    ]
)
COPIED = "rows.parquet"  # in the cache: what Arrow alone can read, or lies in an object store
_CHUNK_BYTES = 1 << 30  # Arrow counts the bytes of a chunk in 31 bits
_COPY_ROWS = 64
_N_OPEN = 128  # files at once

_log = logging.getLogger(__name__)


def tap_rows(ids: pa.Array, hashes: pa.Array, arrays: Sequence[NDArray[np.float16]]) -> pa.Table:
    """Make rows of a tap; each item's activations are an array of any shape."""
    sizes = np.array([one.size * HALF.itemsize for one in arrays], np.int64)
    chunks = []
    for start, end in _spans(sizes):
        ends = np.cumsum(sizes[start:end])
        content = np.empty(int(ends[-1]), np.uint8)
        for one, size, at in zip(arrays[start:end], sizes[start:end], ends, strict=True):
            content[at - size : at] = np.ascontiguousarray(one, HALF).reshape(-1).view(np.uint8)
        offsets = np.concatenate([[0], ends]).astype(np.int32)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(content)]
        chunks.append(pa.Array.from_buffers(pa.binary(), end - start, buffers))
    column = pa.chunked_array(chunks, pa.binary())
    return pa.Table.from_arrays([ids, hashes, column], schema=TAP)


def _spans(sizes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield first and last row (exclusive) of chunks that are not too large."""
    start = held = 0
    for row, size in enumerate(sizes.tolist()):
        if row > start and held + size > _CHUNK_BYTES:
            yield start, row
            start, held = row, 0
        held += size
    if start < len(sizes):
        yield start, len(sizes)


class ShardFile:
    """The bytes of one file, read as they are asked for; it may be pickled.

    It stays open once it was read, so that a reader outlives a `vacuum`; of many files, the last
    ones that were opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: _Open | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_file": None}

    def read_into(self, out: NDArray[np.uint8], at: int) -> None:
        """Fill ``out``, (n_bytes,), with the bytes from ``at`` on.

        Raises
        ------
        StoreCorrupt
            If they are not there.
        """
        try:
            file = self._file or self._opened()
            n_read = os.preadv(file.number, [out.data], at) if len(out) else 0
        except OSError as error:
            raise StoreCorrupt(
                f"cannot read {self.path}: {error}; restore it from a backup (an old version may "
                "have lost it to vacuum)"
            ) from error
        if n_read != len(out):
            raise StoreCorrupt(f"{self.path} is cut short: restore it from a backup")

    def _opened(self) -> _Open:
        file = self._file = _Open(self.path)
        _open_files.append(ref(self))
        if len(_open_files) > _N_OPEN:
            oldest = _open_files.popleft()()
            if oldest is not None and oldest is not self:
                oldest._file = None  # who reads from it just now still holds it
        return file


class _Open:
    """An open file, which is closed with its last reader."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):  # else it could not be opened
            os.close(self.number)


_open_files: deque[ref[ShardFile]] = deque()


def open_tap(
    shards: Sequence[StorePath], item_bytes: int | None, copies: Path
) -> tuple[list[ShardFile], NDArray[np.int64]]:
    """Return where the activations in some shards lie.

    Parameters
    ----------
    shards : sequence of path
    item_bytes : int, optional
        Of each item; None where items differ.
    copies : Path
        Folder for copies of shards that cannot be read where they lie: those of an object store,
        and those that another program has packed. Copies of shards that are gone are deleted.

    Returns
    -------
    files : list of ShardFile
    places : ndarray of shape (n_rows, 3)
        Number of the file, first byte, number of bytes of each row, in the order of the shards.

    Raises
    ------
    StoreCorrupt
        If a shard cannot be read, or an item has another number of bytes.
    """
    wanted = {shard.stem for shard in shards}
    for copy in copies.glob("*") if shards and copies.is_dir() else ():
        if copy.name.startswith(".") or copy.name in wanted:
            continue
        if not (shards[0].parent / f"{copy.name}.parquet").exists():  # else another state's
            shutil.rmtree(copy, ignore_errors=True)
    files, places = [], [np.empty((0, 3), np.int64)]
    for number, shard in enumerate(shards):
        try:
            if not isinstance(shard, Path):
                raise NotPlain
            path, found = shard, _places(shard, item_bytes)
        except NotPlain:
            path = _copy(shard, copies / shard.stem)
            try:
                found = _places(path, item_bytes)
            except NotPlain:
                raise StoreCorrupt(
                    f"{shard} holds activations of another size than its view says: restore it "
                    "from a backup"
                ) from None
        files.append(ShardFile(path))
        places.append(np.column_stack([np.full(len(found), number), found]))
    return files, np.concatenate(places)


def _places(path: Path, item_bytes: int | None) -> NDArray[np.int64]:
    with opened_shard(path) as file:
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        found = [binary_places(path, group, ACTIVATIONS, item_bytes) for group in groups]
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def _copy(shard: StorePath, folder: Path) -> Path:
    """Return a plain copy of a shard's activations; made where there is none that is whole."""
    if folder.is_dir():
        try:
            if (damage := damage_of(folder, [COPIED])) is None:
                return folder / COPIED
        except OSError as error:
            damage = str(error)
        _log.warning("%s: %s; made anew", folder, damage)
        shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder.parent)
    with opened_shard(shard, keep=False) as file, written_beside(folder) as temporary:
        temporary.mkdir()
        batches = file.iter_batches(_COPY_ROWS, columns=[ACTIVATIONS])
        schema = pa.schema([TAP.field(ACTIVATIONS)])
        parts = (pa.Table.from_batches([one]).cast(schema) for one in batches)
        write_rows(schema, parts, str(temporary / COPIED))
        write_sums(temporary, [COPIED])
    return folder / COPIED
