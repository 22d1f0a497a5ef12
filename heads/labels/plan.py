"""Which rows teach and which rows test: decided once, for all heads and encoders."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.curation.reviews import Review
from featurestore.errors import NotEnoughData
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.labels import is_missing
from heads.labels.estimands import ON_TEST, over_folds
from heads.labels.folds import N_REPEATS, Folds, make_folds, numbered
from heads.labels.labelled import LabelledRows, labelled_rows, lonely_classes, read_labels
from heads.labels.options import DEFAULT, PlanOptions
from heads.labels.reviewed import Decisions, Reviewed
from heads.labels.sampling import LARGE_ROWS
from heads.labels.tasks import Target, Task
from heads.labels.unlabelled import NONE, Unlabelled

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet


@dataclass(frozen=True, eq=False)
class Plan:
    """Labeled rows of a data set: which teach heads, and which test them."""

    label: str
    ids: NDArray[np.str_]  # (n,), sorted
    rows: NDArray[np.intp]  # (n,), positions in the embeddings it was made from
    target: Target  # of the n rows
    block: NDArray[np.intp]  # (n,), rows of one block stay together
    split: NDArray[Any]  # (n,), train | val | test | None
    train: NDArray[np.intp]  # rows that the final head learns from
    test: NDArray[np.intp]  # rows of the test split; empty where folds are used
    folds: Folds | None
    n_unlabelled: int
    n_leaked: int  # test rows whose content also stands in the training rows
    notes: tuple[str, ...]
    draws: tuple[tuple[NDArray[np.intp], NDArray[np.intp]], ...] = ()  # in place of folds or split
    reviewed: Reviewed | None = None  # what reviewers decided; None: not asked for
    unlabelled: Unlabelled = NONE  # items that heads may look at beside the rows

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.target.task

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of classes or labels; empty for numbers."""
        return self.target.classes

    @property
    def parts(self) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Training and test rows, (n_train,) and (n_test,), in the order of scores."""
        if self.draws:
            return list(self.draws)
        found = [(self.train, self.test)] if self.folds is None else list(self.folds.parts())
        if self.reviewed is None:
            return found
        teaches, is_tested = self.reviewed.teaches, self.reviewed.is_tested
        return [(train[teaches[train]], test[is_tested[test]]) for train, test in found]

    @property
    def taught(self) -> Target:
        """What heads learn of each row: the target, or what reviewers say it is."""
        return self.target if self.reviewed is None else self.reviewed.taught

    @property
    def tested(self) -> NDArray[np.intp]:
        """Rows that get a prediction, ascending, shape (n_tested,)."""
        if self.draws:
            return np.unique(np.concatenate([test for _, test in self.draws]))
        tested = self.test if self.folds is None else np.arange(len(self.ids))
        return tested if self.reviewed is None else tested[self.reviewed.is_tested[tested]]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the items, their targets, and who teaches and tests whom."""
        found = hashlib.sha256(f"{self.task} {self.label} {self.classes}".encode())
        found.update("\0".join(self.ids.astype(str)).encode())
        found.update(np.ascontiguousarray(self.target.values).tobytes())
        found.update(self.block.astype(np.int64).tobytes())
        if self.reviewed is not None:
            found.update(np.ascontiguousarray(self.reviewed.taught.values).tobytes())
            found.update(self.reviewed.teaches.tobytes() + self.reviewed.is_tested.tobytes())
        for part in self.parts:
            for rows in part:
                found.update(rows.astype(np.int64).tobytes() + b"|")
        return found.hexdigest()

    @property
    def estimand(self) -> str:
        """What intervals are intervals of."""
        if self.draws:
            return f"one new draw of labels, {len(self.draws)} draws"
        if self.folds is None:
            return ON_TEST
        return over_folds(self.folds.n_repeats, self.folds.n_folds)


def task_of(dataset: DataSet, label: str | None) -> str | None:
    """Return the task that dataset.json records of a label; None where it says nothing."""
    labels = dataset.description.labels
    name = label or next(iter(labels), "")
    return labels.get(name, {}).get("task")


