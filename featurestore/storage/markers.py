"""A file that exists as long as a run goes on; a killed run leaves it."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

_PREFIX = "featurestore-runs-"


def begin_run() -> IO[bytes]:
    """Make the file of a run, which is gone when it is closed.

    It is locked meanwhile, which ends with the process in any way: a locked one is no leftover.
    """
    # Not a context: it is closed when its run ends.
    marker = tempfile.NamedTemporaryFile(prefix=_PREFIX)  # noqa: SIM115
    with suppress(ImportError, OSError):  # a system without locks: then none counts as left
        from fcntl import LOCK_NB, LOCK_SH, flock

        flock(marker.fileno(), LOCK_SH | LOCK_NB)
    return marker


def left_by_runs(before: float) -> list[Path]:
    """Return the files of killed runs of this user that are older than a time (s since 1970)."""
    found = []
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*")):
        with suppress(ImportError, OSError):  # another user's, held by its run, just gone
            from fcntl import LOCK_EX, LOCK_NB, flock

            with path.open("rb") as file:
                flock(file.fileno(), LOCK_EX | LOCK_NB)
                facts = os.fstat(file.fileno())
            if facts.st_uid == os.getuid() and facts.st_mtime < before:
                found.append(path)
    return found
