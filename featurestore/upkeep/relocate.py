"""Record a new root for a source whose files were moved."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import BadSource, nearest
from featurestore.sources.locations import Location
from featurestore.sources.opening import lies_in
from featurestore.sources.reading import Reader
from featurestore.storage.dataset_file import DatasetFile
from featurestore.storage.dataset_folder import DatasetFolder

N_SAMPLE = 20


@dataclass(frozen=True)
class Relocated:
    """A source that was moved."""

    source: str
    before: str
    root: str
    n_checked: int  # items that were drawn
    n_same: int  # whose content is there, unchanged


def relocate(
    folder: DatasetFolder, root: str | Path, *, source: str | None = None, seed: int = 0
) -> Relocated:
    """Move the root of a source; nothing is embedded anew.

    Some items are drawn by ``seed`` and read at the new root first.

    Parameters
    ----------
    root : str or Path
        The folder (or URL) that uris are relative to: that of the pictures, or the one that
        holds the table.
    source : str, optional
        Its name; the only one by default.

    Raises
    ------
    BadSource
        If there is no such source, nothing at the new root, or not one of the items drawn.
    """
    with folder.locked("dataset"):
        described = folder.read()
        names = list(described.sources)
        if source is None and len(names) != 1:
            raise BadSource(f"{folder.name!r} has the sources {', '.join(names)}: name one")
        name = names[0] if source is None else source
        if name not in described.sources:
            raise BadSource(f"{folder.name!r} has no source {name!r}: {nearest(name, names)}")
        record = described.sources[name]
        location = Location.of(root)
        if not location.exists():
            raise BadSource(f"there is nothing at {location}: expected what was at {record.root}")
        n_checked, n_same = _compare(folder, name, Reader(record.kind, location.text), seed)
        if n_checked and not n_same:
            raise BadSource(
                f"{location} holds none of {n_checked} items drawn from {name!r}: expected the "
                f"folder that {record.root} was"
            )
        moved = tuple(
            location.text + one[len(record.root) :] if lies_in(one, record.root) else one
            for one in record.locations
        )
        there = replace(record, root=location.text, locations=moved)

        def changed(now: DatasetFile | None) -> DatasetFile:
            now = now or described
            return replace(now, sources={**now.sources, name: there})

        folder.update(changed)
    return Relocated(name, record.root, location.text, n_checked, n_same)


def _compare(folder: DatasetFolder, source: str, read: Reader, seed: int) -> tuple[int, int]:
    """Draw items that are files; return how many, and how many are unchanged at the new root."""
    items = folder.items.read(["source", "uri", "content_hash"])
    is_file = pc.and_(pc.is_valid(items["uri"]), pc.is_valid(items["content_hash"]))
    items = items.filter(pc.and_(pc.equal(items["source"], source), is_file))
    some = np.random.default_rng(seed).permutation(len(items))[:N_SAMPLE]
    n_same = 0
    for row in items.take(pa.array(some)).to_pylist():
        try:
            content = read(row["uri"])
        except (OSError, ValueError):
            continue
        n_same += hashlib.sha256(content).hexdigest() == row["content_hash"]
    return len(some), n_same
