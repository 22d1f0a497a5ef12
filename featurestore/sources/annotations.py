"""Boxes as other programs write them: COCO JSON, a folder of Pascal VOC's XML, one of YOLO's texts.

Nothing is dropped in silence: what is no box has its reason, what is left out is counted.
"""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from featurestore.errors import BadSource
from featurestore.sources.locations import Location
from featurestore.sources.reading import reason_of
from featurestore.terms.boxes import Box

_CLASS_FILES = ("classes.txt", "obj.names")  # of YOLO: a name a line
# Of a COCO file: what is not kept as a column of each box.
_USED = {"id", "image_id", "category_id", "bbox", "segmentation", "iscrowd", "area", "attributes"}
_USED_OF_PICTURE = {"id", "file_name", "width", "height", "license", "flickr_url", "coco_url"}
_VOC_FLAGS = ("difficult", "truncated", "occluded", "pose")
_Entry: TypeAlias = Mapping[str, Any]  # an object of a COCO file
_N_NUMBERS = 5  # of a box in a line of YOLO's: its class, center, width and height
_MOST_XML = 1 << 26  # bytes of one file


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation: a box in a picture, or why it is none."""

    picture: str  # path as it was written; without an ending where there is none
    box: Box | None
    label: str | None
    name: str  # of the annotation in its file, as far as it has one
    wrong: str = ""
    size: tuple[int, int] | None = None  # width and height of the picture, as the file says
    facts: Mapping[str, Any] = field(default_factory=dict)  # columns of its own


@dataclass(frozen=True, eq=False)
class Annotations:
    """All that a file or folder of annotations says, in its order."""

    found: list[Annotation]
    notes: list[str]


def read_annotations(location: Location) -> Annotations:
    """Read a COCO JSON file, or a folder of Pascal VOC's or of YOLO's files.

    Raises
    ------
    BadSource
        If there is nothing that can be read as one of them.
    """
    if location.is_dir():
        files = _files(location)
        if names := [one for one in files if one.lower().endswith(".xml")]:
            return _voc(location, names)
        if names := [one for one in files if one.lower().endswith(".txt")]:
            return _yolo(location, names)
        raise BadSource(
            f"{location} holds no annotations: expected a folder of Pascal VOC's .xml files or of "
            "YOLO's .txt files"
        )
    if not location.exists():
        raise BadSource(
            f"{location} does not exist: --boxes names a COCO .json file, or a folder of Pascal "
            "VOC's .xml or YOLO's .txt files"
        )
    if location.suffix != ".json":
        raise BadSource(
            f"{location.name} cannot be read as boxes: expected COCO .json, or a folder "
            "of Pascal VOC's .xml or YOLO's .txt files; a table of boxes is a source of its own: "
            f"featurestore embed {location.name} --image COLUMN --box x,y,w,h"
        )
    return _coco(location)


def _files(location: Location) -> list[str]:
    """Return the paths of all files below a folder, sorted; hidden ones are left out."""
    if location.is_url:
        paths = [path for path, _, _ in location.files()]
    else:
        root = Path(location.text)
        paths = [one.relative_to(root).as_posix() for one in root.rglob("*") if one.is_file()]
    return sorted(one for one in paths if not any(p.startswith(".") for p in one.split("/")))


def _read(location: Location) -> bytes:
    try:
        return location.read()
    except OSError as error:
        raise BadSource(f"cannot read {location}: {reason_of(error)}") from None


def _unread(name: str, error: BadSource) -> Annotation:
    """Return what stands for all boxes of a file that cannot be read."""
    return Annotation(posixpath.splitext(name)[0], None, None, "file", str(error))


# -- COCO ----------------------------------------------------------------------------------


def _coco(location: Location) -> Annotations:
    try:
        said = json.loads(_read(location))
    except (ValueError, RecursionError) as error:
        raise BadSource(f"cannot read {location} as JSON: {error}") from None
    is_whole = isinstance(said, dict) and all(
        isinstance(said.get(one), list) for one in ("images", "annotations")
    )
    if not is_whole:
        keys = ", ".join(map(str, said)) if isinstance(said, dict) else type(said).__name__
        raise BadSource(
            f"{location.name} cannot be read as COCO: expected an object with the lists images and "
            f"annotations, found {keys[:200]}"
        )
    pictures = _by_id(said["images"], "images", location)
    categories = _by_id(said.get("categories") or [], "categories", location)
    found, n_crowds, astray = [], 0, []
    for one in said["annotations"]:
        if not isinstance(one, dict):
            raise BadSource(
                f"{location.name}: expected an object for each annotation, found {one!r:.80}"
            )
        picture = _named(pictures, one.get("image_id"))
        if picture is None or not isinstance(picture.get("file_name"), str):
            astray.append(one.get("id"))
        elif one.get("iscrowd"):
            n_crowds += 1
        else:
            found.append(_of_coco(one, picture, categories))
    n_unnamed = sum(one.label is None for one in found)
    said_of = {
        f"left out of {location.name}: {n_crowds:,} marked iscrowd, which hold several objects "
        "each": n_crowds,
        f"left out of {location.name}: {len(astray):,} whose picture has no file_name in it "
        f"(first id: {astray[0] if astray else ''})": len(astray),
        f"without a label: {n_unnamed:,}, as {location.name} has no name of their category": (
            n_unnamed
        ),
    }
    return Annotations(found, [note for note, n in said_of.items() if n])


def _by_id(entries: Sequence[Any], name: str, location: Location) -> dict[Any, _Entry]:
    try:
        counts = Counter(one["id"] for one in entries)
    except (TypeError, KeyError):
        raise BadSource(f"{location.name}: not all of its {name} have an id") from None
    twice = [one for one, n in counts.items() if n > 1]
    if twice:
        raise BadSource(
            f"{location.name}: {len(twice):,} ids stand more than once in its {name} (first: "
            f"{twice[0]}): nobody can say which is meant"
        )
    return {one["id"]: one for one in entries}


def _named(entries: Mapping[Any, _Entry], number: object) -> _Entry | None:
    return entries.get(number) if isinstance(number, (int, str)) else None


def _of_coco(one: _Entry, picture: _Entry, categories: Mapping[Any, _Entry]) -> Annotation:
    label = (_named(categories, one.get("category_id")) or {}).get("name")
    own = one.get("attributes")
    facts = _plain(picture, _USED_OF_PICTURE) | _plain(own if isinstance(own, dict) else {}, ())
    facts |= _plain(one, _USED) | {"annotation_id": one.get("id")}
    numbers = one.get("bbox")
    box, wrong = Box.of_numbers(numbers)
    if not numbers:
        wrong = "the annotation has no bbox, which a crop needs"
    size = picture.get("width"), picture.get("height")
    is_sized = all(isinstance(side, int) and side > 0 for side in size)
    return Annotation(
        picture["file_name"],
        box,
        None if label is None else str(label),
        f"annotation={one.get('id')}",
        wrong,
        size if is_sized else None,  # type: ignore[arg-type]  # two whole numbers, as was just seen
        facts,
    )


def _plain(entry: _Entry, left_out: Sequence[str] | set[str]) -> dict[str, Any]:
    """Return the plain values of an entry; lists and objects stay where they are."""
    kinds = (str, int, float, bool)
    return {k: v for k, v in entry.items() if k not in left_out and isinstance(v, kinds)}


# -- Pascal VOC ----------------------------------------------------------------------------


def _voc(location: Location, names: Sequence[str]) -> Annotations:
    found: list[Annotation] = []
    foreign, n_from_zero = [], 0
    for name in names:
        try:
            root = _xml(location.join(name))
        except BadSource as error:
            found.append(_unread(name, error))
            continue
        if root.tag != "annotation":
            foreign.append(name)
            continue
        for number, one in enumerate(root.iter("object")):
            annotation = _of_voc(root, one, name, number)
            found.append(annotation)
            box = annotation.box
            n_from_zero += box is not None and min(box.x, box.y) == -1
    if len(foreign) == len(names):
        raise BadSource(
            f"{location}: no .xml file in it is one of Pascal VOC's, which begin with <annotation>"
        )
    notes = []
    if foreign:
        notes.append(
            f"left out of {location.name}: {len(foreign):,} .xml files that are not Pascal VOC's "
            f"(first: {foreign[0]})"
        )
    if n_from_zero:
        notes.append(
            f"boxes of {location.name} that begin at 0: {n_from_zero:,}. Pascal VOC counts pixels "
            "from 1; if the program that wrote them counts from 0, all boxes were taken one pixel "
            "too far left and up"
        )
    return Annotations(found, notes)


def _of_voc(root: Element, one: Element, name: str, number: int) -> Annotation:
    picture = (root.findtext("filename") or "").strip() or posixpath.splitext(name)[0]
    picture = posixpath.join(posixpath.dirname(name), posixpath.basename(picture))
    corners = [one.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    box, wrong = None, f"the object has no bndbox of four numbers: {corners}"
    try:
        left, upper, right, lower = (float(side or "") for side in corners)
    except ValueError:
        pass
    else:  # pixels count from 1, and the last one belongs to the box
        box = Box(left - 1, upper - 1, right - left + 1, lower - upper + 1)
        wrong = box.wrong
    facts = {
        flag: int(value) if value.isdigit() else value
        for flag in _VOC_FLAGS
        if (value := (one.findtext(flag) or "").strip())
    }
    label = (one.findtext("name") or "").strip() or None
    sides = [(root.findtext(f"size/{side}") or "").strip() for side in ("width", "height")]
    size = (int(sides[0]), int(sides[1])) if all(s.isdigit() and int(s) for s in sides) else None
    return Annotation(picture, box, label, f"object={number}", wrong, size, facts)


def _xml(location: Location) -> Element:
    """Parse an XML file; one that declares a document type is refused, as entities need one."""

    def refuse(*_: object) -> None:
        raise BadSource(f"{location} declares a document type, which no annotation needs: refused")

    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    content = _read(location)
    if len(content) > _MOST_XML:
        raise BadSource(f"{location} has {len(content):,} bytes, too many for one picture's boxes")
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise BadSource(f"cannot read {location} as XML: {error}") from None
    return builder.close()


# -- YOLO ----------------------------------------------------------------------------------


def _yolo(location: Location, names: Sequence[str]) -> Annotations:
    classes, notes = _class_names(location)
    found: list[Annotation] = []
    n_outlines = 0
    for name in names:
        if posixpath.basename(name) in _CLASS_FILES:
            continue
        try:
            lines = _read(location.join(name)).decode("utf-8", "backslashreplace").splitlines()
        except BadSource as error:
            found.append(_unread(name, error))
            continue
        picture = posixpath.splitext(name)[0]
        for number, line in enumerate(lines, 1):
            if line.strip():
                found.append(_of_yolo(line.split(), picture, number, classes))
                n_outlines += len(line.split()) > _N_NUMBERS + 1
    if n_unnamed := sum(not one.wrong and one.label is None for one in found):
        notes.append(f"without a label: {n_unnamed:,}, as their class has no name")
    if n_outlines:
        notes.append(
            f"outlines in {location.name}, of which the boxes around them were taken: "
            f"{n_outlines:,}"
        )
    return Annotations(found, notes)


def _class_names(location: Location) -> tuple[dict[int, str] | None, list[str]]:
    """Return the names of classes by number, from the folder or the one above it."""
    for folder in (location, location.parent):
        for name in _CLASS_FILES:
            file = folder.join(name)
            if file.exists():
                lines = _read(file).decode("utf-8-sig", "backslashreplace").splitlines()
                return {n: line.strip() for n, line in enumerate(lines) if line.strip()}, []
    return None, [
        f"{location.name} has no classes.txt or obj.names with the names of its classes, a line "
        "each: labels are numbers"
    ]


def _of_yolo(
    fields: Sequence[str], picture: str, number: int, classes: Mapping[int, str] | None
) -> Annotation:
    name = f"line={number}"
    try:
        values = [float(one) for one in fields[1:]]
        at = int(fields[0])
        if len(values) in (_N_NUMBERS - 1, _N_NUMBERS):  # perhaps with a confidence
            x, y, w, h = values[0] - values[2] / 2, values[1] - values[3] / 2, *values[2:4]
        elif len(values) > _N_NUMBERS and len(values) % 2 == 0:  # corners of an outline
            x, y = min(values[::2]), min(values[1::2])
            w, h = max(values[::2]) - x, max(values[1::2]) - y
        else:
            raise ValueError
        box = Box(100 * x, 100 * y, 100 * w, 100 * h, is_percent=True)
    except ValueError:
        wrong = (
            "a line of YOLO's has a class, then center, width and height, or the corners of an "
            f"outline, not {' '.join(fields)[:80]!r}"
        )
        return Annotation(picture, None, None, name, wrong)
    facts = {"confidence": values[4]} if len(values) == _N_NUMBERS else {}
    label = str(at) if classes is None else classes.get(at)
    return Annotation(picture, box, label, name, box.wrong, facts=facts)
