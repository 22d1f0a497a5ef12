"""From a uri, as a listing names it, to the bytes of an image.

Files and tar members are read by many threads at once, in any order; columns in small batches.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

from featurestore.errors import FeatureStoreError
from featurestore.sources.locations import Location, is_url
from featurestore.sources.uris import MEMBER, VALUE, image_bytes, parse_value_uri
from featurestore.terms.boxes import boxed, split_box

# Errors that a second try would not change.
_FINAL = (FileNotFoundError, IsADirectoryError, PermissionError, ValueError, FeatureStoreError)
_WAITS_S = (0.5, 2.0)  # before a read over a network is tried again
_logger = logging.getLogger(__name__)
_BATCH_ROWS = 16
_KEPT_BATCHES = 24  # of a column of bytes: threads ask for rows that lie close together


@dataclass(frozen=True)
class Reader:
    """The function from a uri to its bytes, for a source of a kind and root.

    It raises OSError or ValueError for what cannot be read.
    """

    kind: str
    root: str

    @property
    def is_remote(self) -> bool:
        """Whether bytes come over a network."""
        return is_url(self.root)

    def __call__(self, uri: str) -> bytes:
        """Return the bytes; what comes over a network is asked for again where it fails."""
        if not (self.is_remote or is_url(uri)):
            return self._read(uri)
        for wait_s in _WAITS_S:
            try:
                return self._read(uri)
            except _FINAL:
                raise
            except Exception as error:  # file systems raise what they like for a lost connection
                if _is_final_answer(error):
                    raise
                _logger.info("%s: %s; again in %s s", uri, error, wait_s)
                time.sleep(wait_s)
        return self._read(uri)

    def _read(self, uri: str) -> bytes:
        try:
            return self._bytes(uri)
        except KeyError as error:  # a split or a column
            raise ValueError(f"there is no {error} any more") from None
        except IndexError as error:  # a row
            raise ValueError(str(error)) from None

    def _bytes(self, uri: str) -> bytes:
        uri, box = split_box(uri)
        picture = self._picture(uri)
        return picture if box is None else boxed(picture, box)

    def _picture(self, uri: str) -> bytes:
        if self.kind == "datasets":
            from featurestore.sources.hf_datasets import read_value

            return read_value(self.root, *parse_value_uri(uri))
        root = Location(self.root)
        if self.kind == "webdataset" and (member := MEMBER.fullmatch(uri)):
            shard, offset, size = member.groups()
            return root.join(shard).read_range(int(offset), int(size))
        if self.kind == "table" and ".parquet#" in uri.lower() and VALUE.fullmatch(uri):
            table, column, row = parse_value_uri(uri)
            file = root.join(table)
            state = (0, 0) if file.is_url else file.stat()
            return _column(file, column, state).read(row, file.parent)
        return root.join(uri).read()


def _is_final_answer(error: Exception) -> bool:
    """Whether it is a final HTTP error (403, 410, …), which is not tried again."""
    status = getattr(error, "status", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)


class _Column:
    """One column of a Parquet file, read forwards in small batches; memory stays flat."""

    def __init__(self, file: Location, column: str) -> None:
        import pyarrow.parquet as pq

        source = file.open() if file.is_url else file.text
        self.file = pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
        self.column = column
        self.lock = Lock()
        groups = [self.file.metadata.row_group(i) for i in range(self.file.num_row_groups)]
        self.starts = [0]
        for group in groups:
            self.starts.append(self.starts[-1] + group.num_rows)
        self._forget()

    def _forget(self) -> None:
        self.kept: deque[tuple[int, Any]] = deque(maxlen=_KEPT_BATCHES)  # (first row, values)
        self.batches: Any = None
        self.next_row = 0

    def read(self, row: int, folder: Location) -> bytes:
        with self.lock:
            for first, values in self.kept:
                if first <= row < first + len(values):
                    return image_bytes(values[row - first].as_py(), folder)
            if not 0 <= row < self.starts[-1]:
                raise ValueError(f"no row {row}: the table has {self.starts[-1]}")
            group = max(i for i, start in enumerate(self.starts[:-1]) if start <= row)
            if self.batches is None or row < self.next_row or self.starts[group] > self.next_row:
                self._seek(group)
            while True:
                batch = next(self.batches).column(0)
                self.kept.append((self.next_row, batch))
                first, self.next_row = self.next_row, self.next_row + len(batch)
                if row < self.next_row:
                    return image_bytes(batch[row - first].as_py(), folder)

    def _seek(self, group: int) -> None:
        self._forget()
        self.next_row = self.starts[group]
        self.batches = self.file.iter_batches(
            _BATCH_ROWS, list(range(group, self.file.num_row_groups)), [self.column]
        )


@lru_cache(maxsize=4)
def _column(file: Location, column: str, state: tuple[int, int]) -> _Column:
    """Open a column; a new ``state``, (size, stamp), opens it again."""
    return _Column(file, column)


def reason_of(error: Exception) -> str:
    """Return why a read failed: what the system says, else the message, else the error's type."""
    said = error.strerror if isinstance(error, OSError) else None
    return said or str(error) or type(error).__name__
