"""Whether a folder is a store, and which names a data set can have."""

from __future__ import annotations

import re

from featurestore.errors import BadName, NotAStore
from featurestore.storage.files import make_folder, read_json, write_json
from featurestore.storage.remote import StorePath

FORMAT_VERSION = 1
MARKER = "featurestore.json"
LONGEST_NAME = 100  # files bear it, with more around it
_NAME = re.compile(r"[a-z0-9_-]+")


def check_store(path: StorePath) -> bool:
    """Tell whether a store is there; False where there is nothing yet.

    Raises
    ------
    NotAStore
        If the folder holds something else, or a store of a newer format.
    """
    marker = path / MARKER
    if not marker.exists():
        if not path.exists() or (path.is_dir() and not any(map(_is_foreign, path.iterdir()))):
            return False
        if not marker.exists():  # else another process has made the store meanwhile
            raise NotAStore(
                f"{path} is not a store: expected {MARKER} in it; name another folder with "
                "--store, or an empty one for a new store"
            )
    version = read_json(marker).get("format")
    if not isinstance(version, int):
        raise NotAStore(
            f"{marker} names no format version: expected {{'format': {FORMAT_VERSION}}}"
        )
    if version > FORMAT_VERSION:
        raise NotAStore(
            f"{path} has store format {version}; this release reads up to {FORMAT_VERSION}: "
            "pip install --upgrade featurestore"
        )
    return True


def make_store(path: StorePath) -> None:
    """Make an empty store where there is none."""
    if not check_store(path):
        make_folder(path)
        write_json(path / MARKER, {"format": FORMAT_VERSION})


def _is_foreign(path: StorePath) -> bool:
    """Whether a file is not a trace of a store that another process is creating here."""
    return not path.name.startswith((MARKER, f".{MARKER}."))


def is_dataset_name(name: str) -> bool:
    """Whether it has a-z, 0-9, "_" and "-" alone."""
    return _NAME.fullmatch(name) is not None


def check_dataset_name(name: str) -> str:
    """Return a data set name that files and specs can bear.

    Raises
    ------
    BadName
        If it has other characters than a-z, 0-9, "_" and "-".
    """
    if len(name) > LONGEST_NAME:
        raise BadName(
            f"a data set name of {len(name)} characters: expected {LONGEST_NAME} or fewer"
        )
    if not is_dataset_name(name):
        suggestion = re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_")
        hint = f"; try {suggestion!r}" if suggestion else ""
        raise BadName(f"{name!r} is not a data set name: expected a-z, 0-9, '_' and '-'{hint}")
    return name
