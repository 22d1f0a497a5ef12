"""Ridge regression from sums over blocks of rows: exact, and no copy of all rows is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from heads.estimators.normaliser import LazyRows

BLOCK_FLOATS = 1 << 21  # of rows that are float64 at once


@dataclass(frozen=True, eq=False)
class Sums:
    """What rows, centred and times their root weights, come to: their axes, and the targets'."""

    centre: NDArray[np.float64]  # (dim,)
    mean: NDArray[np.float64]  # (n_targets,)
    axes: NDArray[np.float64]  # (dim, rank)
    squares: NDArray[np.float64]  # (rank,)
    along: NDArray[np.float64]  # (rank, n_targets): the targets along unit axes of the rows
    total: float  # of the weights

    @classmethod
    def of(
        cls,
        Z: NDArray[Any] | LazyRows,
        targets: NDArray[np.float64],
        counts: NDArray[np.float64] | None = None,
    ) -> Self:
        """Go through rows Z, (n, dim), and targets, (n, n_targets), twice, block by block."""
        n, dim = Z.shape
        total = float(n if counts is None else counts.sum())
        centre, mean = np.zeros(dim), np.zeros(targets.shape[1])
        for some in _blocks(n, dim):
            rows = Z[some].astype(np.float64)
            w = np.ones(len(rows)) if counts is None else counts[some]
            centre += w @ rows
            mean += w @ targets[some]
        centre, mean = centre / total, mean / total
        gram, crossed = np.zeros((dim, dim)), np.zeros((dim, targets.shape[1]))
        for some in _blocks(n, dim):
            rows = Z[some] - centre
            w = np.ones(len(rows)) if counts is None else counts[some]
            weighted = rows * w[:, None]
            gram += weighted.T @ rows
            crossed += weighted.T @ (targets[some] - mean)
        squares, axes = eigh(gram, check_finite=False, driver="evd")
        kept = squares > max(squares[-1], 0) * 1e-12
        squares, axes = squares[kept], axes[:, kept]
        along = (axes / np.sqrt(squares)).T @ crossed
        return cls(centre, mean, axes, squares, along, total)

    def rows(self, Z: NDArray[Any], counts: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Return some of the rows along unit axes, (n, rank)."""
        found = (Z - self.centre) @ (self.axes / np.sqrt(self.squares))
        return found if counts is None else found * np.sqrt(counts)[:, None]

    def weights(self, alpha: float) -> NDArray[np.float64]:
        """Return the weights of a penalty, (dim + 1, n_targets), the intercepts last."""
        root = np.sqrt(self.squares) / (self.squares + alpha)
        W = self.axes @ (root[:, None] * self.along)
        return np.vstack([W, self.mean - self.centre @ W])


def pieces(
    n: int, dim: int, together: Sequence[NDArray[np.intp]]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp] | None]]:
    """Yield rows that are looked at together, and which of *those* are left out together.

    ``together`` are the rows of groups, (n_groups, size) for each size above 1; all others, of
    which each is left out by itself, come with None.
    """
    is_alone = np.ones(n, bool)
    for groups in together:
        is_alone[groups] = False
        size = groups.shape[1]
        step = max(1, BLOCK_FLOATS // dim // size)
        for at in range(0, len(groups), step):
            some = groups[at : at + step]
            yield some.reshape(-1), np.arange(some.size).reshape(some.shape)
    alone = np.flatnonzero(is_alone)
    for block in _blocks(len(alone), dim):
        yield alone[block], None


def _blocks(n: int, dim: int) -> Iterator[slice]:
    step = max(1, BLOCK_FLOATS // dim)
    for at in range(0, n, step):
        yield slice(at, min(n, at + step))
