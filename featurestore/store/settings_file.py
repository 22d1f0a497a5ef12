"""featurestore.toml: what is typed again and again.

It holds names alone: what it says is data, and code that it names is not asked for by that.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurestore.errors import BadName, nearest
from featurestore.terms.specs import LOCAL_DIR

NAME = "featurestore.toml"
KEYS = ("store", "dataset", "encoder", "label", "text", "image", "group", "id")
_MOST_BYTES = 65_536  # it holds eight short values


@dataclass(frozen=True)
class Settings:
    """What a featurestore.toml says."""

    path: Path
    values: Mapping[str, Any]

    @property
    def store(self) -> str | None:
        """The store, relative to the file's folder; None where the file names none."""
        given = self.values.get("store")
        is_url = given is not None and "://" in given
        return given if given is None or is_url else os.path.relpath(self._path(given))

    @property
    def encoder(self) -> str | None:
        """The encoder; a folder in it is relative to the file's."""
        given: str | None = self.values.get("encoder")
        family, marker, place = (given or "").partition(LOCAL_DIR)
        there = self._path(place.partition("#")[0])
        return f"{family}{marker}{self._path(place)}" if marker and there.is_dir() else given

    def is_of(self, store: str) -> bool:
        """Whether the file is about a store: the one that it names, if any."""
        return self.store is None or _same(self.store, store)

    def is_about(self, store: str, dataset: str) -> bool:
        """Whether what it says of columns and encoder holds for a data set of a store."""
        return self.is_of(store) and self.values.get("dataset", dataset) == dataset

    def _path(self, text: str) -> Path:
        return self.path.parent / Path(text).expanduser()


def read_settings(path: Path) -> Settings:
    """Read a featurestore.toml.

    Raises
    ------
    BadName
        If it is no such file; the message says what is wrong with it.
    """
    content = path.read_bytes()
    if len(content) > _MOST_BYTES:
        raise BadName(f'{path} has {len(content):,} bytes: expected a few lines of key = "value"')
    try:
        values = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadName(f"{path} cannot be read: {error}") from None
    for key, value in values.items():
        if key not in KEYS:
            hint = "type --trust instead" if key == "trust" else nearest(key, KEYS, n=len(KEYS))
            raise BadName(f"{path} has an unknown key {key!r}: {hint}")
        texts = value if key == "label" and isinstance(value, list) else [value]
        if not texts or not all(isinstance(one, str) and one for one in texts):
            raise BadName(f"{path}: {key} = {value!r}: expected a text in quotes")
    return Settings(path, values)


def settings_path(store: str | None = None) -> Path | None:
    """Return the file in the working folder, or else that beside a local store."""
    places = [Path.cwd()]
    if store is not None and "://" not in store:
        places.append(Path(store).expanduser().absolute().parent)
    return next((place / NAME for place in places if (place / NAME).is_file()), None)


def settings_of(store: str | None = None) -> Settings | None:
    """Return what the file of `settings_path` says; None where there is none, or a bad one.

    It is for lines to type: a command that reads the file says what is wrong with it.
    """
    path = settings_path(store)
    try:
        return None if path is None else read_settings(path)
    except (OSError, BadName):
        return None


def _same(one: str, other: str) -> bool:
    """Whether two texts name one store."""
    if "://" in one or "://" in other:
        return one.rstrip("/") == other.rstrip("/")
    first, second = (Path(each).expanduser().resolve() for each in (one, other))
    return first == second