def make_plan(
    embeddings: Embeddings,
    options: PlanOptions = DEFAULT,
    *,
    recorded: str | None = None,
    reviews: Mapping[str, Review] | None = None,
    twins: Mapping[str, int] | None = None,
) -> Plan:
    """Decide on rows, targets, blocks, and on the test split or folds.

    Folds use every labelled row, but not those of a class that lies in one block: it cannot be
    both learned and tested.

    Parameters
    ----------
    embeddings : Embeddings
        Of any view of the data set: the vectors are not looked at.
    options : PlanOptions
        Reviews and twins are not looked up: they come in as ``reviews`` and ``twins``.
    recorded : str, optional
        The task that dataset.json records; used where ``options`` name none.
    reviews : mapping of str to Review, optional
        Standing decisions by item: they change what rows teach, not what they are tested on.
    twins : mapping of str to int, optional
        Clusters of near-duplicates by item, which stay together; test rows with a twin in the
        training split are left out.

    Raises
    ------
    NotEnoughData
        Too few labels, classes or groups; or no test split where one was asked for.
    MissingColumn
        No such label.
    BadName
        Labels that do not fit the task.
    """
    decisions = None if reviews is None else Decisions.of(reviews)
    left_out: frozenset[str] = frozenset()
    while True:
        labels = read_labels(embeddings, options, recorded, decisions, left_out)
        rows = labelled_rows(embeddings, labels, decisions, options, twins)
        use_test = _use_test(rows, options)
        lonely = frozenset() if use_test else lonely_classes(rows)
        if not lonely:
            break
        left_out |= lonely
    if use_test:
        division = _by_test_split(rows, leave_twins_out=twins is not None)
    else:
        division = _by_folds(rows, options, labels.remark)
    notes = [*labels.notes(), *division.notes]
    if rows.reviewed is not None:
        taught = np.flatnonzero(rows.is_train) if use_test else np.arange(len(rows.ids))
        notes.append(rows.reviewed.sentence(rows.target, taught))
    return Plan(
        labels.name,
        rows.ids,
        rows.positions,
        rows.target,
        rows.block,
        rows.split,
        division.train,
        division.test,
        division.folds,
        labels.n_unlabelled,
        division.n_leaked,
        tuple(notes),
        reviewed=rows.reviewed,
        unlabelled=rows.unlabelled,
    )


def _use_test(rows: LabelledRows, options: PlanOptions) -> bool:
    has_test = bool(rows.is_test.any())
    if options.evaluation == "test" and not has_test:
        raise NotEnoughData("no labelled item is in a test split: use evaluation='folds'")
    return has_test and options.evaluation != "folds"


@dataclass(frozen=True, eq=False)
class _Division:
    """Who teaches and who tests, as positions among the labelled rows."""

    train: NDArray[np.intp]
    test: NDArray[np.intp]  # empty with folds
    folds: Folds | None
    n_leaked: int
    notes: list[str]


def _by_test_split(rows: LabelledRows, *, leave_twins_out: bool) -> _Division:
    train, test = np.flatnonzero(rows.is_train & rows.teaches), np.flatnonzero(rows.is_test)
    notes: list[str] = []
    if leave_twins_out:
        test, notes = _without_twins(test, train, rows.twin)
    is_multiclass = rows.target.task is Task.MULTICLASS
    if len(train) < 2 or rows.one_class(train):
        raise NotEnoughData(
            f"{len(train)} labelled items in the training split"
            + (", of fewer than two classes" if is_multiclass else ": expected two or more")
        )
    taught = set(rows.content[train].tolist())
    leaked = np.array([one in taught for one in rows.content[test].tolist()], dtype=bool)
    n_leaked = int((leaked & ~is_missing(rows.content[test])).sum())
    n_shared = int(np.isin(rows.block[test], rows.block[train]).sum()) - n_leaked
    notes += _test_notes(n_leaked, n_shared, rows.target, train, test)
    return _Division(train, test, None, n_leaked, notes)


