"""What to label next: the items that would teach most.

`choose` works on arrays, so that a benchmark can measure what it gains; `suggest` is the door.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.curation.reviews import Action, applicable
from featurestore.errors import BadName, NotEnoughData, nearest
from featurestore.store.strip import strip
from featurestore.terms.labels import class_name, is_missing
from featurestore.terms.shown import Tabular
from featurestore.terms.vectors import unit_rows

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet
    from featurestore.store.view import View

AUTO = "auto"
_POOL = 10  # candidates for each suggestion, of which the most different are taken
_MOST_CLUSTERS = 500
_N_TYPICAL = 20  # neighbors that say how typical an item is
_MOST_TYPICAL = 4_000  # members of a cluster that are compared with


@dataclass(frozen=True)
class Suggestion:
    """One item to label."""

    item_id: str
    score: float  # of its strategy, higher is more useful
    reason: str


class Suggestions(list[Suggestion], Tabular):
    """Items to label, the most useful first: a list that notebooks show with the items."""

    def __init__(self, found: Iterable[Suggestion], dataset: DataSet) -> None:
        super().__init__(found)
        self.dataset = dataset

    def about(self) -> str:
        """Count the items."""
        reasons = ", ".join(dict.fromkeys(one.reason for one in self))
        return f"of {len(self):,} items of {self.dataset.name}: {reasons}"

    def rows(self) -> list[dict[str, Any]]:
        """Return the table: item_id, score, reason."""
        return [asdict(one) for one in self]

    def strip(self) -> str:
        """Return the first items as HTML."""
        return strip(self.dataset, [one.item_id for one in self])

    __repr__ = Tabular.__repr__  # not that of a list


Unit = NDArray[np.float32]  # (n, dim), rows of length 1
Chosen = tuple[NDArray[np.intp], NDArray[np.float64]]  # rows, the most useful first; scores


def suggest(
    view: View,
    n: int = 20,
    strategy: str = AUTO,
    *,
    label: str | None = None,
    seed: int = 0,
) -> Suggestions:
    """Return unlabelled items to label next, the most useful first.

    Parameters
    ----------
    view : View
    n : int
        Fewer come back where fewer are unlabelled.
    strategy : {"auto", "uncertainty", "typiclust", "coreset", "random"}
        ``auto``: ``typiclust`` until two classes have two labels each, then ``uncertainty``
        (ridge's margin, spread over clusters): Gupte et al. (2024, arXiv:2401.14555) find that
        uncertainty on frozen embeddings is strong even with few labels, after such a start.
    label : str, optional
        Label column; default the data set's main label. Decisions of reviewers count as labels,
        and items that they exclude are not suggested.

    Raises
    ------
    BadName
        If there is no such strategy, or ``n`` is no count.
    NotEnoughData
        If nothing is unlabelled.
    """
    if n < 1:
        raise BadName(f"{n} suggestions: expected 1 or more")
    embeddings = view.load()
    name = label or embeddings.label_column
    values = np.full(len(embeddings), None, dtype=object)
    if name is not None and (label is not None or name in embeddings.columns):
        values[:] = embeddings.column(name)
    decided, _ = applicable(view.dataset.folder, name) if name else ({}, [])
    for row, item in enumerate(embeddings.ids.tolist()):
        if (one := decided.get(item)) is not None and one.action is Action.RELABEL:
            values[row] = one.value
    codes = np.full(len(values), -1, np.intp)
    known = ~is_missing(values)
    texts = np.array([class_name(value) for value in values[known]], dtype=str)
    codes[known] = np.unique(texts, return_inverse=True)[1]
    apart = (Action.EXCLUDE, Action.DUPLICATE)
    left_out = {item for item, one in decided.items() if one.action in apart}
    is_open = (codes < 0) & ~np.isin(embeddings.ids.astype(str), sorted(left_out))
    if not is_open.any():
        raise NotEnoughData(f"every item of {view.name} has a label: there is nothing to suggest")
    if strategy == AUTO:
        strategy = automatic(codes)
    rows, scores = choose(embeddings.vectors, codes, is_open, n, strategy, seed=seed)
    found = (
        Suggestion(str(embeddings.ids[row]), float(score), _REASONS[strategy])
        for row, score in zip(rows, scores, strict=True)
    )
    return Suggestions(found, view.dataset)


def automatic(codes: NDArray[np.intp]) -> str:
    """Return the strategy for labels as they are: class numbers (n,), -1 where there is none."""
    counts = np.bincount(codes[codes >= 0], minlength=1)
    return "uncertainty" if (counts >= 2).sum() >= 2 else "typiclust"


def choose(
    vectors: NDArray[np.float32],
    codes: NDArray[np.intp],
    is_open: NDArray[np.bool_],
    n: int,
    strategy: str,
    *,
    seed: int = 0,
) -> Chosen:
    """Choose rows to label.

    Parameters
    ----------
    vectors : ndarray of shape (rows, dim)
    codes : ndarray of shape (rows,)
        Class numbers, -1 where there is no label.
    is_open : ndarray of shape (rows,), bool
        What may be chosen.
    n : int
    strategy : str
        A key of `STRATEGIES`.

    Returns
    -------
    rows, scores : ndarray of shape (at most n,)
    """
    if strategy not in STRATEGIES:
        raise BadName(f"no strategy {strategy!r}: {nearest(strategy, [AUTO, *STRATEGIES])}")
    n = min(n, int(is_open.sum()))
    return STRATEGIES[strategy](unit_rows(vectors), codes, is_open, n, seed)


def _random(
    unit: Unit, codes: NDArray[np.intp], is_open: NDArray[np.bool_], n: int, seed: int
) -> Chosen:
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(is_open))[:n]
    return rows, np.zeros(n)


def _uncertainty(
    unit: Unit, codes: NDArray[np.intp], is_open: NDArray[np.bool_], n: int, seed: int
) -> Chosen:
    """Take rows that a ridge head is unsure of, one from each cluster of the least sure."""
    from heads.estimators.ridge import RidgeHead

    known = np.flatnonzero(codes >= 0)
    if len(np.unique(codes[known])) < 2:
        raise NotEnoughData("uncertainty needs labels of two classes: start with typiclust")
    rows = np.flatnonzero(is_open)
    proba = RidgeHead().fit(unit[known], codes[known]).predict_proba(unit[rows])
    best = np.sort(proba, axis=1)
    doubt = 1 - (best[:, -1] - best[:, -2])
    torn = np.argsort(-doubt, kind="stable")[: _POOL * n]
    if len(torn) > n:
        cluster, centres = _clusters(unit[rows[torn]], min(n, _MOST_CLUSTERS), seed)
        near = np.einsum("ij,ij->i", unit[rows[torn]], centres[cluster])
        order = np.lexsort((-near, cluster))
        first = order[np.unique(cluster[order], return_index=True)[1]]
        rest = np.setdiff1d(np.arange(len(torn)), first)
        torn = torn[np.concatenate([np.sort(first), rest])[:n]]
        torn = torn[np.argsort(-doubt[torn], kind="stable")]
    return rows[torn], doubt[torn]


def _typiclust(
    unit: Unit, codes: NDArray[np.intp], is_open: NDArray[np.bool_], n: int, seed: int
) -> Chosen:
    """Take the most typical row of each cluster, largest clusters without a label first.

    Hacohen, Dekel and Weinshall (2022), arXiv:2202.02794.
    """
    n_known = int((codes >= 0).sum())
    n_clusters = min(n_known + n, _MOST_CLUSTERS, len(unit))
    cluster, _ = _clusters(unit, n_clusters, seed)
    typical = np.empty(len(unit))
    for c in range(n_clusters):
        rows = np.flatnonzero(cluster == c)
        k = min(_N_TYPICAL, len(rows) - 1)
        if k < 1:
            typical[rows] = 0.0  # of itself alone, or of nothing
            continue
        others = rows[:: max(1, len(rows) // _MOST_TYPICAL)]
        for start in range(0, len(rows), 1024):
            cosines = np.sort(unit[rows[start : start + 1024]] @ unit[others].T, axis=1)
            typical[rows[start : start + 1024]] = cosines[:, -k - 1 : -1].mean(axis=1)
    sizes = np.bincount(cluster, minlength=n_clusters)
    taken = np.bincount(cluster[codes >= 0], minlength=n_clusters)
    left = is_open.copy()
    chosen: list[int] = []
    while len(chosen) < n:
        has_left = np.bincount(cluster[left], minlength=n_clusters) > 0
        order = np.lexsort((-sizes, taken, ~has_left))
        c = order[0]
        own = np.flatnonzero(left & (cluster == c))
        best = own[np.argmax(typical[own])]
        chosen.append(int(best))
        left[best] = False
        taken[c] += 1
    return np.array(chosen, np.intp), typical[chosen]


def _coreset(
    unit: Unit, codes: NDArray[np.intp], is_open: NDArray[np.bool_], n: int, seed: int
) -> Chosen:
    """Take, again and again, the row that lies farthest from all with a label or taken.

    Sener and Savarese (2018), arXiv:1708.00489.
    """
    known = np.flatnonzero(codes >= 0)
    if len(known):
        distance = np.full(len(unit), np.inf)
        for start in range(0, len(known), 1024):
            cosines = unit @ unit[known[start : start + 1024]].T
            distance = np.minimum(distance, 1 - cosines.max(axis=1))
    else:
        distance = 1 - unit @ unit_rows(unit.mean(axis=0, keepdims=True))[0]
        distance = distance.max() - distance + 1  # the middle first
    rows, scores = [], []
    for i in range(n):
        row = int(np.argmax(np.where(is_open, distance, -np.inf)))
        rows.append(row)
        scores.append(float(min(distance[row], 2)))
        own = 1 - unit @ unit[row]
        distance = own if i == 0 and not len(known) else np.minimum(distance, own)
        distance[row] = -np.inf
    return np.array(rows, np.intp), np.array(scores)


def _clusters(
    unit: NDArray[np.float32], n: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    from sklearn.cluster import MiniBatchKMeans

    if n >= len(unit):
        return np.arange(len(unit)), unit
    means = MiniBatchKMeans(n, random_state=seed, n_init=3, batch_size=4096).fit(unit)
    return means.labels_.astype(np.intp), means.cluster_centers_.astype(np.float32)


Strategy = Callable[[NDArray[np.float32], NDArray[np.intp], NDArray[np.bool_], int, int], Chosen]
STRATEGIES: dict[str, Strategy] = {
    "uncertainty": _uncertainty,
    "typiclust": _typiclust,
    "coreset": _coreset,
    "random": _random,
}
_REASONS = {
    "uncertainty": "a head is unsure between two classes",
    "typiclust": "typical of a cluster without a label",
    "coreset": "far from everything labelled",
    "random": "drawn at random",
}
