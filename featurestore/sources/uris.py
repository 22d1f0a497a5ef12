"""What a uri of a listing names, relative to the root of its source.

A path; ``shard.tar#512+965``, bytes 512 to 1477 of a tar file; or ``table.parquet#image[17]``, a
value of a column. A box of a picture has ``#xywh=10,20,30,40`` behind it (`terms.boxes`).
"""

from __future__ import annotations

import posixpath
import re

from featurestore.sources.locations import Location, is_url

MEMBER = re.compile(r"(.+\.tar)#(\d+)\+(\d+)", re.IGNORECASE)
VALUE = re.compile(r"(.*)#(.+)\[(\d+)\]")


def member_uri(shard: str, offset: int, size: int) -> str:
    """Name the bytes of a member of an uncompressed tar file."""
    return f"{shard}#{offset}+{size}"


def value_uri(table: str, column: str, row: int) -> str:
    """Name the value of a column of images."""
    return f"{table}#{column}[{row}]"


def parse_value_uri(uri: str) -> tuple[str, str, int]:
    """Return the table (or split), column and row that a uri names."""
    match = VALUE.fullmatch(uri)
    if match is None:
        raise ValueError(f"{uri!r} names no value of a data set")
    table, column, row = match.groups()
    return table, column, int(row)


def image_bytes(value: object, folder: Location) -> bytes:
    """Return the bytes of a stored image: bytes, or a struct of bytes and path.

    Raises
    ------
    ValueError
        If there are none.
    """
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
        if content is None and path:
            inside = posixpath.normpath(path)
            if is_url(path) or inside.startswith(("/", "..")):  # data from elsewhere names it
                raise ValueError(f"the image's path leaves the folder of its table: {path}")
            return folder.join(inside).read()
        value = content
    if not isinstance(value, bytes):
        raise ValueError("no image in this row")
    return value