def _by_folds(rows: LabelledRows, options: PlanOptions, remark: str | None) -> _Division:
    target, is_tested = rows.target, rows.is_tested
    codes = target.values if target.task is Task.MULTICLASS else target.strata
    try:
        folds = make_folds(
            rows.ids[is_tested],
            codes[is_tested],
            rows.block[is_tested],
            classes=target.classes,
            n_repeats=options.repeats or (1 if len(rows.ids) > LARGE_ROWS else N_REPEATS),
            seed=options.seed,
        ).spread(is_tested, rows.block)
    except NotEnoughData as error:
        if remark is None:
            raise
        raise NotEnoughData(f"{error}. {remark}") from None
    if any(rows.one_class(train[rows.teaches[train]]) for train, _ in folds.parts()):
        raise NotEnoughData(
            f"{len(np.unique(rows.block))} groups are too few for folds that each teach two "
            "classes: label more groups, or ignore the groups with --ignore-groups"
        )
    train = np.flatnonzero((rows.is_train | ~rows.is_test.any()) & rows.teaches)
    test = np.empty(0, dtype=np.intp)
    return _Division(train, test, folds, 0, _fold_notes(folds, rows))


def _without_twins(
    test: NDArray[np.intp], train: NDArray[np.intp], twin: NDArray[Any]
) -> tuple[NDArray[np.intp], list[str]]:
    """Return the test rows that have no twin in the training rows, and how many have one."""
    known = {one for one in twin[train].tolist() if one is not None}
    leaks = np.array([one in known for one in twin[test].tolist()], dtype=bool)
    if leaks.all():
        raise NotEnoughData(
            "every test item has a near-duplicate in the training split: make another split"
        )
    if not leaks.any():
        return test, []
    return test[~leaks], [
        f"{int(leaks.sum())} of {len(test)} test items ({leaks.mean():.0%}) are left out, because "
        "they have a near-duplicate in the training split."
    ]


def _test_notes(
    n_leaked: int,
    n_shared: int,
    target: Target,
    train: NDArray[np.intp],
    test: NDArray[np.intp],
) -> list[str]:
    notes = []
    if n_leaked:
        notes.append(
            f"The split leaks: {n_leaked} of {len(test)} test items have an exact copy in the "
            "training split, so scores are too high."
        )
    if n_shared:
        notes.append(f"{n_shared} of {len(test)} test items share a group with training items.")
    if target.task is not Task.REGRESSION:
        strata = target.strata
        is_unseen = np.atleast_1d(strata[test].any(axis=0) & ~strata[train].any(axis=0))
        unseen = [target.classes[c] for c in np.flatnonzero(is_unseen[: len(target.classes)])]
        if unseen:
            notes.append(
                f"No training item has the label {', '.join(unseen)}: only a zero-shot "
                "head can predict it."
            )
    return notes


def _fold_notes(folds: Folds, rows: LabelledRows) -> list[str]:
    notes, target, n = [], rows.target, len(rows.ids)
    if folds.n_repeats == 1 and n > LARGE_ROWS:
        notes.append(
            f"The folds were dealt once, not {N_REPEATS} times: of more than {LARGE_ROWS:,} items "
            "one round tells enough."
        )
    n_blocks = len(np.unique(rows.block))
    hashes = rows.content[~is_missing(rows.content)]
    n_copies = len(hashes) - numbered(hashes)[1]
    together = " and ".join([*(["copies"] if n_copies else []), *rows.joined_by])
    if n_copies:
        units = f" ({n_blocks:,} independent units)" if rows.joined_by else ""
        notes.append(
            f"{n_copies:,} of {n:,} items are exact copies; {together} are kept in the same "
            f"fold{units}."
        )
    elif n_blocks < n:
        notes.append(
            f"{n:,} items form {n_blocks:,} independent units; {together} are kept in the same "
            "fold."
        )
    if folds.n_folds < 5:
        notes.append(f"Only {folds.n_folds} folds: a class has no more groups than that.")
    if target.task is not Task.REGRESSION:
        strata = target.strata
        known = strata.any(axis=0)
        if any((strata[train].any(axis=0) < known).any() for train, _ in folds.parts()):
            notes.append(
                "In some folds a class is only in the test part, where only a zero-shot head can "
                "predict it."
            )
    return notes
