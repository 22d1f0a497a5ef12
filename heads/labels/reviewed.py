"""What reviewers decided, row by row of a plan: what rows teach, not what they are tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.curation.reviews import Action, Review
from featurestore.terms.labels import class_name
from heads.labels.tasks import Target, Task, read_target


@dataclass(frozen=True)
class Decisions:
    """Standing decisions on one label."""

    labels: Mapping[str, str]  # item → its new label
    apart: frozenset[str]  # items that teach nothing
    digest: str  # of the reviews

    @classmethod
    def of(cls, reviews: Mapping[str, Review]) -> Decisions:
        """Read decisions; of items that are called duplicates of each other, the first teaches."""
        labels = {
            item: str(one.value) for item, one in reviews.items() if one.action is Action.RELABEL
        }
        apart = {item for item, one in reviews.items() if one.action is Action.EXCLUDE}
        twins = {item: one.value for item, one in reviews.items() if one.action is Action.DUPLICATE}
        for item in sorted(twins):
            path, at = [item], twins[item]
            while at in twins and at not in path:
                path.append(str(at))
                at = twins[at]
            if at != item or item != min(path):  # a circle keeps one of its members
                apart.add(item)
        lines = sorted(f"{one.id} {one.item_id}" for one in reviews.values())
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return cls(labels, frozenset(apart), digest)

    def added_to(
        self, values: NDArray[Any], ids: NDArray[Any], left_out: frozenset[str]
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return values (n,) with the labels that reviewers alone gave, and mark those rows.

        A row whose own class is left out counts as such a row if reviewers name another class.
        """
        values, is_added = values.copy(), np.zeros(len(values), dtype=bool)
        for row, item in enumerate(ids.tolist()):
            new = self.labels.get(item)
            if new is None or new in left_out:
                continue
            own = values[row]
            is_absent = own is None or own != own
            if is_absent or (left_out and class_name(own) in left_out):
                values[row], is_added[row] = new, True
        return values, is_added


@dataclass(frozen=True, eq=False)
class Reviewed:
    """Decisions, row by row of a plan."""

    taught: Target  # (n,), with new labels
    teaches: NDArray[np.bool_]  # (n,); not what was excluded, nor a duplicate
    is_tested: NDArray[np.bool_]  # (n,); not what has a reviewer's label alone
    digest: str

    def sentence(self, target: Target, rows: NDArray[np.intp]) -> str:
        """Say what changed in the training rows, (n_train,)."""
        changed = differs(target, self.taught)[rows] & self.is_tested[rows] & self.teaches[rows]
        n_added = int((~self.is_tested[rows] & self.teaches[rows]).sum())
        return (
            f"Reviews applied to training rows: {int(changed.sum())} relabelled, "
            f"{int((~self.teaches[rows]).sum())} left out, {n_added} added that had no label."
        )


def review_rows(
    values: NDArray[Any],
    ids: NDArray[Any],
    is_added: NDArray[np.bool_],
    decisions: Decisions,
    kind: Task,
    name: str,
) -> tuple[Target, Reviewed]:
    """Return the target of values (n,) as tested and as taught; both have all classes."""
    new = values.copy()
    for row, item in enumerate(ids.tolist()):
        if item in decisions.labels:
            new[row] = decisions.labels[item]
    both = read_target(np.concatenate([values, new]), kind, name)
    own, taught = (
        Target(kind, part, both.classes) for part in np.split(both.values, [len(values)])
    )
    teaches = np.array([item not in decisions.apart for item in ids.tolist()], dtype=bool)
    return own, Reviewed(taught, teaches, ~is_added, decisions.digest)


def differs(first: Target, second: Target) -> NDArray[np.bool_]:
    """Mark the rows where two targets of n rows differ, shape (n,)."""
    changed = first.values != second.values
    return np.asarray(changed if changed.ndim == 1 else changed.any(axis=1))
