"""Label Studio: tasks for it, and the decisions in what it exports (JSON, JSON_MIN, CSV)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

from featurestore.curation.reviews import Action, Review
from featurestore.errors import BadSource, FeatureStoreError
from featurestore.sources.locations import is_url
from featurestore.store.dataset import DataSet
from featurestore.terms.labels import SEPARATOR, class_name
from featurestore.terms.specs import Modality

Read: TypeAlias = tuple[list[Review], list[str]]  # decisions, and what was not counted
_FIELDS = tuple(Review.__dataclass_fields__)
_MARK = "review_"  # before the names of our decision's fields in the data of a task
_CHOICE = "review_choice"  # what the annotation that we wrote chose
_SIDE_PX = 256  # of a picture that is shown from within its task
_UNKNOWN = "?"  # a confirmation as earlier versions wrote it does not say of what
_ITS_OWN = frozenset(
    ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement",
     "item_id", "text", "image")
)  # fmt: skip
_PART = frozenset(("x", "start", "points", "startOffset", "rle", "sequence", "ranges", "vertices"))


@dataclass(frozen=True)
class _Answer:
    """The choices of one annotation for one question."""

    annotation: str
    question: str
    choices: tuple[str, ...]
    who: str
    created: str
    updated: str
    note: str = ""


def tasks_of(
    reviews: Sequence[Review], items: Mapping[str, Mapping[str, Any]], dataset: DataSet
) -> list[dict[str, Any]]:
    """Return tasks, one for each decision about an item that still exists."""
    kept = [one for one in reviews if one.item_id in items]
    shown = pictures(dataset, list(items)) if dataset.modality == Modality.IMAGE else {}
    return [task_of(one, items[one.item_id], shown.get(one.item_id)) for one in kept]


def pictures(dataset: DataSet, ids: Sequence[str]) -> dict[str, str]:
    """Return for each item an address that Label Studio shows.

    URLs are left as they are; files are addressed as its local files (`served_folder`); of a
    picture inside a shard or a table a small copy goes into the address; without a file it is the
    item's id.
    """
    files = _files(dataset, ids)
    folder = _common([one for one in files.values() if one and not is_url(one)])
    return {one: _address(dataset, one, files[one], folder) for one in ids}


def served_folder(dataset: DataSet, ids: Sequence[str]) -> str | None:
    """Return the folder of picture files that Label Studio is to serve, if there are any."""
    return _common([one for one in _files(dataset, ids).values() if one and not is_url(one)])


def _files(dataset: DataSet, ids: Sequence[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for one in ids:
        try:
            uri = dataset.uri(one)
        except FeatureStoreError:  # vectors that came without files
            uri = ""
        is_shown = uri.startswith(("http://", "https://", "s3://", "gs://", "azure-blob://"))
        found[one] = uri if is_shown or (not is_url(uri) and Path(uri).is_file()) else None
    return found


def _common(paths: Sequence[str]) -> str | None:
    return os.path.commonpath([str(Path(one).parent) for one in paths]) if paths else None


def _address(dataset: DataSet, item_id: str, file: str | None, folder: str | None) -> str:
    if file and is_url(file):
        return file
    if file and folder:
        return f"/data/local-files/?d={quote(str(Path(file).relative_to(Path(folder).parent)))}"
    try:
        small = dataset.thumbnail(item_id, size_px=_SIDE_PX)
    except (FeatureStoreError, OSError):
        return item_id
    return f"data:image/jpeg;base64,{base64.b64encode(small).decode()}"


# The format: https://labelstud.io/guide/tasks.html#Basic-Label-Studio-JSON-format
def task_of(one: Review, item: Mapping[str, Any], picture: str | None) -> dict[str, Any]:
    """Return a task: what it shows, and the decision as its annotation.

    A confirmed label is the choice of that label; what is excluded or a duplicate is skipped. The
    decision as it was made is in ``data``, which all exports of Label Studio keep; no annotator is
    named, since Label Studio refuses those who have no account.

    Parameters
    ----------
    picture : str or None
        An address that Label Studio can show, of `pictures`; None of a text.
    """
    is_text = picture is None
    shown = {"item_id": one.item_id}
    if picture is None:
        shown["text"] = item.get("text") or ""
    else:
        shown["image"] = picture
    choices: list[str] = []
    if one.action in (Action.CONFIRM, Action.RELABEL):
        chosen = item.get(one.label) if one.action is Action.CONFIRM else one.value
        choices = [name for name in class_name(chosen).split(SEPARATOR) if name]
    result = {
        "id": one.id or "decision",
        "from_name": one.label or "item",
        "to_name": "text" if is_text else "image",
        "type": "choices",
        "value": {"choices": choices},
    }
    shown |= {_MARK + name: str(getattr(one, name) or "") for name in _FIELDS[1:]}
    shown[_CHOICE] = SEPARATOR.join(choices)
    annotation = {
        "result": [result] if choices else [],
        "created_at": one.when,
        "was_cancelled": not choices,
    }
    return {"data": shown, "annotations": [annotation]}


def read_json(
    path: Path, text: str, label: str, labels: set[str], history: Sequence[Review] = ()
) -> Read:
    """Read an export as JSON or JSON_MIN; parameters and result as of `read_rows`."""
    try:
        tasks = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadSource(f"{path} is not an export of Label Studio: {error}") from None
    tasks = [tasks] if isinstance(tasks, dict) else tasks
    if not isinstance(tasks, list) or not all(isinstance(one, dict) for one in tasks):
        raise BadSource(f"{path} is not an export of Label Studio: expected a list of tasks")
    if any("annotation_id" in one and "data" not in one for one in tasks):
        return read_rows(path, tasks, label, labels, history)
    try:
        found = [(one["data"], list(_answers(one))) for one in tasks]
        old = [_old_mark(one) for one in tasks]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadSource(
            f"{path} is not an export of Label Studio: a task lacks what it needs ({error!r})"
        ) from None
    annotations = [(task["data"], one) for task in tasks for one in _annotations(task)]
    n_skipped = sum(_is_skipped(one) for _, one in annotations)
    n_answers = sum(len({one.annotation for one in answers}) for _, answers in found)
    ours = sum(_is_skipped(one) and not one.get("result") and _is_skip_of_ours(data)
               for data, one in annotations)  # fmt: skip
    read, notes = _decisions(path, found, label, labels, history, old)
    return read, _uncounted(n_skipped - ours, len(annotations) - n_skipped - n_answers) + notes


def read_rows(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    label: str,
    labels: set[str],
    history: Sequence[Review] = (),
) -> Read:
    """Return the decisions of an export with a row for each annotation, and notes.

    Such are CSV, TSV and JSON_MIN; the notes say what was not counted.

    Parameters
    ----------
    label : str
        The column that a question of another name is about.
    labels : set of str
        All label columns.
    history : sequence of Review
        What was decided already: an annotation that changed back is told from one that never did.

    Raises
    ------
    BadSource
        If it does not say of which items it speaks, or which of its questions is about the label.
    """
    found: dict[tuple[str, str], tuple[Mapping[str, Any], list[_Answer]]] = {}
    labels = labels | _label_columns(rows)
    is_named = any(name in labels for row in rows for name in row)
    for number, row in enumerate(rows):
        task = _text(row.get("item_id")), _text(row.get("id")) or str(number)
        _, answers = found.setdefault(task, (row, []))
        for name, value in row.items():
            if name in _ITS_OWN or name is None or name.startswith(_MARK):
                continue
            if is_named and name not in labels:
                continue
            if choices := _choices_of(value, is_named=name in labels):
                answers.append(
                    _Answer(
                        _text(row.get("annotation_id")), name, choices,
                        _text(row.get("annotator")), _text(row.get("created_at")),
                        _text(row.get("updated_at")),
                    )
                )  # fmt: skip
    n_answers = sum(len({one.annotation for one in answers}) for _, answers in found.values())
    read, notes = _decisions(path, list(found.values()), label, labels, history)
    return read, _uncounted(0, len(rows) - n_answers) + notes


def _uncounted(n_skipped: int, n_silent: int) -> list[str]:
    notes = []
    if n_skipped:
        notes.append(f"{n_skipped:,} skipped annotations are not counted")
    if n_silent:
        notes.append(f"{n_silent:,} annotations without a choice are not counted")
    return notes


def _annotations(task: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return task.get("annotations", task.get("completions")) or ()


def _is_skipped(annotation: Mapping[str, Any]) -> bool:
    return bool(annotation.get("was_cancelled") or annotation.get("skipped"))


def _is_skip_of_ours(data: Mapping[str, Any]) -> bool:
    return data.get(_MARK + "action") in (Action.EXCLUDE, Action.DUPLICATE)


def _answers(task: Mapping[str, Any]) -> Iterator[_Answer]:
    """Yield the choices about a whole task; what was skipped or is a draft has none."""
    for number, one in enumerate(_annotations(task)):
        if _is_skipped(one):
            continue
        chosen: dict[str, list[str]] = {}
        notes: list[str] = []
        for result in one.get("result") or ():
            value = result.get("value") or {}
            if "choices" in value and not _PART & value.keys():
                chosen.setdefault(result.get("from_name") or "", []).extend(
                    map(_text, value["choices"])
                )
            elif result.get("type") == "textarea":
                said = value.get("text") or ()
                notes += [said] if isinstance(said, str) else map(_text, said)
        who = one.get("completed_by")
        who = who.get("email") or who.get("id") if isinstance(who, dict) else who
        for name, choices in chosen.items():
            if choices := list(filter(None, choices)):
                yield _Answer(
                    _text(one.get("id")) or f"#{number}", name, tuple(choices), _text(who),
                    _text(one.get("created_at")), _text(one.get("updated_at")), "\n".join(notes),
                )  # fmt: skip


def _choices_of(value: Any, *, is_named: bool) -> tuple[str, ...]:
    """Return the choices in a cell of a row; a number alone is a rating."""
    if isinstance(value, str) and value.startswith(("{", "[")):
        try:
            value = json.loads(value)
        except ValueError:
            return (value,)
    if isinstance(value, dict):
        value = value.get("choices") or ()
    if isinstance(value, list | tuple):
        return tuple(one for one in value if isinstance(one, str) and one)
    if not isinstance(value, str) or not value:
        return ()
    return () if not is_named and _is_number(value) else (value,)


def _decisions(
    path: Path,
    tasks: Sequence[tuple[Mapping[str, Any], list[_Answer]]],
    label: str,
    labels: set[str],
    history: Sequence[Review],
    old: Sequence[Review | None] = (),
) -> Read:
    labels = labels | _label_columns([data for data, _ in tasks])
    labels |= {one.label for one in old if one and one.label}
    asked = {one.question for _, answers in tasks for one in answers}
    about = asked & labels or asked
    if len(about) > 1 and not about <= labels:
        raise BadSource(
            f"{path} has several questions ({', '.join(sorted(about))}) and none is called "
            f"{label!r}: give the choices about it that name in the labeling interface"
        )
    if tasks and not any(_text(data.get("item_id")) for data, _ in tasks):
        raise BadSource(
            f"{path} is not an export of Label Studio with item_id in its data: "
            f"export tasks with `featurestore review --export tasks.json`"
        )
    n_strangers = sum(not _text(data.get("item_id")) for data, _ in tasks)
    notes = [f"{n_strangers:,} tasks have no item_id: not counted"] if n_strangers else []
    if about and not about <= labels:
        notes.append(f"the answers to {next(iter(about))!r} are taken for {label!r}")
    if asked - about:
        notes.append(f"the answers to {', '.join(sorted(asked - about))} are not about a label")
    latest = {one.id.rpartition("-")[0]: one for one in history if one.id.startswith("ls-")}
    found: list[Review] = []
    for number, (data, answers) in enumerate(tasks):
        item = _text(data.get("item_id"))
        if not item:
            continue
        mark = _mark(item, data) or (old[number] if number < len(old) else None)
        written = _written(mark, data)
        said = [one for one in answers if one.question in about]
        first = min(said, key=_number, default=None)
        if mark and not said and not _chooses(mark):
            found.append(mark)
        for one in sorted(said, key=_moment):
            review = _review(item, one, label, labels, mark)
            before = latest.get(review.id.rpartition("-")[0])
            if before and _set(before.value) == _set(review.value):
                found.append(before)
            elif (
                mark
                and not before
                and one is first
                and review.label == mark.label
                and (written == _UNKNOWN or _set(written) == _set(review.value))
            ):
                found.append(mark)
            else:
                found.append(review)
    return found, notes


def _review(item: str, one: _Answer, label: str, labels: set[str], mark: Review | None) -> Review:
    column = one.question if one.question in labels else label
    value = SEPARATOR.join(dict.fromkeys(name.replace(SEPARATOR, "/") for name in one.choices))
    when = one.updated or one.created
    key, state = _digest(item, one.annotation, column), _digest(value, when)
    hashed = mark.content_hash if mark else None  # the content that was shown
    return Review(
        item, Action.RELABEL, column, value, one.who, when, one.note, hashed, f"ls-{key}-{state}"
    )


def _mark(item: str, data: Mapping[str, Any]) -> Review | None:
    """Return the decision that we wrote into a task, if there is one."""
    action = _text(data.get(_MARK + "action"))
    if action not in set(Action) - {Action.UNDO} or not data.get(_MARK + "id"):
        return None
    said = {name: _text(data.get(_MARK + name)) for name in _FIELDS[1:]}
    return Review(
        item, Action(action), said["label"], said["value"] or None, said["who"], said["when"],
        said["note"], said["content_hash"] or None, said["id"],
    )  # fmt: skip


def _old_mark(task: Mapping[str, Any]) -> Review | None:
    """Return the decision as earlier versions wrote it, into an annotation's ``meta``."""
    for one in task.get("annotations") or ():
        if "action" in (meta := one.get("meta") or {}):
            fields = {_MARK + name: value for name, value in meta.items()}
            return _mark(_text(task["data"].get("item_id")), fields)
    return None


