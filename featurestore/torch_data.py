"""A view's vectors for PyTorch: a tensor that shares their memory, and a Dataset of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from featurestore.errors import MissingColumn
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.labels import class_name, is_missing


def as_tensor(embeddings: Embeddings) -> torch.Tensor:
    """Return the vectors as a CPU tensor (n, dim) float32 without a copy.

    Vectors of a kept snapshot are mapped from disk for reading: writing into the tensor would
    end the process, so clone it first.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writ")
        return torch.from_numpy(embeddings.vectors)


class EmbeddingDataset(torch.utils.data.Dataset[Any]):
    """Items of a view for a ``DataLoader``: a vector, and the number of its class.

    Parameters
    ----------
    embeddings : Embeddings
        From `View.load`; say ``split="train"`` there.
    label : str, optional
        Column of classes; default the main label. Items without one are left out.
    classes : sequence of str, optional
        Their order, say that of another split; default those that are there, sorted.

    Raises
    ------
    MissingColumn
        If there is no such column, or a label that ``classes`` does not hold.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        *,
        label: str | None = None,
        classes: Sequence[str] | None = None,
    ):
        values = embeddings.labels if label is None else embeddings.column(label)
        known = ~is_missing(values)
        self.rows = np.flatnonzero(known)
        names = [class_name(value) for value in values[known]]
        self.classes = sorted(set(names)) if classes is None else list(classes)
        number = {name: code for code, name in enumerate(self.classes)}
        if strange := sorted(set(names) - set(number)):
            raise MissingColumn(f"labels {strange} are not among the classes {self.classes}")
        self.ids = embeddings.ids[self.rows]
        self.codes = torch.tensor([number[name] for name in names], dtype=torch.int64)
        self.vectors = as_tensor(embeddings)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.vectors[self.rows[i]], self.codes[i]

    def __getitems__(self, items: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return a batch, read at once; a DataLoader asks for it."""
        vectors = self.vectors[torch.from_numpy(self.rows[list(items)])]
        return list(zip(vectors, self.codes[list(items)], strict=True))
