"""A folder in an object store, with as much of `pathlib.Path` as a store needs.

Keys are read and written through obstore, the engine that delta-rs uses too: the same variables
(``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, …) open both; they are read when a bucket is first
opened. No content is kept between two calls. An object store has no folders: a folder exists while
a key lies under it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import BadName, MissingExtra, StoreBusy, StoreUnreachable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SCHEME = "s3://"
ABSENT = ""  # the e-tag of what must not be there
_PATIENCE_S = 20  # with a server that does not answer, or asks to slow down
_REQUEST_S = 120  # that one request may take
_MOST_BYTES = 8 << 20  # that one request asks of a large object


@dataclass(frozen=True)
class Stat:
    """What is known of an object."""

    st_size: int  # bytes
    st_mtime: float  # seconds since 1970, by the server's clock


@dataclass(frozen=True, order=True)
class RemotePath:
    """``s3://bucket/key``; a value, which may be pickled."""

    bucket: str
    key: str = ""  # no slash at either end; "" is the bucket
    known: Stat | None = field(default=None, compare=False, repr=False)  # what a listing said

    @classmethod
    def parse(cls, url: str) -> RemotePath:
        """Read ``s3://bucket/some/folder``.

        Raises
        ------
        BadName
            If it names no bucket, or a folder with an empty, ``.`` or ``..`` part.
        """
        bucket, _, key = url[len(SCHEME) :].rstrip("/").partition("/")
        parts = key.split("/") if key else []
        if not bucket or not {"", ".", ".."}.isdisjoint(parts) or set("?#%") & set(url):
            raise BadName(f"{url!r} names no folder: expected {SCHEME}BUCKET/FOLDER")
        return cls(bucket, key)

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.bucket, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The name's ending, with its dot."""
        return Path(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return Path(self.name).stem

    @property
    def parent(self) -> RemotePath:
        """What it lies in."""
        return RemotePath(self.bucket, self.key.rpartition("/")[0])

    def with_name(self, name: str) -> RemotePath:
        """Return a path beside this one."""
        return self.parent / name

    def is_file(self) -> bool:
        """Whether there is an object of this key."""
        try:
            self._head()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether a key lies under it."""
        with _asked(self):
            batches = _obstore().list(self._client, self._prefix, chunk_size=1)
            return any(len(batch) for batch in batches)

    def exists(self) -> bool:
        """Whether it is a file or a folder."""
        return (bool(self.key) and self.is_file()) or self.is_dir()

    def stat(self) -> Stat:
        """Return size and time; for a path from a listing, as they were listed.

        Raises
        ------
        FileNotFoundError
            If there is no such object.
        """
        return self.known or _stat(self._head())

    def read_bytes(self) -> bytes:
        """Return the content."""
        return self.read_version()[0]

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the content as text."""
        return self.read_bytes().decode(encoding)

    def read_version(self) -> tuple[bytes, str]:
        """Return the content and its e-tag, with which `write_bytes` replaces this version only."""
        with _asked(self):
            answer = _obstore().get(self._client, self.key)
            return bytes(answer.bytes()), str(answer.meta["e_tag"])

    def blocks(self) -> Iterator[memoryview]:
        """Yield the content in parts."""
        size = _stat(self._head()).st_size
        for start in range(0, size, _MOST_BYTES):
            yield self.read_range(start, min(_MOST_BYTES, size - start))

    def open_parts(self) -> io.BufferedReader:
        """Return a file that fetches only the parts that are read."""
        return io.BufferedReader(_Parts(self, self.stat().st_size), 1 << 16)

    def read_range(self, start: int, n_bytes: int) -> memoryview:
        """Return a part of the content."""
        with _asked(self):
            return memoryview(
                _obstore().get_range(self._client, self.key, start=start, length=n_bytes)
            )

    def write_bytes(self, content: bytes, *, over: str | None = None) -> None:
        """Write an object, whole or not at all.

        Parameters
        ----------
        over : str, optional
            The e-tag of what may be replaced, or ``ABSENT``; anything by default.

        Raises
        ------
        StoreBusy
            If something else is there.
        """
        mode: Any = "overwrite" if over is None else "create" if over == ABSENT else None
        try:
            if mode is None:
                self._replace(content, over or "")
            else:
                with _asked(self):
                    _obstore().put(self._client, self.key, content, mode=mode)
        except _refusals():
            raise StoreBusy(f"{self} was written by another process meanwhile") from None

    def _replace(self, content: bytes, e_tag: str) -> None:
        """Replace the version of an e-tag; some gateways compare it without its quotes."""
        for spelling in (e_tag, e_tag.strip('"')):
            try:
                with _asked(self):
                    _obstore().put(self._client, self.key, content, mode={"e_tag": spelling})
                return
            except _refusals():
                if spelling != e_tag or self.is_file() is False or self.read_version()[1] != e_tag:
                    raise
        raise StoreBusy(f"{self} was written by another process meanwhile")

    def upload(self, file: Path) -> None:
        """Write an object from a local file, in parts where it is large."""
        with file.open("rb") as stream, _asked(self):
            _obstore().put(self._client, self.key, stream)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Delete the object."""
        if not missing_ok:
            self._head()
        with _asked(self):
            _obstore().delete(self._client, self.key)

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a key needs no folder."""

    def iterdir(self) -> Iterator[RemotePath]:
        """Yield the files and folders in it; files with their size and time."""
        with _asked(self):
            listing = _obstore().list_with_delimiter(self._client, self._prefix)
        for folder in listing["common_prefixes"]:
            yield RemotePath(self.bucket, folder.rstrip("/"))
        for meta in listing["objects"]:
            if meta["path"] == self.key:
                continue  # a folder that was made as an object of its own
            yield RemotePath(self.bucket, meta["path"], _stat(meta))

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Yield what fits ``a/*/b*.json``; ``**`` is not known."""
        part, _, rest = pattern.partition("/")
        if not set(part) & set("*?["):
            one = self / part
            if rest:
                yield from one.glob(rest)
            elif one.exists():
                yield one
            return
        for one in self.iterdir():
            if fnmatchcase(one.name, part):
                if not rest:
                    yield one
                elif one.known is None:  # a folder
                    yield from one.glob(rest)

    def walk(self) -> Iterator[RemotePath]:
        """Yield all objects under it."""
        with _asked(self):
            for batch in _obstore().list(self._client, self._prefix):
                for meta in batch:
                    yield RemotePath(self.bucket, meta["path"], _stat(meta))

    def copy_to(self, target: RemotePath) -> None:
        """Copy the object within its bucket; nothing comes here."""
        with _asked(self):
            _obstore().copy(self._client, self.key, target.key)

    @property
    def _client(self) -> Any:
        return _client(self.bucket, endpoint())

    @property
    def _prefix(self) -> str | None:
        return f"{self.key}/" if self.key else None

    def _head(self) -> Any:
        with _asked(self):
            return _obstore().head(self._client, self.key)


class _Parts(io.RawIOBase):
    """An object as a file: each read is a request."""

    def __init__(self, path: RemotePath, size: int) -> None:
        self._path, self._size, self._at = path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, out: WriteableBuffer) -> int:
        view = memoryview(out).cast("B")
        n = max(0, min(len(view), self._size - self._at, _MOST_BYTES))
        if n:
            view[:n] = self._path.read_range(self._at, n)
            self._at += n
        return n


StorePath = Path | RemotePath  # where a store, or a part of it, lies


def as_path(path: str | StorePath) -> StorePath:
    """Read a path, or ``s3://bucket/folder``."""
    if isinstance(path, RemotePath) or str(path).startswith(SCHEME):
        return RemotePath.parse(str(path))
    return Path(path)


def delete_all(paths: Sequence[RemotePath]) -> None:
    """Delete objects of one bucket, many at a time."""
    if paths:
        with _asked(paths[0]):
            _obstore().delete(paths[0]._client, [one.key for one in paths])


def endpoint() -> str:
    """Return the address of the server; "" is Amazon's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def delta_options() -> dict[str, str]:
    """Return what delta-rs is told beside what it reads from the environment itself."""
    plain = endpoint().startswith("http://")  # said by the user: no need to say it twice
    options = {"allow_http": "true"} if plain else {}
    if endpoint():
        options["aws_endpoint"] = endpoint()
    patience = {
        "max_retries": "10",
        "retry_timeout": f"{_PATIENCE_S}s",
        "timeout": f"{_REQUEST_S}s",
    }
    return options | patience


@lru_cache(maxsize=8)
def _client(bucket: str, address: str) -> Any:
    from obstore.store import S3Store

    more = {"endpoint": address} if address else {}
    return S3Store(
        bucket,
        client_options={
            "allow_http": address.startswith("http://"),
            "timeout": timedelta(seconds=_REQUEST_S),
        },
        retry_config={"max_retries": 10, "retry_timeout": timedelta(seconds=_PATIENCE_S)},
        **more,  # type: ignore[arg-type]
    )


def _obstore() -> Any:
    try:
        import obstore
    except ImportError:
        raise MissingExtra(
            f"stores at {SCHEME}… need obstore: pip install 'featurestore[s3]'"
        ) from None
    return obstore


def _refusals() -> tuple[type[Exception], ...]:
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    return AlreadyExistsError, PreconditionError


@contextmanager
def _asked(path: RemotePath) -> Iterator[None]:
    """Add the path to a failed request's error; an absent object is FileNotFoundError."""
    _obstore()
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(2, "no such object", str(path)) from None
    except BaseError as error:
        if isinstance(error, _refusals()):
            raise
        raise StoreUnreachable(
            f"{path} at {endpoint() or 'Amazon S3'}: {_reason(error)}; expected a bucket that "
            "AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION open"
        ) from None


def _reason(error: Exception) -> str:
    """Return what a server or the network said, without the Rust around it."""
    return str(error).strip().splitlines()[0]


def _stat(meta: Mapping[str, Any]) -> Stat:
    return Stat(int(meta["size"]), meta["last_modified"].timestamp())
