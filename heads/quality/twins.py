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
    pairs: duplicates.Pairs  # that were confirmed, those of equal content with the first alone
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
    has_raw = is_text or view.items().column("uri").null_count < len(view.items())

    view = view.now()

    def tell(n_done: int, n: int, what: str) -> None:
        if progress is not None:
            progress(n_done, n, what)

    blind: set[int] = set()

    def make() -> dict[str, NDArray[Any]]:
        embeddings = view.load()
        graph = neighbor_graph(view, progress=lambda done, n: tell(done, n, "neighbours"))
        first, second, n_unseen = duplicates.candidates(graph.rows, graph.scores)
        if not has_raw:
            first, second, n_unseen = first[:0], second[:0], 0
        likeness = _likeness(view, embeddings, blind)
        content = np.full(len(embeddings), None, dtype=object)
        known = ~is_missing(embeddings.content_hashes)
        content[known] = embeddings.content_hashes[known]
        pairs = duplicates.confirmed(
            first, second, content, likeness, same,
            progress=lambda done, n: tell(done, n, "pairs"),
        )  # fmt: skip
        return {
            "cluster": duplicates.clusters(len(embeddings), pairs),
            "first": pairs.first,
            "second": pairs.second,
            "likeness": pairs.likeness,
            "counts": np.array([len(first), n_unseen, len(blind)]),
        }

    # Files that cannot be read now may be there the next time.
    found = derive(view, f"twins-{same:g}", make, is_final=lambda: not blind)
    n_pairs, n_unseen, n_blind = found["counts"].tolist()
    pairs = duplicates.Pairs(found["first"], found["second"], found["likeness"])
    return Twins(found["cluster"], pairs, same, n_pairs, n_unseen, n_blind, has_raw)


def _likeness(view: View, embeddings: Embeddings, blind: set[int]) -> Callable[[int, int], float]:
    """Return how like two rows are; rows whose files cannot be read come into ``blind``."""
    if view.dataset.modality == Modality.TEXT:
        return duplicates.text_likeness(texts_of(embeddings).tolist())

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

    return likeness
