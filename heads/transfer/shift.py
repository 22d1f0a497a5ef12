"""How far apart two sets of items lie: to distinguish shift from harm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import NotEnoughData, ShapeMismatch
from heads.estimators.knn import nearest_rows
from heads.estimators.normaliser import Normaliser
from heads.estimators.ridge import ridge_loo

MOST_ROWS = 2000  # of each side: a distance of distributions needs no more
N_PERMUTATIONS = 99
LEAST_GROUPS = 5  # on each side, where groups are left out together
ALPHA_SHARE = 0.01  # ridge penalty over the rows: fixed, so that chance is treated alike
NEIGHBORS = 5
TAIL = 0.05


@dataclass(frozen=True)
class Shift:
    """Distance of two sets of vectors."""

    a_distance: float  # 0: nobody can tell them apart; 2: everybody can
    floor: float  # 95 % of random splits of the same items stay below it
    p: float  # share of random splits that reach the distance, 1 more counted
    n_first: int
    n_second: int
    beyond: float  # share of the second's items farther out than 95 % of the first's
    beyond_of_class: dict[str, float]  # the same, of each class of the second
    between: str = "training and test items"
    far_classes: tuple[str, ...] = ()  # more beyond than chance: Benjamini-Hochberg at 5 %

    @property
    def is_shifted(self) -> bool:
        """Whether the two differ by more than chance."""
        return self.p <= 0.05

    def sentence(self) -> str:
        """Say the distance, beside what chance gives."""
        return (
            f"between {self.between}: A-distance {self.a_distance:.2f} of 2 (chance stays below "
            f"{self.floor:.2f}); {self.beyond:.0%} lie farther out than 95 % of the others"
        )


def domain_shift(
    first: NDArray[Any],
    second: NDArray[Any],
    *,
    groups: tuple[NDArray[Any], NDArray[Any]] | None = None,
    classes: NDArray[Any] | None = None,
    first_classes: NDArray[Any] | None = None,
    between: str = "training and test items",
    seed: int = 0,
) -> Shift:
    """Measure how well a linear classifier tells two sets apart, and how far out one lies.

    The proxy A-distance is ``2 (1 - 2 ε)`` [1]_, with ε the leave-one-out error of ridge
    regression; the sides weigh the same. Its floor is the 95 % quantile over 99 permutations
    of the sides, all from one decomposition and with one penalty. The tails compare each
    item's distance to its fifth nearest item of the first set.

    Parameters
    ----------
    first, second : ndarray of shape (n, dim)
    groups : pair of ndarray, optional
        Items of one group are left out together, and permuted together.
    classes : ndarray of shape (n_second,), optional
        Class of each item of the second.
    first_classes : ndarray of shape (n_first,), optional
        Class of each item of the first: a class is far where more of it lie beyond than there.

    References
    ----------
    .. [1] Ben-David et al., NIPS 2006; Glorot, Bordes, Bengio, ICML 2011.
    """
    first, second = np.asarray(first), np.asarray(second)
    _check_sizes(first, second, groups)
    rng = np.random.default_rng(seed)
    here, there = _sampled(rng, (first, second), groups, (first_classes, classes))
    distances = _distances(here, there, rng, grouped=groups is not None)
    near = _distance(here.vectors, here.vectors, own=True)
    limit = float(np.quantile(near, 1 - TAIL))
    is_beyond = _distance(there.vectors, here.vectors, own=False) > limit
    of_class: dict[str, float] = {}
    if there.classes is not None:
        names = np.unique(there.classes)
        of_class = {str(name): float(is_beyond[there.classes == name].mean()) for name in names}
    return Shift(
        distances[0],
        float(np.quantile(distances[1:], 0.95)),
        float(np.mean(np.array(distances) >= distances[0])),
        len(first),
        len(second),
        float(is_beyond.mean()),
        of_class,
        between,
        _far_classes((here, near > limit), (there, is_beyond)),
    )


def _check_sizes(
    first: NDArray[Any],
    second: NDArray[Any],
    groups: tuple[NDArray[Any], NDArray[Any]] | None,
) -> None:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ShapeMismatch(f"vectors of one dim were expected: {first.shape}, {second.shape}")
    if min(len(first), len(second)) < 10:
        raise NotEnoughData(
            f"{len(first)} and {len(second)} items: a shift needs ten or more on each side"
        )
    if groups is None:
        return
    n_groups = [len(np.unique(np.asarray(side).astype(str))) for side in groups]
    if min(n_groups) < LEAST_GROUPS:
        raise NotEnoughData(
            f"{n_groups[0]} and {n_groups[1]} groups: a shift needs {LEAST_GROUPS} or more on "
            "each side to be seen beside differences between groups"
        )


@dataclass(frozen=True, eq=False)
class _Side:
    """At most MOST_ROWS items of one of the two sets."""

    vectors: NDArray[Any]  # (n, dim)
    block: NDArray[np.intp]  # (n,), items of one block on either side stay together
    classes: NDArray[np.str_] | None  # (n,)


def _sampled(
    rng: np.random.Generator,
    vectors: tuple[NDArray[Any], NDArray[Any]],
    groups: tuple[NDArray[Any], NDArray[Any]] | None,
    classes: tuple[NDArray[Any] | None, NDArray[Any] | None],
) -> list[_Side]:
    kept = [np.sort(rng.permutation(len(side))[:MOST_ROWS]) for side in vectors]
    sizes = [len(rows) for rows in kept]
    block = np.arange(sum(sizes))
    if groups is not None:
        names = [str(name) for rows, of in zip(kept, groups, strict=True) for name in of[rows]]
        block = np.unique(names, return_inverse=True)[1]
    return [
        _Side(side[rows], own, None if of is None else np.asarray(of)[rows].astype(str))
        for side, rows, own, of in zip(
            vectors, kept, np.split(block, sizes[:1]), classes, strict=True
        )
    ]


def _distances(
    here: _Side, there: _Side, rng: np.random.Generator, *, grouped: bool
) -> list[float]:
    """Return the A-distance of the sides, and those of random splits into sides."""
    side = np.repeat([1.0, -1.0], [len(here.block), len(there.block)])
    block = np.concatenate([here.block, there.block])
    sides = [side, *(_permuted(side, block, rng) for _ in range(N_PERMUTATIONS))]
    Z = Normaliser("standardise").fit_transform(np.vstack([here.vectors, there.vectors]))
    targets = np.stack([_weighed(one) for one in sides], axis=1)
    within = block if grouped else None
    scores = ridge_loo(Z, targets, (ALPHA_SHARE * len(Z),), within).scores
    errors = [_error(scores[:, i], one) for i, one in enumerate(sides)]
    return [max(0.0, 2 * (1 - 2 * error)) for error in errors]


_Tail = tuple[_Side, NDArray[np.bool_]]  # and which of its items lie far out


def _far_classes(first: _Tail, second: _Tail) -> tuple[str, ...]:
    """Return the classes of which more lie beyond than of the same class in the first set.

    A class that is spread out lies beyond in both. Items of a block count once.
    """
    from scipy.stats import false_discovery_control, fisher_exact

    if first[0].classes is None or second[0].classes is None:
        return ()
    classes = np.unique(second[0].classes)
    p = []
    for name in classes:
        table = []
        for side, is_beyond in (second, first):
            rows = side.classes == name
            _, number, sizes = np.unique(side.block[rows], return_inverse=True, return_counts=True)
            n_beyond = int((np.bincount(number, weights=is_beyond[rows]) / sizes).sum())
            table.append([n_beyond, len(sizes) - n_beyond])
        p.append(float(fisher_exact(table, alternative="greater").pvalue))
    adjusted = false_discovery_control(p)
    return tuple(str(name) for name, a in zip(classes, adjusted, strict=True) if a <= 0.05)


def _permuted(
    side: NDArray[np.float64], block: NDArray[np.intp], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Deal the sides anew, whole blocks at a time where there are any."""
    n_blocks = int(block.max()) + 1
    if n_blocks == len(side):
        return rng.permutation(side)
    share = np.mean(side > 0)
    order = rng.permutation(n_blocks)
    sizes = np.bincount(block, minlength=n_blocks)
    is_first = np.zeros(n_blocks, dtype=bool)
    is_first[order[np.cumsum(sizes[order]) <= share * len(side)]] = True
    if is_first.all() or not is_first.any():
        is_first[order[0]] = not is_first[order[0]]
    return np.where(is_first[block], 1.0, -1.0)


