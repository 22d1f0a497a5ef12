"""Decisions to files and back: CSV, Parquet, and Label Studio's JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.curation.reviews import Action, Review, table_of
from featurestore.errors import BadSource, FeatureStoreError, nearest
from featurestore.storage.files import write_file
from featurestore.store.dataset import DataSet
from featurestore.terms.labels import SEPARATOR
from featurestore.terms.specs import Modality

_FIELDS = tuple(Review.__dataclass_fields__)


def write(path: Path, reviews: Sequence[Review], dataset: DataSet) -> int:
    """Write decisions: ``.csv``, ``.parquet``, or ``.json`` for Label Studio; return how many.

    Label Studio gets no tasks of items that are gone.

    Raises
    ------
    BadSource
        If the name ends otherwise.
    """
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, _FIELDS)
            writer.writeheader()
            writer.writerows({name: getattr(one, name) for name in _FIELDS} for one in reviews)
    elif path.suffix == ".parquet":
        pq.write_table(table_of(reviews), path)
    elif path.suffix == ".json":
        items = _items_of(reviews, dataset)
        tasks = [_task(one, items[one.item_id], dataset) for one in reviews if one.item_id in items]
        write_file(path, json.dumps(tasks, indent=1, ensure_ascii=False).encode())
        return len(tasks)
    else:
        raise BadSource(f"{path}: expected a name that ends in .csv, .parquet or .json")
    return len(reviews)


def _items_of(reviews: Sequence[Review], dataset: DataSet) -> dict[str, Mapping[str, Any]]:
    """Return the rows of reviewed items that still exist, by id."""
    columns = dict.fromkeys(["item_id", "text", *(one.label for one in reviews if one.label)])
    items = dataset.items(list(columns))
    wanted = pa.array([one.item_id for one in reviews], pa.string())
    chosen = items.filter(pc.is_in(items.column("item_id"), value_set=wanted))
    return {row["item_id"]: row for row in chosen.to_pylist()}


def read(path: Path, label: str, labels: Iterable[str] = ()) -> list[Review]:
    """Read decisions: what `write` wrote, a CSV with item_id and action, Label Studio's JSON.

    Parameters
    ----------
    label : str
        The column that decisions are about where the file does not say.
    labels : iterable of str
        All label columns; a Label Studio question of another name is about ``label``.

    Raises
    ------
    BadSource
        If the file cannot be read, lacks a column, or holds no known action.
    """
    try:
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
            return _reviews(path, rows, rows[0] if rows else _FIELDS, label, first=1)
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            return _read_tasks(path, text, label, {label, *labels})
        reader = csv.DictReader(io.StringIO(text, newline=""))
        return _reviews(path, list(reader), reader.fieldnames or (), label, first=2)
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowInvalid) as error:
        raise BadSource(f"cannot read {path}: {error}") from None


def _reviews(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    names: Iterable[str],
    label: str,
    *,
    first: int,
) -> list[Review]:
    lacking = {"item_id", "action"} - set(names)
    if lacking:
        raise BadSource(f"{path} lacks the column {', '.join(sorted(lacking))}")
    known = [str(one) for one in Action if one is not Action.UNDO]
    found = []
    for number, row in enumerate(rows, first):
        action = str(row["action"] or "").strip()
        if action not in known:
            raise BadSource(f"{path} line {number}: no action {action!r}: {nearest(action, known)}")
        said = {name: str(row.get(name) or "") for name in _FIELDS}
        found.append(
            Review(
                said["item_id"],
                Action(action),
                said["label"] or label,
                said["value"] or None,
                said["who"],
                said["when"],
                said["note"],
                said["content_hash"] or None,
                said["id"],
            )
        )
    return found


# The format: https://labelstud.io/guide/tasks.html#Basic-Label-Studio-JSON-format
def _task(one: Review, item: Mapping[str, Any], dataset: DataSet) -> dict[str, Any]:
    """Return a Label Studio task: what it shows, and the decision as its annotation.

    A confirmed label is the choice of that label; what is excluded or a duplicate has none. The
    decision as it was made is in ``meta``.
    """
    is_text = dataset.modality == Modality.TEXT
    shown = {"item_id": one.item_id}
    if is_text:
        shown["text"] = item.get("text") or ""
    else:
        try:
            shown["image"] = dataset.uri(one.item_id)
        except FeatureStoreError:  # vectors that came without files
            shown["image"] = one.item_id
    choice = item.get(one.label) if one.action is Action.CONFIRM else one.value
    choices = [] if one.action in (Action.EXCLUDE, Action.DUPLICATE) else [str(choice)]
    result = {
        "from_name": one.label or "item",
        "to_name": "text" if is_text else "image",
        "type": "choices",
        "value": {"choices": choices},
    }
    annotation = {
        "result": [result],
        "completed_by": {"email": one.who},
        "created_at": one.when,
        "was_cancelled": not choices,
        "meta": {name: getattr(one, name) for name in _FIELDS},
    }
    return {"data": shown, "annotations": [annotation]}


def _read_tasks(path: Path, text: str, label: str, labels: set[str]) -> list[Review]:
    found = []
    try:
        for task in json.loads(text):
            item = str(task["data"]["item_id"])
            for one in task["annotations"]:
                kept = one.get("meta") or {}
                if "action" in kept:
                    found += _reviews(path, [{**kept, "item_id": item}], _FIELDS, label, first=1)
                    continue
                who = one.get("completed_by") or {}
                who = who.get("email", "") if isinstance(who, dict) else str(who)
                result = one["result"][0] if one["result"] else {}
                choices = result.get("value", {}).get("choices", [])
                column = result.get("from_name")
                found.append(
                    Review(
                        item,
                        Action.RELABEL if choices else Action.EXCLUDE,
                        column if column in labels else label,
                        SEPARATOR.join(map(str, choices)) or None,
                        who,
                    )
                )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise BadSource(
            f"{path} is no export of Label Studio with item_id in its data: {error!r}"
        ) from None
    return found
