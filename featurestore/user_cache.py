"""Small facts worth remembering between runs, in the user's cache folder.

Nothing here is a source of truth: deleting the folder costs a little time and loses nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from uuid import uuid4


def cache_dir() -> Path:
    """Return ``$FEATURESTORE_CACHE``, or ``featurestore`` in the user's cache folder."""
    if chosen := os.environ.get("FEATURESTORE_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "featurestore"


def recall(kind: str, key: str) -> Any:
    """Return what was remembered, or None."""
    return _read(_file(kind)).get(key)


def recall_all(kind: str) -> dict[str, Any]:
    """Return everything of a kind that was remembered."""
    return _read(_file(kind))


def remember(kind: str, key: str, value: Any) -> None:
    """Keep a JSON-able value; a cache folder that cannot be written is no error."""
    path = _file(kind)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, _read(path) | {key: value})
    except OSError:
        return  # read-only home: we only lose the memory


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Write JSON beside its target and rename, so that no reader sees half a file."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")  # of the user's own permissions
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=indent, sort_keys=True, ensure_ascii=False)
            file.write("\n")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _file(kind: str) -> Path:
    return cache_dir() / f"{kind}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
