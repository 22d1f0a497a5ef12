"""Decisions to files and back: CSV, Parquet, and Label Studio's JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from featurestore.errors import BadSource, nearest
from featurestore.reviews import Action, Review, table_of
from featurestore.store import DataSet
from featurestore.tables import write_file
from featurestore.values import Modality

_FIELDS = ("item_id", "action", "label", "value", "who", "when", "note", "content_hash", "id")
_KEPT = ("item_id", "action", "value", "who", "note")  # that a file may bring


def write(path: Path, reviews: Sequence[Review], dataset: DataSet) -> None:
    """Write decisions: ``.csv``, ``.parquet``, or ``.json`` for Label Studio.

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
        tasks = [_task(one, dataset) for one in reviews]
        write_file(path, json.dumps(tasks, indent=1, ensure_ascii=False).encode())
    else:
        raise BadSource(f"{path}: expected a name that ends in .csv, .parquet or .json")


def read(path: Path, label: str) -> list[Review]:
    """Read decisions: a CSV with item_id and action (and value, who, note), or Label Studio's JSON.

    Parameters
    ----------
    label : str
        The column that decisions are about where the file does not say.

    Raises
    ------
    BadSource
        If the file cannot be read, lacks a column, or holds no known action.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadSource(f"cannot read {path}: {error}") from None
    if path.suffix == ".json":
        return _read_tasks(path, text, label)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    lacking = {"item_id", "action"} - set(rows[0] if rows else ())
    if lacking:
        raise BadSource(f"{path} lacks the column {', '.join(sorted(lacking))}")
    return [_review(path, number, row, label) for number, row in enumerate(rows, 2)]


def _review(path: Path, number: int, row: dict[str, str], label: str) -> Review:
    action = (row["action"] or "").strip()
    known = [str(one) for one in Action if one is not Action.UNDO]
    if action not in known:
        raise BadSource(f"{path} line {number}: no action {action!r}: {nearest(action, known)}")
    found = {name: row.get(name) or "" for name in _KEPT}
    return Review(
        found["item_id"], Action(action), row.get("label") or label, found["value"] or None,
        found["who"], note=found["note"],
    )  # fmt: skip


def _task(one: Review, dataset: DataSet) -> dict[str, Any]:
    """Return a Label Studio task; what it shows comes from ``data``.

    The format: https://labelstud.io/guide/tasks.html#Basic-Label-Studio-JSON-format
    """
    is_text = dataset.modality == Modality.TEXT
    shown = {"item_id": one.item_id}
    if not is_text:
        shown["image"] = dataset.uri(one.item_id) if dataset.description.sources else one.item_id
    choice = one.value if one.action is Action.RELABEL else str(one.action)
    result = {
        "from_name": one.label,
        "to_name": "text" if is_text else "image",
        "type": "choices",
        "value": {"choices": [choice]},
    }
    annotation = {
        "result": [result],
        "completed_by": {"email": one.who},
        "created_at": one.when,
        "was_cancelled": one.action is Action.EXCLUDE,
        "meta": {"action": str(one.action), "value": one.value, "note": one.note},
    }
    return {"data": shown, "annotations": [annotation]}


def _read_tasks(path: Path, text: str, label: str) -> list[Review]:
    found = []
    try:
        for task in json.loads(text):
            item = task["data"]["item_id"]
            for one in task["annotations"]:
                who = one.get("completed_by") or {}
                who = who.get("email", "") if isinstance(who, dict) else str(who)
                kept = one.get("meta") or {}
                if "action" in kept:
                    action, value = Action(kept["action"]), kept.get("value")
                elif one.get("was_cancelled"):
                    action, value = Action.EXCLUDE, None
                else:
                    action, value = Action.RELABEL, one["result"][0]["value"]["choices"][0]
                column = one["result"][0]["from_name"] if one["result"] else label
                note = kept.get("note", "")
                found.append(Review(item, action, column, value, who, note=note))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise BadSource(
            f"{path} is no export of Label Studio with item_id in its data: {error!r}"
        ) from None
    return found
