"""Near-duplicates across a given split: how many there are, and what heads reach without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.store.view import View
from heads.labels.plan import Plan
from heads.measures.card import TwinsInTest
from heads.measures.evaluate import Report
from heads.measures.metrics import Predictions, score

# Beyond, finding them takes minutes: `featurestore quality` does. A fit is to take seconds.
MOST_ITEMS = 20_000
MOST_OF_A_FIT = 5_000


@dataclass(frozen=True, eq=False)
class Leak:
    """Test items with a near-duplicate in the training split."""

    is_twin: NDArray[np.bool_]  # (n_tested,)
    likeness: float  # that makes a twin

    @property
    def n_twins(self) -> int:
        """How many test items have one."""
        return int(self.is_twin.sum())

    def without(self, report: Report, metric: str) -> float | None:
        """Return a metric on the others; None where there are none, or it needs probabilities."""
        kept = ~self.is_twin
        if not kept.any():
            return None
        scores = score(report.task, Predictions(report.truth[kept], report.predicted[kept], None))
        return scores.get(metric)

    def metrics_without(self, report: Report) -> dict[str, float | None]:
        """Return all metrics on the others."""
        return {name: self.without(report, name) for name in report.scores}

    def card(self, without: Mapping[str, float | None] | list[float | None]) -> TwinsInTest:
        """Return what is kept of it, with the metrics without these items."""
        return TwinsInTest(self.n_twins, len(self.is_twin), self.likeness, without)

    def note(self) -> str:
        """Say it in words."""
        n = len(self.is_twin)
        of = f"a near-duplicate (likeness {self.likeness:.2f} and more) in the training split"
        if not self.n_twins:
            return f"No test item has {of}."
        return (
            f"The split leaks: {self.n_twins:,} of {n:,} test items ({self.n_twins / n:.1%}) have "
            f"{of}; scores without them are shown as well."
        )


def find_leak(
    views: Sequence[Any], plan: Plan, *, most: int = MOST_ITEMS
) -> tuple[Leak | None, list[str]]:
    """Look for twins across a given split, by the first view that is of a store, and say so.

    None with folds, where nobody made a split; `heads.compare` keeps twins together in those
    where it is asked to.
    """
    if plan.folds is not None or plan.draws:
        return None, []
    view = next((one for one in views if isinstance(one, View)), None)
    if view is None:
        return None, []
    ids = view.items().column("item_id").to_pylist()
    if len(ids) > most:
        return None, [
            f"Near-duplicates across the split were not looked for among {len(ids):,} items: "
            "featurestore quality does."
        ]
    from heads.twins.twins import find_twins

    twins = find_twins(view)
    if not twins.has_raw:
        return None, []
    cluster = dict(zip(ids, twins.cluster.tolist(), strict=True))
    of_row = np.array([cluster.get(item, -1) for item in plan.ids])
    taught = np.unique(of_row[plan.train])
    tested = of_row[np.sort(plan.tested)]
    leak = Leak((tested >= 0) & np.isin(tested, taught), twins.same)
    return leak, [leak.note(), *twins.notes()[1:]]
