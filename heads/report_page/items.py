"""The items that a report shows: the ones that heads get wrong, and pictures or texts of any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.store.strip import picture, texts
from featurestore.terms.specs import Modality
from heads.labels.tasks import Task
from heads.measures.choice import MAJORITY
from heads.measures.comparison import Cell, Comparison
from heads.report_page.blocks import Card, Cards
from heads.report_page.found import plain

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet

LONGEST = 300  # characters of a text


def cards(dataset: DataSet, said_of: Mapping[str, Sequence[str]]) -> Cards:
    """Return items with what is said of each, in that order."""
    if dataset.modality == Modality.TEXT:
        text_of = texts(dataset, list(said_of))
        return Cards(
            [Card(item, said, text=_cut(text_of.get(item, ""))) for item, said in said_of.items()]
        )
    found = []
    for item, said in said_of.items():
        uri, why = picture(dataset, item)
        found.append(Card(item, [*said, f"no picture: {why}"] if why else said, uri))
    return Cards(found)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def worst_items(comparison: Comparison, cell: Cell, n: int) -> dict[str, list[str]]:
    """Return the items that a head gets wrong, the worst first, with what is said of each.

    The worst are those that most other heads get wrong, too; of numbers, the largest errors.
    """
    report = comparison.cell(*cell).report
    truth, predicted = report.truth, report.predicted
    others = [row.report.predicted for row in comparison.heads if row.head != MAJORITY]
    if comparison.task is Task.REGRESSION:
        badness = np.abs(predicted - truth)
        n_wrong = None
    else:
        wrong = np.stack([_differs(one, truth) for one in others])
        n_wrong = wrong.sum(axis=0)
        badness = np.where(_differs(predicted, truth), n_wrong, 0)
    rows = np.argsort(-badness, kind="stable")[:n]
    found = {}
    for row in rows[badness[rows] > 0].tolist():
        said = [
            f"label: {plain(_named(truth[row], comparison))}",
            f"predicted: {plain(_named(predicted[row], comparison))}",
        ]
        if n_wrong is not None and len(others) > 1:
            said.append(f"wrong in {n_wrong[row]} of {len(others)} heads")
        found[comparison.item_ids[row]] = said
    return found


def _differs(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which rows differ, shape (n,)."""
    apart = np.asarray(a != b)
    return apart if apart.ndim == 1 else np.asarray(apart.any(axis=1))


def _named(value: Any, comparison: Comparison) -> Any:
    """Return a value of the truth in words."""
    if comparison.task is Task.REGRESSION:
        return float(value)
    if comparison.task is Task.MULTILABEL:
        return [name for name, is_on in zip(comparison.classes, value, strict=True) if is_on]
    return comparison.classes[value]
