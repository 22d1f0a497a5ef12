"""Items that heads can learn from which read taps: those that every tap holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from heads.catalogue.entry import HeadEntry
from heads.labels.options import PlanOptions
from heads.labels.views import AnyView
from heads.saved.ground import Ground, ground_of
from heads.saved.tapped import untapped


def ground_on_taps(
    views: Sequence[AnyView],
    options: PlanOptions,
    n_rows: int | None,
    entries: Sequence[HeadEntry],
    *,
    tapped: Sequence[AnyView] | None = None,
) -> Ground:
    """Return common ground without the items that a tap of some head cannot hold; notes name them.

    The taps are made where the store lacks them: of the views in ``tapped``, by default all.
    """
    ground, apart, notes = ground_of(views, options, n_rows), set[str](), list[str]()
    while entries:
        lacks, found = untapped(views if tapped is None else tapped, entries, ground.plan.ids)
        if not lacks:
            break
        apart, notes = apart | set(lacks), [*notes, *found]
        ground = ground_of(views, options, n_rows, without=apart)
    plan = replace(ground.plan, notes=(*ground.plan.notes, *notes))
    return replace(ground, plan=plan) if notes else ground
