"""Hugging Face data sets: a folder that `save_to_disk` wrote, or ``hf:NAME`` from the hub.

``hf:org/name``, ``hf:org/name@revision`` and ``hf:org/name#configuration``; all splits are taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from featurestore.errors import BadSource, MissingExtra
from featurestore.sources.class_names import class_columns, class_names, with_class_names
from featurestore.sources.listing import Listing, SourceOptions, canonical_split, require_column
from featurestore.sources.locations import Location
from featurestore.sources.metadata import SourceItems, as_listing
from featurestore.sources.uris import image_bytes, value_uri
from featurestore.storage.columns import joined
from featurestore.terms.specs import Modality

HF_PREFIX = "hf:"  # a data set of the Hugging Face hub, by name


def is_saved_dataset(folder: Location) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    names = ("dataset_dict.json", "state.json")
    return any(folder.join(name).exists() for name in names)


@dataclass(frozen=True)
class HfDataset:
    """All splits of one data set."""

    location: Location  # a folder, or hf:NAME

    kind = "datasets"

    @property
    def root(self) -> str:
        """The folder or hub name: uris are positions in it."""
        return self.location.text

    @property
    def name(self) -> str:
        """The name of the folder or data set."""
        return self.location.text.rpartition("/")[2].removeprefix(HF_PREFIX)

    def listing(self, options: SourceOptions) -> Listing:
        """List the rows of all splits; class numbers become class names."""
        if options.columns is not None:
            raise BadSource(f"--columns names the columns of a CSV, but {self.root} has its own")
        splits = _splits(self.root)
        # Splits may differ in their columns, and in the names of their classes.
        kinds = [item for dataset in splits.values() for item in dataset.features.items()]
        known = list(dict.fromkeys(name for name, _ in kinds))
        images = list(dict.fromkeys(n for n, kind in kinds if type(kind).__name__ == "Image"))
        if options.text is not None and options.image is not None:
            raise BadSource("--image and --text name two contents: give one of them")
        content = options.image or options.text or (images[0] if len(images) == 1 else None)
        if content is None:
            raise BadSource(
                f"{self.name} has several columns that could be embedded: say which with "
                f"--text COLUMN or --image COLUMN (columns: {', '.join(known)})"
            )
        require_column(content, known, "--text or --image", self.location)
        is_image = options.text is None
        if is_image and content not in images:
            raise BadSource(
                f"column {content!r} of {self.name} holds no images (columns of images: "
                f"{', '.join(images) or 'none'}); texts are embedded with --text"
            )
        parts, ids, uris, names = [], [], [], []
        classes: dict[str, None] = {}
        for split, dataset in splits.items():
            features = dataset.features.to_dict()
            require_column(content, list(features), f"split {split}", self.location)
            classes |= dict.fromkeys(class_columns(features))
            kept = [name for name in features if name not in images]
            table = dataset.select_columns(kept).with_format("arrow")[:] if kept else None
            if table is None:
                table = pa.table({"row": range(len(dataset))})
            parts.append(with_class_names(table, features).replace_schema_metadata(None))
            names += [canonical_split(split) if split != "all" else None] * len(table)
            ids += [f"{split}:{row}" for row in range(len(table))]
            uris += [value_uri(split, content, row) for row in range(len(table))]
        table = joined(parts)
        notes = []
        if options.id is None:
            notes.append(f"no --id: items of {self.name} are named by split and row")
        # A saved data set never changes in place: its fingerprints stand for times.
        stamps = [
            stamp
            for split, dataset in splits.items()
            for stamp in [_stamps(self.root)[split]] * len(dataset)
        ]
        labels = [name for name in classes if name != content]
        items = SourceItems(
            table,
            modality=Modality.IMAGE if is_image else Modality.TEXT,
            content=pa.array(uris) if is_image else table.column(content).cast(pa.string()),
            sizes=[0] * len(table) if is_image else None,
            stamps=stamps if is_image else None,
            ids=pa.array(ids),
            splits=names,
            labels=tuple(labels[:1]),
            used=frozenset({content}),
            notes=notes,
        )
        return as_listing(self, options, items)


def source_classes(root: str) -> dict[str, list[str]]:
    """Return the class names that a data set declares, by column; those of all splits."""
    found: dict[str, dict[str, None]] = {}
    for dataset in _loaded(root, _state(root)).values():
        for column, names in class_names(dataset.features.to_dict()).items():
            found.setdefault(column, {}).update(dict.fromkeys(names))
    return {column: [*names] for column, names in found.items()}


def read_value(root: str, split: str, column: str, row: int) -> bytes:
    """Return the bytes of one image of a data set."""
    dataset = _splits(root)[split]
    return image_bytes(dataset[row][column], Location(root))


def _splits(root: str) -> dict[str, Any]:
    """Return split → data set, memory-mapped, images left as bytes; "all" where it has none."""
    return _splits_at(root, _state(root))


def _state(root: str) -> int:
    """Return the time (ns) at which a folder was last saved; 0 for a data set of the hub."""
    states = [Path(root, name) for name in ("state.json", "dataset_dict.json")]
    return max((one.stat().st_mtime_ns for one in states if one.exists()), default=0)


@lru_cache(maxsize=4)
def _splits_at(root: str, state: int) -> dict[str, Any]:
    import datasets

    splits = dict(_loaded(root, state))
    for split, dataset in splits.items():
        for name, kind in dataset.features.items():
            if isinstance(kind, datasets.Image):
                splits[split] = splits[split].cast_column(name, datasets.Image(decode=False))
    return splits


@lru_cache(maxsize=4)
def _loaded(root: str, state: int) -> dict[str, Any]:
    """Load a data set; a new ``state`` loads it again."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra(
            f"{root} needs the package 'datasets': pip install 'featurestore[datasets]'"
        ) from error
    try:
        if root.startswith(HF_PREFIX):
            name, _, configuration = root.removeprefix(HF_PREFIX).partition("#")
            name, _, revision = name.partition("@")
            loaded = datasets.load_dataset(name, configuration or None, revision=revision or None)
        else:
            loaded = datasets.load_from_disk(root)
    except (OSError, RuntimeError, ValueError, LookupError) as error:
        reason = " ".join(str(error).split())[:300]
        hint = (
            "; with no network, save_to_disk it elsewhere and name the folder"
            if root.startswith(HF_PREFIX)
            else ""
        )
        raise BadSource(f"cannot load {root}: {reason}{hint}") from error
    return dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"all": loaded}


def _stamps(root: str) -> dict[str, int]:
    """Return a number for each split that changes with its content."""
    return {
        split: int(str(one._fingerprint)[:15], 16)
        for split, one in _loaded(root, _state(root)).items()
    }
