"""What stands beside a verdict: slices, shift, ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featurestore.encoders.loading import known_encoder
from featurestore.errors import FeatureStoreError, NotEnoughData
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.labels import is_missing
from heads.labels.plan import Plan
from heads.labels.tasks import Task
from heads.measures.comparison import ComparedHead, Difference
from heads.measures.intervals import level_of_each
from heads.saved.common_items import positions_in
from heads.transfer.rank import Ranked, rank_encoders
from heads.transfer.shift import Shift, domain_shift
from heads.transfer.verdict import SliceDifference, slice_differences

if TYPE_CHECKING:
    from featurestore.store.view import View


def difference_of(
    first: ComparedHead, second: ComparedHead, metric: str, n_claims: int
) -> Difference:
    """Return the difference of two cells, of so many that are claimed at once."""
    gain = first.report.difference(second.report, metric, level=level_of_each(n_claims))
    assert gain.low is not None
    assert gain.high is not None
    cells = (first.encoder, first.head), (second.encoder, second.head)
    return Difference(*cells, gain.value, gain.low, gain.high, gain.estimand, metric, n_claims)


def slices_of(
    cell: ComparedHead, against: ComparedHead, plan: Plan, table: Embeddings, by: str | None
) -> list[SliceDifference]:
    """Compare class by class, or value by value of a column."""
    tested = plan.tested
    masks: dict[str, NDArray[np.bool_]] = {}
    of_label = None
    if by is not None:
        values = table.column(by)[plan.rows][tested]
        known = ~is_missing(values)
        texts = values.astype(str)
        masks = {str(v): known & (texts == v) for v in np.unique(texts[known])}
    elif plan.task is Task.MULTICLASS:
        codes = plan.target.values[tested]
        masks = {name: codes == c for c, name in enumerate(plan.classes)}
    elif plan.task is Task.MULTILABEL:
        masks = dict(zip(plan.classes, plan.target.values[tested].T, strict=True))
        of_label = {name: i for i, name in enumerate(plan.classes)}
    row_among_tested = np.zeros(len(plan.ids), dtype=np.intp)
    row_among_tested[tested] = np.arange(len(tested))
    parts = [row_among_tested[test] for _, test in plan.parts]
    masks = {name: mask for name, mask in masks.items() if mask.any()}
    return slice_differences(
        cell.report, against.report, masks, parts, block=plan.block[tested], of_label=of_label
    )


def shifts_of(
    judged: Sequence[View],
    table: Mapping[str, Embeddings],
    plan: Plan,
    shift_to: Sequence[View],
) -> tuple[dict[str, Shift], list[str]]:
    """Compare training with test items, or with those of another data set."""
    elsewhere = {view.fingerprint: view for view in shift_to}
    shifts, notes = {}, []
    for view in judged:
        spec = str(view.spec)
        vectors = table[spec].vectors[plan.rows]
        try:
            if shift_to:
                if view.fingerprint not in elsewhere:
                    there = shift_to[0].dataset.name
                    notes.append(f"No shift: {there} has no view by {view.spec.label}.")
                    continue
                here = table[spec].take(plan.rows)
                shifts[spec] = _shift_to(elsewhere[view.fingerprint], view, here, plan)
            elif plan.folds is None:
                classes = taught = None
                if plan.task is Task.MULTICLASS:
                    names = np.array(plan.classes)
                    classes = names[plan.target.values[plan.test]]
                    taught = names[plan.target.values[plan.train]]
                shifts[spec] = domain_shift(
                    vectors[plan.train],
                    vectors[plan.test],
                    groups=(plan.block[plan.train], plan.block[plan.test]),
                    classes=classes,
                    first_classes=taught,
                )
        except NotEnoughData as error:
            notes.append(f"No shift: {error}.")
    return shifts, list(dict.fromkeys(notes))


def _shift_to(view: View, judged: View, here: Embeddings, plan: Plan) -> Shift:
    """Compare what is judged with another view, or with a slice of its own data set.

    A slice of the own data set is compared with the other items, so that none is on both sides.
    """
    slice_ = view.slice_
    there = view.dataset.name if slice_ is None else f"{view.dataset.name}:{slice_.name}"
    between = f"the items here and those of {there}"
    other = view.load()
    own = np.array([f"own {number}" for number in plan.block])
    ours, theirs = view.dataset, judged.dataset
    if (ours.path, ours.name) == (theirs.path, theirs.name):
        is_here = np.isin(other.ids, here.ids)
        if is_here.all():
            here = here.take(~np.isin(here.ids, other.ids))
            between = f"the items of {there} and the others"
        else:
            other = other.take(~is_here)
        own = _group_names(here)  # one group may lie on both sides
    of_class, own_class = (
        None
        if one.label_column is None
        else np.where(is_missing(one.labels), "(no label)", one.labels.astype(str))
        for one in (other, here)
    )
    return domain_shift(
        here.vectors,
        other.vectors,
        groups=(own, _group_names(other)),
        classes=of_class,
        first_classes=own_class,
        between=between,
    )


def _group_names(items: Embeddings) -> NDArray[np.str_]:
    """Return each item's group, or its id where it has none."""
    group = items.columns.get("group", np.full(len(items), None, dtype=object))
    return np.where(is_missing(group), items.ids, group).astype(str)


def _n_parameters(view: View) -> int | None:
    """Return what was counted when the view was made, or when its encoder was loaded last."""
    counted = view.info.get("n_parameters")
    if counted is not None:
        return int(counted)
    try:
        known = known_encoder(view.spec)
    except FeatureStoreError:  # imported, or of a family that is not installed here
        return None
    return None if known is None else known.n_parameters


def ranking_of(
    views: Sequence[View], plan: Plan, values: Mapping[str, float]
) -> tuple[list[Ranked], list[str]]:
    """Score all views on the rows that teach."""
    rows = plan.train
    vectors, notes = {}, []
    for view in views:
        table = view.load()
        at = positions_in(table, plan.ids[rows])
        if (at >= 0).all():
            vectors[str(view.spec)] = table.vectors[at]
        else:
            notes.append(f"Not ranked: {view.spec.label} lacks vectors of some training items.")
    try:
        ranked = rank_encoders(
            vectors,
            plan.target.take(rows),
            groups=plan.block[rows],
            head_values=values,
            n_parameters={str(view.spec): _n_parameters(view) for view in views},
        )
    except NotEnoughData as error:
        return [], [*notes, f"No ranking: {error}."]
    return ranked, notes
