"""Whether a source is as it was, from the names, sizes and times of its files alone."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterable

from featurestore.sources.folder import ImageFolder
from featurestore.sources.listing import Source, SourceOptions
from featurestore.sources.table import TableFile
from featurestore.sources.webdataset import TarShards

_SETTLED_S = 2.0  # what is younger may be written again within the same tick of the clock
_File = tuple[str, int, int]  # name, size in bytes, stamp


def stamp_of(source: Source, options: SourceOptions) -> str | None:
    """Return a digest of all that a source is read from; None where only reading it would tell.

    It is another one after another release, which may list items differently.
    """
    files: Iterable[_File] | None = None
    if isinstance(source, TableFile):
        files = [(source.name, *source.location.stat())] if source.holds_all(options) else None
    elif isinstance(source, TarShards):
        files = [(one.text, *one.stat()) for one in source.shards()]
    elif isinstance(source, ImageFolder):
        files = source.files(options)
    if files is None:
        return None
    release = sys.modules["featurestore"].__version__
    digest = hashlib.sha256(f"{release} {source.kind} {options.follow_links}".encode())
    newest = 0
    for name, size, stamp in files:
        digest.update(f"{name}\0{size}\0{stamp}\n".encode())
        newest = max(newest, stamp)
    if not source.location.is_url and time.time_ns() - newest < _SETTLED_S * 1e9:
        return None
    return digest.hexdigest()
