"""Images in a folder: class folders become labels, folders named train, val or test splits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from featurestore.errors import BadSource
from featurestore.sources import (
    LISTING,
    SPLITS,
    Listing,
    SourceOptions,
    canonical_split,
    checked,
    evaluate_group,
)
from featurestore.values import Modality

IMAGE_ENDINGS = frozenset(
    {
        ".bmp",
        ".gif",
        ".jfif",
        ".jpeg",
        ".jpg",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    }
)


@dataclass(frozen=True)
class ImageFolder:
    """A folder tree of images.

    A folder that is itself named like a split (``cifar10/train``) keeps that name in its ids
    and its split, so that embedding ``cifar10/train`` and then ``cifar10`` means the same items.
    """

    location: Path

    kind = "folder"

    @property
    def root(self) -> Path:
        """The folder that uris are relative to."""
        is_split = self.location.name.lower() in SPLITS
        return self.location.parent if is_split else self.location

    @property
    def name(self) -> str:
        """The name of the root folder."""
        return self.root.name

    def listing(self, options: SourceOptions) -> Listing:
        """List the images below the folder, sorted by path."""
        for flag in ("image", "text", "id", "split", "columns"):
            if getattr(options, flag) is not None:
                raise BadSource(
                    f"--{flag} names a column of a table, but {self.location} is a folder"
                )
        if options.label not in (None, ("label",)):
            raise BadSource(
                f"--label names a column of a table, but {self.location} is a folder: "
                "its class folders are its labels"
            )
        files = sorted(_images(self.location, str(self.root)))
        parts = [Path(uri).parts[:-1] for uri, _, _ in files]
        splits = [_split_of(folders) for folders in parts]
        labels = [_label_of(folders) for folders in parts]
        uris = [uri for uri, _, _ in files]
        columns = {
            "item_id": uris,
            "uri": uris,
            "text": [None] * len(files),
            "size": [size for _, size, _ in files],
            "mtime_ns": [mtime_ns for _, _, mtime_ns in files],
            "split": splits,
            "group": [None] * len(files),
        }
        rows = checked(pa.table(columns, schema=LISTING), self)
        labelled = any(label is not None for label in labels)
        if labelled:
            rows = rows.append_column("label", pa.array(labels, pa.string()))
        if options.group is not None:
            rows = evaluate_group(rows, options.group)
        return Listing(rows, Modality.IMAGE, ("label",) if labelled else ())


def _images(folder: Path, root: str) -> Iterator[tuple[str, int, int]]:
    """Yield (path relative to the root, size, mtime_ns) of each image, hidden ones left out.

    Links to folders are followed, each folder once. A name that is no text is given with
    its bytes escaped: it cannot be opened and becomes a failure of that one item.
    """
    pending = [str(folder)]
    seen = {os.path.realpath(folder)}
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError as error:
            raise BadSource(f"cannot list {error.filename}: {error.strerror}") from None
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else None
                if real is None or real not in seen:  # a link to a parent would never end
                    seen |= {real} if real else set()
                    pending.append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_ENDINGS:  # noqa: PTH122 - hot
                try:
                    status = entry.stat()
                    size, mtime_ns = status.st_size, status.st_mtime_ns
                except OSError:
                    size, mtime_ns = 0, 0  # a dangling link: a failure when it is read
                relative = entry.path[len(root) :].lstrip(os.sep)
                name = os.fsencode(relative).decode("utf-8", "backslashreplace")
                yield name.replace(os.sep, "/"), size, mtime_ns


def _split_of(folders: tuple[str, ...]) -> str | None:
    for name in folders:
        if name.lower() in SPLITS:
            return canonical_split(name)
    return None


def _label_of(folders: tuple[str, ...]) -> str | None:
    for name in folders:
        if name.lower() not in SPLITS:
            return name
    return None
