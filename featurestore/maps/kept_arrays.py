"""Arrays computed from a view's vectors: made once a snapshot, kept in files, deletable.

``cache/<kind>/<slug>/<snapshot>-<digest>.npz``; the rows are those of `View.load`.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.storage.files import written_beside
from featurestore.storage.sums import damage_of_zip
from featurestore.store.view import View

N_KEPT = 4  # of one kind and view: snapshots, and slices of them

_log = logging.getLogger(__name__)
Arrays = Mapping[str, NDArray[Any]]


def path_of(view: View, kind: str) -> Path:
    """Return the file that keeps a kind of arrays for what the view is now."""
    name = f"{view.snapshot}-{view.state}.npz"
    return view.dataset.folder.local / "cache" / kind / view.slug / name


def derive(
    view: View,
    kind: str,
    make: Callable[[], Arrays],
    *,
    is_final: Callable[[], bool] = lambda: True,
    must_keep: bool = False,
) -> Arrays:
    """Return what was kept, else make it, and keep it if it is final.

    The view must be pinned (`View.now`), so that the arrays fit the name of their file. Where
    the store cannot be written, they are made again the next time, or with ``must_keep`` OSError
    is raised.
    """
    path = path_of(view, kind)
    found = kept(path)
    if found is not None:
        return found
    erased_since = view.dataset.folder.watch_erasures()
    made = make()
    if not is_final():
        return made
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **made)
        if erased_since():  # what was erased meanwhile must not come back
            path.unlink(missing_ok=True)
        all_kept = sorted(path.parent.glob("[!.]*.npz"), key=lambda file: file.stat().st_mtime_ns)
        for old in all_kept[:-N_KEPT]:
            old.unlink(missing_ok=True)
    except OSError as error:
        if must_keep:
            raise
        _log.info("%s is not kept: %s", path, error)
    return made


def is_kept(view: View, kind: str) -> bool:
    """Whether arrays are kept, in a file whose zip directory is whole."""
    return zipfile.is_zipfile(path_of(view, kind))


def kept(path: Path) -> Arrays | None:
    """Return the arrays in a file; None where there is none, or a damaged one."""
    try:
        if (damage := damage_of_zip(path)) is not None:
            raise ValueError(damage)
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, KeyError) as error:
        _log.warning("%s cannot be read (%s): made anew", path, error)
        return None
