"""Whether an error says that the disk is full or that memory has run out: libraries differ."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

_DISK = (errno.ENOSPC, errno.EDQUOT)
# numpy counts what it wrote and does not say why that was less; others wrap the system's words.
_DISK_SAID = re.compile(
    r"No space left on device|Disk quota exceeded|^\d+ requested and \d+ written"
)
_MEMORY_SAID = re.compile(
    r"bad_alloc|out of memory|not enough memory|(can.?t|cannot|unable to|failed to) allocate"
    r"|failed to (map segment|spawn thread|launch worker)|can't (start new|spawn worker) thread"
    r"|pthread_create",
    re.IGNORECASE,
)


def is_full_disk(error: BaseException) -> bool:
    """Whether there is no room on a disk, or no more of it for this user."""
    is_known = isinstance(error, OSError) and error.errno in _DISK
    return is_known or _DISK_SAID.search(str(error)) is not None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there is no memory, of this machine or of a device, or no room for a thread."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryException":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # A PanicException of Rust is no Exception; a library that cannot be mapped is an ImportError.
    return _MEMORY_SAID.search(str(error)) is not None


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those that it came from."""
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        yield now
        now = now.__cause__ or now.__context__


@contextmanager
def naming(path: object) -> Iterator[None]:
    """Turn any error of a full disk into an OSError that names what was being written."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not is_full_disk(error) or getattr(error, "filename", None):
            raise
        number = getattr(error, "errno", None)
        number = number if number in _DISK else errno.ENOSPC
        raise OSError(number, os.strerror(number), str(path)) from error
