"""Which of several views a command takes where none is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from featurestore.terms.specs import encoder_label

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet
    from featurestore.store.view import View

_UNTRAINED = ("baseline", "random")


def default_view(dataset: DataSet, label: str | None = None) -> tuple[View | None, str]:
    """Return the view to take, and a sentence that says so where there are others.

    The only one; else that of the last upgrade, if nothing was compared since; else the only one
    by a pretrained encoder; else the best of these in the last comparison by that label (the main
    one by default). None where nothing tells them apart.
    """
    from featurestore.store.upgrading import COMING, progress_of  # pyarrow: --help does without

    view, why = _chosen(dataset, label)
    upgrade = dataset.upgrade
    if view is None or upgrade is None or upgrade.state != COMING:
        return view, why
    share = progress_of(dataset, upgrade).share
    why = why or f"using {encoder_label(str(view.spec))}"
    return view, f"{why}; {encoder_label(upgrade.new)} is coming, {share:.0%} is there"


def _chosen(dataset: DataSet, label: str | None) -> tuple[View | None, str]:
    views = dataset.views()
    if len(views) == 1:
        return views[0], ""
    found = _of_upgrade(dataset, views)
    if found is not None:
        return found
    trained = {str(v.spec): v for v in views if v.spec.family not in _UNTRAINED}
    if len(trained) == 1:
        ((spec, view),) = trained.items()
        others = ", ".join(encoder_label(str(one.spec)) for one in views if one is not view)
        return view, f"using {encoder_label(spec)}; the others are baselines ({others})"
    label = label or next(iter(dataset.label_columns), None)
    for card in dataset.runs("compare"):
        if card.get("label") != label:
            continue
        for row in card.get("rows", ()):  # best first
            if row["encoder"] in trained:
                when, metric = str(card["when"])[:10], str(card["metric"]).replace("_", " ")
                return trained[row["encoder"]], (
                    f"using {encoder_label(row['encoder'])}, the best encoder in the comparison "
                    f"of {when} ({metric} {row['value']:.3f})"
                )
    return None, ""


def _of_upgrade(dataset: DataSet, views: Sequence[View]) -> tuple[View, str] | None:
    """Return the view that the last upgrade, or its rollback, chose; None where a run is newer."""
    upgrade = dataset.upgrade
    chosen = None if upgrade is None else upgrade.default
    view = next((one for one in views if str(one.spec) == chosen), None)
    newest = next(iter(dataset.runs("compare")), {})
    if upgrade is None or view is None or str(newest.get("when", "")) > upgrade.when:
        return None
    what = "the rollback" if upgrade.is_back else "the upgrade"
    return view, f"using {encoder_label(str(view.spec))} since {what} of {upgrade.when[:10]}"
