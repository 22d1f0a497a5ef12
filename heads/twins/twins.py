"""Near-duplicates of a view, found once for each snapshot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.encoders.images import decode_image
from featurestore.errors import FeatureStoreError
from featurestore.maps.graph import Graph, neighbor_graph
from featurestore.maps.kept_arrays import derive
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.labels import is_missing
from featurestore.terms.specs import Modality
from heads.labels.tasks import texts_of
from heads.twins import duplicates, pictures

if TYPE_CHECKING:
    from featurestore.store.view import View

PRINTS_KEPT = 3_000  # of pictures, some 200 kB each
FORMAT = 2  # of what is kept
LEAST_PX = 32  # a smaller picture has too little in it to be told from others of its kind
N_FAR = 10  # neighbors beyond that are no twins, but of the same kind
_N_SAMPLED = 600
_APART = 0.1  # a twin is so much likelier than hardly any (99 %) of those
_MOST = 0.95  # likeness that is always enough


@dataclass(frozen=True, eq=False)
class Twins:
    """Clusters of near-duplicates; rows as `View.load` gives them."""

    cluster: NDArray[np.intp]  # (n,), -1 for rows without a twin
    pairs: duplicates.Pairs  # that were confirmed, those of equal content with the first alone
    same: float  # the likeness that makes a twin, in this data set
    n_pairs: int  # that were looked at
    n_unseen: int  # that were too many
    n_blind: int  # files that could not be read
    n_small: int  # pictures too small to be compared
    has_raw: bool  # whether there were raw items to look at

    def notes(self) -> list[str]:
        """Say what a twin is, and what could not be seen."""
        n = int((self.cluster >= 0).sum())
        found = [
            f"Twins are of equal content or of likeness {self.same:.2f} and more: {n:,} of "
            f"{len(self.cluster):,} items ({n / max(1, len(self.cluster)):.0%}) have one."
        ]
        if not self.has_raw:
            found.append("Near-duplicates were not looked for: the data set has no files.")
        if self.n_unseen:
            found.append(
                f"The {self.n_pairs:,} closest pairs were checked; {self.n_unseen:,} others were "
                "not."
            )
        if self.n_blind:
            found.append(f"{self.n_blind} files could not be read: their twins are unknown.")
        if self.n_small:
            found.append(
                f"{self.n_small:,} pictures of less than {LEAST_PX} pixels a side are twins of "
                "equal ones alone."
            )
        return found


def find_twins(view: View, *, progress: Callable[[int, int, str], None] | None = None) -> Twins:
    """Return a view's near-duplicates: proposed by its kNN graph, confirmed on raw items.

    How like is like enough depends on the data: scans of one organ are liker than street scenes.
    So a twin must be likelier by 0.1 than 99 % of the pairs beyond the tenth neighbor are, and
    in any case as like as planted copies are (`pictures.SAME`, `duplicates.SAME_TEXT`).
    """
    view = view.now()
    is_text = view.dataset.modality == Modality.TEXT
    least = duplicates.SAME_TEXT if is_text else pictures.SAME
    uris = view.items().column("uri")
    has_raw = is_text or uris.null_count < len(uris)

    def tell(n_done: int, n: int, what: str) -> None:
        if progress is not None:
            progress(n_done, n, what)

    blind: set[int] = set()
    small: set[int] = set()

    def make() -> dict[str, NDArray[Any]]:
        """Find the twins; clusters are of shape (n,), pairs of shape (n_pairs,)."""
        embeddings = view.load()
        graph = neighbor_graph(view, progress=lambda done, n: tell(done, n, "neighbors"))
        first, second, n_unseen = duplicates.candidates(graph.rows, graph.scores)
        if not has_raw:
            first, second, n_unseen = first[:0], second[:0], 0
        likeness = _likeness(view, embeddings, blind, small)
        same = _enough(graph, likeness, least) if len(first) else least
        content = known_column(embeddings, "content_hash")
        pairs = duplicates.confirmed(
            first,
            second,
            content,
            likeness,
            same,
            progress=lambda done, n: tell(done, n, "pairs"),
        )
        return {
            "cluster": duplicates.clusters(len(embeddings), pairs),
            "first": pairs.first,
            "second": pairs.second,
            "likeness": pairs.likeness,
            "counts": np.array([len(first), n_unseen, len(blind), len(small)]),
            "same": np.array(same),
        }

    # Files that cannot be read now may be there the next time.
    found = derive(view, f"twins-{FORMAT}", make, is_final=lambda: not blind)
    pairs = duplicates.Pairs(found["first"], found["second"], found["likeness"])
    n_pairs, n_unseen, n_blind, n_small = found["counts"].tolist()
    same = float(found["same"])
    return Twins(found["cluster"], pairs, same, n_pairs, n_unseen, n_blind, n_small, has_raw)


def known_column(embeddings: Embeddings, name: str) -> NDArray[Any]:
    """Return a column, shape (n,), None where nothing is known."""
    values = np.full(len(embeddings), None, dtype=object)
    if name in embeddings.columns:
        known = ~is_missing(embeddings.column(name))
        values[known] = embeddings.column(name)[known]
    return values


def _enough(graph: Graph, likeness: Callable[[int, int], float], least: float) -> float:
    """Return the likeness that makes a twin, above that of pairs that are merely of one kind."""
    n, k = graph.rows.shape
    pairs = [
        (row, int(graph.rows[row, N_FAR + place % (k - N_FAR)]))
        for place, row in enumerate(range(0, n, max(1, n // _N_SAMPLED)) if k > N_FAR else ())
    ]
    far = [(row, other) for row, other in pairs if row not in graph.rows[other, :N_FAR]]
    if not far:
        return least
    usual = float(np.quantile([likeness(*pair) for pair in far], 0.99))
    return float(np.clip(usual + _APART, least, _MOST))


def _likeness(
    view: View, embeddings: Embeddings, blind: set[int], small: set[int]
) -> Callable[[int, int], float]:
    """Return a function that measures how similar two rows are.

    Rows whose files cannot be read come into ``blind``, too small pictures into ``small``.
    """
    if view.dataset.modality == Modality.TEXT:
        return duplicates.text_likeness(texts_of(embeddings).tolist())

    @lru_cache(maxsize=PRINTS_KEPT)
    def print_of(row: int) -> pictures.Print | None:
        try:
            content = view.dataset.read_bytes(str(embeddings.ids[row]))
            picture = decode_image(content, at_least_px=2 * pictures.SIDE_PX)
            if min(picture.size) >= LEAST_PX:
                return pictures.print_of(picture)
            small.add(row)
            return None
        except FeatureStoreError:
            blind.add(row)
            return None

    def likeness(a: int, b: int) -> float:
        one, other = print_of(a), print_of(b)
        return 0.0 if one is None or other is None else pictures.likeness(one, other)

    return likeness