def _label_columns(tasks: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the label columns that our own decisions in tasks are about."""
    return {_text(data.get(_MARK + "label")) for data in tasks} - {""}


def _written(mark: Review | None, data: Mapping[str, Any]) -> str:
    """Return what the annotation that we wrote chose: nothing where it was written as skipped."""
    if mark is None or not _chooses(mark):
        return ""
    if mark.action is Action.CONFIRM:
        return _text(data.get(_CHOICE)) or _UNKNOWN
    return mark.value or ""


def _set(value: str | None) -> set[str]:
    return set((value or "").split(SEPARATOR))


def _chooses(review: Review) -> bool:
    return review.action in (Action.CONFIRM, Action.RELABEL)


def _number(one: _Answer) -> tuple[int, str]:
    return (int(one.annotation), "") if one.annotation.isdigit() else (0, one.annotation)


def _moment(one: _Answer) -> tuple[datetime, datetime]:
    return _time(one.updated or one.created), _time(one.created)


def _time(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _text(value: Any) -> str:
    """Return a value as text; None and NaN are none."""
    return "" if value is None or value != value else class_name(value)


def reviews_of(history: Sequence[Review], annotations: Iterable[str]) -> list[Review]:
    """Return the decisions that annotations of these ids made, and that were not undone."""
    gone = set(annotations)
    undone = {one.value for one in history if one.action is Action.UNDO}
    return [
        one
        for one in history
        if one.id not in undone
        and any(one.id.startswith(f"ls-{_digest(one.item_id, a, one.label)}-") for a in gone)
    ]


def known_labels(labels: Iterable[str], label: str) -> set[str]:
    """Return the names of all columns that a question may be about."""
    return {label, *labels} - {""}
