"""Views of one data set, and one plan for all of them: which rows teach, which test."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from featurestore.curation.reviews import Review, applicable
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.snapshots import Snapshot
from heads.labels.options import DEFAULT, PlanOptions
from heads.labels.plan import Plan, make_plan, task_of
from heads.labels.sampling import some_rows
from heads.labels.views import AnyView, slice_facts
from heads.measures.card import ReadView
from heads.saved.common_items import apart_notes, left_out_of, load_shared
from heads.saved.concat import blocks_of

if TYPE_CHECKING:
    from featurestore.store.view import View


@dataclass(frozen=True, eq=False)
class Ground:
    """Views of one data set on the items that all have, and which of them teach and test."""

    views: tuple[AnyView, ...]
    tables: tuple[Embeddings, ...]
    plan: Plan
    n_apart: int  # items that some view has no vector of

    def notes(self) -> list[str]:
        """Return the notes of the plan, and one on items that were left out."""
        return [*self.plan.notes, *apart_notes(self.n_apart)]

    def read_views(self) -> tuple[ReadView, ...]:
        """Return the stored views that were read; views side by side are listed one by one."""
        read: dict[str, ReadView] = {}
        for view, table in zip(self.views, self.tables, strict=True):
            for block in blocks_of(view):
                at = block.get("snapshot", table.snapshot)
                known = Snapshot.parse(at) if isinstance(at, str) else at
                spec = block["spec"]
                read[spec] = ReadView(spec, block["fingerprint"], known, **slice_facts(view))
        return tuple(read.values())


def ground_of(
    views: Sequence[AnyView],
    options: PlanOptions = DEFAULT,
    n_rows: int | None = None,
    *,
    without: Collection[str] = (),
) -> Ground:
    """Load views and make one plan for all of them; see `heads.labels.plan.make_plan`.

    Of more than ``n_rows`` labelled items, so many are drawn; see `heads.labels.sampling`. Items
    ``without`` which it is to be are left out by id.
    """
    tables, n_apart = load_shared(views)
    if without:
        tables = [left_out_of(table, without) for table in tables]
    tables, row_notes = some_rows(tables, options, n_rows)
    reviews, review_notes = reviews_of(views[0], tables[0], options)
    plan = make_plan(
        tables[0],
        options,
        recorded=task_of(views[0].dataset, options.label),
        reviews=reviews,
        twins=twin_clusters(cast("View", views[0])) if options.twins_together else None,
    )
    plan = replace(plan, notes=(*row_notes, *plan.notes, *review_notes))
    return Ground(tuple(views), tuple(tables), plan, n_apart)


def twin_clusters(view: View) -> dict[str, int]:
    """Return the cluster of each item that has a near-duplicate in this view."""
    from heads.twins.twins import find_twins

    found = find_twins(view).cluster
    rows = np.flatnonzero(found >= 0)
    ids = view.items().column("item_id").take(rows).to_pylist()
    return dict(zip(ids, found[rows].tolist(), strict=True))


def reviews_of(
    view: AnyView, table: Embeddings, options: PlanOptions
) -> tuple[dict[str, Review] | None, list[str]]:
    """Return what reviewers decided on the label, if it is to be applied, and notes on it."""
    name = options.label or table.label_column
    if not options.apply_reviews or name is None:
        return None, []
    return applicable(view.dataset.folder, name)
