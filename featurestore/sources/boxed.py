"""Boxes as items: those of annotations, found in a folder's pictures; those of a table's rows."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from featurestore.errors import BadSource
from featurestore.sources.annotations import Annotation, read_annotations
from featurestore.sources.as_written import columns_of
from featurestore.sources.listing import Listing, Source, SourceOptions
from featurestore.sources.locations import Location
from featurestore.sources.metadata import SourceItems, as_listing
from featurestore.terms.boxes import Box, box_uri, picture_of
from featurestore.terms.specs import Modality

if TYPE_CHECKING:
    from featurestore.sources.folder import ImageFolder

_NUMBERS = ("box_x", "box_y", "box_w", "box_h")
_MOST_MARGIN = 10.0


@dataclass(frozen=True)
class FolderFiles:
    """What lies in a folder of pictures."""

    pictures: Sequence[tuple[str, int, int]]  # uri, size, stamp; sorted
    splits: Sequence[str | None]  # of each
    prefix: str  # of all uris
    unread: tuple[str, ...]  # folders that cannot be listed, which stand among the pictures
    notes: Sequence[str]


def check_boxes(source: Source, options: SourceOptions) -> None:
    """Refuse options of boxes that a source has no use for.

    Raises
    ------
    BadSource
    """
    where = source.location
    if options.boxes is not None and source.kind != "folder":
        raise BadSource(
            f"--boxes is for a folder of pictures, and {where} is a source of another kind; for a "
            "table, --box x,y,w,h names the columns of boxes"
        )
    if options.box is not None and source.kind != "table":
        raise BadSource(
            f"--box is for a table, and {where} is a source of another kind; for a folder, --boxes "
            "names the file or folder of annotations"
        )
    if options.box is not None and len(options.box) != len(_NUMBERS):
        raise BadSource(
            f"--box {','.join(options.box)}: expected four columns (x, y, width and height, in "
            "pixels), such as --box x,y,w,h"
        )
    if options.box_margin is None:
        return
    if not 0 <= options.box_margin <= _MOST_MARGIN:
        raise BadSource(
            f"--box-margin {options.box_margin:g}: expected a share of the box's sides, such as 0.1"
        )
    if options.boxes is None and options.box is None:
        raise BadSource("--box-margin is about boxes: name them with --boxes or --box")


def boxes_of_folder(source: ImageFolder, files: FolderFiles, options: SourceOptions) -> Listing:
    """List the boxes of annotations in a folder's pictures, picture by picture.

    Raises
    ------
    BadSource
        If the annotations cannot be read, or name none of the pictures.
    """
    assert options.boxes is not None, "what to list"
    location, margin = Location.of(options.boxes), options.box_margin or 0.0
    said = read_annotations(location)
    paths = [uri[len(files.prefix) :] for uri, _, _ in files.pictures]
    found, notes = _found(said.found, paths, location)
    found.sort(key=lambda one: one[0])
    taken = Counter[str]()
    ids: list[str] = []
    uris: list[str] = []
    wrong: dict[int, str] = {}
    for row, (at, one) in enumerate(found):
        uri = files.pictures[at][0]
        box = None if one.box is None else one.box.drawn(one.size, margin)
        name = f"{uri}#{one.name if box is None else box.name}"
        ids.append(_numbered(name, taken))
        uris.append(uri if box is None else box_uri(uri, box))
        if one.wrong:
            wrong[row] = one.wrong
    with_box = {at for at, _ in found}
    without = [
        paths[at]
        for at, (uri, _, _) in enumerate(files.pictures)
        if at not in with_box and uri not in files.unread
    ]
    repeated = [name for name, n in taken.items() if n > 1]
    said_of = {
        f"pictures without a box in {location.name}, which give no item: {len(without):,} of "
        f"{len(paths):,} (first: {without[0] if without else ''})": len(without),
        f"boxes that stand more than once, each of which is an item: {len(repeated):,} (first: "
        f"{repeated[0] if repeated else ''})": len(repeated),
    }
    notes = [*said.notes, *notes, *(note for note, n in said_of.items() if n), *files.notes]
    places = [at for at, _ in found]
    facts = [_columns(one, uri) for uri, (_, one) in zip(uris, found, strict=True)]
    for name in files.unread:  # a failure of its own, as in a listing of whole pictures
        ids.append(name)
        uris.append(name)
        places.append([uri for uri, _, _ in files.pictures].index(name))
        facts.append({})
    names = list(dict.fromkeys([*_FIRST, *(name for one in facts for name in one)]))
    items = SourceItems(
        columns_of(facts, names),
        modality=Modality.IMAGE,
        content=pa.chunked_array([uris], pa.string()),
        sizes=[files.pictures[at][1] for at in places],
        stamps=[files.pictures[at][2] for at in places],
        ids=pa.chunked_array([ids], pa.string()),
        splits=[files.splits[at] for at in places],
        labels=("label",),
        notes=notes,
        covers=(files.prefix,) if files.prefix else None,
        unread=files.unread,
        bad=wrong,
    )
    options = replace(options, split=None, group=options.group or "picture")
    return as_listing(source, options, items)


_FIRST = ("label", "picture", *_NUMBERS)


def _columns(one: Annotation, uri: str) -> dict[str, object]:
    """Return the columns of a box."""
    box = one.box
    numbers = (None,) * len(_NUMBERS) if box is None else (box.x, box.y, box.w, box.h)
    own = {
        "label": one.label,
        "picture": picture_of(uri),
        **dict(zip(_NUMBERS, numbers, strict=True)),
    }
    return {**one.facts, **own}


def _found(
    annotations: Iterable[Annotation], paths: Sequence[str], location: Location
) -> tuple[list[tuple[int, Annotation]], list[str]]:
    """Find the picture of each annotation: by its path, else by its bare name where one has it.

    Names without an ending, as YOLO's, mean a picture of any ending.

    Returns
    -------
    found : list of (int, Annotation)
        The numbers of pictures.
    notes : list of str
        What was found by its bare name, and what was not found.
    """
    by_path, by_name = _only(paths), _only([posixpath.basename(one) for one in paths])
    stems = [posixpath.splitext(one)[0] for one in paths]
    by_stem, by_bare = _only(stems), _only([posixpath.basename(one) for one in stems])
    found: list[tuple[int, Annotation]] = []
    lost: list[Annotation] = []
    loose: list[Annotation] = []
    for one in annotations:
        path = posixpath.normpath(one.picture.replace("\\", "/"))
        name = posixpath.basename(path)
        at = by_path.get(path, by_stem.get(path))
        if at is None:
            at = by_name.get(name, by_bare.get(name))
            (lost if at is None else loose).append(one)
        if at is not None:
            found.append((at, one))
    if not found:
        named = f"it names {lost[0].picture}" if lost else "it names none"
        raise BadSource(
            f"{location} has no box in these pictures: {named}, and the folder holds {paths[0]}; "
            "name the folder that its paths begin in"
        )
    notes = []
    if loose:
        notes.append(
            f"boxes whose picture was found by its bare file name: {len(loose):,} (first: "
            f"{loose[0].picture})"
        )
    if lost:
        notes.append(
            f"left out of {location.name}: {len(lost):,} boxes whose picture is not in the folder, "
            f"or whose file name several have (first: {lost[0].picture})"
        )
    return found, notes


def _only(names: Sequence[str]) -> dict[str, int]:
    """Return the number of each name that stands once."""
    counts = Counter(names)
    return {name: at for at, name in enumerate(names) if counts[name] == 1}


def _numbered(name: str, taken: Counter[str]) -> str:
    """Name a box; the second one of that name has ``&n=2`` behind it."""
    taken[name] += 1
    return name if taken[name] == 1 else f"{name}&n={taken[name]}"


@dataclass(frozen=True)
class BoxedRows:
    """The boxes of a table's rows."""

    uris: pa.ChunkedArray
    ids: pa.ChunkedArray  # used where no column holds ids; null where a row has no picture
    bad: dict[int, str]  # rows whose box is none → why


def boxes_of_rows(
    table: pa.Table, pictures: Sequence[str | None], options: SourceOptions
) -> BoxedRows:
    """Return the boxes of rows, each in its picture, from four columns of pixels."""
    assert options.box is not None, "four columns"
    margin = options.box_margin or 0.0
    columns = [table.column(name).to_pylist() for name in options.box]
    taken = Counter[str]()
    uris: list[str | None] = []
    ids: list[str | None] = []
    bad: dict[int, str] = {}
    for row, (picture, *numbers) in enumerate(zip(pictures, *columns, strict=True)):
        uri, name = picture, None
        box, wrong = Box.of_numbers(numbers)
        if wrong:
            bad[row] = wrong
        if picture is not None and box is not None:
            uri = box_uri(picture, box.drawn(None, margin))
            name = _numbered(f"{picture}#{box.name}", taken)
        uris.append(uri)
        ids.append(name)
    return BoxedRows(
        pa.chunked_array([uris], pa.string()), pa.chunked_array([ids], pa.string()), bad
    )
