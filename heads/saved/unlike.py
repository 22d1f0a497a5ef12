"""The answer "I do not know this": how far out an item lies, compared with the training items."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from heads.estimators.distance import ClassDistance, local_means, squares_to

SHARE = 0.95  # of the training items that lie less far out than one that is unlike them
LEAST_ITEMS = 19  # 1 in 20 of new items lies farther out than all of 19
FILE = "unlike.safetensors"
_ARRAYS = frozenset(
    {"means", "directions", "variances", "rest", "shrinkage", "local_means", "reference"}
)
# What the covariance and the training items' own distances are taken from, so that neither the
# cost nor the file grows with the data: 0.2 to 10 s, and 8 bytes × dim × 1,300 at most, besides
# the classes' means.
MOST_ROWS = 10_000
MOST_ROWS_OF_LONG = 2000  # of vectors longer than that many directions
MOST_DIRECTIONS = 1024
ROWS_OF_A_CLASS = 20  # that lend their mean, at least, if there are so many
MOST_LOCAL_ROWS = 4000  # that local means are taken from; of each class some more
LOCAL_ROWS_OF_A_CLASS = 6
FOLDS, MANY_FOLDS, ROWS_OF_MANY_FOLDS = 5, 10, 2000


@dataclass(frozen=True, eq=False)
class Unlike:
    """How far out n items lie."""

    shares: NDArray[np.float64]  # (n,), of the training items that lie less far out
    n_training: int  # distances that they are compared with

    def __repr__(self) -> str:
        """Return it in a line."""
        return f"<Unlike: {int(self.is_unlike.sum()):,} of {len(self.shares):,} items>"

    @property
    def least(self) -> float:
        """The share from which an item is unlike the training items; above 1: none can be.

        A new item of the same kind reaches it in 5 % of cases at most: its place among the
        training items is as likely any of the n + 1 as another.
        """
        return float(np.ceil(SHARE * (self.n_training + 1) - 1e-9) / self.n_training)

    @property
    def is_unlike(self) -> NDArray[np.bool_]:
        """Which items lie farther out than 95 % of the training items, shape (n,)."""
        return np.asarray(self.shares >= self.least - 1e-12)

    @property
    def share(self) -> float:
        """Share of the items that are unlike the training items."""
        return float(self.is_unlike.mean()) if len(self.shares) else 0.0

    @property
    def by_chance(self) -> int:
        """How many of n items of the same kind lie as far out: 95 of 100 times no more."""
        from scipy.stats import betabinom

        n_beyond = self.n_training + 1 - round(self.least * self.n_training)
        if n_beyond < 1 or not len(self.shares):
            return 0
        of_all = betabinom(len(self.shares), n_beyond, self.n_training + 1 - n_beyond)
        return int(of_all.ppf(0.95))

    def sentence(self) -> str:
        """Say how many items are unlike the training items, and what to do."""
        n, n_unlike, chance = len(self.shares), int(self.is_unlike.sum()), self.by_chance
        if self.least > 1:
            return too_few(self.n_training)
        if n_unlike <= chance:
            return (
                f"{n_unlike:,} of {n:,} items lie farther out than {SHARE:.0%} of the training "
                f"items: no more than chance (up to {chance:,})"
            )
        return (
            f"{n_unlike:,} of {n:,} items are unlike anything seen in training (chance: up to "
            f"{chance:,}): look at those with unlike_training of {self.least:.3f} and more before "
            "you use their predictions; if more of their kind will come, label some and train again"
        )


@dataclass(frozen=True, eq=False)
class Familiar:
    """Where a head's training items lie: what a bundle keeps to know others from them.

    Two squared distances say how far out an item lies: to the nearest class, and to the nearest
    of the local means. The greater of its two places among the training items counts.
    """

    distance: ClassDistance
    local_means: NDArray[np.floating[Any]]  # (m, dim)
    reference: NDArray[np.floating[Any]]  # (n, 2), of training items
    whole_dim: int | None = None  # of vectors whose last numbers are looked at; None: all are

    @classmethod
    def fit(
        cls,
        vectors: NDArray[np.floating[Any]],
        codes: NDArray[np.intp] | None = None,
        block: NDArray[Any] | None = None,
        *,
        seed: int = 0,
    ) -> Self | None:
        """Learn from training vectors (n, dim); None where all lie in one block.

        Each training item's own distances are those to classes and local means that were learned
        without its block, under a covariance without it, too: it would lie too near to what it
        helped to make. The final ones learn from more rows, so that new items of the same kind
        lie a little nearer than these: fewer than 5 % are called unlike, not more.

        Parameters
        ----------
        codes : ndarray of shape (n,), optional
            Class numbers; without them all are one class.
        block : ndarray of shape (n,), optional
            Items of one block (a group, copies) are left out together.
        """
        n, dim = vectors.shape
        codes = np.zeros(n, np.intp) if codes is None else codes
        order = np.lexsort(vectors[:, :4].T)  # as the rows came makes no difference
        vectors, codes = vectors[order], codes[order]
        part = np.arange(n) if block is None else _by_appearance(block[order])
        if n < 2 or part.max() == 0:
            return None
        rng = np.random.default_rng(seed)
        most = MOST_ROWS if dim <= MOST_DIRECTIONS else MOST_ROWS_OF_LONG
        rows = np.sort(rng.permutation(n)[:most])
        lent = np.union1d(rows, _first_of_each(codes, ROWS_OF_A_CLASS, rng))
        rows, lent = np.searchsorted(lent, rows), lent
        vectors, codes, part = vectors[lent], codes[lent], _by_appearance(part[lent])
        n_folds = FOLDS if len(rows) > ROWS_OF_MANY_FOLDS else MANY_FOLDS
        n_blocks = int(part.max()) + 1
        fold = (rng.permutation(n_blocks) % n_folds)[part]
        is_local = np.zeros(len(lent), bool)
        is_local[rng.permutation(len(lent))[:MOST_LOCAL_ROWS]] = True
        is_local[_first_of_each(codes, LOCAL_ROWS_OF_A_CLASS, rng)] = True
        final, unit = _fitted(vectors, codes, rows, None)
        reference = np.empty((len(rows), 2))
        for one in np.unique(fold[rows]).tolist():
            is_out = fold == one
            is_kept = ~is_out
            others = np.flatnonzero(is_kept[rows])
            if not len(others):
                return None
            place = np.cumsum(is_kept) - 1
            without, own_unit = _fitted(
                vectors[is_kept], codes[is_kept], place[rows[others]], final.shrinkage
            )
            out = np.flatnonzero(is_out[rows])
            reference[out, 0] = without.squares(vectors[rows[out]]) * (own_unit / unit)
            near = is_local & is_kept if (is_local & is_kept).any() else is_kept
            means = local_means(vectors[near], codes[near], rng)
            reference[out, 1] = squares_to(means, vectors[rows[out]])
        means = local_means(vectors[is_local], codes[is_local], rng)
        return cls(final, means, reference[np.lexsort(reference.T)])

    def __call__(self, vectors: NDArray[np.floating[Any]]) -> Unlike:
        """Return how far out each of n vectors, (n, dim), lies."""
        vectors = vectors[:, -self.distance.means.shape[1] :] if self.whole_dim else vectors
        own = np.sort(self.reference, axis=0)
        squares = self.distance.squares(vectors), squares_to(self.local_means, vectors)
        place = [np.searchsorted(own[:, i], one) for i, one in enumerate(squares)]
        greatest = np.maximum(*place)
        leads = np.sign(place[0] - place[1])
        n_nearer = np.zeros(len(vectors), np.intp)
        for lead, nearer_than in self._places.items():
            which = leads == lead
            n_nearer[which] = np.searchsorted(nearer_than, greatest[which])
        return Unlike(n_nearer / len(own), len(own))

    @cached_property
    def _places(self) -> dict[int, NDArray[np.intp]]:
        """The greater place of each training item, ascending, by what leads for a new one.

        Places are those among the training items and the new one together, as if it had been
        there from the start: where it lies nearer by the other distance than a training item
        that is nearer by the leading one, that item's place moves up by one. So a new item of
        the same kind is as likely at any rank, with few items, too.
        """
        own = np.sort(self.reference, axis=0)
        a, b = (np.searchsorted(own[:, i], self.reference[:, i]) for i in (0, 1))
        return {lead: np.sort(np.maximum(a + (lead < 0), b + (lead > 0))) for lead in (-1, 0, 1)}

    def to_bytes(self) -> bytes:
        """Return the values as a safetensors file."""
        from safetensors.numpy import save

        kept = self.distance
        arrays = {
            "means": kept.means,
            "directions": kept.directions,
            "variances": kept.variances,
            "rest": np.array([kept.rest]),
            "shrinkage": np.array([kept.shrinkage]),
            "local_means": self.local_means,
            "reference": self.reference,
            **({"whole_dim": np.array([self.whole_dim])} if self.whole_dim else {}),
        }
        small = {name: np.ascontiguousarray(one, np.float32) for name, one in arrays.items()}
        return bytes(save(small))

    @classmethod
    def from_bytes(cls, data: bytes, dim: int) -> Self:
        """Read what `to_bytes` gave of vectors of that many numbers.

        Raises
        ------
        ValueError, SafetensorError
            If it holds something else.
        """
        from safetensors.numpy import load

        found = load(data)
        if missing := _ARRAYS - found.keys():
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        if odd := sorted(name for name in _ARRAYS if found[name].dtype.kind != "f"):
            raise ValueError(f"{', '.join(odd)} must be floats")
        if found["rest"].shape != (1,) or found["shrinkage"].shape != (1,):
            raise ValueError("rest and shrinkage must be one number each")
        if "whole_dim" in found and found["whole_dim"].tolist() != [dim]:
            raise ValueError(f"it is not of vectors of {dim} numbers")
        read = cls(
            ClassDistance(
                found["means"],
                found["directions"],
                found["variances"],
                float(found["rest"][0]),
                float(found["shrinkage"][0]),
            ),
            found["local_means"],
            found["reference"].astype(np.float64),
            dim if "whole_dim" in found else None,
        )
        read._check(dim)
        return read

    def _check(self, dim: int) -> None:
        kept, local, reference = self.distance, self.local_means, self.reference
        if self.whole_dim is not None:
            dim = kept.means.shape[-1]
        rank = kept.variances.shape
        shapes = [one.shape[1:] for one in (kept.means, local, reference)]
        is_full = all(map(len, (kept.means, local, reference)))
        if [*shapes, kept.directions.shape] != [(dim,), (dim,), (2,), (dim, *rank)] or not is_full:
            raise ValueError(f"its shapes do not fit vectors of {dim} numbers")
        scalars = np.array([kept.rest, kept.shrinkage])
        values = (kept.means, kept.directions, kept.variances, local, reference, scalars)
        is_fine = all(np.isfinite(one).all() for one in values)
        is_full = kept.directions.shape[1] == dim
        if not (is_fine and (kept.variances > 0).all() and (is_full or kept.rest > 0)):
            raise ValueError("variances must be above 0, and all values finite")


def why_not(familiar: Familiar | None, reads: str) -> str | None:
    """Say why a head cannot tell which items are unlike its training items; None: it can."""
    if familiar is not None:
        n = len(familiar.reference)
        return too_few(n) if n < LEAST_ITEMS else None
    if reads == "texts":
        return "a head that reads texts, not vectors, cannot tell which are unlike its training"
    return (
        "this head does not know where its training items lie (it was trained by an older release, "
        "or on one group of items): train it again to be told of items unlike them"
    )


def too_few(n: int) -> str:
    """Say that so few training items make no item unlike them."""
    return f"{n} training items are too few to call an item unlike them: {LEAST_ITEMS} are needed"


def _fitted(
    vectors: NDArray[np.floating[Any]],
    codes: NDArray[np.intp],
    rows: NDArray[np.intp],
    shrinkage: float | None,
) -> tuple[ClassDistance, float]:
    """Return the distance, of means of all rows and a covariance of some, and its unit.

    A class takes a degree of freedom with its mean, so residuals are too short: most where
    there are few rows a class. Squares times the unit are free of that.
    """
    found = ClassDistance.fit(
        vectors[rows],
        codes[rows],
        means_of=(vectors, codes),
        shrinkage=shrinkage,
        most_directions=MOST_DIRECTIONS,
    )
    n_free = max(len(rows) - len(np.unique(codes[rows])), 1)
    return found, n_free / len(rows)


def _by_appearance(block: NDArray[Any]) -> NDArray[np.intp]:
    """Return numbers of blocks, (n,), from 0 by their first row."""
    _, first, number = np.unique(block, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[number], dtype=np.intp)


def _first_of_each(
    codes: NDArray[np.intp], most: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return ``most`` random rows of each class, or all that it has."""
    order = rng.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    _, first, counts = np.unique(codes[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(first, counts)
    return order[rank < most]
