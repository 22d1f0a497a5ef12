"""Which rows teach and which rows test: decided once, for all heads and encoders."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.curation.reviews import Review
from featurestore.errors import BadName, MissingColumn, NotEnoughData, nearest
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.labels import MOST_CLASSES, class_name, is_missing
from heads.labels.estimands import ON_TEST, over_folds
from heads.labels.folds import Folds, blocks, make_folds
from heads.labels.reviewed import Decisions, Reviewed, review_rows
from heads.labels.tasks import Target, Task, guess_task, read_target

EVALUATIONS = ("auto", "test", "folds")


@dataclass(frozen=True, eq=False)
class Plan:
    """Labelled rows of a data set, and how heads are taught and tested on them."""

    label: str
    ids: NDArray[np.str_]  # (n,), sorted
    rows: NDArray[np.intp]  # (n,), positions in the embeddings it was made from
    target: Target  # of the n rows
    block: NDArray[np.intp]  # (n,), rows of one block never part
    split: NDArray[Any]  # (n,), train | val | test | None
    train: NDArray[np.intp]  # rows that the final head learns from
    test: NDArray[np.intp]  # rows of the test split; empty where folds are used
    folds: Folds | None
    n_unlabelled: int
    n_leaked: int  # test rows whose content also stands in the training rows
    notes: tuple[str, ...]
    draws: tuple[tuple[NDArray[np.intp], NDArray[np.intp]], ...] = ()  # in place of folds or split
    reviewed: Reviewed | None = None  # what reviewers decided; None: not asked for

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
        """Training and test rows, in the order of scores."""
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
        """Rows that get a prediction, ascending."""
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
        """What intervals speak of."""
        if self.draws:
            return f"one new draw of labels, {len(self.draws)} draws"
        if self.folds is None:
            return ON_TEST
        return over_folds(self.folds.n_repeats, self.folds.n_folds)


def task_of(view: Any, label: str | None) -> str | None:
    """Return the task that dataset.json records of a label; None where it says nothing."""
    description = getattr(view.dataset, "description", None)
    if description is None or not description.labels:
        return None
    name = label or next(iter(description.labels))
    task: str | None = description.labels.get(name, {}).get("task")
    return task


def make_plan(
    embeddings: Embeddings,
    *,
    label: str | None = None,
    task: str | None = None,
    recorded: str | None = None,
    evaluation: str = "auto",
    use_groups: bool = True,
    seed: int = 0,
    leave_out: frozenset[str] = frozenset(),
    reviews: Mapping[str, Review] | None = None,
    twins: Mapping[str, int] | None = None,
) -> Plan:
    """Decide on rows, targets, blocks, and on the test split or folds.

    Parameters
    ----------
    embeddings : Embeddings
        Of any view of the data set: the vectors are not looked at.
    label : str, optional
        Label column; default the data set's main label.
    task : {"multiclass", "multilabel", "regression"}, optional
        Default what the labels look like (`heads.tasks.guess_task`).
    recorded : str, optional
        What the data set's own description says, where nobody says otherwise.
    evaluation : {"auto", "test", "folds"}
        ``auto``: the test split where there is one, else folds. Folds use every labelled row,
        but not those of a class that lies in one block: it cannot be learned and tested.
    leave_out : frozenset of str
        Classes that do not take part.
    reviews : mapping of str to Review, optional
        Standing decisions by item: they change what rows teach, not what they are tested on.
    twins : mapping of str to int, optional
        Clusters of near-duplicates by item, which never part; test rows with a twin in the
        training split are left out.

    Raises
    ------
    NotEnoughData
        Too few labels, classes or groups; or no test split where one was asked for.
    MissingColumn
        No such label.
    BadName
        No such task or evaluation, or labels that do not fit the task.
    """
    if evaluation not in EVALUATIONS:
        raise BadName(f"no evaluation {evaluation!r}: {nearest(evaluation, EVALUATIONS)}")
    if task is not None and task not in list(Task):
        raise BadName(f"no task {task!r}: {nearest(task, list(Task))}")
    name = label or embeddings.label_column
    if name is None:
        given = [one for one in embeddings.columns if one not in ("split", "group")]
        columns = f" (it has {', '.join(given)})" if given else ""
        raise MissingColumn(
            f"this data set has no labels: name a column with label=… or --label{columns}, or "
            "give it labels with `featurestore labels`"
        )
    values = embeddings.column(name)
    decisions = None if reviews is None else Decisions.of(reviews)
    is_added = np.zeros(len(values), dtype=bool)
    if decisions is not None:
        values, is_added = decisions.added_to(values, embeddings.ids, leave_out)
    is_known = ~is_missing(values)
    guessed, remark = guess_task(values[is_known], name)
    kind = Task(task or recorded or guessed)
    remark = remark if kind is guessed else None
    if task is None and kind is Task.MULTICLASS and _looks_like_numbers(values[is_known]):
        remark = (
            f"Label {name!r} holds many different whole numbers, taken as classes: task "
            "regression takes them as a quantity."
        )
    if kind is Task.MULTILABEL:  # an empty text is an item without labels, and known to be
        is_known |= np.array([isinstance(value, str) for value in values], dtype=bool)
    takes_part = is_known.copy()
    if leave_out:
        takes_part &= [class_name(value) not in leave_out for value in values]
    known = np.flatnonzero(takes_part)
    rows = known[np.argsort(embeddings.ids[known].astype(str), kind="stable")]
    target, reviewed = read_target(values[rows], kind, name), None
    teaches = is_tested = np.ones(len(rows), dtype=bool)
    if decisions is not None:
        target, reviewed = review_rows(
            values[rows], embeddings.ids[rows], is_added[rows], decisions, kind, name
        )
        teaches, is_tested = reviewed.teaches, reviewed.is_tested
    if not is_tested.any():
        raise NotEnoughData(
            f"reviewers alone gave labels {name!r}: there is nothing to test on; attach some with "
            "`featurestore labels`"
        )
    empty = np.full(len(embeddings), None, dtype=object)
    split, content, group = (
        embeddings.columns.get(key, empty)[rows] for key in ("split", "content_hash", "group")
    )
    twin = np.array([(twins or {}).get(item) for item in embeddings.ids[rows].tolist()], object)
    block = blocks(content, twin, *([group] if use_groups else []))
    is_test = (split == "test") & is_tested
    if evaluation == "test" and not is_test.any():
        raise NotEnoughData("no labelled item is in a test split: use evaluation='folds'")
    use_test = evaluation != "folds" and is_test.any()
    is_train = split == "train"
    if not is_train.any():
        is_train = ~np.isin(split, ["val", "test"])
    is_multiclass = kind is Task.MULTICLASS
    taught = (target if reviewed is None else reviewed.taught).values
    if not use_test and is_multiclass:
        lonely = _in_one_block(target.take(is_tested), block[is_tested])
        if lonely and len(target.classes) - len(lonely) >= 2:
            return make_plan(
                embeddings,
                label=label,
                task=task,
                recorded=recorded,
                evaluation=evaluation,
                use_groups=use_groups,
                seed=seed,
                leave_out=leave_out | lonely,
                reviews=reviews,
                twins=twins,
            )
    n_unlabelled = int((~is_known).sum())
    notes = [remark] if remark and task is None else []
    if n_unlabelled:
        notes.append(f"Left out for want of a label: {n_unlabelled} items.")
    if leave_out:
        shown = ", ".join(sorted(leave_out)[:5]) + (" …" if len(leave_out) > 5 else "")
        notes.append(
            f"Left out, since each lies in one group and folds need two: {len(leave_out)} "
            f"classes of {int((is_known & ~takes_part).sum())} items ({shown})."
        )
    n_leaked = 0
    folds = None
    if use_test:
        train, test = np.flatnonzero(is_train & teaches), np.flatnonzero(is_test)
        if twins is not None:
            test, note = _without_twins(test, train, twin)
            notes += note
        if len(train) < 2 or (is_multiclass and len(np.unique(taught[train])) < 2):
            raise NotEnoughData(
                f"{len(train)} labelled items in the training split"
                + (", of fewer than two classes" if is_multiclass else ": expected two or more")
            )
        leaked = np.isin(content[test].astype(str), content[train].astype(str))
        n_leaked = int((leaked & ~is_missing(content[test])).sum())
        n_shared = int(np.isin(block[test], block[train]).sum()) - n_leaked
        notes += _test_notes(n_leaked, n_shared, target, train, test)
    else:
        test = np.empty(0, dtype=np.intp)
        train = np.flatnonzero((is_train | ~is_test.any()) & teaches)
        try:
            folds = make_folds(
                embeddings.ids[rows][is_tested],
                (target.values if is_multiclass else target.strata)[is_tested],
                block[is_tested],
                classes=target.classes,
                seed=seed,
            ).spread(is_tested, block)
        except NotEnoughData as error:
            if remark is None or task is not None:
                raise
            raise NotEnoughData(f"{error}. {remark}") from None
        if is_multiclass and any(
            len(np.unique(taught[teach[teaches[teach]]])) < 2 for teach, _ in folds.parts()
        ):
            raise NotEnoughData(
                f"{len(np.unique(block))} groups are too few for folds that each teach two "
                "classes: label more groups, or let them part with --ignore-groups"
            )
        notes += _fold_notes(folds, target, block)
    if reviewed is not None:
        whole = np.flatnonzero(is_train) if use_test else np.arange(len(rows))
        notes.append(reviewed.sentence(target, whole))
    return Plan(
        name,
        embeddings.ids[rows],
        rows,
        target,
        block,
        split,
        train,
        test,
        folds,
        n_unlabelled,
        n_leaked,
        tuple(notes),
        reviewed=reviewed,
    )


def _without_twins(
    test: NDArray[np.intp], train: NDArray[np.intp], twin: NDArray[Any]
) -> tuple[NDArray[np.intp], list[str]]:
    """Return the test rows that have no twin in the training rows, and how many have one."""
    known = {one for one in twin[train].tolist() if one is not None}
    leaks = np.array([one in known for one in twin[test].tolist()], dtype=bool)
    if leaks.all():
        raise NotEnoughData("every test item has a twin in the training split: split anew")
    if not leaks.any():
        return test, []
    return test[~leaks], [
        f"Left out of the test split for a twin in the training split: {int(leaks.sum())} of "
        f"{len(test)} items ({leaks.mean():.0%})."
    ]


def _looks_like_numbers(values: NDArray[Any]) -> bool:
    """Tell whether these are whole numbers, and too many different ones for classes."""
    are_whole = [isinstance(value, (int, np.integer)) for value in values]
    return all(are_whole) and len(set(values.tolist())) > max(MOST_CLASSES, len(values) / 10)


def _in_one_block(target: Target, block: NDArray[np.intp]) -> frozenset[str]:
    pairs = np.unique(np.column_stack([target.values, block]), axis=0)
    n_blocks = np.bincount(pairs[:, 0], minlength=len(target.classes))
    return frozenset(target.classes[c] for c in np.flatnonzero(n_blocks == 1).tolist())


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
            f"The split leaks: the content of {n_leaked} of {len(test)} test items also stands in "
            "the training split, so scores are too good."
        )
    if n_shared:
        notes.append(f"{n_shared} of {len(test)} test items share a group with training items.")
    if target.task is not Task.REGRESSION:
        strata = target.strata
        is_unseen = np.atleast_1d(strata[test].any(axis=0) & ~strata[train].any(axis=0))
        unseen = [target.classes[c] for c in np.flatnonzero(is_unseen[: len(target.classes)])]
        if unseen:
            notes.append(
                f"No training item has the label {', '.join(unseen)}: only words could tell it."
            )
    return notes


def _fold_notes(folds: Folds, target: Target, block: NDArray[np.intp]) -> list[str]:
    notes = []
    n_blocks = len(np.unique(block))
    if n_blocks < len(block):
        notes.append(
            f"{len(block)} items form {n_blocks} blocks of equal content or group, "
            "which never part."
        )
    if folds.n_folds < 5:
        notes.append(f"Only {folds.n_folds} folds: a class has no more groups than that.")
    if target.task is not Task.REGRESSION:
        strata = target.strata
        known = strata.any(axis=0)
        if any((strata[train].any(axis=0) < known).any() for train, _ in folds.parts()):
            notes.append(
                "In some folds a class is only in the test part: only words could tell it there."
            )
    return notes
