"""Images in a folder: class folders become labels, and folders named train, val, test splits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from featurestore.errors import BadSource
from featurestore.sources.archives import check_uncompressed, is_compressed_tar
from featurestore.sources.listing import (
    LISTING,
    SPLITS,
    Listing,
    SourceOptions,
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
_SPLIT_FROM = ("folders", "none")  # what --split may say of a folder
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

    def files(self, options: SourceOptions) -> list[tuple[str, int, int]] | None:
        """Return uri, size and stamp of all images.

        None where a folder cannot be listed, and where annotations beside it tell the items.
        """
        if options.boxes is not None:
            return None
        tree = self._tree(options)
        # Of what is left out, the names are told.
        others = [(name, -1, 0) for name in sorted([*tree.others, *tree.archives])]
        return None if tree.unread else [*tree.files, *others, ("", tree.n_links, 0)]

    @property
    def _prefix(self) -> str:
        return "" if self.root == self.location.text else f"{self.location.name}/"

    def _tree(self, options: SourceOptions) -> _Tree:
        """Walk the folder, once."""
        walked: dict[bool, _Tree] = self.__dict__.setdefault("_walked", {})
        if (follow := bool(options.follow_links)) not in walked:
            walked[follow] = tree = _Tree()
            if self.location.is_url:
                _list_url(self.location, self._prefix, tree)
            else:
                _walk(self.location.text, self.root, follow, tree)
            tree.files.sort()
        return walked[follow]

    def listing(self, options: SourceOptions) -> Listing:
        """List the images below the folder, sorted by path."""
        for flag in ("image", "text", "id", "split", "columns"):
            said = getattr(options, flag)
            if said is not None and not (flag == "split" and said in _SPLIT_FROM):
                raise BadSource(
                    f"--{flag} names a column of a table, but {self.location} is a folder: name "
                    f"the tables in it one by one, as with {self.location}/*.parquet"
                )
        if options.boxes is None and options.label not in (None, ("label",)):
            raise BadSource(
                f"--label names a column of a table, but {self.location} is a folder: "
                "its class folders are its labels"
            )
        prefix, tree = self._prefix, self._tree(options)
        self._check_found(tree)
        files = tree.files
        uris = [uri for uri, _, _ in files]
        folders = [tuple(uri.split("/")[:-1]) for uri in uris]
        roles = _roles(folders, options.split, named=bool(prefix))
        notes = [*roles.notes(), *tree.notes(self.location)]
        splits = [roles.split_of(one) for one in folders]
        if options.boxes is not None and files:
            from featurestore.sources.boxed import FolderFiles, boxes_of_folder

            found = FolderFiles(files, splits, prefix, tuple(tree.unread), notes)
            return boxes_of_folder(self, found, options)
        labels = [roles.label_of(one) for one in folders]
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
        return Listing(
            rows,
            Modality.IMAGE,
            ("label",) if labelled else (),
            tuple(notes),
            covers=(prefix,) if prefix else None,
            unread=tuple(tree.unread),
        )

    def _check_found(self, tree: _Tree) -> None:
        """Say why no picture was found where something stands in the way."""
        if tree.archives and not tree.files:
            check_uncompressed(self.location.join(min(tree.archives)).text)
        if tree.n_links and not tree.files:
            raise BadSource(
                f"all images of {self.location} are behind links that lead out of it: "
                "--follow-links takes them"
            )


@dataclass
class _Tree:
    files: list[tuple[str, int, int]] = field(default_factory=list)  # uri, size, mtime_ns
    unread: list[str] = field(default_factory=list)  # folders that cannot be listed
    others: list[str] = field(default_factory=list)  # pictures of kinds that we do not read
    archives: list[str] = field(default_factory=list)  # compressed tar files
    n_links: int = 0  # that lead out of the folder

    def notes(self, location: Location) -> list[str]:
        """Say what was left out."""
        notes = []
        if self.n_links:
            notes.append(
                f"{self.n_links:,} links lead out of {location} and were left out: "
                "--follow-links takes them"
            )
        if self.others:
            notes.append(
                f"{len(self.others):,} pictures of kinds that we do not read were left out "
                f"(first: {min(self.others)}): convert them to JPEG or PNG"
            )
        if self.archives:
            notes.append(
                f"{len(self.archives):,} compressed archives were left out (first: "
                f"{min(self.archives)}): unpack them where they hold pictures that you mean"
            )
        return notes


def _list_url(folder: Location, prefix: str, tree: _Tree) -> None:
    for path, size, stamp in folder.files():
        if any(part.startswith(".") for part in path.split("/")):
            continue
        if _is_image(path):
            tree.files.append((prefix + path, size, stamp))
        elif _ending(path) in _OTHER_PICTURES:
            tree.others.append(path)
        elif is_compressed_tar(path):
            tree.archives.append(path)


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


Folders = tuple[str, ...]  # the names from the root down


@dataclass(frozen=True)
class _Roles:
    """Which folders are splits; the first other one above an image is its class."""

    splits: Mapping[Folders, str]  # canonical names
    skipped: frozenset[Folders] = frozenset()  # neither split nor class
    doubted: tuple[Folders, ...] = ()  # named like splits beside others, and taken as classes
    trusted: tuple[Folders, ...] = ()  # named like splits beside others, and taken as splits

    def split_of(self, folders: Folders) -> str | None:
        """Return the split of the images in a folder."""
        paths = (folders[:n] for n in range(1, len(folders) + 1))
        return next((self.splits[one] for one in paths if one in self.splits), None)

    def label_of(self, folders: Folders) -> str | None:
        """Return the class of the images in a folder."""
        paths = [folders[:n] for n in range(1, len(folders) + 1)]
        names = (one[-1] for one in paths if one not in self.splits and one not in self.skipped)
        return next(names, None)

    def notes(self) -> list[str]:
        """Say what was in doubt."""
        notes = []
        if self.doubted:
            notes.append(
                f"{_shown(self.doubted)} named like a split, beside folders of other names: taken "
                "as a class; --split folders takes it as a split"
            )
        if self.trusted:
            notes.append(
                f"{_shown(self.trusted)} named like a split, above class folders: taken as a "
                "split, though other folders stand beside it; --split none takes it as a class"
            )
        return notes


def _shown(paths: tuple[Folders, ...]) -> str:
    names = ", ".join("/".join(one) for one in paths[:3])
    more = f" and {len(paths) - 3} more folders" if len(paths) > 3 else ""
    return f"{names}{more} {'is' if len(paths) == 1 else 'are each'}"


def _roles(folders: Iterable[Folders], said: str | None, *, named: bool) -> _Roles:
    """Tell splits from classes by what stands beside and below them.

    A folder named like a split is one where all folders beside it are, or where all of that name
    stand above class folders and none of the others does. Inside a split it is a class.

    Parameters
    ----------
    folders : iterable of tuple
        The folder of each image.
    said : {"folders", "none"}, optional
        What the user says: all of such a name are splits, or none is.
    named : bool
        Whether the first folder is the one that the user named, itself called like a split.
    """
    with_images = set(folders)
    below: dict[Folders, set[str]] = {}
    for one in with_images:
        for n in range(len(one)):
            below.setdefault(one[:n], set()).add(one[n])
    splits: dict[Folders, str] = {}
    skipped: set[Folders] = set()
    doubted: list[Folders] = []
    trusted: list[Folders] = []
    for path in sorted(below, key=lambda one: (len(one), one)):
        alike = [(*path, name) for name in sorted(below[path]) if name.lower() in SPLITS]
        if said == "none" or not alike:
            continue
        if any(path[:n] in splits for n in range(1, len(path) + 1)):
            continue  # inside a split
        others = [(*path, name) for name in below[path] if name.lower() not in SPLITS]
        if named and not path and said is None and _holds_splits(alike[0], below):
            skipped.add(alike[0])  # a folder of one's own called test, say
            continue
        if others and said is None:
            is_above = not any(one in with_images for one in alike)
            if not is_above or any(_holds_classes(one, below) for one in others):
                doubted += alike
                continue
            trusted += alike
        splits |= {one: SPLITS[one[-1].lower()] for one in alike}
    return _Roles(splits, frozenset(skipped), tuple(doubted), tuple(trusted))


def _holds_splits(path: Folders, below: Mapping[Folders, set[str]]) -> bool:
    """Whether a folder holds several folders, each named like another split."""
    names = [SPLITS.get(name.lower()) for name in below.get(path, ())]
    return len(names) > 1 and None not in names


def _holds_classes(path: Folders, below: Mapping[Folders, set[str]]) -> bool:
    return any(name.lower() not in SPLITS for name in below.get(path, ()))
