"""Labelled rows with the unlabelled items of their data set: indexed like a matrix.

Whatever rows are cut out, no item of the test part, nor of its groups and copies, stays in sight.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from featurestore.search.exact import ExactIndex
from featurestore.terms.vectors import unit_rows
from heads.labels.folds import blocks
from heads.labels.matrix import Matrix

MOST_ITEMS = 20_000  # unlabelled items that are looked at; of more a sample is drawn
K_KEPT = 30  # neighbors that are found of each item: enough for k of them in most parts
_PAIRS = 65_536  # whose cosines are in memory at once


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Items of a plan's data set that have no label, and are not in its test split."""

    positions: NDArray[np.intp]  # (m,), in the embeddings
    keys: tuple[NDArray[Any], ...]  # (n_items,) each; items that share a value stay together

    def sample(self, most: int, seed: int) -> NDArray[np.intp]:
        """Return so many positions at most, ascending."""
        if len(self.positions) <= most:
            return self.positions
        drawn = np.random.default_rng(seed).choice(len(self.positions), most, replace=False)
        return np.asarray(self.positions[np.sort(drawn)])

    def blocks_with(self, rows: NDArray[np.intp], sample: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the block of each row, then of each sampled item: (n + m,).

        All unlabelled items count, not only the sampled ones: a chain of groups and copies may
        lead through the others.
        """
        if not self.keys:
            return np.arange(len(rows))
        at = np.concatenate([rows, self.positions])
        found = blocks(*(key[at] for key in self.keys))
        place = np.searchsorted(at[len(rows) :], sample) + len(rows)
        return np.concatenate([found[: len(rows)], found[place]])


NONE = Unlabelled(np.empty(0, dtype=np.intp), ())


@dataclass(frozen=True, eq=False)
class _Ground:
    """All items that may be looked at; shared by all parts that are cut out of it."""

    vectors: Matrix  # (n_all, dim)
    block: NDArray[np.intp]  # (n_all,)
    may_hide: NDArray[np.bool_]  # (n_all,): labelled rows that may serve without their labels
    other: Matrix | None  # (n_all, ·): what another encoder says of the items
    kept: Callable[[], NDArray[np.integer[Any]] | None]  # neighbors (n_all, k), -1: not here
    lock: Any = field(default_factory=threading.Lock)

    @cached_property
    def unit(self) -> NDArray[np.float32]:
        """Vectors of length 1."""
        return unit_rows(np.asarray(self.vectors, dtype=np.float32))

    @cached_property
    def index(self) -> ExactIndex:
        """Of all items; their numbers are their ids."""
        return ExactIndex.build(np.arange(len(self.unit)).astype(str), self.unit)

    def near(self) -> NDArray[np.intp]:
        """Return the nearest other items of each, (n_all, k), best first; -1: not here."""
        with self.lock:
            return self._near

    @cached_property
    def _near(self) -> NDArray[np.intp]:
        kept = self.kept()
        if kept is not None:
            return np.asarray(kept, dtype=np.intp)
        everything = np.arange(len(self.unit))
        return self.search(everything, everything, min(K_KEPT, len(everything) - 1))

    def search(
        self, queries: NDArray[np.intp], among: NDArray[np.intp], k: int
    ) -> NDArray[np.intp]:
        """Return the k nearest of some items, exactly: (n_queries, k), best first."""
        counts = None
        if len(among) < len(self.unit):
            counts = np.zeros(len(self.unit), dtype=bool)
            counts[among] = True
        found = self.index.search(self.unit[queries], k=k + 1, among=counts).rows
        is_other = found != queries[:, None]
        is_other[is_other.all(axis=1), -1] = False  # of many equal vectors it need not be there
        return np.asarray(found[is_other].reshape(len(queries), k))


@dataclass(frozen=True, eq=False)
class Pooled:
    """Labelled rows, (n, dim), and the unlabelled items that may be looked at beside them.

    ``X[rows]`` are some of the rows; items that share a group or content with a row that was
    not taken are out of sight. For heads that know nothing of this it is a matrix.
    """

    ground: _Ground
    rows: NDArray[np.intp]  # (n,), positions in the ground
    pool: NDArray[np.intp]  # (m,)

    @classmethod
    def of(
        cls,
        rows: NDArray[Any],
        pool: NDArray[Any],
        block: NDArray[np.intp],
        *,
        barred: NDArray[np.intp] | None = None,
        other: Matrix | None = None,
        kept: Callable[[], NDArray[np.integer[Any]] | None] = lambda: None,
    ) -> Self:
        """Put rows (n, dim) and unlabelled items (m, dim) together.

        Parameters
        ----------
        block : ndarray of shape (n + m,)
            Items of one block stay together.
        barred : ndarray, optional
            Rows that are never looked at without their label.
        other : matrix of shape (n + m, ·), optional
            What another encoder says of the items.
        kept : callable, optional
            Returns the nearest items of each, (n + m, k), where they are known; -1 stands for
            an item that is not here.
        """
        n = len(rows)
        may_hide = np.arange(len(block)) < n
        may_hide[[] if barred is None else barred] = False
        vectors = np.concatenate([rows, pool]) if len(pool) else rows
        ground = _Ground(vectors, block, may_hide, other, kept)
        return cls(ground, np.arange(n), np.arange(n, len(block)))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the rows."""
        return len(self.rows), int(self.ground.vectors.shape[1])

    @property
    def nbytes(self) -> int:
        """Of all vectors."""
        return int(self.ground.vectors.nbytes)

    @property
    def dtype(self) -> Any:
        """Of the vectors."""
        return self.ground.vectors.dtype

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the rows, (n, dim)."""
        return np.asarray(self.ground.vectors[self.rows], dtype=dtype)

    def __getitem__(self, rows: NDArray[Any] | slice) -> Self:
        taken = self.rows[rows]
        left = np.setdiff1d(self.rows, taken)
        return replace(self, rows=taken, pool=self._without(self.pool, left))

    def part(self, train: NDArray[np.intp], test: NDArray[np.intp]) -> Self:
        """Return the rows of ``train`` for a test on ``test``.

        Rows that are in neither may be looked at, without their labels: of a learning curve these
        are the rows whose labels were not drawn.
        """
        apart = np.setdiff1d(self.rows, self.rows[train])
        may_hide = self.ground.may_hide[apart] & ~np.isin(apart, self.rows[test])
        hidden, barred = apart[may_hide], apart[~may_hide]
        pool = self._without(np.concatenate([hidden, self.pool]), barred)
        return replace(self, rows=self.rows[train], pool=pool)

    def _without(self, pool: NDArray[np.intp], rows: NDArray[np.intp]) -> NDArray[np.intp]:
        block = self.ground.block
        return np.asarray(pool[~np.isin(block[pool], block[rows])])

    @property
    def pool_vectors(self) -> NDArray[Any]:
        """Vectors of the unlabelled items, (m, dim)."""
        return np.asarray(self.ground.vectors[self.pool])

    @property
    def blocks(self) -> NDArray[np.intp]:
        """Block of each row, then of each unlabelled item, (n + m,)."""
        return np.asarray(self.ground.block[np.concatenate([self.rows, self.pool])])

    @property
    def other(self) -> tuple[Any, Any] | None:
        """What another encoder says of the rows, and of the unlabelled items."""
        said = self.ground.other
        return None if said is None else (said[self.rows], said[self.pool])

    def neighbors(self, k: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Return the nearest of the rows and unlabelled items, and cosines: (n + m, ≤ k).

        Both are those of a search among the items in sight alone: what was found among all is
        used where k of an item's neighbors are in sight.
        """
        ground, at = self.ground, np.concatenate([self.rows, self.pool])
        k = min(k, len(at) - 1)
        place = np.full(len(ground.block) + 1, -1)  # the last: of -1, what is not here
        place[at] = np.arange(len(at))
        near = place[ground.near()[at]]
        is_seen = near >= 0
        order = np.argsort(~is_seen, axis=1, kind="stable")[:, :k]
        found = np.full((len(at), k), -1)
        found[:, : order.shape[1]] = np.take_along_axis(near, order, axis=1)
        few = np.flatnonzero((found < 0).any(axis=1))
        if len(few):
            found[few] = place[ground.search(at[few], at, k)]
        unit = ground.unit
        ends = np.stack([np.repeat(at, k), at[found].ravel()])
        cosines = [
            np.einsum("ij,ij->i", unit[a], unit[b])
            for a, b in (ends[:, i : i + _PAIRS] for i in range(0, ends.shape[1], _PAIRS))
        ]
        return found, np.concatenate(cosines).reshape(len(at), k).astype(np.float64)
