"""What people decided about items: an append-only history, undo included.

``reviews/reviews.jsonl`` holds one JSON object a line, and none is ever changed: an undo is a line
that names another. Two people may review at once; both lines are kept, the later one counts.
"""

from __future__ import annotations

import getpass
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import uuid4

import pyarrow as pa

from featurestore.errors import BadName, UnknownItem, nearest
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.files import append, make_folder, rewrite
from featurestore.storage.remote import StorePath
from featurestore.terms.labels import SEPARATOR, class_name

_log = logging.getLogger(__name__)
NO_LABEL = ""  # of a decision about the item itself: it counts for every label column


class Action(StrEnum):
    """What was decided."""

    CONFIRM = "confirm"  # the label is right
    RELABEL = "relabel"  # it is `value`
    EXCLUDE = "exclude"  # nothing to learn from
    DUPLICATE = "duplicate"  # of item `value`
    UNDO = "undo"  # of review `value`


@dataclass(frozen=True)
class Review:
    """One decision about one item's label."""

    item_id: str
    action: Action
    label: str  # the label column that it is about; NO_LABEL for an item, whatever its labels
    value: str | None = None
    who: str = ""
    when: str = ""  # UTC, ISO 8601, microseconds
    note: str = ""
    content_hash: str | None = None  # of the item as it was looked at
    id: str = ""


def add_reviews(
    folder: DatasetFolder, reviews: Iterable[Review], *, who: str | None = None
) -> list[Review]:
    """Append decisions; return them with who, when and id filled in.

    Those whose id is there already are left out: a file can be imported twice.

    Parameters
    ----------
    who : str, optional
        For those that do not say; default the user's name.

    Raises
    ------
    UnknownItem
        If an item is not there.
    BadName
        If a relabel or duplicate does not say of what, a label is no column of the items or no
        number where it must be one, or an undo names no review.
    """
    wanted = list(reviews)
    author = who or user_name()
    filled: list[Review] = []
    erased_since = folder.watch_erasures()
    with folder.locked("reviews"):
        known = _hashes(folder)
        columns = {field.name: field.type for field in folder.items.schema()}
        there = {one.id for one in read_reviews(folder)}
        for one in wanted:
            if one.id and one.id in there:
                continue  # a file that is imported again
            _check(one, known, columns, there)
            filled.append(
                replace(
                    one,
                    who=one.who or author,
                    when=_time(one),
                    content_hash=one.content_hash or known.get(one.item_id),
                    id=one.id or uuid4().hex[:12],
                )
            )
        _append(folder, filled)
    if erased_since():  # another machine was erasing
        erase_from_reviews(folder, {one.item_id for one in filled} - _hashes(folder).keys())
    return filled


def known_class(folder: DatasetFolder, column: str, value: str) -> str:
    """Return a class of a label column as the store spells it: ``true`` is ``True``, 2.0 is 2.

    A class that a standing decision named is one. Numbers to predict are returned as they are.
    Several labels are divided by ``|``.

    Raises
    ------
    BadName
        If the column has no such class, with the nearest one.
    """
    record = folder.read().labels.get(column, {})
    if record.get("task") == "regression" or column not in folder.items.schema().names:
        return value
    stored = folder.items.read([column]).column(column)
    known = {class_name(one) for one in stored.unique().to_pylist() if one not in (None, "")}
    said = standing(read_reviews(folder)).values()
    relabelled = [one for one in said if one.label == column and one.action is Action.RELABEL]
    known |= {one.value for one in relabelled if one.value}  # new classes, once they were meant
    parts = [value]
    if record.get("task") == "multilabel":
        known = {label for names in known for label in names.split(SEPARATOR)}
        parts = [part for part in value.split(SEPARATOR) if part]
    elif SEPARATOR in value and value not in known:
        raise BadName(f"{column!r} holds one class an item, {value!r} are several")
    if pa.types.is_boolean(stored.type):
        parts = [part.capitalize() for part in parts]
    elif pa.types.is_integer(stored.type) or pa.types.is_floating(stored.type):
        parts = [_number_name(part) for part in parts]
    for part in parts:
        if part not in known:
            raise BadName(f"{column!r} has no class {part!r}: {nearest(part, sorted(known))}")
    return SEPARATOR.join(parts)


