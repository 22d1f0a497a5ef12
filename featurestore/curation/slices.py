"""Named slices: sets of items that someone chose, for heads, reports and exports to use.

``slices/<name>.json`` holds the ids and where they come from. A slice stands for the items that
bear its ids now: those that were deleted since are simply not there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from featurestore.errors import BadName, StoreCorrupt, UnknownItem, UnknownSlice, nearest
from featurestore.storage.dataset_folder import DatasetFolder, utc_now
from featurestore.storage.files import (
    json_bytes,
    make_folder,
    matching,
    read_json,
    write_file,
    write_json,
)
from featurestore.storage.remote import ABSENT, RemotePath
from featurestore.storage.store_marker import is_dataset_name


@dataclass(frozen=True)
class Slice:
    """Items under a name."""

    name: str
    item_ids: tuple[str, ...]  # sorted
    created: str  # UTC, ISO 8601
    origin: Mapping[str, Any] = field(default_factory=dict)  # how they were chosen, for people

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the ids; slices of equal ids have equal results."""
        return hashlib.sha256("\0".join(self.item_ids).encode()).hexdigest()


def save_slice(
    folder: DatasetFolder,
    name: str,
    item_ids: Sequence[str],
    *,
    origin: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Slice:
    """Keep a slice under a name.

    Raises
    ------
    BadName
        If the name has other characters than a-z, 0-9, "_" and "-", is taken (and ``overwrite``
        is false), or there are no items.
    UnknownItem
        If one of them is no item.
    """
    if not is_dataset_name(name):
        raise BadName(f"{name!r} is not a slice name: expected a-z, 0-9, '_' and '-'")
    if not item_ids:
        raise BadName(f"slice {name!r} would hold no item: expected one or more")
    made = Slice(name, tuple(sorted(set(item_ids))), utc_now(), dict(origin or {}))
    path = folder.path / "slices" / f"{name}.json"
    erased_since = folder.watch_erasures()
    with folder.locked("slices"):
        # Read within the lock: what is being erased must not be kept here.
        known = set(folder.items.read(["item_id"]).column("item_id").to_pylist())
        absent = [one for one in made.item_ids if one not in known]
        if absent:
            raise UnknownItem(
                f"data set {folder.name!r} has no item {absent[0]!r}: "
                f"{nearest(absent[0], list(known)[:10_000])}"
            )
        if path.exists() and not overwrite:
            raise BadName(f"there is a slice {name!r} in {folder.name!r}: give another name")
        make_folder(path.parent)
        content = json_bytes({"format": 1, **vars(made)}, indent=None)
        if isinstance(path, RemotePath):
            path.write_bytes(content, over=None if overwrite else ABSENT)
        else:
            write_file(path, content)
    if erased_since():  # another machine was erasing
        erase_from_slices(folder, _gone(folder, made.item_ids))
    return made


def _gone(folder: DatasetFolder, item_ids: Iterable[str]) -> set[str]:
    """Return the ids that are not items any more."""
    return set(item_ids).difference(folder.items.read(["item_id"]).column("item_id").to_pylist())


def slices(folder: DatasetFolder) -> list[Slice]:
    """Return the slices of a data set, by name."""
    return [_read(folder, path.stem) for path in matching(folder.path / "slices", "*.json")]


def read_slice(folder: DatasetFolder, name: str) -> Slice:
    """Return a slice by name.

    Raises
    ------
    UnknownSlice
        With the nearest names.
    """
    known = sorted(path.stem for path in (folder.path / "slices").glob("*.json"))
    if name not in known:
        raise UnknownSlice(
            f"data set {folder.name!r} has no slice {name!r}: {nearest(name, known)}"
        )
    return _read(folder, name)


def drop_slice(folder: DatasetFolder, name: str) -> None:
    """Forget a slice; its items stay."""
    path = folder.path / "slices" / f"{name}.json"
    if not is_dataset_name(name) or not path.exists():
        read_slice(folder, name)  # says which there are
    path.unlink(missing_ok=True)


def erase_from_slices(folder: DatasetFolder, item_ids: set[str]) -> None:
    """Delete items from all slices; some may be left empty."""
    with folder.locked("slices"):
        for path in matching(folder.path / "slices", "*.json"):
            try:
                value = read_json(path)
            except StoreCorrupt:
                path.unlink()  # nobody can say that it names none of them
                continue
            kept = [one for one in value["item_ids"] if one not in item_ids]
            if len(kept) < len(value["item_ids"]):
                write_json(path, {**value, "item_ids": kept}, indent=None)


def _read(folder: DatasetFolder, name: str) -> Slice:
    path = folder.path / "slices" / f"{name}.json"
    value = read_json(path)
    try:
        return Slice(name, tuple(value["item_ids"]), value["created"], value["origin"])
    except (KeyError, TypeError) as error:
        raise StoreCorrupt(f"{path} is damaged ({error!r}): delete it") from error
