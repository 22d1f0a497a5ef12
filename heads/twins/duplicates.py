"""Near-duplicates: pairs that the kNN graph proposes and the raw items confirm."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SAME_TEXT = 0.72  # Jaccard of shingles; chosen on planted typos (benchmarks/quality.py)
SHINGLE = 3  # characters
MOST_PAIRS = 50_000  # that are looked at: the closest ones


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of rows, first < second, the likest first."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    likeness: NDArray[np.float64]  # in [0, 1]; 1: equal content

    def __len__(self) -> int:
        return len(self.first)


def candidates(
    rows: NDArray[np.integer], scores: NDArray[np.float32], most: int = MOST_PAIRS
) -> tuple[NDArray[np.intp], NDArray[np.intp], int]:
    """Return pairs of rows that are neighbors in a graph (n, k), and how many were left out."""
    n, k = rows.shape
    own = np.repeat(np.arange(n), k)
    other, score = rows.ravel().astype(np.intp), scores.ravel()
    there = other >= 0
    own, other, score = own[there], other[there], score[there]
    pairs = np.stack([np.minimum(own, other), np.maximum(own, other)], axis=1)
    order = np.argsort(-score, kind="stable")
    _, first = np.unique(pairs[order], axis=0, return_index=True)
    chosen = order[np.sort(first)]
    kept = pairs[chosen[:most]]
    kept = kept[np.lexsort((kept[:, 1], kept[:, 0]))]  # what is read of an item serves its pairs
    return kept[:, 0], kept[:, 1], max(0, len(chosen) - most)


def confirmed(
    first: NDArray[np.intp],
    second: NDArray[np.intp],
    content: NDArray[np.object_],
    likeness: Callable[[int, int], float],
    same: float,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Pairs:
    """Return the pairs of equal content, or similar enough.

    Parameters
    ----------
    content : ndarray of shape (n,)
        Content hashes; None is equal to nothing. Rows of equal content are pairs, whether
        proposed or not, each with the first of them.
    likeness : callable
        Two rows → [-1, 1].
    same : float
        What a pair must reach.
    """
    found = {pair: 1.0 for pair in _equal(content)}
    for i, (a, b) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        if content[a] is None or content[a] != content[b]:
            value = likeness(a, b)
            if value >= same:
                found[(a, b)] = min(value, 1.0)
        if progress is not None and (i % 500 == 499 or i + 1 == len(first)):
            progress(i + 1, len(first))
    pairs = sorted(found, key=lambda pair: (-found[pair], pair))
    rows = np.array(pairs, np.intp).reshape(-1, 2)
    values = np.array([found[pair] for pair in pairs], np.float64)
    return Pairs(rows[:, 0], rows[:, 1], values)


def clusters(n: int, pairs: Pairs) -> NDArray[np.intp]:
    """Return the number of each row's cluster, shape (n,); -1 for rows without a twin."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = (np.ones(len(pairs), np.int8), (pairs.first, pairs.second))
    component = connected_components(coo_array(edges, shape=(n, n)), directed=False)[1]
    sizes = np.bincount(component, minlength=1)
    number = np.where(sizes > 1, np.cumsum(sizes > 1) - 1, -1)
    return np.asarray(number[component], np.intp)


def text_likeness(texts: Sequence[str | None]) -> Callable[[int, int], float]:
    """Return a function of two rows: the share of three-letter pieces that both texts have.

    Case, punctuation and spaces do not count, unless there is nothing else; an empty text is like
    none.

    >>> likeness = text_likeness(["Free entry, text WIN now!", "free entry text win now"])
    >>> likeness(0, 1)
    1.0
    """

    @lru_cache(maxsize=65_536)
    def pieces(row: int) -> frozenset[str]:
        raw = (texts[row] or "").strip().lower()
        text = " ".join(re.findall(r"\w+", raw)) or raw
        if not text:
            return frozenset()
        return frozenset(text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1)))

    def likeness(a: int, b: int) -> float:
        one, other = pieces(a), pieces(b)
        return len(one & other) / max(1, len(one | other))

    return likeness


def _equal(content: NDArray[np.object_]) -> list[tuple[int, int]]:
    seen: dict[str, int] = {}
    found = []
    for row, value in enumerate(content.tolist()):
        if value is None:
            continue
        if value in seen:
            found.append((seen[value], row))
        else:
            seen[value] = row
    return found
