"""Small views that a person can predict: no store, no encoder."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from featurestore.sources.listing import SourceOptions
from featurestore.storage.dataset_file import DatasetFile
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.snapshots import Snapshot
from featurestore.terms.specs import EncoderSpec, Modality


@dataclass(frozen=True)
class FakeDataset:
    name: str
    path: Path
    modality: Modality
    label_columns: tuple[str, ...] = ("label",)

    @property
    def description(self) -> DatasetFile:
        return DatasetFile(self.modality, {}, {})


@dataclass(frozen=True)
class FakeView:
    dataset: FakeDataset
    spec: EncoderSpec
    embeddings: Embeddings
    slice_: None = None
    trust: bool = False

    @property
    def fingerprint(self) -> str:
        return self.embeddings.encoder

    @property
    def info(self) -> dict[str, object]:
        return {
            "spec": str(self.spec),
            "fingerprint": self.fingerprint,
            "dim": self.embeddings.dim,
            "modalities": [str(self.dataset.modality)],
            "canary": {},
        }

    @property
    def state(self) -> str:
        return hashlib.sha256(self.embeddings.vectors.tobytes()).hexdigest()

    @property
    def name(self) -> str:
        return f"{self.dataset.name}@{self.spec}"

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot(3, 1)

    def load(self, split=None, columns=None) -> Embeddings:
        return replace(self.embeddings, snapshot=self.snapshot)


@pytest.fixture
def make_view(tmp_path) -> Callable[..., FakeView]:
    """Make a view from vectors and columns; ids are item-000, item-001 …"""

    def make(vectors, labels, *, spec="timm:x", texts=None, dataset="toys", ids=None, **columns):
        n = len(labels)
        known = {
            "label": labels,
            "split": [None] * n,
            "group": [None] * n,
            "content_hash": [f"hash-{i}" for i in range(n)],
            "text": texts or [None] * n,
            **columns,
        }
        return FakeView(
            FakeDataset(
                dataset, tmp_path / dataset, Modality.IMAGE if texts is None else Modality.TEXT
            ),
            EncoderSpec.parse(spec),
            Embeddings(
                np.array(ids or [f"item-{i:03d}" for i in range(n)], dtype=object),
                np.asarray(vectors, dtype=np.float32),
                f"fingerprint-of-{spec}",
                {name: np.array(list(values), dtype=object) for name, values in known.items()},
                "label",
            ),
        )

    return make


@pytest.fixture
def blobs() -> Callable[..., tuple[np.ndarray, list[str]]]:
    """Make vectors around one random centre for each class, and string labels."""

    def make(n=120, dim=12, n_classes=3, noise=1.0, seed=0):
        rng = np.random.default_rng(seed)
        codes = np.arange(n) % n_classes
        vectors = 2 * rng.normal(size=(n_classes, dim))[codes] + noise * rng.normal(size=(n, dim))
        return vectors.astype(np.float32), [f"class {c}" for c in codes]

    return make


@pytest.fixture
def embed(empty_store, tmp_path):
    """Embed rows (dicts with a text) by the built-in text encoder; return the store."""

    def embedded(rows, label=("topic",), **options):
        path = tmp_path / "rows.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        if "split" in rows[0]:
            options["split"] = "split"
        source = SourceOptions(text="text", label=label, **options)
        empty_store.embed(
            [path], dataset="texts", encoders=["builtin:tiny-text"], source_options=source
        )
        return empty_store

    return embedded
