"""The loop of labels: what is labelled, how good a head on it is, which item comes next.

The score is taken on a part of the items that never teaches: the test split where it has labels,
else a fifth of the items, drawn by their content. Where that part has few labels, every fifth
question is one of its items, drawn at random.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
from numpy.typing import NDArray

from dashboard.colors import PALETTE
from featurestore.curation.labels import attach
from featurestore.curation.reviews import Action, Review, decisions_on
from featurestore.errors import BadName
from featurestore.store.dataset import DataSet
from featurestore.store.view import View
from featurestore.terms.intervals import wilson
from featurestore.terms.labels import class_name, is_missing
from featurestore.terms.vectors import unit_rows
from heads.experiments.suggest import AUTO, automatic, choose
from heads.measures.choice import MARGIN

DISAGREEMENT = "disagreement"
STRATEGIES = {
    AUTO: "as it pays: typical items first, then unsure ones",
    "uncertainty": "unsure: the head's two best classes are close",
    "typiclust": "typical: the middle of a group without labels",
    DISAGREEMENT: "disagreement: heads on two encoders say different classes",
    "random": "at random",
}
QUEUE = 8  # items that are chosen at once
TEST_EVERY = 5  # a question in so many is about a held-out item
ENOUGH_TESTED = 100  # held-out items with a label: then all questions teach
LEAST_TESTED = 5
WIDEST = 10  # half the interval of the score, in points, at which labeling may stop
MOST_TAUGHT = 5000  # of the data set's own labels, that a head here learns from
MOST_POINTS = 10  # of the curve
KEYS = "123456789"


@dataclass(frozen=True, eq=False)
class Base:
    """The items of a view and their own labels, which do not change while people label."""

    ids: NDArray[np.object_]  # (n,)
    vectors: NDArray[np.float32]  # (n, dim), rows of length 1
    own: NDArray[np.object_]  # (n,), class names; None where there is none
    is_held: NDArray[np.bool_]  # (n,), what tests and never teaches


@dataclass(frozen=True, eq=False)
class Labels:
    """What is known now: own labels, and what people decided since, in that order."""

    base: Base
    classes: tuple[str, ...]
    codes: NDArray[np.intp]  # (n,), positions in classes; -1 where there is no label
    is_out: NDArray[np.bool_]  # (n,), what people excluded
    turns: tuple[int, ...]  # rows that people labelled, oldest first

    @property
    def is_open(self) -> NDArray[np.bool_]:
        """Which items have no label yet, (n,)."""
        return np.asarray((self.codes < 0) & ~self.is_out)

    @property
    def teaching(self) -> NDArray[np.intp]:
        """Rows that teach: own labels first, then as people gave them."""
        given = set(self.turns)
        known = (self.codes >= 0) & ~self.base.is_held & ~self.is_out
        own = [row for row in np.flatnonzero(known).tolist() if row not in given]
        if len(own) > MOST_TAUGHT:
            own = np.sort(np.random.default_rng(0).choice(own, MOST_TAUGHT, replace=False)).tolist()
        return np.array([*own, *(row for row in self.turns if known[row])], np.intp)

    @property
    def tested(self) -> NDArray[np.intp]:
        """Rows that test."""
        return np.flatnonzero((self.codes >= 0) & self.base.is_held & ~self.is_out)


@dataclass(frozen=True)
class Point:
    """The share of held-out items that a head gets right, and with how many labels."""

    n_labels: int
    right: float
    low: float
    high: float


@dataclass(frozen=True)
class Question:
    """An item to label."""

    item_id: str
    why: str
    is_test: bool = False
    guesses: tuple[tuple[str, float], ...] = ()  # classes with their probabilities, best first


@dataclass(frozen=True, eq=False)
class Trained:
    """What a head on the labels of a moment says: how good it is, and what to ask next."""

    n_given: int  # labels that people had given
    points: tuple[Point, ...]
    n_tested: int
    questions: tuple[Question, ...]


def base_of(view: View, label: str) -> Base:
    """Read the items of a view."""
    items = view.load()
    values = np.full(len(items), None, dtype=object)
    if label in items.columns:
        values[:] = items.column(label)
    missing = is_missing(values)
    own = np.array([None if gone else class_name(one)
                    for one, gone in zip(values, missing, strict=True)], dtype=object)  # fmt: skip
    split = items.columns.get("split")
    is_test = np.zeros(len(items), bool) if split is None else np.asarray(split == "test")
    if (is_test & ~missing).sum() >= LEAST_TESTED:
        is_held = is_test
    else:
        table = view.items().select(["item_id", "content_hash", "group"])
        block = {one["item_id"]: one["group"] or one["content_hash"] for one in table.to_pylist()}
        is_held = np.array([_is_drawn(block.get(one) or one) for one in items.ids.tolist()], bool)
    return Base(items.ids.astype(object), unit_rows(items.vectors), own, is_held)


def _is_drawn(block: object) -> bool:
    """Draw a fifth of all contents and groups, the same in each run."""
    return hashlib.sha256(f"held out {block}".encode()).digest()[0] % TEST_EVERY == 0


def labels_of(
    base: Base, reviews: Sequence[Review], label: str, more: Sequence[str] = ()
) -> Labels:
    """Return what is labelled: own labels, and the standing decisions of people on them.

    ``more`` are classes that no item has yet.
    """
    decided = decisions_on(reviews, label)
    names = base.own.copy()
    row_of = {item: row for row, item in enumerate(base.ids.tolist())}
    is_out = np.zeros(len(names), bool)
    turns = []
    for item, one in sorted(decided.items(), key=lambda pair: pair[1].when):
        row = row_of.get(item)
        if row is None:
            continue
        if one.action is Action.RELABEL:
            names[row] = one.value
            turns.append(row)
        elif one.action in (Action.EXCLUDE, Action.DUPLICATE):
            is_out[row] = True
    classes = tuple(sorted({*(one for one in names.tolist() if one is not None), *more}))
    place = {name: code for code, name in enumerate(classes)}
    codes = np.array([-1 if one is None else place[one] for one in names.tolist()], np.intp)
    return Labels(base, classes, codes, is_out, tuple(turns))


def train(
    labels: Labels, strategy: str = AUTO, *, other: Base | None = None, n: int = QUEUE
) -> Trained:
    """Fit a head on the labels, test it, and choose what to ask next.

    Parameters
    ----------
    other : Base, optional
        The items by another encoder, for ``disagreement``.
    """
    points = curve(labels)
    return Trained(
        len(labels.turns), points, len(labels.tested), tuple(_questions(labels, strategy, other, n))
    )


def curve(labels: Labels) -> tuple[Point, ...]:
    """Return the score as labels were added, on all held-out items that have a label by now."""
    from heads.estimators.ridge import RidgeHead

    teaching, tested = labels.teaching, labels.tested
    if len(tested) < LEAST_TESTED:
        return ()
    given = set(labels.turns)
    n_own = sum(row not in given for row in teaching.tolist())
    steps = np.linspace(max(n_own, 2), len(teaching), MOST_POINTS).round().astype(int)
    found = []
    for n in np.unique(np.append(steps, len(teaching) // 2)).tolist():
        rows = teaching[:n]
        if len(np.unique(labels.codes[rows])) < 2:
            continue
        head = RidgeHead().fit(labels.base.vectors[rows], labels.codes[rows])
        right = float((head.predict(labels.base.vectors[tested]) == labels.codes[tested]).mean())
        found.append(Point(n, right, *wilson(right, len(tested))))
    return tuple(found)


def _questions(labels: Labels, strategy: str, other: Base | None, n: int) -> list[Question]:
    """Choose items that teach, and between them some that test."""
    base, codes = labels.base, np.where(labels.base.is_held, -1, labels.codes)
    is_open = labels.is_open & ~base.is_held
    codes = np.where(labels.is_out, -1, codes)
    rows: list[int] = []
    if is_open.any():
        if strategy == AUTO:
            strategy = automatic(codes)
        n_classes = len(np.unique(codes[codes >= 0]))
        if strategy == "uncertainty" and n_classes < 2:
            strategy = "typiclust"
        if strategy == DISAGREEMENT:
            rows = disagreeing(labels, other, is_open, n).tolist()
        else:
            rows = choose(base.vectors, codes, is_open, n, strategy)[0].tolist()
    tests: list[int] = []
    if len(labels.tested) < ENOUGH_TESTED:
        left = np.flatnonzero(labels.is_open & base.is_held)
        drawn = np.random.default_rng(0).permutation(len(base.ids))  # the same order each time
        tests = left[np.argsort(drawn[left])][: max(1, n // (TEST_EVERY - 1))].tolist()
    guesses = _guesses(labels, rows)
    why = STRATEGIES[strategy].partition(":")[0]
    asked = [Question(str(base.ids[row]), why, guesses=guesses.get(row, ())) for row in rows]
    for turn, row in enumerate(tests):
        test = Question(str(base.ids[row]), "held out: it tests the head and never teaches", True)
        asked.insert(min(len(asked), (turn + 1) * TEST_EVERY - 1), test)
    return asked


def _guesses(labels: Labels, rows: Sequence[int]) -> dict[int, tuple[tuple[str, float], ...]]:
    """Return what a head on all labels says of some rows, the most probable classes first."""
    from heads.estimators.ridge import RidgeHead

    teaching = labels.teaching
    if not len(rows) or len(np.unique(labels.codes[teaching])) < 2:
        return {}
    head = RidgeHead().fit(labels.base.vectors[teaching], labels.codes[teaching])
    proba = head.predict_proba(labels.base.vectors[list(rows)])
    found = {}
    for row, p in zip(rows, proba, strict=True):
        order = np.argsort(-p, kind="stable")[: len(KEYS)]
        found[row] = tuple((labels.classes[head.classes_[c]], float(p[c])) for c in order)
    return found


def disagreeing(
    labels: Labels, other: Base | None, is_open: NDArray[np.bool_], n: int
) -> NDArray[np.intp]:
    """Return the open rows of which heads on two encoders say different classes most surely.

    Raises
    ------
    BadName
        If there is no other encoder, or fewer than two classes have labels.
    """
    from heads.estimators.ridge import RidgeHead

    if other is None:
        raise BadName("disagreement needs a second encoder: embed the data set with one more")
    place = {item: row for row, item in enumerate(other.ids.tolist())}
    there = np.array([place.get(item, -1) for item in labels.base.ids.tolist()], np.intp)
    teaching = labels.teaching
    teaching = teaching[there[teaching] >= 0]
    if len(np.unique(labels.codes[teaching])) < 2:
        raise BadName("disagreement needs labels of two classes: begin with another strategy")
    rows = np.flatnonzero(is_open & (there >= 0))
    first, second = (
        RidgeHead().fit(vectors[taught], labels.codes[teaching]).predict_proba(vectors[asked])
        for vectors, taught, asked in (
            (labels.base.vectors, teaching, rows),
            (other.vectors, there[teaching], there[rows]),
        )
    )
    differs = first.argmax(axis=1) != second.argmax(axis=1)
    sure = np.minimum(first.max(axis=1), second.max(axis=1))
    return rows[np.lexsort((-sure, ~differs))[:n]]


def stop_sentence(trained: Trained) -> str:
    """Say whether more labels pay, by the last doubling, as `featurestore advise` does."""
    points = trained.points
    if len(points) < 2:
        if trained.n_tested < LEAST_TESTED:
            return (
                f"No score yet: {trained.n_tested} of {LEAST_TESTED} held-out items have a label."
            )
        return "No score yet: it takes labels of two classes."
    last = points[-1]
    half = max((one for one in points if 2 * one.n_labels <= last.n_labels + 1),
               key=lambda one: one.n_labels, default=None)  # fmt: skip
    if half is None:
        return "Go on: the labels have not doubled since the start."
    gain = last.right - half.right
    said = f"From {half.n_labels:,} to {last.n_labels:,} labels the score " + (
        f"rose by {100 * gain:.1f} points" if gain > 0 else "did not rise"
    )
    if gain > MARGIN:
        return f"Go on: {said[0].lower()}{said[1:]}."
    width = 50 * (last.high - last.low)
    if width > WIDEST:
        return f"Go on: the score is known to about ± {width:.0f} points only."
    return f"You can stop: {said[0].lower()}{said[1:]} (it is known to about ± {width:.0f})."


def curve_figure(points: Sequence[Point]) -> go.Figure:
    """Draw the score over the number of labels, with its interval."""
    x, y = [one.n_labels for one in points], [100 * one.right for one in points]
    figure = go.Figure()
    figure.add_scatter(
        x=x, y=y, mode="lines+markers", showlegend=False,
        line={"color": PALETTE[0]}, marker={"size": 8},
        error_y={
            "array": [100 * one.high - v for one, v in zip(points, y, strict=True)],
            "arrayminus": [v - 100 * one.low for one, v in zip(points, y, strict=True)],
            "thickness": 1.5,
        },
        hovertemplate="%{x:,} labels: %{y:.1f} % right<extra></extra>",
    )  # fmt: skip
    figure.update_layout(
        height=260,
        margin={"l": 0, "r": 0, "t": 10, "b": 40},
        xaxis={"title": "labels that teach", "rangemode": "tozero"},
        yaxis={"title": escape("held-out items right (%)"), "range": [0, 102]},
    )
    return figure


def keyed(classes: Sequence[str], question: Question) -> list[tuple[str, str]]:
    """Return classes with their keys: all in their order, or of many the nine most probable."""
    if len(classes) <= len(KEYS):
        return list(zip(KEYS, classes, strict=False))
    named = [name for name, _ in question.guesses] or list(classes)
    return list(zip(KEYS, named, strict=False))


def start_column(dataset: DataSet, name: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Give a data set without labels a label column, in which all items are open.

    Raises
    ------
    BadName
        If there is no name, or fewer than two classes; if the items have such a column.
    """
    wanted = tuple(dict.fromkeys(one.strip() for one in classes if one.strip()))
    if not name.strip() or len(wanted) < 2:
        raise BadName("expected a name of the label, and two classes or more")
    items = dataset.folder.items
    if name.strip() in items.schema(items.version()).names:
        raise BadName(f"the items have a column {name.strip()!r}: take another name for the label")
    first = dataset.items(["item_id"]).column("item_id").slice(0, 1)
    for value in (wanted[0], None):  # a column of nothing alone is not written: it changes no row
        values = pa.array([value], pa.string())
        attach(dataset.folder, pa.table({"item_id": first, name.strip(): values}))
    return wanted


def to_keep(labels: Labels) -> dict[str, str]:
    """Return the labels that people gave to items without one, by item."""
    base = labels.base
    return {
        str(base.ids[row]): labels.classes[labels.codes[row]]
        for row in labels.turns
        if base.own[row] is None and labels.codes[row] >= 0 and not labels.is_out[row]
    }


def keep(dataset: DataSet, label: str, given: Mapping[str, str]) -> int:
    """Write labels that people gave into the data set, so that heads learn and are tested.

    The decisions stay in the reviews, with who and when.
    """
    values = {"item_id": list(given), label: list(given.values())}
    return attach(dataset.folder, pa.table(values))


def without(trained: Trained, done: Mapping[str, object], skipped: Sequence[str]) -> Trained:
    """Return it without the questions that were answered, or put off."""
    left = [one for one in trained.questions if one.item_id not in done]
    left.sort(key=lambda one: one.item_id in skipped)
    return replace(trained, questions=tuple(left))
