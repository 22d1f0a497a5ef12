"""Views of one data set on the items that all have, planned once for all that is asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.curation.reviews import Review, applicable
from featurestore.errors import BadSource
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.snapshots import Snapshot
from heads.labels.options import DEFAULT, PlanOptions
from heads.labels.plan import Plan, make_plan, task_of

if TYPE_CHECKING:
    from featurestore.store.view import View


@dataclass(frozen=True, eq=False)
class Ground:
    """Views of one data set on the items that all have, and who teaches and tests whom."""

    views: tuple[View, ...]
    tables: tuple[Embeddings, ...]
    plan: Plan
    n_apart: int  # items that some view has no vector of

    def notes(self) -> list[str]:
        """Say what the plan says, and what was left out."""
        if not self.n_apart:
            return list(self.plan.notes)
        return [
            *self.plan.notes,
            f"{self.n_apart:,} items lack a vector in some view and are not used.",
        ]

    def card(self) -> list[dict[str, Any]]:
        """Return the stored views that were read, those side by side one by one.

        `featurestore vacuum` keeps the versions that it names.
        """
        found: dict[str, dict[str, Any]] = {}
        for view, table in zip(self.views, self.tables, strict=True):
            for block in getattr(view, "blocks", None) or [
                {
                    "spec": str(view.spec),
                    "fingerprint": view.fingerprint,
                    "snapshot": table.snapshot and str(table.snapshot),
                }
            ]:
                at = block["snapshot"]
                part = getattr(view, "slice_", None)
                found[block["spec"]] = {
                    "encoder": block["spec"],
                    "fingerprint": block["fingerprint"],
                    "snapshot": asdict(Snapshot.parse(at)) if at else None,
                    **({} if part is None else {"slice": part.name, "slice_digest": part.digest}),
                }
        return list(found.values())


def ground_of(views: Sequence[View], options: PlanOptions = DEFAULT) -> Ground:
    """Load views and make one plan for all of them; see `heads.labels.plan.make_plan`."""
    tables, n_apart = load_shared(views)
    reviews, review_notes = reviews_of(views[0], tables[0], options)
    plan = make_plan(
        tables[0],
        options,
        recorded=task_of(views[0], options.label),
        reviews=reviews,
        twins=twin_clusters(views[0]) if options.twins_together else None,
    )
    plan = replace(plan, notes=(*plan.notes, *review_notes))
    return Ground(tuple(views), tuple(tables), plan, n_apart)


def twin_clusters(view: View) -> dict[str, int]:
    """Return the cluster of each item that has a near-duplicate, seen by this view's graph."""
    from heads.twins.twins import find_twins

    found = find_twins(view).cluster
    rows = np.flatnonzero(found >= 0)
    ids = view.items().column("item_id").take(rows).to_pylist()
    return dict(zip(ids, found[rows].tolist(), strict=True))


def reviews_of(
    view: View, table: Embeddings, options: PlanOptions
) -> tuple[dict[str, Review] | None, list[str]]:
    """Return what reviewers decided on the label, if it is to be applied, and notes on it."""
    name = options.label or table.label_column
    if not options.apply_reviews or name is None:
        return None, []
    return applicable(view.dataset.folder, name)


def load_shared(views: Sequence[View]) -> tuple[list[Embeddings], int]:
    """Load views of one data set on the items that all have; count the others.

    Raises
    ------
    BadSource
        If the views are of different data sets.
    """
    if not views or len({str(view.dataset.path) for view in views}) > 1:
        raise BadSource(
            "a comparison needs views of one data set, got "
            + (", ".join(view.name for view in views) or "none")
        )
    tables = [view.load() for view in views]
    ids = [table.ids.astype(str) for table in tables]
    shared = reduce(np.intersect1d, ids)
    n_apart = len(reduce(np.union1d, ids)) - len(shared)
    return [table.take(rows_of(table, shared)) for table in tables], n_apart


def rows_of(table: Embeddings, ids: NDArray[Any]) -> NDArray[np.intp]:
    """Return where items stand in a table; -1 for those that it has not."""
    own = table.ids.astype(str)
    order = np.argsort(own, kind="stable")
    place = np.minimum(np.searchsorted(own[order], ids.astype(str)), len(own) - 1)
    rows = order[place]
    return np.asarray(np.where(own[rows] == ids.astype(str), rows, -1))
