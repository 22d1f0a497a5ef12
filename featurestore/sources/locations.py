"""A file or folder, on this machine or behind a URL that fsspec knows (s3://, https://, …)."""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from featurestore.errors import BadSource, MissingExtra

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
MOST_BYTES = 1 << 30  # of one picture, still encoded: no camera makes more, and memory must hold it
_OTHER_KINDS = (
    (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip
_WHEN = ("mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True)
class Location:
    """An absolute path or a URL; a value, whether or not there is anything.

    >>> Location.of("s3://bucket/set/train.csv").name, Location.of("/data/set").parent.text
    ('train.csv', '/data')
    """

    text: str

    @classmethod
    def of(cls, location: str | Path) -> Location:
        """Return the location that a user means; `~`, `..` and ``file://`` are resolved."""
        text = str(location)
        if text.startswith("file://"):
            text = text.removeprefix("file://")
        if is_url(text):
            return cls(text.rstrip("/"))
        return cls(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 - `..` goes as well

    def __str__(self) -> str:
        return self.text

    @property
    def is_url(self) -> bool:
        """Whether fsspec is asked for it."""
        return is_url(self.text)

    @property
    def name(self) -> str:
        """The last part."""
        return posixpath.basename(self.text.partition("?")[0])

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return posixpath.splitext(self.name)[0]

    @property
    def suffix(self) -> str:
        """The ending, lower-cased, with its dot."""
        return posixpath.splitext(self.name)[1].lower()

    @property
    def parent(self) -> Location:
        """The folder that holds it."""
        return Location(posixpath.dirname(self.text))

    def join(self, relative: str) -> Location:
        """Return what lies below; an absolute path or a URL stays what it is."""
        if is_url(relative):
            return Location(relative)
        if self.is_url:
            return Location(f"{self.text}/{relative}")
        return Location(os.path.join(self.text, relative))  # noqa: PTH118 - hot

    def exists(self) -> bool:
        """Whether anything is there."""
        return bool(self._fs.exists(self.text)) if self.is_url else Path(self.text).exists()

    def is_dir(self) -> bool:
        """Whether a folder is there."""
        return bool(self._fs.isdir(self.text)) if self.is_url else Path(self.text).is_dir()

    def open(self) -> Any:
        """Open for reading bytes.

        Raises
        ------
        OSError
            If there is none, or it is no regular file: a FIFO would block, a device never end.
        """
        if self.is_url:
            return self._fs.open(self.text, "rb")
        size_of_regular(self.text)
        return Path(self.text).open("rb")

    def read(self) -> bytes:
        """Return all bytes; raises OSError as `open`, and for more than `MOST_BYTES`."""
        if not self.is_url:
            _check_size(size_of_regular(self.text))
            return Path(self.text).read_bytes()
        content: bytes = self._fs.cat_file(self.text)
        return content

    def read_range(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``.

        Raises
        ------
        OSError
            If the file ends before, or as in `read`.
        """
        _check_size(size)
        if self.is_url:
            content: bytes = self._fs.cat_file(self.text, start=offset, end=offset + size)
        else:
            with Path(self.text).open("rb", buffering=0) as file:
                content = os.pread(file.fileno(), size, offset)
        if len(content) != size:
            raise OSError(f"{self.text} ends before byte {offset + size}")
        return content

    def stat(self) -> tuple[int, int]:
        """Return size in bytes and a stamp that changes with the content: mtime_ns, or of an ETag.

        Raises
        ------
        OSError
            If there is no such file.
        """
        if not self.is_url:
            status = os.stat(self.text)  # noqa: PTH116 - hot
            return status.st_size, status.st_mtime_ns
        info = self._fs.info(self.text)
        return int(info.get("size") or 0), _stamp(info)

    def files(self) -> Iterator[tuple[str, int, int]]:
        """Yield (path relative to here, size, stamp) of every file below; for URLs."""
        root = self._fs._strip_protocol(self.text).rstrip("/")
        for path, info in self._fs.find(self.text, detail=True).items():
            yield path[len(root) :].lstrip("/"), int(info.get("size") or 0), _stamp(info)

    @property
    def _fs(self) -> Any:
        return _file_system(self.text)


def size_of_regular(path: str) -> int:
    """Return the size of a file; raises OSError for anything else, such as a FIFO."""
    status = os.stat(path)  # noqa: PTH116 - hot
    for is_one, what in _OTHER_KINDS:
        if is_one(status.st_mode):
            raise OSError(errno.EINVAL, f"not a file but {what}, which is never opened", path)
    return status.st_size


def check_regular(path: str | Path) -> None:
    """Raise BadSource for a path that is a FIFO, a socket or a device; there may be nothing."""
    if not is_url(str(path)) and Path(path).exists():
        try:
            size_of_regular(str(path))
        except OSError as error:
            raise BadSource(f"{path} is {error.strerror}: write it to a file") from None


def _check_size(n_bytes: int) -> None:
    if n_bytes > MOST_BYTES:
        raise OSError(errno.EFBIG, f"{n_bytes:,} bytes; up to {MOST_BYTES:,} are read of one item")


def is_url(text: str) -> bool:
    """Whether a text is a URL and no path."""
    return _URL.match(text) is not None


def _file_system(url: str) -> Any:
    try:
        return _of_host("/".join(url.split("/", 3)[:3]) if "::" not in url else url)
    except ImportError as error:
        raise MissingExtra(f"{url} needs a package: {error}") from error
    except ValueError as error:
        raise BadSource(f"{url}: {error}; expected a path or a URL that fsspec knows") from error


@lru_cache(maxsize=64)
def _of_host(url: str) -> Any:
    import fsspec

    # Keys and endpoints come from the environment, as each file system reads it.
    return fsspec.core.url_to_fs(url)[0]


def _stamp(info: dict[str, Any]) -> int:
    tag = info.get("ETag") or info.get("etag")
    if tag:
        return int.from_bytes(hashlib.sha256(str(tag).encode()).digest()[:7], "big")
    when = next((info[name] for name in _WHEN if info.get(name) is not None), 0)
    if isinstance(when, datetime):
        return int(when.timestamp() * 1e9)
    if isinstance(when, str):
        try:
            return int(datetime.fromisoformat(when).timestamp() * 1e9)
        except ValueError:
            return int.from_bytes(hashlib.sha256(when.encode()).digest()[:7], "big")
    return int(when * 1e9)
