"""Which items have a label that counts, and what is known of them besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import MissingColumn, NotEnoughData
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.labels import MOST_CLASSES, class_name, is_missing
from heads.labels.folds import blocks, numbered
from heads.labels.options import PlanOptions
from heads.labels.reviewed import Decisions, Reviewed, review_rows
from heads.labels.tasks import Target, Task, guess_task, read_target
from heads.labels.unlabelled import Unlabelled


@dataclass(frozen=True, eq=False)
class LabelColumn:
    """The label column of all n items."""

    name: str
    task: Task
    values: NDArray[Any]  # (n,), with the labels that reviewers alone gave
    is_known: NDArray[np.bool_]  # (n,)
    is_added: NDArray[np.bool_]  # (n,), labelled by reviewers alone
    left_out: frozenset[str]  # classes that cannot be both learned and tested
    remark: str | None  # on the task, where it was guessed

    @property
    def takes_part(self) -> NDArray[np.bool_]:
        """Which items count, shape (n,)."""
        if not self.left_out:
            return self.is_known
        is_in = [class_name(value) not in self.left_out for value in self.values]
        return np.asarray(self.is_known & is_in)

    @property
    def n_unlabelled(self) -> int:
        """Items without a label."""
        return int((~self.is_known).sum())

    def notes(self) -> list[str]:
        """Say how the task was guessed, and which items do not count."""
        notes = [self.remark] if self.remark else []
        if n := self.n_unlabelled:
            said = "item has no label and is" if n == 1 else "items have no label and are"
            notes.append(f"{n:,} {said} not used.")
        if self.left_out:
            names = sorted(self.left_out)
            shown = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
            n_items = int((self.is_known & ~self.takes_part).sum())
            notes.append(
                f"{len(names)} classes of {n_items} items are left out, since each is in one "
                f"group and folds need two ({shown})."
            )
        return notes


def read_labels(
    embeddings: Embeddings,
    options: PlanOptions,
    recorded: str | None,
    decisions: Decisions | None,
    left_out: frozenset[str],
) -> LabelColumn:
    """Read the label column, decide on the task, and mark the items that count."""
    name = options.label or embeddings.label_column
    if name is None:
        given = [column for column in embeddings.columns if column not in ("split", "group")]
        columns = f" (it has {', '.join(given)})" if given else ""
        raise MissingColumn(
            f"this data set has no labels: name a column with label=… or --label{columns}, or "
            "give it labels with `featurestore labels`"
        )
    values = embeddings.column(name)
    is_added = np.zeros(len(values), dtype=bool)
    if decisions is not None:
        values, is_added = decisions.added_to(values, embeddings.ids, left_out)
    is_known = ~is_missing(values)
    guessed, remark = guess_task(values[is_known], name)
    task = Task(options.task or recorded or guessed)
    if options.task is not None or task is not guessed:
        remark = None
    if options.task is None and task is Task.MULTICLASS and _looks_like_numbers(values[is_known]):
        remark = (
            f"Label {name!r} holds many different whole numbers, taken as classes: task "
            "regression takes them as a quantity."
        )
    if task is Task.MULTILABEL:  # an empty text is known: an item without labels
        is_known |= np.array([isinstance(value, str) for value in values], dtype=bool)
    return LabelColumn(name, task, values, is_known, is_added, left_out, remark)


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """The n labelled rows, in the order of their ids."""

    positions: NDArray[np.intp]  # (n,), in the embeddings
    ids: NDArray[np.str_]  # (n,)
    target: Target
    reviewed: Reviewed | None
    split: NDArray[Any]  # (n,), train | val | test | None
    content: NDArray[Any]  # (n,), hashes
    twin: NDArray[Any]  # (n,), cluster of near-duplicates; None where there is none
    block: NDArray[np.intp]  # (n,), rows of one block stay together
    unlabelled: Unlabelled  # the items without a label that may be looked at
    joined_by: tuple[str, ...] = ()  # what makes blocks beside exact copies

    @property
    def taught(self) -> Target:
        """What each row teaches."""
        return self.target if self.reviewed is None else self.reviewed.taught

    @property
    def teaches(self) -> NDArray[np.bool_]:
        """Which rows may teach, shape (n,)."""
        return _all_of(self.ids) if self.reviewed is None else self.reviewed.teaches

    @property
    def is_tested(self) -> NDArray[np.bool_]:
        """Which rows may test, shape (n,)."""
        return _all_of(self.ids) if self.reviewed is None else self.reviewed.is_tested

    @property
    def is_test(self) -> NDArray[np.bool_]:
        """Which rows are in the test split, shape (n,)."""
        return np.asarray(self.split == "test") & self.is_tested

    @property
    def is_train(self) -> NDArray[np.bool_]:
        """Which rows are in the training split, shape (n,); without one, in no other split."""
        is_train = np.asarray(self.split == "train")
        return is_train if is_train.any() else ~np.isin(self.split, ["val", "test"])

    def one_class(self, rows: NDArray[np.intp]) -> bool:
        """Whether these rows (n_rows,) teach fewer than two classes."""
        is_multiclass = self.target.task is Task.MULTICLASS
        return is_multiclass and len(np.unique(self.taught.values[rows])) < 2


def _all_of(ids: NDArray[np.str_]) -> NDArray[np.bool_]:
    return np.ones(len(ids), dtype=bool)


def labelled_rows(
    embeddings: Embeddings,
    labels: LabelColumn,
    decisions: Decisions | None,
    options: PlanOptions,
    twins: Mapping[str, int] | None,
) -> LabelledRows:
    """Return the items that count, with their targets and blocks."""
    known = np.flatnonzero(labels.takes_part)
    rows = known[np.argsort(embeddings.ids[known].astype(str), kind="stable")]
    values, ids = labels.values[rows], embeddings.ids[rows]
    reviewed = None
    target = read_target(values, labels.task, labels.name)
    if decisions is not None:
        target, reviewed = review_rows(
            values, ids, labels.is_added[rows], decisions, labels.task, labels.name
        )
        if not reviewed.is_tested.any():
            raise NotEnoughData(
                f"reviewers alone gave labels {labels.name!r}: there is nothing to test on; attach "
                "some with `featurestore labels`"
            )
    empty = np.full(len(embeddings), None, dtype=object)
    all_splits, contents, all_groups = (
        embeddings.columns.get(key, empty) for key in ("split", "content_hash", "group")
    )
    all_twins = empty
    if twins:
        all_twins = np.array([twins.get(item) for item in embeddings.ids.tolist()], dtype=object)
    split, content, group, twin = (
        one[rows] for one in (all_splits, contents, all_groups, all_twins)
    )
    block = blocks(content, twin, *([group] if options.group else []))
    joins = {"groups": options.group and _repeats(group), "near-duplicates": _repeats(twin)}
    joined_by = tuple(name for name, does in joins.items() if does)
    may_look = ~labels.is_known & np.asarray(all_splits != "test")
    if decisions is not None:
        may_look &= ~np.isin(embeddings.ids.astype(str), sorted(decisions.apart))
    keys = (contents, all_twins, *([all_groups] if options.group else []))
    unlabelled = Unlabelled(np.flatnonzero(may_look), keys)
    return LabelledRows(
        rows, ids, target, reviewed, split, content, twin, block, unlabelled, joined_by
    )


def _repeats(values: NDArray[Any]) -> bool:
    """Whether a value that is not missing stands more than once; values are (n,)."""
    given = values[~is_missing(values)]
    return numbered(given)[1] < len(given)


def lonely_classes(rows: LabelledRows) -> frozenset[str]:
    """Return the classes that lie in one block, if two others remain."""
    if rows.target.task is not Task.MULTICLASS:
        return frozenset()
    target, block = rows.target.take(rows.is_tested), rows.block[rows.is_tested]
    pairs = np.unique(np.column_stack([target.values, block]), axis=0)
    n_blocks = np.bincount(pairs[:, 0], minlength=len(target.classes))
    lonely = frozenset(target.classes[c] for c in np.flatnonzero(n_blocks == 1).tolist())
    return lonely if len(target.classes) - len(lonely) >= 2 else frozenset()


def _looks_like_numbers(values: NDArray[Any]) -> bool:
    """Tell whether these are whole numbers, and too many different ones for classes."""
    are_whole = [isinstance(value, (int, np.integer)) for value in values]
    return all(are_whole) and len(set(values.tolist())) > max(MOST_CLASSES, len(values) / 10)
