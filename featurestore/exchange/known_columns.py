"""What a file of vectors says of its columns: labels, their tasks and classes, what was added.

Files of our own hold it in their metadata under `KEY`, saved Hugging Face data sets in their
description; class names that Hugging Face keeps beside class numbers are read as well.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import FeatureStoreError
from featurestore.sources.class_names import class_names, hub_features
from featurestore.sources.hf_datasets import source_classes
from featurestore.sources.metadata import free_name
from featurestore.storage.dataset_file import SourceRecord, task_of
from featurestore.store.dataset import DataSet

KEY = b"featurestore_columns"
CLASSES = "classes"  # in the options of an import's source: class names by column


@dataclass(frozen=True)
class KnownColumns:
    """What is known of a file's columns beside their values."""

    tasks: Mapping[str, str | None] = field(default_factory=dict)  # of label columns; None: unsaid
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)  # names in their order
    added: tuple[str, ...] = ()  # columns that the export made, and pictures: not to be imported

    @classmethod
    def of_dataset(cls, dataset: DataSet, names: Collection[str], added: Collection[str]) -> Self:
        """Return what a data set knows of those of its columns that a file holds."""
        labels = dataset.description.labels
        tasks = {name: labels[name]["task"] for name in labels if name in names}
        classes = {name: one for name, one in _declared(dataset).items() if name in tasks}
        return cls(tasks, classes, tuple(added))

    @classmethod
    def of_schema(cls, schema: pa.Schema) -> Self:
        """Return what the metadata of a file says: ours, else that of Hugging Face.

        Of several columns of classes, the first is the label, and pictures are left out, as
        `embed` does.
        """
        ours = (schema.metadata or {}).get(KEY)
        if ours is not None and (found := cls.parse(ours)) is not None:
            return found
        features = hub_features(schema)
        classes = class_names(features)
        pictures = (n for n, one in features.items() if _is_picture(one))
        return cls({name: None for name in [*classes][:1]}, classes, tuple(pictures))

    @classmethod
    def parse(cls, text: str | bytes) -> Self | None:
        """Read what `to_json` wrote; None for anything else."""
        try:
            found = json.loads(text)
            labels = {str(one["column"]): one for one in found["labels"]}
            tasks = {name: str(one["task"]) for name, one in labels.items()}
            classes = {n: [*map(str, one[CLASSES])] for n, one in labels.items() if CLASSES in one}
            return cls(tasks, classes, tuple(map(str, found["added"])))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    def to_json(self) -> str:
        """Return it as JSON; labels as a list, since their order counts."""
        labels = [
            {"column": name, "task": task}
            | ({CLASSES: [*self.classes[name]]} if name in self.classes else {})
            for name, task in self.tasks.items()
        ]
        return json.dumps({"labels": labels, "added": self.added}, ensure_ascii=False)

    def task(self, name: str, values: pa.ChunkedArray) -> str:
        """Return the task that the file says, where these values can have it; else a likely one."""
        said = self.tasks.get(name)
        is_number = pa.types.is_floating(values.type) or pa.types.is_decimal(values.type)
        is_number = is_number or pa.types.is_integer(values.type)
        fits = said in ("multiclass", "multilabel") or (said == "regression" and is_number)
        return said if said is not None and fits else task_of(values)


def in_order(values: Collection[str], declared: Sequence[str]) -> list[str]:
    """Return class names in the known order, then the others, sorted.

    >>> in_order({"fox", "cat"}, ["dog", "cat"])
    ['dog', 'cat', 'fox']
    """
    return [*declared, *sorted({*values} - {*declared})]


def _is_picture(feature: Any) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == "Image"


def _declared(dataset: DataSet) -> dict[str, list[str]]:
    """Return the class names that sources declare, by our column; none of a source that is gone."""
    found: dict[str, dict[str, None]] = {}
    for record in dataset.description.sources.values():
        try:
            of_source = _classes_of(record)
        except (FeatureStoreError, OSError, ValueError, KeyError):
            continue
        for name, names in of_source.items():
            found.setdefault(free_name(name), {}).update(dict.fromkeys(names))
    return {name: [*names] for name, names in found.items()}


def _classes_of(record: SourceRecord) -> Mapping[str, Sequence[str]]:
    if record.kind == "datasets":
        return source_classes(record.root)
    if record.kind == "table":
        files = [Path(one) for one in record.locations if one.lower().endswith(".parquet")]
        schemas = [pq.read_schema(one) for one in files if one.is_file()]
        return {n: c for one in schemas for n, c in class_names(hub_features(one)).items()}
    found: Any = record.options.get(CLASSES, {})
    return found if isinstance(found, dict) else {}
