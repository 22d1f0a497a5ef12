"""What dataset.json says: modality, label columns, sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from featurestore.errors import StoreCorrupt
from featurestore.storage.files import json_object
from featurestore.storage.remote import StorePath
from featurestore.terms.labels import likely_task
from featurestore.terms.specs import Modality


@dataclass(frozen=True)
class SourceRecord:
    """A registered source: where it is and how it was read."""

    kind: str  # folder | table | webdataset | datasets
    root: str
    locations: tuple[str, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class DatasetFile:
    """What dataset.json says."""

    modality: Modality
    labels: Mapping[str, Mapping[str, str]]  # column -> {"task": …}; the first is the main one
    sources: Mapping[str, SourceRecord]
    attached: tuple[str, ...] = ()  # columns given later (labels, splits): sources leave them be

    def with_attached(
        self, columns: Sequence[str], labels: Mapping[str, Mapping[str, str]]
    ) -> DatasetFile:
        """Return this with columns that were given apart from the sources, some of them labels."""
        attached = tuple(dict.fromkeys((*self.attached, *columns)))
        return replace(self, labels={**self.labels, **labels}, attached=attached)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object; labels as a list, since their order counts."""
        return {
            "modality": str(self.modality),
            "labels": [{"column": name, **facts} for name, facts in self.labels.items()],
            "sources": {name: vars(record) for name, record in self.sources.items()},
            "attached": list(self.attached),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DatasetFile:
        """Read what `to_json` wrote; raises KeyError, TypeError, ValueError for anything else."""
        labels = {label["column"]: {"task": label["task"]} for label in value["labels"]}
        sources = {
            name: SourceRecord(
                record["kind"], record["root"], tuple(record["locations"]), record["options"]
            )
            for name, record in value["sources"].items()
        }
        attached = tuple(value.get("attached", ()))  # absent from files of 0.1
        return cls(Modality(value["modality"]), labels, sources, attached)


def parse_description(path: StorePath, read: Callable[[], bytes]) -> DatasetFile:
    """Read a dataset.json; raises StoreCorrupt where it is damaged."""
    try:
        return DatasetFile.from_json(json_object(path, read))
    except (KeyError, TypeError, ValueError) as error:
        raise StoreCorrupt(f"{path} is damaged: {error!r}; restore it from a backup") from error


def task_of(column: pa.ChunkedArray) -> str:
    """Return the task that a label column suggests; see `likely_task`."""
    return likely_task(column.unique().to_pylist())
