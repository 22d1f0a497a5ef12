"""cleanlab's Datalab over a view; it gets the probabilities and neighbors that are known here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from featurestore.errors import MissingExtra, NotEnoughData
from featurestore.maps.graph import neighbor_graph
from heads.quality.find import label_plan, witnesses

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurestore.store.view import View


LEAST_NEIGHBORS = 10  # cleanlab's own default


def datalab(
    view: View,
    *,
    label: str | None = None,
    head: str | Any = "logistic",
    seed: int = 0,
    **options: object,
) -> Any:
    """Return cleanlab's ``Datalab`` of a view's labelled items, after its ``find_issues``.

    It gets a head's out-of-fold probabilities and the view's kNN graph (cosine distances), both
    as `find_issues` uses them, so that it computes neither; where some item has fewer than ten
    labelled neighbors in the graph, it gets the vectors and looks for its own. Its rows are the
    view's labelled items; ``lab.data["item_id"]`` names them.

    Parameters
    ----------
    view, label, head, seed
        As for `find_issues`.
    **options
        Go to ``Datalab.find_issues``, as ``issue_types={"label": {}}``.

    Raises
    ------
    MissingExtra
        Without cleanlab and datasets.
    NotEnoughData
        If there are no classes to judge, or the head gives no probabilities.
    """
    try:
        import datasets  # noqa: F401 - without it cleanlab gives a Datalab that only complains
        from cleanlab import Datalab
    except ImportError as error:
        raise MissingExtra(
            f"this needs cleanlab: pip install 'featurestore[cleanlab]' ({error})"
        ) from error

    view = view.now()
    embeddings = view.load()
    plan, notes = label_plan(view, embeddings, label, seed)
    if plan is None:
        raise NotEnoughData(" ".join(notes))
    graph = neighbor_graph(view)
    proba, _, near = witnesses(plan, embeddings, graph, head, seed=seed)
    if proba is None:
        raise NotEnoughData(f"{head} gives no probabilities: choose a head that does")
    names = np.asarray(plan.classes).astype(str)
    given = {"item_id": plan.ids.astype(str), "label": names[plan.target.values]}
    lab = Datalab(given, label_name="label")
    distances = _distances(near, graph.scores[plan.rows])
    if distances is not None:
        options = {"knn_graph": distances, **options}
    else:
        options = {"features": embeddings.vectors[plan.rows], **options}
    lab.find_issues(pred_probs=proba, **options)  # classes are sorted by name on both sides
    return lab


def _distances(near: NDArray[np.intp], cosines: NDArray[np.float32]) -> csr_array | None:
    """Return cosine distances to as many neighbors of each row as every row has.

    None where that is fewer than cleanlab asks for.
    """
    has = near >= 0
    k = int(has.sum(axis=1).min())
    if k < min(LEAST_NEIGHBORS, len(near) - 1):
        return None
    first = has & (has.cumsum(axis=1) <= k)
    n = len(near)
    distance = np.maximum(1.0 - cosines[first].astype(np.float64), 0.0)
    return csr_array((distance, near[first], np.arange(0, n * k + 1, k)), shape=(n, n))
