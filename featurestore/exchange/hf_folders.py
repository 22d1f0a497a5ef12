"""Folders that Hugging Face's `save_to_disk` writes: one data set, or one for each split."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import BadSource, MissingExtra
from featurestore.exchange.known_columns import KEY, KnownColumns, in_order
from featurestore.exchange.pictures import KIND
from featurestore.sources.class_names import hub_features, with_class_names
from featurestore.sources.listing import canonical_split
from featurestore.sources.metadata import free_name
from featurestore.storage.columns import joined
from featurestore.terms.labels import SEPARATOR

_STATE, _SPLITS, _INFO = "state.json", "dataset_dict.json", "dataset_info.json"
_MARK = "exported by featurestore: "  # in a description; what is known of the columns follows
_UNSPLIT = "unsplit"  # the folder of items that are in no split, beside those of splits


class SavedTable(NamedTuple):
    """Rows of a folder, with class names in place of class numbers."""

    table: pa.Table
    known: KnownColumns
    row_names: pa.Array | None  # split:row, as `embed` names them; None: one data set


def is_saved_folder(path: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return any((path / name).exists() for name in (_STATE, _SPLITS))


def write_folder(
    table: pa.Table,
    path: Path,
    *,
    by_split: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Write a table as a data set, or as one for each split, with its classes as ClassLabel."""
    try:
        from datasets import Dataset, DatasetDict, DatasetInfo, Features, Image, NamedSplit
    except ImportError as error:
        raise MissingExtra(
            "a Hugging Face data set needs datasets: pip install 'featurestore[datasets]'"
        ) from error
    metadata = table.schema.metadata
    known = KnownColumns.parse(metadata[KEY]) or KnownColumns()
    table, classes = _numbered(table, known)
    features = Features.from_arrow_schema(table.replace_schema_metadata(None).schema) | classes
    pictures = {one.name: Image() for one in table.schema if one.type == KIND}
    about = {key.decode(): value.decode() for key, value in metadata.items()}
    info = DatasetInfo(
        features=Features(features | pictures),
        description=_MARK + json.dumps(about, ensure_ascii=False),
    )
    if not by_split:
        Dataset(table, info=info).save_to_disk(path)
        return
    splits = table.column("split")
    names = _folders(splits.unique().to_pylist())
    parts = {
        name: table.filter(pc.is_null(splits) if split is None else pc.equal(splits, split))
        for split, name in names.items()
    }
    DatasetDict(
        {name: Dataset(part, info=info, split=NamedSplit(name)) for name, part in parts.items()}
    ).save_to_disk(path)
    say(f"one data set a split: {', '.join(f'{n} {len(one):,}' for n, one in parts.items())}")


def _folders(splits: list[str | None]) -> dict[str | None, str]:
    """Name the folder of each split; names that are not words are spelled in other letters."""
    names: dict[str | None, str] = {}
    for split in sorted(splits, key=lambda one: (one is None, one)):
        plain = _UNSPLIT if split is None else re.sub(r"\W", "_", split) or "_"
        name, n = plain, 1
        while name in names.values():
            name, n = f"{plain}_{n + 1}", n + 1
        names[split] = name
    return names


def _numbered(table: pa.Table, known: KnownColumns) -> tuple[pa.Table, dict[str, Any]]:
    """Replace class names by numbers; return the features that name them."""
    from datasets import ClassLabel, List

    features: dict[str, Any] = {}
    for at, name in enumerate(table.column_names):
        column, task = table.column(name), known.tasks.get(name)
        if not pa.types.is_string(column.type) or task not in ("multiclass", "multilabel"):
            continue  # numbers and bools say themselves what they are
        declared = known.classes.get(name, ())
        if task == "multiclass":
            values = {*column.unique().to_pylist()} - {None, ""}  # as heads read it: no label
            names = in_order(values, declared)
            found = pc.index_in(column, value_set=pa.array(names, pa.string())).cast(pa.int64())
            feature = ClassLabel(names=names)
        else:
            lists = [_labels(one) for one in column.to_pylist()]
            names = in_order({label for one in lists for label in one or ()}, declared)
            numbers = {label: number for number, label in enumerate(names)}
            rows = [None if one is None else [numbers[label] for label in one] for one in lists]
            found = pa.chunked_array([pa.array(rows, pa.list_(pa.int64()))])
            feature = List(ClassLabel(names=names))
        if names:
            table, features[name] = table.set_column(at, name, found), feature
    return table, features


