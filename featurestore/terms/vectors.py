"""Arithmetic on rows of vectors that search and heads share."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_Float = TypeVar("_Float", bound=np.floating[Any])


def unit_rows(vectors: NDArray[_Float]) -> NDArray[_Float]:
    """Scale each row of (n, dim) to length 1; the dtype stays, and rows of zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), dtype=vectors.dtype)


def class_sums(
    vectors: NDArray[np.floating[Any]], codes: NDArray[np.intp], n_classes: int
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the sum of each class's rows, (n_classes, dim), and their number, (n_classes,).

    ``vectors`` is (n, dim); ``codes``, (n,), are from 0 to n_classes - 1. Class means are
    ``sums / counts[:, None]``.
    """
    sums = np.zeros((n_classes, vectors.shape[1]))
    np.add.at(sums, codes, vectors)
    return sums, np.bincount(codes, minlength=n_classes)
