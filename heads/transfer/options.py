"""What may be asked of an assessment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heads.labels.options import PlanOptions, RowKeywords
from heads.measures.choice import MARGIN

if TYPE_CHECKING:
    from featurestore.store.view import View


class TransferKeywords(RowKeywords, total=False):
    """The fields of `TransferOptions`, as keywords of `heads.assess_transfer`."""

    margin: float
    by: str | None
    shift_to: Sequence[View]
    per_class: Sequence[int]
    blend: bool
    rank: bool
    finetune: bool


@dataclass(frozen=True)
class TransferOptions:
    """Which rows are looked at, and what beside the verdicts."""

    label: str | None = None
    task: str | None = None
    evaluation: str = "auto"
    group: bool = True
    seed: int = 0
    margin: float = MARGIN  # smallest difference that matters; of errors, of the label's deviation
    by: str | None = None  # column whose values are slices; None: the classes are
    shift_to: Sequence[View] = ()  # views of another data set
    per_class: Sequence[int] = ()  # labels of each class: the verdict with so few
    blend: bool = True  # try a mix with the reference, and words of classes beside the encoder
    rank: bool = False  # score all views without training
    finetune: bool = False  # retrain the upper blocks of each encoder as well

    @property
    def plan(self) -> PlanOptions:
        """What is asked of the plan."""
        return PlanOptions(self.label, self.task, self.evaluation, self.group, self.seed)