def _weighed(side: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return targets whose mean is 0, so that both sides weigh the same at the threshold."""
    share = np.mean(side > 0)
    return np.where(side > 0, 1 - share, -share)


def _error(scores: NDArray[np.float64], side: NDArray[np.float64]) -> float:
    """Return the mean of the two sides' shares of wrong rows."""
    wrong = np.sign(scores) != side
    return float((wrong[side > 0].mean() + wrong[side < 0].mean()) / 2)


def _distance(queries: NDArray[Any], items: NDArray[Any], *, own: bool) -> NDArray[np.float64]:
    """Return the distance to the fifth nearest item; a row is not its own neighbor.

    The nearest v of q has the largest ``q v - |v|² / 2``, an inner product with one more column.
    """
    centre = items.mean(axis=0)
    q, v = (np.asarray(one - centre, dtype=np.float32) for one in (queries, items))
    q = np.column_stack([q, np.ones(len(q), dtype=np.float32)])
    squares = (v**2).sum(axis=1)
    rows = np.arange(len(q)) if own else None
    _, scores = nearest_rows(
        q, np.column_stack([v, -squares / 2]), NEIGHBORS, rows, np.arange(len(v)) if own else None
    )
    lengths = (q[:, :-1].astype(np.float64) ** 2).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(lengths - 2 * scores[:, -1], 0)))
