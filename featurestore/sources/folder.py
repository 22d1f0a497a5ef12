"""Images in a folder: class folders become labels, folders named train, val or test splits."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pyarrow as pa

from featurestore.errors import BadSource
from featurestore.sources.archives import check_uncompressed, is_compressed_tar
from featurestore.sources.listing import (
    LISTING,
    SPLITS,
    Listing,
    SourceOptions,
    canonical_split,
    checked,
    evaluate_group,
)
from featurestore.sources.locations import Location
from featurestore.terms.specs import Modality

IMAGE_ENDINGS = frozenset(
    {
        ".avif",
        ".bmp",
        ".gif",
        ".jfif",
        ".jp2",
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
# Pictures that we do not read: somebody who has them wants to know.
_OTHER_PICTURES = frozenset(
    {".cr2", ".dcm", ".dng", ".eps", ".heic", ".heif", ".jxl", ".nef", ".nii", ".psd", ".svg"}
)


@dataclass(frozen=True)
class ImageFolder:
    """A folder tree of images.

    A folder that is itself named like a split (``cifar10/train``) keeps that name in its ids
    and its split, so that embedding ``cifar10/train`` and then ``cifar10`` means the same items.
    """

    location: Location

    kind = "folder"

    @property
    def root(self) -> str:
        """The folder that uris are relative to."""
        is_split = self.location.name.lower() in SPLITS
        return self.location.parent.text if is_split else self.location.text

    @property
    def name(self) -> str:
        """The name of the root folder."""
        return Location(self.root).name

    def listing(self, options: SourceOptions) -> Listing:
        """List the images below the folder, sorted by path."""
        for flag in ("image", "text", "id", "split", "columns"):
            if getattr(options, flag) is not None:
                raise BadSource(
                    f"--{flag} names a column of a table, but {self.location} is a folder: name "
                    f"the tables in it one by one, as with {self.location}/*.parquet"
                )
        if options.label not in (None, ("label",)):
            raise BadSource(
                f"--label names a column of a table, but {self.location} is a folder: "
                "its class folders are its labels"
            )
        prefix = "" if self.root == self.location.text else f"{self.location.name}/"
        tree = _Tree()
        if self.location.is_url:
            for path, size, stamp in self.location.files():
                if any(part.startswith(".") for part in path.split("/")):
                    continue
                if _is_image(path):
                    tree.files.append((prefix + path, size, stamp))
                elif _ending(path) in _OTHER_PICTURES:
                    tree.others.append(path)
                elif is_compressed_tar(path):
                    tree.archives.append(path)
        else:
            _walk(self.location.text, self.root, bool(options.follow_links), tree)
        if tree.archives and not tree.files:
            check_uncompressed(self.location.join(min(tree.archives)).text)
        if tree.n_links and not tree.files:
            raise BadSource(
                f"all images of {self.location} are behind links that lead out of it: "
                "--follow-links takes them"
            )
        files = sorted(tree.files)
        uris = [uri for uri, _, _ in files]
        folders = [tuple(uri.split("/")[:-1]) for uri in uris]
        labels = [_label_of(one) for one in folders]
        columns = {
            "item_id": uris,
            "uri": uris,
            "text": [None] * len(files),
            "size": [size for _, size, _ in files],
            "mtime_ns": [mtime_ns for _, _, mtime_ns in files],
            "split": [_split_of(one) for one in folders],
            "group": [None] * len(files),
        }
        rows = checked(pa.table(columns, schema=LISTING), self)
        labelled = any(label is not None for label in labels)
        if labelled:
            rows = rows.append_column("label", pa.array(labels, pa.string()))
        if options.group is not None:
            rows = evaluate_group(rows, options.group)
        notes = []
        if tree.n_links:
            notes.append(
                f"{tree.n_links:,} links lead out of {self.location} and were left out: "
                "--follow-links takes them"
            )
        if tree.others:
            notes.append(
                f"{len(tree.others):,} pictures of kinds that we do not read were left out "
                f"(first: {min(tree.others)}): convert them to JPEG or PNG"
            )
        if tree.archives:
            notes.append(
                f"{len(tree.archives):,} compressed archives were left out (first: "
                f"{min(tree.archives)}): unpack them where they hold pictures that you mean"
            )
        return Listing(
            rows,
            Modality.IMAGE,
            ("label",) if labelled else (),
            tuple(notes),
            covers=(prefix,) if prefix else None,
            unread=tuple(tree.unread),
        )


@dataclass
class _Tree:
    files: list[tuple[str, int, int]] = field(default_factory=list)  # uri, size, mtime_ns
    unread: list[str] = field(default_factory=list)  # folders that cannot be listed
    others: list[str] = field(default_factory=list)  # pictures of kinds that we do not read
    archives: list[str] = field(default_factory=list)  # compressed tar files
    n_links: int = 0  # that lead out of the folder


def _is_image(name: str) -> bool:
    return _ending(name) in IMAGE_ENDINGS


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - hot


def _walk(folder: str, root: str, follow: bool, tree: _Tree) -> None:
    """Collect the images of a local folder into ``tree``; hidden files and folders are left out.

    A link within the folder gives its target a second name; a link to a folder that was already
    walked is not followed. Links that leave the folder are followed only if ``follow``. A file
    name that is not text is listed with its bytes escaped: opening it fails, for that item alone.
    A folder that cannot be listed becomes a failing item too, named with a slash at its end.
    """
    home = os.path.realpath(folder)
    pending = [folder]
    seen = {home}
    while pending:
        current = pending.pop()
        try:
            entries = list(os.scandir(current))
        except OSError as error:
            if current == folder:
                raise BadSource(f"cannot list {folder}: {error.strerror}") from None
            tree.unread.append(f"{_relative(current, root)}/")
            tree.files.append((tree.unread[-1], 0, 0))
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and not follow:
                target = os.path.realpath(entry.path)
                if target != home and not target.startswith(home + os.sep):
                    tree.n_links += entry.is_dir() or _is_image(entry.name)
                    continue
            if entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else None
                if real is None or real not in seen:  # a link to a parent would never end
                    seen |= {real} if real else set()
                    pending.append(entry.path)
            elif _is_image(entry.name):
                try:
                    status = entry.stat()
                    size, mtime_ns = status.st_size, status.st_mtime_ns
                except OSError:
                    size, mtime_ns = 0, 0  # a dangling link: a failure when it is read
                tree.files.append((_relative(entry.path, root), size, mtime_ns))
            elif _ending(entry.name) in _OTHER_PICTURES:
                tree.others.append(_relative(entry.path, root))
            elif is_compressed_tar(entry.name):
                tree.archives.append(_relative(entry.path, folder))


def _relative(path: str, root: str) -> str:
    relative = path[len(root) :].lstrip(os.sep)
    return os.fsencode(relative).decode("utf-8", "backslashreplace").replace(os.sep, "/")


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
