"""A snapshot of a view as two files that are mapped, not read: derived, may be deleted.

``cache/<slug>/<snapshot>/`` holds ``vectors.npy`` and ``items.arrow``, rows sorted by id. The
folder is written beside its name, synced and renamed: what bears the name is whole.
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from uuid import uuid4

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.values import Snapshot

WORTH_BYTES = 8 << 20  # smaller views are read from Parquet in no time
N_KEPT = 2  # snapshots of one view

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Cached:
    """Items that have a vector, and the vectors, row by row; neither can be written to."""

    items: pa.Table
    vectors: NDArray[np.float32]


def read_cache(folder: Path, snapshot: Snapshot) -> Cached | None:
    """Return a snapshot's files, mapped into memory; None where there are none."""
    place = folder / str(snapshot)
    try:
        vectors = np.load(place / "vectors.npy", mmap_mode="r", allow_pickle=False)
        with pa.memory_map(str(place / "items.arrow")) as file:
            items = pa.ipc.open_file(file).read_all()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        _log.warning("%s cannot be read (%s): read from Parquet instead", place, error)
        return None
    return Cached(items, vectors) if len(items) == len(vectors) else None


def write_cache(folder: Path, snapshot: Snapshot, found: Cached) -> Thread | None:
    """Begin to write a snapshot's files in a thread; None where it is not worth it.

    The process ends only when they are written. The arrays must not change meanwhile.
    """
    if found.vectors.nbytes < WORTH_BYTES or (folder / str(snapshot)).exists():
        return None
    thread = Thread(target=_write, args=(folder, snapshot, found), name="featurestore-cache")
    thread.start()
    return thread


def _write(folder: Path, snapshot: Snapshot, found: Cached) -> None:
    temporary = folder / f".{uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        with (temporary / "vectors.npy").open("wb") as file:
            np.save(file, found.vectors)
            os.fsync(file.fileno())
        with (temporary / "items.arrow").open("wb") as file:
            with pa.ipc.new_file(file, found.items.schema) as writer:
                writer.write_table(found.items)
            os.fsync(file.fileno())
        temporary.rename(folder / str(snapshot))
    except OSError as error:  # a read-only store, a full disk, another process was first
        _log.info("no cache in %s: %s", folder, error)
        shutil.rmtree(temporary, ignore_errors=True)
        return
    kept = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in kept[N_KEPT:]:
        shutil.rmtree(path, ignore_errors=True)
