"""Which items of a view are twins of others: found once a snapshot, for all who ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.derived import derive
from featurestore.errors import FeatureStoreError
from featurestore.graph import neighbor_graph
from featurestore.images import decode_image
from featurestore.values import Embeddings, Modality
from heads.bundle import texts_of
from heads.folds import is_missing
from heads.quality import duplicates, pictures

if TYPE_CHECKING:
    from featurestore.view import View

PRINTS_KEPT = 3_000  # of pictures, some 200 kB each


@dataclass(frozen=True, eq=False)
class Twins:
    """Clusters of near-duplicates; rows as `View.load` gives them."""

    cluster: NDArray[np.intp]  # (n,), -1 for rows without a twin
    likeness: NDArray[np.float64]  # (n,), of the row's likest twin
    same: float  # the likeness that makes a twin
    n_pairs: int  # that were looked at
    n_unseen: int  # that were too many
    n_blind: int  # files that could not be read
    has_raw: bool  # whether there were raw items to look at

    def notes(self) -> list[str]:
        """Say what could not be seen."""
        found = []
        if not self.has_raw:
            found.append("Near-duplicates were not looked for: the data set has no files.")
        if self.n_unseen:
            found.append(
                f"The {self.n_pairs:,} closest pairs were looked at; {self.n_unseen:,} less close "
                "ones not."
            )
        if self.n_blind:
            found.append(f"{self.n_blind} files could not be read: their twins are unknown.")
        return found


def find_twins(view: View, *, progress: Callable[[int, int, str], None] | None = None) -> Twins:
    """Return a view's near-duplicates: proposed by its kNN graph, confirmed on raw items."""
    is_text = view.dataset.modality == Modality.TEXT
    same = duplicates.SAME_TEXT if is_text else pictures.SAME
    has_raw = is_text or bool(view.dataset.description.sources)

    def tell(n_done: int, n: int, what: str) -> None:
        if progress is not None:
            progress(n_done, n, what)

    def make() -> dict[str, NDArray[Any]]:
        embeddings = view.load()
        graph = neighbor_graph(view, progress=lambda done, n: tell(done, n, "neighbours"))
        first, second, n_unseen = duplicates.candidates(graph.rows, graph.scores)
        if not has_raw:
            first, second, n_unseen = first[:0], second[:0], 0
        likeness, blind = _likeness(view, embeddings)
        content = np.full(len(embeddings), None, dtype=object)
        known = ~is_missing(embeddings.content_hashes)
        content[known] = embeddings.content_hashes[known]
        pairs = duplicates.confirmed(
            first, second, content, likeness, same,
            progress=lambda done, n: tell(done, n, "pairs"),
        )  # fmt: skip
        best = np.zeros(len(embeddings))
        for one in (pairs.first, pairs.second):
            np.maximum.at(best, one, pairs.likeness)
        counts = np.array([len(first), n_unseen, len(blind)])
        cluster = duplicates.clusters(len(embeddings), pairs)
        return {"cluster": cluster, "likeness": best, "counts": counts}

    found = derive(view, f"twins-{same:g}", make)
    n_pairs, n_unseen, n_blind = found["counts"].tolist()
    return Twins(found["cluster"], found["likeness"], same, n_pairs, n_unseen, n_blind, has_raw)


def _likeness(view: View, embeddings: Embeddings) -> tuple[Callable[[int, int], float], set[int]]:
    """Return how like two rows are, and a set of the rows whose files cannot be read."""
    blind: set[int] = set()
    if view.dataset.modality == Modality.TEXT:
        return duplicates.text_likeness(texts_of(embeddings).tolist()), blind

    @lru_cache(maxsize=PRINTS_KEPT)
    def print_of(row: int) -> pictures.Print | None:
        try:
            content = view.dataset.read_bytes(str(embeddings.ids[row]))
            return pictures.print_of(decode_image(content, at_least_px=2 * pictures.SIDE_PX))
        except FeatureStoreError:
            blind.add(row)
            return None

    def likeness(a: int, b: int) -> float:
        one, other = print_of(a), print_of(b)
        return 0.0 if one is None or other is None else pictures.likeness(one, other)

    return likeness, blind
