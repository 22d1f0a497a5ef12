"""A snapshot of a view as two files that are mapped, not read: derived, may be deleted.

``cache/<slug>/<snapshot>-<digest>/`` holds ``vectors.npy`` and ``items.arrow``, rows sorted by id,
and ``sums.json``, their SHA-256. The digest is of the names of the shards that were read, which
are hashes themselves: of tables restored from a backup, another state has another name. The
folder is written beside its name, synced and renamed: what bears the name is whole.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from uuid import uuid4

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.storage.files import sha256_of

WORTH_BYTES = 8 << 20  # smaller views are read from Parquet in no time
N_KEPT = 2  # snapshots of one view
FILES = ("vectors.npy", "items.arrow")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Cached:
    """Items that have a vector, and the vectors, row by row; neither can be written to."""

    items: pa.Table
    vectors: NDArray[np.float32]
    n_erasures: int = 0  # of the data set, when reading began


def read_cache(place: Path, n_erasures: int = 0) -> Cached | None:
    """Return a snapshot's files, mapped into memory; None where there are none."""
    try:
        vectors = np.load(place / "vectors.npy", mmap_mode="r", allow_pickle=False)
        with pa.memory_map(str(place / "items.arrow")) as file:
            items = pa.ipc.open_file(file).read_all()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        _log.warning("%s cannot be read (%s): read from Parquet instead", place, error)
        return None
    return Cached(items, vectors, n_erasures) if len(items) == len(vectors) else None


def write_cache(place: Path, found: Cached, is_current: Callable[[], bool]) -> Thread | None:
    """Begin to write a snapshot's files in a thread; None where it is not worth it.

    The process ends only when they are written. The arrays must not change meanwhile.
    ``is_current`` is asked last: what was erased meanwhile must not come back.
    """
    if found.vectors.nbytes < WORTH_BYTES or place.exists():
        return None
    thread = Thread(target=_write, args=(place, found, is_current), name="featurestore-cache")
    thread.start()
    return thread


def is_sound(place: Path) -> bool:
    """Whether the files are those that were written."""
    try:
        sums = json.loads((place / "sums.json").read_text(encoding="utf-8"))
        return all(sums[name] == sha256_of(place / name) for name in FILES)
    except (OSError, ValueError, KeyError):
        return False


def _write(place: Path, found: Cached, is_current: Callable[[], bool]) -> None:
    folder = place.parent
    temporary = folder / f".{uuid4().hex}"
    try:
        # Without parents: of a data set that was dropped meanwhile, nothing comes back.
        folder.parent.mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)
        temporary.mkdir()
        with (temporary / "vectors.npy").open("wb") as file:
            np.save(file, found.vectors)
            os.fsync(file.fileno())
        with (temporary / "items.arrow").open("wb") as file:
            with pa.ipc.new_file(file, found.items.schema) as writer:
                writer.write_table(found.items)
            os.fsync(file.fileno())
        sums = {name: sha256_of(temporary / name) for name in FILES}
        (temporary / "sums.json").write_text(json.dumps(sums), encoding="utf-8")
        temporary.rename(place)
        if not is_current():
            shutil.rmtree(place)
        others = [(path.stat().st_mtime_ns, path) for path in folder.iterdir() if path != place]
        for _, path in sorted(others, reverse=True)[N_KEPT - 1 :]:
            shutil.rmtree(path, ignore_errors=True)
    except OSError as error:  # a read-only store, a full disk, another process was first
        _log.info("no cache in %s: %s", folder, error)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