def with_known_classes(folder: DatasetFolder, reviews: Sequence[Review]) -> list[Review]:
    """Return decisions whose relabels are classes that there are, as the store spells them.

    Those that are in the history already stay as they are.

    Raises
    ------
    BadName
        If a relabel names another class, with the nearest one.
    """
    there = {one.id for one in read_reviews(folder)}
    names: dict[tuple[str, str], str] = {}
    found = []
    for one in reviews:
        if one.action is Action.RELABEL and one.value and (not one.id or one.id not in there):
            key = one.label, one.value
            if key not in names:
                names[key] = known_class(folder, *key)
            one = replace(one, value=names[key])
        found.append(one)
    return found


def _number_name(text: str) -> str:
    number = _finite(text)
    return text if number is None else class_name(number)


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def undo(folder: DatasetFolder, review_id: str, *, who: str | None = None) -> Review:
    """Take a decision back; the one before it counts again.

    Raises
    ------
    BadName
        If there is no such review, or it is undone already.
    """
    known = {review.id: review for review in read_reviews(folder)}
    if review_id not in known:
        raise BadName(f"no review {review_id!r} in {folder.name!r}: {nearest(review_id, known)}")
    if review_id in {review.value for review in known.values() if review.action is Action.UNDO}:
        raise BadName(f"review {review_id!r} is undone already")
    undone = known[review_id]
    if undone.action is Action.UNDO:
        raise BadName(f"{review_id!r} is an undo: decide anew instead")
    line = Review(undone.item_id, Action.UNDO, undone.label, review_id)
    [made] = add_reviews(folder, [line], who=who)
    return made


def read_reviews(folder: DatasetFolder) -> list[Review]:
    """Return all decisions ever made, oldest first; a half-written line is left out."""
    path = _file(folder)
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            value = json.loads(line)
            found.append(Review(**{**value, "action": Action(value["action"])}))
        except (ValueError, TypeError, KeyError):
            if line.strip():
                _log.warning("line %d of %s is not a review: left out", number, path)
    return found


def standing(reviews: Sequence[Review]) -> dict[tuple[str, str], Review]:
    """Return the decision that counts for each (item, label column): the latest not undone."""
    return {(one.item_id, one.label): one for one in _alive(reviews)}


def decisions_on(reviews: Sequence[Review], label: str) -> dict[str, Review]:
    """Return the decision that counts for each item and one label column."""
    return {one.item_id: one for one in _alive(reviews) if one.label in (label, NO_LABEL)}


def contested(reviews: Sequence[Review]) -> dict[tuple[str, str], list[Review]]:
    """Return the decisions on items that people disagree about, oldest first."""
    found: dict[tuple[str, str], list[Review]] = {}
    for one in _alive(reviews):
        found.setdefault((one.item_id, one.label), []).append(one)
    return {
        key: lines
        for key, lines in found.items()
        if len({(one.action, one.value) for one in lines}) > 1
        and len({one.who for one in lines}) > 1
    }


def contested_sentences(reviews: Sequence[Review]) -> list[str]:
    """Say where people decided differently, a sentence for each item."""
    return [
        f"{item} was decided differently ("
        + "; ".join(f"{one.who}: {one.action} {one.value or ''}".rstrip() for one in decisions)
        + "): the latest stands."
        for (item, _), decisions in contested(reviews).items()
    ]


def _alive(reviews: Sequence[Review]) -> list[Review]:
    """Return the decisions that were not taken back, oldest first."""
    undone = {one.value for one in reviews if one.action is Action.UNDO}
    alive = [one for one in reviews if one.action is not Action.UNDO and one.id not in undone]
    return sorted(alive, key=lambda one: one.when)


def _hashes(folder: DatasetFolder) -> dict[str, str | None]:
    """Return the content hash of each item that is there."""
    items = folder.items.read(["item_id", "content_hash"])
    ids, hashes = (items.column(name).to_pylist() for name in ("item_id", "content_hash"))
    return dict(zip(ids, hashes, strict=True))


