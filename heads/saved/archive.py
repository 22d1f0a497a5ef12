"""A skops file is a zip archive of JSON and arrays: its sizes and arrays, before it is unpacked."""

from __future__ import annotations

import io
import math
import re
import zipfile

import numpy as np

MOST_BYTES = 8 << 30  # of a file
_MOST_MEMBERS = 100_000
# Unpacked. We do not compress, so that a larger file of ours unpacks to less than its size.
_MOST_UNPACKED = 256 << 20
_NAME = re.compile(r"[\w-][\w.-]*")


def check_archive(raw: bytes) -> None:
    """Make sure that an archive unpacks to a bounded size, and holds no pickled array.

    Raises
    ------
    ValueError
        With what is wrong.
    zipfile.BadZipFile
        If it is no archive.
    """
    _check_members(raw, max(_MOST_UNPACKED, 2 * len(raw)))


def _check_members(raw: bytes, most: int) -> None:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = archive.infolist()
        if len(members) > _MOST_MEMBERS:
            raise ValueError(f"it holds {len(members):,} files, expected {_MOST_MEMBERS:,} at most")
        total = sum(one.file_size for one in members)
        if total > most:
            raise ValueError(
                f"it would unpack to {total / 1e6:,.0f} MB, expected {most / 1e6:,.0f} at most"
            )
        if len({one.filename for one in members}) < len(members):
            raise ValueError("two files in it have one name")
        for one in members:
            if not _NAME.fullmatch(one.filename):
                raise ValueError(f"the file {one.filename[:80]!r} in it has a name that leads out")
            if one.filename.endswith(".npy"):
                _check_array(archive, one)
            elif one.filename.endswith(".npz"):  # a sparse matrix: an archive of arrays
                _check_members(archive.read(one), most - total)


def _check_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Make sure that an array is of numbers or letters, and as long as its header says."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, kind = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, kind = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"{member.filename} is an array of version {version}")
        if kind.hasobject:
            raise ValueError(f"{member.filename} is an array of Python objects, a pickle")
        expected = stream.tell() + math.prod(shape) * kind.itemsize
    if expected != member.file_size or min(shape, default=0) < 0:
        raise ValueError(
            f"{member.filename} has {member.file_size:,} bytes, its header says {expected:,}"
        )
