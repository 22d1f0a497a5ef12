"""A limit on what a part of the work may take of memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def memory_limit(n_bytes: int | None) -> Iterator[None]:
    """Let this process grow by ``n_bytes`` meanwhile; what asks for more gets a MemoryError.

    It counts for all threads, and holds on Linux alone: elsewhere nothing is limited.
    """
    if n_bytes is None or not sys.platform.startswith("linux"):
        yield
        return
    import resource

    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
    wanted = pages * resource.getpagesize() + n_bytes
    allowed = [limit for limit in (wanted, before, most) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(allowed), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


def memory_bytes() -> int:
    """Return how much memory this process may hope for: the machine's, or its cgroup's limit."""
    import psutil

    limits = [int(psutil.virtual_memory().total)]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(name).read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue  # no such cgroup, or "max"
    return min(limits)
