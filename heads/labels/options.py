"""What may be asked of a plan, checked once."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.errors import BadName, nearest
from heads.labels.tasks import Task

EVALUATIONS = ("auto", "test", "folds")


@dataclass(frozen=True)
class PlanOptions:
    """Which label is learned, and how the rows are divided.

    Raises
    ------
    BadName
        No such task or evaluation.
    """

    label: str | None = None  # column; None: the data set's main label
    task: str | None = None  # None: what dataset.json says, else what the labels look like
    evaluation: str = "auto"  # auto: the test split where there is one, else folds
    group: bool = True  # items of one group stay together; equal content always does
    seed: int = 0  # of the folds
    apply_reviews: bool = False  # reviewers' decisions change what rows teach
    twins_together: bool = False  # near-duplicates stay together

    def __post_init__(self) -> None:
        if self.evaluation not in EVALUATIONS:
            raise BadName(
                f"no evaluation {self.evaluation!r}: {nearest(self.evaluation, EVALUATIONS)}"
            )
        if self.task is not None and self.task not in list(Task):
            raise BadName(f"no task {self.task!r}: {nearest(self.task, list(Task))}")


DEFAULT = PlanOptions()
