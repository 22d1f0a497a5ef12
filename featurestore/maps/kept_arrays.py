"""Arrays that follow from a view's vectors, row by row: made once a snapshot, kept, deletable.

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
from featurestore.store.view import View

N_KEPT = 4  # of one kind and view: snapshots, and slices of them

_log = logging.getLogger(__name__)
Arrays = Mapping[str, NDArray[Any]]


def place_of(view: View, kind: str) -> Path:
    """Return the file that keeps a kind of arrays for what the view is now."""
    name = f"{view.snapshot}-{view.state}.npz"
    return view.dataset.folder.local / "cache" / kind / view.slug / name


def derive(
    view: View,
    kind: str,
    make: Callable[[], Arrays],
    *,
    is_final: Callable[[], bool] = lambda: True,
) -> Arrays:
    """Return what was kept, else make it, and keep it if it is final.

    The view must be pinned (`View.now`), so that what is made fits the name it is kept under.

    A store that cannot be written loses only the time.
    """
    place = place_of(view, kind)
    found = kept(place)
    if found is not None:
        return found
    erased_since = view.dataset.folder.watch_erasures()
    made = make()
    if not is_final():
        return made
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(place) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **made)
        if erased_since():  # what was erased meanwhile must not come back
            place.unlink(missing_ok=True)
        others = sorted(place.parent.glob("[!.]*.npz"), key=lambda one: one.stat().st_mtime_ns)
        for path in others[:-N_KEPT]:
            path.unlink(missing_ok=True)
    except OSError as error:
        _log.info("%s is not kept: %s", place, error)
    return made


def is_kept(view: View, kind: str) -> bool:
    """Tell whether arrays were kept, whole as far as their directory tells."""
    return zipfile.is_zipfile(place_of(view, kind))


def kept(place: Path) -> Arrays | None:
    """Return the arrays in a file; None where there is none, or a damaged one."""
    try:
        with place.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        _log.warning("%s cannot be read (%s): made anew", place, error)
        return None
