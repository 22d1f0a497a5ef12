"""Views that live in memory, for simulations: what heads ask of a view, and no store."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.terms.embeddings import Embeddings
from featurestore.terms.snapshots import Snapshot
from featurestore.terms.specs import EncoderSpec, Modality


@dataclass(frozen=True)
class MemoryDataset:
    """A data set that knows its views."""

    name: str = "simulated"
    path: Path = Path(tempfile.gettempdir()) / "featurestore-simulated"
    modality: Modality = Modality.IMAGE
    known: list[Any] = field(default_factory=list)
    description: Any = field(default_factory=lambda: SimpleNamespace(labels={}))  # no task said

    def views(self) -> list[Any]:
        return list(self.known)


@dataclass(frozen=True)
class MemoryView:
    """Vectors under an encoder's name."""

    dataset: MemoryDataset
    spec: EncoderSpec
    embeddings: Embeddings
    trust: bool = False
    slice_: None = None

    @property
    def fingerprint(self) -> str:
        return self.embeddings.encoder

    @property
    def info(self) -> dict[str, Any]:
        return {
            "spec": str(self.spec), "fingerprint": self.fingerprint, "canary": None,
            "dim": self.embeddings.dim, "modalities": ["image"],
        }  # fmt: skip

    @property
    def state(self) -> str:
        return hashlib.sha256(self.embeddings.vectors.tobytes()).hexdigest()

    @property
    def name(self) -> str:
        return f"{self.dataset.name}@{self.spec}"

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot(0, 0)

    def load(self) -> Embeddings:
        return self.embeddings


def views_of(
    vectors: Mapping[str, NDArray[Any]], labels: Sequence[Any], **columns: Sequence[Any]
) -> dict[str, Any]:
    """Make views of one data set; nothing of them is written unless heads save."""
    n = len(labels)
    known = {
        "label": labels, "split": [None] * n, "group": [None] * n,
        "content_hash": [f"hash-{i}" for i in range(n)], "text": [None] * n, **columns,
    }  # fmt: skip
    made = {name: np.array(list(values), dtype=object) for name, values in known.items()}
    ids = np.array([f"item-{i:06d}" for i in range(n)], dtype=object)
    dataset = MemoryDataset()
    for spec, X in vectors.items():
        found = Embeddings(ids, np.asarray(X, dtype=np.float32), spec, made, "label")
        dataset.known.append(MemoryView(dataset, EncoderSpec.parse(spec), found))
    return {str(view.spec): view for view in dataset.known}
