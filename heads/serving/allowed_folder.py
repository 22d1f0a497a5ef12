"""Files of one folder, by names that somebody sent: never a file outside it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from heads.serving.limits import Refused

_O = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


def read_inside(
    folder: Path, name: str, most_bytes: int, take: Callable[[int], None] = lambda _: None
) -> bytes:
    """Return the content of a file inside a folder.

    The way to it is walked from the folder, name by name, and no link is followed: so nothing
    that is changed meanwhile leads outside.

    Parameters
    ----------
    folder : Path
    name : str
        Relative to the folder, or absolute and beginning with it.
    take : callable
        Told the size before the file is read; may refuse it.

    Raises
    ------
    Refused
        If it is not a plain file inside the folder, or too large.
    """
    parts = _parts(folder, name)
    opened = [os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)]
    try:
        for part in parts[:-1]:
            opened.append(os.open(part, _O | os.O_DIRECTORY, dir_fd=opened[-1]))
        opened.append(os.open(parts[-1], _O | os.O_NONBLOCK, dir_fd=opened[-1]))  # of a pipe, too
        about = os.fstat(opened[-1])
        if not stat.S_ISREG(about.st_mode):
            raise OSError
        if about.st_size > most_bytes:
            raise Refused(413, f"{name!r} is larger than {most_bytes:,} bytes")
        take(about.st_size)
        with os.fdopen(os.dup(opened[-1]), "rb") as file:
            return file.read(about.st_size)  # one that grows meanwhile is cut
    except OSError:  # absent, a link, a folder, not readable: which of them is not to be learned
        raise Refused(404, f"there is not a file {name!r} in the allowed folder") from None
    finally:
        for one in opened:
            os.close(one)


def _parts(folder: Path, name: str) -> tuple[str, ...]:
    """Return the names on the way to a file."""
    path = PurePosixPath(name)
    if path.is_absolute() and path.is_relative_to(folder):
        path = path.relative_to(folder)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name:
        raise Refused(403, f"{name!r} is not inside the allowed folder")
    return path.parts
