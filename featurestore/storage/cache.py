"""A snapshot of a view as two memory-mapped files; derived, so it may be deleted.

``cache/<slug>/<snapshot>-<digest>/`` holds ``vectors.npy`` and ``items.arrow``, rows sorted by id,
and `sums`. The digest is of the names of the shards that were read, which
are hashes themselves: after a backup is restored, the same versions may name other shards. The
folder is written beside its target and renamed, so it is never half written.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from threading import enumerate as enumerate_threads

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.storage.files import written_beside
from featurestore.storage.sums import damage_of, write_sums

WORTH_BYTES = 8 << 20  # smaller views are read from Parquet in no time
N_KEPT = 2  # snapshots of one view
FILES = ("vectors.npy", "items.arrow")

_THREAD = "featurestore-cache"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Cached:
    """Items that have a vector, and their vectors row by row; both are read-only."""

    items: pa.Table
    vectors: NDArray[np.float32]  # (n, dim)
    erased_since: Callable[[], bool] = lambda: False  # whether items were erased since the read


def read_cache(folder: Path, erased_since: Callable[[], bool] = lambda: False) -> Cached | None:
    """Return a snapshot's files, mapped into memory; None where there are none.

    Files that are not what was written are deleted, with a word: they are made anew.
    """
    try:
        reason = damage_of(folder, FILES)
        if reason is None:
            vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
            with pa.memory_map(str(folder / "items.arrow")) as file:
                items = pa.ipc.open_file(file).read_all()
            return Cached(items, vectors, erased_since)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        reason = str(error)
    _log.warning("%s: %s; read from Parquet instead, and made anew", folder, reason)
    shutil.rmtree(folder, ignore_errors=True)
    return None


def write_cache(folder: Path, cached: Cached) -> Thread | None:
    """Begin to write a snapshot's files in a thread; None where it is not worth it.

    The process ends only when they are written. The arrays must not change meanwhile.
    """
    if cached.vectors.nbytes < WORTH_BYTES or folder.exists():
        return None
    thread = Thread(target=_write, args=(folder, cached), name=_THREAD)
    thread.start()
    return thread


def wait_until_written() -> None:
    """Wait for caches that are being written, before their store is deleted."""
    for thread in enumerate_threads():
        if thread.name == _THREAD:
            thread.join()


def fill_cache(
    folder: Path, fill: Callable[[Path], None], erased_since: Callable[[], bool]
) -> Cached | None:
    """Let ``fill`` write a snapshot's files in parts; return them, mapped, or None without room."""
    made: list[Cached | None] = []
    _put(folder, fill, erased_since, lambda: made.append(read_cache(folder, erased_since)))
    return made[0] if made else None


def _write(folder: Path, cached: Cached) -> None:
    def fill(temporary: Path) -> None:
        np.save(temporary / "vectors.npy", cached.vectors)
        with pa.ipc.new_file(str(temporary / "items.arrow"), cached.items.schema) as writer:
            writer.write_table(cached.items)

    _put(folder, fill, cached.erased_since)


def _put(
    folder: Path,
    fill: Callable[[Path], None],
    erased_since: Callable[[], bool],
    then: Callable[[], object] = lambda: None,
) -> None:
    of_view = folder.parent
    try:
        # Without parents: a data set that was dropped meanwhile must not come back.
        of_view.parent.mkdir(exist_ok=True)
        of_view.mkdir(exist_ok=True)
        with written_beside(folder, over=False) as temporary:  # another process's is as good
            temporary.mkdir()
            fill(temporary)
            write_sums(temporary, FILES)
        then()
        if erased_since():
            shutil.rmtree(folder)
        others = [(path.stat().st_mtime_ns, path) for path in of_view.iterdir() if path != folder]
        for _, path in sorted(others, reverse=True)[N_KEPT - 1 :]:
            shutil.rmtree(path, ignore_errors=True)
    except (OSError, MemoryError) as error:  # a read-only store, a full disk
        _log.info("no cache in %s: %s", of_view, error)
