"""From what a user names to a source: a folder, a table, tar shards, or a Hugging Face data set."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from featurestore.errors import BadSource
from featurestore.sources.listing import Listing, Source, SourceOptions
from featurestore.sources.locations import Location, check_regular


def open_source(path: str | Path) -> Source:
    """Tell what kind of source a path, a URL or a ``hf:`` name is.

    Raises
    ------
    BadSource
        If there is nothing there, or nothing that we can read.
    """
    from featurestore.sources.archives import check_uncompressed
    from featurestore.sources.folder import ImageFolder
    from featurestore.sources.hf_datasets import HF_PREFIX, HfDataset, is_saved_dataset
    from featurestore.sources.table import READERS, TableFile
    from featurestore.sources.webdataset import TarShards, has_shards

    text = str(path)
    if text.startswith(HF_PREFIX) and not text.startswith(f"{HF_PREFIX}//"):
        return HfDataset(Location(text))
    location = Location.of(path)
    check_regular(location.text)
    if location.suffix == ".tar":  # one shard, or shard-{000..099}.tar
        return TarShards(location)
    if location.suffix in READERS and (location.is_url or not location.is_dir()):
        if not location.exists():
            raise BadSource(f"{location} does not exist: expected a table{_near(location)}")
        return TableFile(location)
    if not location.is_dir():
        check_uncompressed(location.text)
    if location.is_dir():
        if is_saved_dataset(location):
            return HfDataset(location)
        return TarShards(location) if has_shards(location) else ImageFolder(location)
    if not location.exists():
        raise BadSource(
            f"{location} does not exist: expected a folder of images, a table or tar shards"
            f"{_near(location)}"
        )
    raise BadSource(
        f"{location} is not a source: expected a folder of images, a table "
        f"({', '.join(sorted(READERS))}), tar shards, a saved Hugging Face data set or "
        f"{HF_PREFIX}NAME; got a {location.suffix or 'file without ending'}"
    )


def listings(source: Source, options: SourceOptions) -> Iterator[Listing]:
    """Yield what a source lists; a large one in parts, if it can be read so."""
    from featurestore.sources.boxed import check_boxes
    from featurestore.sources.table import TableFile

    check_boxes(source, options)
    parts = source.parts(options) if isinstance(source, TableFile) else None
    if parts is None:
        yield source.listing(options)
    else:
        yield from parts


def lies_in(one: str, other: str) -> bool:
    """Whether all that a location names is among what another one names.

    >>> lies_in("/a/x-{0..1}.tar", "/a/x-{0..2}.tar"), lies_in("/a/train", "/a")
    (True, True)
    """
    from featurestore.sources.webdataset import expand_braces

    return one.startswith(f"{other}/") or set(expand_braces(one)) <= set(expand_braces(other))


def _near(location: Location) -> str:
    if location.is_url or not location.parent.is_dir():
        return ""
    names = [one.name for one in Path(location.parent.text).iterdir()]
    close = difflib.get_close_matches(location.name, names, n=1)
    return f"; did you mean {location.parent.join(close[0])}?" if close else ""
