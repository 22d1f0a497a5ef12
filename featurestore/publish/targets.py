"""What `publish` asks of a vector database, and which ones there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa

from featurestore.errors import BadTarget, MissingExtra, nearest


class Target(Protocol):
    """One table of a vector database, with its mark."""

    where: str  # as people are told: without a password

    def read_mark(self) -> str | None:
        """Return the mark's JSON; None where there is none."""

    def write_mark(self, text: str) -> None:
        """Write the mark's JSON."""

    def count(self) -> int | None:
        """Return the number of rows; None where there is no table."""

    def digests(self) -> Iterator[pa.Table]:
        """Yield the columns ``item_id`` and `rows.DIGEST` of all rows."""

    def prepare(self, schema: pa.Schema) -> None:
        """Make the table, or give it these columns; rows that are there stay."""

    def upsert(self, rows: Iterator[pa.Table]) -> None:
        """Write rows; each takes the place of the row with its id."""

    def delete(self, rows: pa.Table) -> None:
        """Delete rows, given as `digests` yields them."""

    def purge(self) -> str:
        """Take what was deleted or replaced out of the database's files, too; say what was done."""

    def type_next(self) -> str:
        """Return a line of Python that searches the table for the vector ``query``."""


Opener = Callable[[str, str], AbstractContextManager[Target]]


def _kinds() -> dict[str, tuple[str, str]]:
    """Return name → module with ``opened(address, table)``, and its extra."""
    return {
        "lancedb": ("featurestore.publish.lance", "lancedb"),
        "pgvector": ("featurestore.publish.postgres", "pgvector"),
        "qdrant": ("featurestore.publish.qdrant", "qdrant"),
    }


def open_target(address: str, table: str) -> AbstractContextManager[Target]:
    """Open a table of a vector database: ``lancedb:PATH``, ``pgvector:URL``, ``qdrant:URL``.

    Raises
    ------
    BadTarget
        For another address.
    MissingExtra
        If the package of that database is not installed.
    """
    kind, colon, place = address.partition(":")
    kinds = _kinds()
    if not (colon and place and kind in kinds):
        raise BadTarget(
            f"cannot publish to {without_password(address)!r}: expected lancedb:FOLDER, "
            "pgvector:postgresql://USER@HOST/DATABASE or qdrant:http://HOST:6333 "
            f"({nearest(kind, kinds)})"
        )
    module, extra = kinds[kind]
    try:
        opened: Opener = import_module(module).opened
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{kind}: needs the package {error.name}: pip install 'featurestore[{extra}]'"
        ) from None
    return opened(place, table)


_SECRET = re.compile(r"(?i)\b(ssl)?pass(word|file)\s*=\s*('(\\.|[^'\\])*'|\S+)\s*")


def without_password(address: str) -> str:
    """Return an address as people may read it.

    >>> without_password("pgvector:postgresql://ann:secret@db/photos")
    'pgvector:postgresql://ann@db/photos'
    """
    kind, colon, place = address.partition(":")
    parts = urlsplit(place)
    if "@" in parts.netloc:
        user, _, host = parts.netloc.rpartition("@")
        parts = parts._replace(netloc=f"{user.partition(':')[0]}@{host}")
    if parts.scheme and parts.netloc:
        place = urlunsplit(parts._replace(query="", fragment=""))
    elif "://" in place:  # a socket: what PostgreSQL takes behind the "?" may be a password
        place = place.partition("?")[0]
    elif kind == "pgvector":  # keywords and values
        place = _SECRET.sub("", place).strip()
    return f"{kind}{colon}{place}"
