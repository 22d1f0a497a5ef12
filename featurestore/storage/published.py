"""Where a data set was published, so that an erasure can say where rows still are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from featurestore.errors import StoreCorrupt
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.files import json_bytes, read_json, rewrite

_FILE = "published.json"


@dataclass(frozen=True)
class Place:
    """A table of a vector database."""

    target: str  # without a password
    table: str
    encoder: str  # its spec


def note_published(folder: DatasetFolder, place: Place) -> None:
    """Note that rows go to a place."""
    if place in published(folder):
        return

    def with_place(now: bytes | None) -> bytes:
        known = [] if now is None else json.loads(now)["places"]
        return json_bytes({"places": [*known, asdict(place)]})

    with folder.locked("published"):
        rewrite(folder.path / _FILE, with_place)


def published(folder: DatasetFolder) -> list[Place]:
    """Return where rows went, oldest first."""
    path = folder.path / _FILE
    if not path.is_file():
        return []
    try:
        return [Place(**one) for one in read_json(path)["places"]]
    except (KeyError, TypeError) as error:
        raise StoreCorrupt(f"{path} is damaged: {error}") from None