def applicable(folder: DatasetFolder, label: str) -> tuple[dict[str, Review], list[str]]:
    """Return the standing decisions on a label by item, and notes on those that cannot be used.

    Left out are items that are gone, or were called duplicates of one that is, and those whose
    content changed since they were looked at.
    """
    known = _hashes(folder)
    found, n_gone, n_changed = {}, 0, 0
    for item_id, one in decisions_on(read_reviews(folder), label).items():
        if item_id not in known or (one.action is Action.DUPLICATE and one.value not in known):
            n_gone += 1
        elif one.content_hash != known[item_id]:
            n_changed += 1
        else:
            found[item_id] = one
    notes = []
    if n_gone:
        notes.append(f"{n_gone} reviewed items, or their originals, are gone: not applied.")
    if n_changed:
        notes.append(f"{n_changed} reviewed items have other content now: not applied.")
    return found, notes


def table_of(reviews: Sequence[Review]) -> pa.Table:
    """Return reviews as a table, a column for each field."""
    rows = [asdict(one) for one in reviews]
    names = list(Review.__dataclass_fields__)
    return pa.table({name: pa.array([row[name] for row in rows], pa.string()) for name in names})


def erase_from_reviews(folder: DatasetFolder, item_ids: set[str]) -> None:
    """Delete the decisions about items from the history, for good."""
    with folder.locked("reviews"):
        if not _file(folder).exists():
            return

        def kept(_: bytes | None) -> bytes:
            lines = [
                _line(one)
                for one in read_reviews(folder)
                if one.item_id not in item_ids
                and not (one.action is Action.DUPLICATE and one.value in item_ids)
            ]
            return "".join(lines).encode()

        rewrite(_file(folder), kept)


def _check(
    review: Review, known: Mapping[str, Any], columns: Mapping[str, pa.DataType], ids: set[str]
) -> None:
    action, item_id, value = review.action, review.item_id, review.value
    if item_id not in known and action is not Action.UNDO:
        near = nearest(item_id, list(known)[:10_000])
        raise UnknownItem(f"there is no item {item_id!r} to review: {near}")
    if action in (Action.RELABEL, Action.DUPLICATE) and not value:
        what = "label" if action is Action.RELABEL else "item"
        raise BadName(f"{action} of {item_id!r} does not say which {what}")
    if action is Action.DUPLICATE and (value not in known or value == item_id):
        raise UnknownItem(f"{item_id!r} cannot be a duplicate of {value!r}: no other item")
    if action is Action.UNDO and value not in ids:
        raise BadName(f"no review {value!r} to undo")
    about_item = action not in (Action.CONFIRM, Action.RELABEL)
    if review.label not in columns and not (about_item and review.label == NO_LABEL):
        raise BadName(
            f"the review of {item_id!r} is about label {review.label!r}: "
            f"{nearest(review.label, columns)}"
        )
    is_number = action is Action.RELABEL and pa.types.is_floating(columns[review.label])
    if is_number and _finite(str(value)) is None:
        raise BadName(f"label {review.label!r} is a number, but {value!r} is not")


def _time(review: Review) -> str:
    """Return when it was decided, as the history writes it."""
    try:
        when = datetime.fromisoformat(review.when) if review.when else datetime.now(UTC)
    except ValueError:
        raise BadName(f"{review.when!r} is not a time: expected ISO 8601") from None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    return when.isoformat(timespec="microseconds")


def _append(folder: DatasetFolder, reviews: Sequence[Review]) -> None:
    path = _file(folder)
    make_folder(path.parent)
    append(path, "".join(map(_line, reviews)).encode())


def _line(review: Review) -> str:
    return json.dumps(asdict(review), ensure_ascii=False, sort_keys=True) + "\n"


def _file(folder: DatasetFolder) -> StorePath:
    return folder.path / "reviews" / "reviews.jsonl"


def user_name() -> str:
    """Return the name of who runs this; ``unknown`` where the system has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a name for its user
        return "unknown"
