"""Columns of items beside vectors: whether they help, and whether they give the label away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from featurestore.errors import BadName, BadSource
from featurestore.store.view import View
from featurestore.terms.embeddings import Embeddings
from heads.catalogue.table import HEADS
from heads.experiments.inputs import Cell, of_vectors
from heads.labels.metadata import MetadataCoding, MetadataColumn
from heads.labels.plan import Plan
from heads.labels.tasks import Task
from heads.labels.views import AnyView
from heads.measures.card import WithColumns
from heads.measures.comparison import Comparison, number, unit_of
from heads.saved.concat import ConcatView, columns_name, concat
from heads.saved.ground import Ground

LEAK = 0.9  # of the way from guessing to perfect that a column alone goes: then it tells the label
_LEAST_IN_LEAF = 3
ALONE_HEADS = ("logistic", "ridge", "knn")


@dataclass(frozen=True)
class ColumnLeak:
    """A column that tells the label nearly by itself."""

    column: str
    skill: float  # out of fold: 0 is guessing, 1 perfect

    def sentence(self, label: str) -> str:
        """Say it, and what to ask."""
        return (
            f"Column {self.column!r} alone nearly tells {label!r}: on items that were held out it "
            f"goes {100 * self.skill:.0f} % of the way from guessing to perfect. If it is written "
            f"down after {label!r} is known, leave it out: new items will not have it."
        )


def views_with(views: Sequence[AnyView], columns: Sequence[str]) -> list[AnyView]:
    """Return views, and each stored one again with columns beside it.

    Raises
    ------
    BadSource
        If there are columns, and no stored view.
    """
    if not columns:
        return list(views)
    beside: list[AnyView] = [concat(one, columns=columns) for one in views if isinstance(one, View)]
    if not beside:
        raise BadSource("columns stand beside stored views: name one, as `-e` does")
    return [*views, *beside]


def leaks_of(coding: MetadataCoding, items: Embeddings, plan: Plan) -> list[ColumnLeak]:
    """Return the columns that nearly tell the label by themselves, by trees out of fold.

    Raises
    ------
    BadName
        If the label itself is among them.
    """
    if plan.label in coding.names:
        raise BadName(f"column {plan.label!r} is the label: a head cannot read what it predicts")
    found = []
    for column in coding.columns:
        numbers, _ = column.coded(items.column(column.name)[plan.rows])
        skill = _skill(_in_one(column, numbers), plan)
        if skill >= LEAK:
            found.append(ColumnLeak(column.name, skill))
    return found


def _in_one(column: MetadataColumn, numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a category as one number, (n, 1), which a tree needs fewer steps for."""
    if column.kind == "number":
        return numbers
    return np.asarray(np.where(numbers.any(axis=1), numbers.argmax(axis=1), -1)[:, None])


def _skill(X: NDArray[np.float32], plan: Plan) -> float:
    """Return how far a tree on X, (n, dim), goes from guessing (0) to perfect (1) out of fold."""
    n_folds = 1 if plan.folds is None else plan.folds.n_folds
    truth = plan.target.values
    is_number = plan.task is Task.REGRESSION
    kind = DecisionTreeRegressor if is_number else DecisionTreeClassifier
    rows, said = [], []
    for train, test in plan.parts[:n_folds]:
        tree = kind(min_samples_leaf=_LEAST_IN_LEAF, random_state=0)
        rows.append(test)
        said.append(tree.fit(X[train], truth[train]).predict(X[test]))
    at, predicted = np.concatenate(rows), np.concatenate(said)
    true = truth[at]
    if is_number:
        spread = float(((true - true.mean()) ** 2).sum())
        return 1 - float(((true - predicted) ** 2).sum()) / spread if spread else 0.0
    if true.ndim == 2:  # the label that it tells best
        return max(_above_chance(a, b) for a, b in zip(true.T, predicted.T, strict=True))
    return _above_chance(true, predicted)


