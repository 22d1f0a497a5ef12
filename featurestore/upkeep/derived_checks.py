"""Whether what was derived from the tables is what was written: caches, indexes, maps, runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from featurestore.errors import StoreCorrupt
from featurestore.search.index_files import check_index
from featurestore.storage.cache import FILES
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.files import matching, read_sealed
from featurestore.storage.remote import StorePath
from featurestore.storage.sums import damage_of, damage_of_zip


def damaged_files(
    folder: DatasetFolder, infos: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[StorePath, str]]:
    """Yield each damaged file or folder, and what is wrong with it; ``infos`` are of the views."""
    caches = folder.local / "cache"
    for cached in sorted(caches.glob("*/[0-9]*-*")):
        if cached.is_dir() and (damage := _damage_of_cache(cached)) is not None:
            yield cached, f"{damage}: delete the folder"
    for arrays in sorted(caches.glob("*/*/[!.]*.npz")):
        if (damage := damage_of_zip(arrays)) is not None:
            yield arrays, f"{damage}: delete it, it is made anew"
    for slug, info in infos.items():
        index = folder.local / "indexes" / slug
        if (damage := check_index(index, info["dim"])) is not None:
            yield index, damage
    results = sorted((caches / "heads").glob("[!.]*.json"))
    for path in [*results, *matching(folder.path / "runs", "*.json")]:
        try:
            read_sealed(path)
        except StoreCorrupt as error:
            if path.exists():
                yield path, str(error)


def _damage_of_cache(folder: Path) -> str | None:
    try:
        return damage_of(folder, FILES, anew=True)
    except OSError as error:
        return str(error) if folder.exists() else None  # replaced meanwhile
