"""Small facts worth remembering between runs, in the user's cache folder.

Nothing here is a source of truth: deleting the folder costs a little time and loses nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from featurestore.storage.files import write_json
from featurestore.storage.remote import RemotePath, StorePath, endpoint


def cache_dir() -> Path:
    """Return ``$FEATURESTORE_CACHE``, or ``featurestore`` in the user's cache folder."""
    if chosen := os.environ.get("FEATURESTORE_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "featurestore"


def local_side(path: StorePath) -> Path:
    """Return the folder of this machine for files derived from a part of a store.

    For a store on this machine it is ``path`` itself; for an object store it is a folder in the
    user's cache, which may be deleted.
    """
    if not isinstance(path, RemotePath):
        return path
    where = hashlib.sha256(f"{endpoint()} {path.bucket}".encode()).hexdigest()[:12]
    below = Path("stores", f"{path.bucket}-{where}", *path.key.split("/"))
    try:
        return _made(cache_dir() / below)
    except OSError:  # a read-only home
        return _made(Path(tempfile.gettempdir(), f"featurestore-{os.getuid()}") / below)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def recall(kind: str, key: str) -> Any:
    """Return what was remembered, or None."""
    return _read(_file(kind)).get(key)


def recall_all(kind: str) -> dict[str, Any]:
    """Return everything of a kind that was remembered."""
    return _read(_file(kind))


def remember(kind: str, key: str, value: object) -> None:
    """Keep a JSON value; if the cache folder cannot be written, nothing happens."""
    path = _file(kind)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, _read(path) | {key: value})
    except OSError:
        return  # read-only home: we only lose the memory


def _file(kind: str) -> Path:
    return cache_dir() / f"{kind}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