def _above_chance(true: NDArray[np.generic], predicted: NDArray[np.generic]) -> float:
    """Return balanced accuracy, 0 at chance."""
    classes = np.unique(true)
    if len(classes) < 2:
        return 0.0
    recall = float(np.mean([(predicted[true == c] == c).mean() for c in classes]))
    return (recall - 1 / len(classes)) / (1 - 1 / len(classes))


def columns_alone(ground: Ground) -> list[Cell]:
    """Return heads that read the columns of a comparison and no encoder."""
    found = _concat_in(ground)
    if found is None or found.coding is None:
        return []
    coding, plan, items = found.coding, ground.plan, ground.tables[0]

    def numbers() -> NDArray[np.float32]:
        return coding.coded({one: items.column(one)[plan.rows] for one in coding.names})[0]

    material = of_vectors(
        alone_name(found.columns), numbers, plan, {"columns": coding.digest, "state": found.state}
    )
    entries = {name: HEADS[name] for name in ALONE_HEADS}
    return [(material, name, entry) for name, entry in entries.items() if entry.builder(plan.task)]


def alone_name(columns: Sequence[str]) -> str:
    """Return what stands in place of an encoder where columns are read alone."""
    return f"baseline:{columns_name(columns)}"


def _concat_in(ground: Ground) -> ConcatView | None:
    views = (one for one in ground.views if isinstance(one, ConcatView) and one.columns)
    return next(views, None)


def judged(comparison: Comparison, ground: Ground) -> Comparison:
    """Add to a comparison with columns whether they help, and which of them tell the label.

    On the encoder of the best row without them, the best head with them is compared with the best
    without.
    """
    found = _concat_in(ground)
    if found is None or found.coding is None:
        return comparison
    with_columns = {
        str(one.spec): str(one.views[0].spec)
        for one in ground.views
        if isinstance(one, ConcatView) and one.columns
    }
    rows = [row for row in comparison.rows() if np.isfinite(row["value"])]
    plain = [(r["encoder"], r["head"]) for r in rows if r["encoder"] in with_columns.values()]
    difference = None
    if plain:
        base = plain[0]
        own = [(r["encoder"], r["head"]) for r in rows if with_columns.get(r["encoder"]) == base[0]]
        difference = comparison.difference(own[0], base) if own else None
    leaks = leaks_of(found.coding, ground.tables[0], ground.plan)
    card = WithColumns(
        columns=list(found.columns),
        encoders=with_columns,
        alone=alone_name(found.columns),
        leaks={one.column: one.skill for one in leaks},
        gain=None if difference is None else list(difference.gain),
    )
    notes = [*comparison.notes, *(one.said() + "." for one in found.coding.columns)]
    notes += [one.sentence(comparison.label) for one in leaks]
    if difference is not None:
        notes.append(_worth(found.coding.names, difference.gain, comparison.metric, bool(leaks)))
    return replace(comparison, notes=tuple(notes), card=replace(comparison.card, with_columns=card))


def _worth(
    names: Sequence[str], gain: tuple[float, float, float], metric: str, is_leaking: bool
) -> str:
    """Say whether columns help beside vectors, and what to do."""
    value, low, high = gain
    unit = unit_of(metric)
    what = f"Column {names[0]}" if len(names) == 1 else f"Columns {', '.join(names)}"
    s = "s" if len(names) == 1 else ""

    def said(x: float, sign: str = "") -> str:
        return number(x, metric, sign)

    span = (
        f"{said(value, '+')} {unit} beside the best encoder ({said(low, '+')} to {said(high, '+')})"
    )
    if low > 0:
        more = ", as what tells the label must" if is_leaking else ""
        return f"{what} help{s}: {span}{more}."
    if high < 0:
        return f"{what} harm{'s' if s else ''}: {span}. Leave {'it' if s else 'them'} out."
    return (
        f"{what}: no difference can be seen, {span}. Without {'it' if s else 'them'} a head asks "
        "less of new items."
    )
