"""Columns that are attached to items later: labels, splits; nothing is embedded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.errors import BadSource, UnknownItem, nearest
from featurestore.sources.as_written import about, mixed_notes, number_note
from featurestore.sources.bad_rows import bad_rows, with_bad_rows
from featurestore.sources.listing import RESERVED, SourceOptions, canonical_split, require_column
from featurestore.sources.locations import Location
from featurestore.sources.metadata import own_ids, plain
from featurestore.sources.table import READERS
from featurestore.storage.columns import agreed, is_equal, new_columns, widened, without_nan
from featurestore.storage.dataset_file import DatasetFile, task_of
from featurestore.storage.dataset_folder import DatasetFolder

SPLIT = "split"
OF_SUGGEST = ("text", "path", "why")  # columns beside the label of a table of `suggest -o`


def read_labels(path: str | Path, *, item_id: str, columns: Sequence[str] = ()) -> pa.Table:
    """Read labels from a table: its id column as ``item_id``, and the named columns or all.

    Of a table that `suggest` wrote, all are the label alone: not the text, the path and the reason.

    Rows that cannot be read, or have no id, are left out: `label_failures` names them.

    Raises
    ------
    BadSource, MissingColumn
        If it is no table that we read, lacks a column, or names an item twice.
    """
    location = Location.of(path)
    if location.suffix not in READERS:
        raise BadSource(f"{location} is not a table: expected {', '.join(sorted(READERS))}")
    table = READERS[location.suffix](location, SourceOptions(id=item_id))
    require_column(item_id, table.column_names, "--id", location)
    beside = OF_SUGGEST if table.column_names[-1:] == ["why"] else ()
    names = list(columns) or [
        name for name in table.column_names if name != item_id and name not in beside
    ]
    for name in names:
        require_column(name, table.column_names, "--label", location)
    ids, nameless = own_ids(table.column(item_id), item_id)
    noted = with_bad_rows(table, nameless | bad_rows(table))
    bad = bad_rows(noted)
    if len(table) and len(bad) == len(table):
        raise BadSource(f"{location.name} has no row to take: {next(iter(bad.values()))}")
    found = pa.table({"item_id": ids, **{name: plain(table.column(name)) for name in names}})
    if bad:
        found = found.take(pa.array(sorted({*range(len(table))} - bad.keys()), pa.int64()))
    if len(pc.unique(found.column("item_id"))) < len(found):
        raise BadSource(
            f"{location.name} names an item twice in {item_id!r}: expected one row each"
        )
    return found.replace_schema_metadata(noted.schema.metadata)


def label_failures(values: pa.Table, where: str | Path) -> list[str]:
    """Name the rows that `read_labels` left out, with the reason."""
    name = Location.of(where).name
    return [f"{name}:{row}: {why}" for row, why in bad_rows(values).items()]


def label_notes(values: pa.Table, where: str) -> list[str]:
    """Say which columns that `read_labels` returned are text, though some values are numbers."""
    names = values.column_names[1:]
    notes = [number_note(name, values.column(name), values) for name in names]
    return [*mixed_notes(values, names, where), *(note for note in notes if note)]


def attach(folder: DatasetFolder, values: pa.Table, *, are_labels: bool = True) -> int:
    """Write columns of known items; sources no longer touch those columns.

    Parameters
    ----------
    folder : DatasetFolder
    values : pyarrow.Table
        ``item_id`` and one column for each thing to attach. Items that it does not name keep
        what they have.
    are_labels : bool
        Whether the columns become labels of the data set.

    Returns
    -------
    int
        How many items have other values than before.

    Raises
    ------
    UnknownItem
        If an id is not one of the data set's; nothing is changed.
    BadSource
        For a column that the store fills itself, or of another type than before.
    """
    values = _checked(values)
    names = values.column_names[1:]
    changed = pa.nulls(0, pa.string())

    @lru_cache(maxsize=1)  # most often nobody writes between the check and the commit
    def over(version: int) -> pa.Table:
        nonlocal changed
        rows = _changed_rows(folder, values, version)
        changed = rows.column("item_id")
        return rows

    def is_changed(items: pa.Table) -> NDArray[np.bool_]:  # (n,)
        return np.asarray(pc.is_in(items.column("item_id"), value_set=changed))

    def known(now: DatasetFile | None) -> DatasetFile:
        return now or folder.read()

    with folder.locked("dataset"):
        # What cannot be written changes nothing.
        come = over(folder.items.version()).schema
        new_columns(widened(folder.items.schema(), come), come)
        # Record column ownership first, so that concurrent writers keep the columns.
        folder.update(lambda now: known(now).with_attached(names, {}))
        folder.items.merge(over, drop=is_changed, keys=["item_id"], widen=True)
        tasks = _tasks(values, names, are_labels)
        folder.update(lambda now: known(now).with_attached(names, tasks))
    return len(changed)


def _checked(values: pa.Table) -> pa.Table:
    """Return the values with ``item_id`` as first column, splits by our names."""
    names = [name for name in values.column_names if name != "item_id"]
    taken = [name for name in names if name in RESERVED - {SPLIT}]
    if taken:
        raise BadSource(
            f"columns {', '.join(taken)} are used by the store itself: name the ones to attach "
            "with --label, or rename yours"
        )
    if not names:
        raise BadSource("no column to attach: expected one beside the id")
    values = values.select(["item_id", *names])
    for at, name in enumerate(names, 1):
        values = values.set_column(at, name, without_nan(values.column(name)))
    if SPLIT in names:
        splits = [canonical_split(value) for value in values.column(SPLIT).to_pylist()]
        at = values.schema.get_field_index(SPLIT)
        values = values.set_column(at, SPLIT, pa.array(splits, pa.string()))
    return values


def _changed_rows(folder: DatasetFolder, values: pa.Table, version: int) -> pa.Table:
    """Return the items of a version whose values differ, with the new values."""
    names = values.column_names[1:]
    items = folder.items.read(version=version)
    positions = pc.index_in(values.column("item_id"), value_set=items.column("item_id"))
    unknown = values.filter(pc.is_null(positions)).column("item_id").to_pylist()
    if unknown:
        known = items.column("item_id").to_pylist()[:10_000]
        raise UnknownItem(
            f"{len(unknown)} of {len(values)} ids are not in {folder.name!r} "
            f"(first: {unknown[0]!r}; {nearest(unknown[0], known, n=2)})"
        )
    new_columns(widened(items.schema, values.schema), values.schema)  # raises for odd types
    pointed = frozenset(about(values).get("point", ()))
    (values,) = agreed(
        [values], [pointed], items.select([n for n in names if n in items.schema.names])
    )
    same = np.logical_and.reduce([is_equal(values, items, positions, name) for name in names])
    other = values.filter(pa.array(~same))
    rows = items.take(positions.filter(pa.array(~same)))
    for name in names:
        at = rows.schema.get_field_index(name)
        column = other.column(name)
        rows = rows.set_column(at, name, column) if at >= 0 else rows.append_column(name, column)
    return rows


def _tasks(values: pa.Table, names: Sequence[str], are_labels: bool) -> dict[str, dict[str, str]]:
    if not are_labels:
        return {}
    return {name: {"task": task_of(values.column(name))} for name in names if name != SPLIT}