def _labels(value: str | None) -> list[str] | None:
    return None if value is None else value.split(SEPARATOR) if value else []


def read_folder(path: Path) -> SavedTable:
    """Read all rows of a folder; raises OSError, ValueError, KeyError, TypeError where damaged."""
    if not (path / _SPLITS).exists():
        table, known, _ = _read_one(path)
        return SavedTable(table, known, None)
    names = [Path(name).name for name in json.loads((path / _SPLITS).read_text("utf-8"))["splits"]]
    if not names:
        raise BadSource(f"{path} holds no splits")
    parts, row_names, knows, are_ours = [], [], [], []
    for name in names:
        table, known, is_ours = _read_one(path / name)
        knows.append(known)
        are_ours.append(is_ours)
        row_names += [f"{name}:{row}" for row in range(len(table))]
        parts.append(table if is_ours else _with_split(table, name))
    table = joined(parts)
    known = _joined(knows)
    all_names = pa.array(row_names)
    if all(are_ours) and "item_id" in table.column_names:  # in the order of the view
        order = pc.sort_indices(table.column("item_id"))
        return SavedTable(table.take(order), known, all_names.take(order))
    return SavedTable(table, known, all_names)


def _with_split(table: pa.Table, name: str) -> pa.Table:
    """Add the split that the folder says; a column of this name is another one, as in `embed`."""
    names = [free_name(one) if one == "split" else one for one in table.column_names]
    split = pa.array([canonical_split(name)] * len(table), pa.string())
    return table.rename_columns(names).append_column("split", split)


def _joined(knows: Sequence[KnownColumns]) -> KnownColumns:
    """Join what splits say: they may differ in their columns and classes."""
    tasks: dict[str, str | None] = {}
    classes: dict[str, Sequence[str]] = {}
    for one in knows:
        tasks = {**one.tasks, **tasks}
        for name, names in one.classes.items():
            classes[name] = [*dict.fromkeys([*classes.get(name, ()), *names])]
    added = dict.fromkeys(name for one in knows for name in one.added)
    return KnownColumns(tasks, classes, tuple(added))


def _read_one(folder: Path) -> tuple[pa.Table, KnownColumns, bool]:
    """Return the rows of one data set, what is known of them, and whether `export` wrote it."""
    state = json.loads((folder / _STATE).read_text("utf-8"))
    names = [one["filename"] for one in state["_data_files"]]
    table = pa.concat_tables([read_stream(folder / Path(name).name) for name in names])
    named = with_class_names(table, hub_features(table.schema)).replace_schema_metadata(None)
    about = _about(folder / _INFO)
    if about is not None and (known := KnownColumns.parse(about.get(KEY.decode(), ""))):
        return named, known, True
    return named, KnownColumns.of_schema(table.schema), False


def _about(path: Path) -> dict[str, str] | None:
    """Return what `write_folder` wrote into the description."""
    try:
        written = json.loads(path.read_text("utf-8"))["description"]
        found = json.loads(written.removeprefix(_MARK)) if written.startswith(_MARK) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if isinstance(found, dict) else None


def validated(table: pa.Table) -> pa.Table:
    """Look at every offset: one that is damaged would end the process when it is followed.

    Whether texts are UTF-8 is looked at later, row by row.
    """
    for column in table.columns:
        as_bytes = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(column.type)
        (column if as_bytes is None else column.cast(as_bytes)).validate(full=True)
    return table


def read_stream(path: Path) -> pa.Table:
    """Read an Arrow file of batches without a footer, as Hugging Face writes them."""
    with pa.memory_map(str(path)) as file:
        return validated(pa.ipc.open_stream(file).read_all())
