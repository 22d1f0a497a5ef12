"""Maps of a view in two dimensions: PCA at once, UMAP in minutes; kept with the snapshot."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadName, MissingExtra, NotEnoughData, nearest
from featurestore.maps.graph import neighbor_graph
from featurestore.maps.kept_arrays import derive, is_kept
from featurestore.store.view import View
from featurestore.terms.vectors import principal

METHODS = ("pca", "umap")
_PCA_DIM = 50  # what UMAP starts from; its neighbors are those of the whole vectors


def project(
    view: View,
    method: str = "pca",
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    must_keep: bool = False,
) -> NDArray[np.float32]:
    """Return a map of the view's items, made once a snapshot.

    Parameters
    ----------
    view : View
    method : {"pca", "umap"}
        ``pca``: the two directions of greatest variance. ``umap``: made from the view's kNN
        graph; neighbors stay near each other, distances mean little.
    seed : int
        Of UMAP.
    progress : callable, optional
        Called with the rows of the kNN graph that are done, and all of them.
    must_keep : bool
        Raise OSError where the store takes no map, instead of making it again the next time.

    Returns
    -------
    ndarray of shape (n, 2), float32
        In [-0.95, 0.95], rows as `View.load` gives them.

    Raises
    ------
    BadName
        If there is no such method.
    MissingExtra
        If umap-learn is not installed, and the map was not made before.
    NotEnoughData
        With fewer than 3 items; UMAP needs more.

    References
    ----------
    McInnes, Healy and Melville (2018), https://arxiv.org/abs/1802.03426
    """
    if method not in METHODS:
        raise BadName(f"no map {method!r}: {nearest(method, METHODS)}")
    view = view.now()

    def make() -> dict[str, NDArray[np.float32]]:  # xy, (n, 2)
        vectors = view.load(columns=()).vectors
        if len(vectors) < 3:
            raise NotEnoughData(f"a map needs 3 items or more, {view.name} has {len(vectors)}")
        if method == "pca":
            return {"xy": fit_to_square(principal(vectors, 2))}
        return {"xy": fit_to_square(_umap(view, vectors, seed, progress))}

    xy: NDArray[np.float32] = derive(view, _kind(method, seed), make, must_keep=must_keep)["xy"]
    return xy


def is_projected(view: View, method: str, *, seed: int = 0) -> bool:
    """Whether the map of the view's present state is kept."""
    return is_kept(view, _kind(method, seed))


def _kind(method: str, seed: int) -> str:
    return f"maps-{method}" + (f"-{seed}" if method == "umap" else "")


def fit_to_square(xy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Move and scale points into [-0.95, 0.95] by one factor, so that shapes stay."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    half = max(float((high - low).max()) / 2, 1e-12)
    fitted: NDArray[np.float32] = (0.95 * (xy - (low + high) / 2) / half).astype(np.float32)
    return fitted


def _umap(
    view: View,
    vectors: NDArray[np.float32],
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> NDArray[np.float32]:
    import warnings

    if find_spec("umap") is None:
        raise MissingExtra("this map needs umap-learn: pip install 'featurestore[maps]'")
    graph = neighbor_graph(view, progress=progress)
    n, k = len(vectors), min(15, graph.k)
    if k < 3:
        raise NotEnoughData(f"UMAP needs 4 items or more, {view.name} has {n}: use pca")
    own = np.arange(n, dtype=np.int64)[:, None]
    rows = np.hstack([own, graph.rows[:, : k - 1]]).astype(np.int64)  # UMAP counts the item itself
    distances = np.hstack([np.zeros((n, 1), np.float32), 1 - graph.scores[:, : k - 1]])
    distances = np.maximum(distances, 0).astype(np.float32)
    start = principal(vectors, min(_PCA_DIM, *vectors.shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what we mean: a seed costs threads, a given graph
        import umap

        maker = umap.UMAP(
            n_neighbors=k, metric="euclidean", precomputed_knn=(rows, distances),
            init="pca" if n > 4 * k else "random", random_state=seed, low_memory=True,
        )  # fmt: skip
        xy: NDArray[np.float32] = np.asarray(maker.fit_transform(start), np.float32)
    return xy
