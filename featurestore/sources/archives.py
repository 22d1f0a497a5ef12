"""Compressed tar files: known by name or by their first bytes, and refused."""

from __future__ import annotations

import re

from featurestore.errors import BadSource

_COMPRESSED_NAME = re.compile(r"\.(?:tar\.(?:gz|bz2|xz|zst)|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
_COMPRESSED = (
    (b"\x1f\x8b", "gunzip"), (b"BZh", "bunzip2"), (b"\xfd7zXZ", "unxz"),
    (b"\x28\xb5\x2f\xfd", "unzstd"),
)  # fmt: skip
MAGIC_BYTES = 8  # enough to know one by
_PROGRAMS = {"gz": "gunzip", "bz": "bunzip2", "xz": "unxz", "zst": "unzstd"}


def is_compressed_tar(name: str) -> bool:
    """Whether a file is named like a compressed tar file."""
    return _COMPRESSED_NAME.search(name) is not None


def check_uncompressed(name: str, begins: bytes = b"") -> None:
    """Refuse a compressed tar file, known by its name or by its first bytes.

    Raises
    ------
    BadSource
        With what to do: pictures are read at their places, and in it they have none.
    """
    named = _COMPRESSED_NAME.search(name)
    how = next((program for magic, program in _COMPRESSED if begins.startswith(magic)), None)
    if named and how is None:
        how = next(program for ending, program in _PROGRAMS.items() if ending in named[0].lower())
    if how is not None:
        raise BadSource(
            f"{name} is compressed, and pictures are read at their places in a shard: unpack it "
            f"to a plain .tar first ({how})"
        )
