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
from featurestore.errors import BadSource, nearest
from featurestore.exchange.label_studio import Read, known_labels, read_json, read_rows, tasks_of
from featurestore.sources.locations import check_regular
from featurestore.storage.files import write_file, written_beside
from featurestore.store.dataset import DataSet
from featurestore.terms.labels import class_name

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
        with (
            written_beside(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, _FIELDS)
            writer.writeheader()
            writer.writerows({name: getattr(one, name) for name in _FIELDS} for one in reviews)
    elif path.suffix == ".parquet":
        with written_beside(path) as temporary:
            pq.write_table(table_of(reviews), temporary)
    elif path.suffix == ".json":
        items = _items_of(reviews, dataset)
        tasks = tasks_of(reviews, items, dataset)
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


def read(
    path: Path, label: str, labels: Iterable[str] = (), history: Sequence[Review] = ()
) -> list[Review]:
    """Return the decisions of a file; parameters as of `read_noted`."""
    return read_noted(path, label, labels, history)[0]


def read_noted(
    path: Path, label: str, labels: Iterable[str] = (), history: Sequence[Review] = ()
) -> Read:
    """Read decisions: what `write` wrote, a CSV with item_id and action, Label Studio's exports.

    Returns them and notes on what was not counted.

    Parameters
    ----------
    label : str
        The column that decisions are about where the file does not say.
    labels : iterable of str
        All label columns; a Label Studio question of another name is about ``label``.
    history : sequence of Review
        What was decided already.

    Raises
    ------
    BadSource
        If the file cannot be read, lacks a column, or holds no known action.
    """
    check_regular(path)
    try:
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
            return _reviews(path, rows, rows[0] if rows else _FIELDS, label, first=1), []
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            return read_json(path, text, label, known_labels(labels, label), history)
        csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))  # texts may be long
        divided = "\t" if path.suffix == ".tsv" else ","
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=divided)
        names = reader.fieldnames or ()
        if "annotation_id" in names and "action" not in names:
            return read_rows(path, list(reader), label, known_labels(labels, label), history)
        return _reviews(path, list(reader), names, label, first=2), []
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
        raise BadSource(
            f"{path} lacks the column {', '.join(sorted(lacking))}: expected item_id, action and, "
            "for action relabel, value; or what Label Studio exports"
        )
    known = [str(one) for one in Action if one is not Action.UNDO]
    found = []
    for number, row in enumerate(rows, first):
        action = str(row["action"] or "").strip()
        if action not in known:
            raise BadSource(f"{path} line {number}: no action {action!r}: {nearest(action, known)}")
        said = {name: _text(row.get(name)) for name in _FIELDS}
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


def _text(value: Any) -> str:
    """Return a value as text: False and 0 are values, None and NaN are none."""
    return "" if value is None or value != value else class_name(value)
