"""What a head says of items: predictions, confidence, sets, probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.terms.shown import Shown
from heads.saved.unlike import Unlike

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, eq=False, repr=False)
class Answers(Shown):
    """What a head says of n items; ``None`` where it does not give one."""

    ids: NDArray[Any]  # (n,), str
    predicted: NDArray[Any]  # (n,): str, a list of str, or a number; None where it abstains
    classes: tuple[str, ...]
    probabilities: NDArray[np.float64] | None = None  # (n, n_classes)
    confidence: NDArray[np.float64] | None = None  # (n,), of the one class
    in_set: NDArray[np.bool_] | None = None  # (n, n_classes), of the conformal set
    interval: NDArray[np.float64] | None = None  # (n, 2), for numbers
    unlike: Unlike | None = None  # how far out they lie
    cannot_tell: str | None = None  # why nothing is known of that
    failures: tuple[str, ...] = ()  # items that could not be read, with the reason
    notes: tuple[str, ...] = ()  # what was unusual about the columns that the head reads
    vectors: NDArray[np.float32] | None = None  # (n, dim), what the head read, if one an item

    def about(self) -> str:
        """Count items and failures."""
        failed = f", {len(self.failures):,} failed" if self.failures else ""
        return f"for {len(self.ids):,} items{failed}"

    def to_arrow(self) -> pa.Table:
        """Return a table of one row an item.

        Columns: item_id, predicted, set or low and high, confidence, unlike_training, p of each
        class; those that there are.
        """
        import pyarrow as pa

        columns: dict[str, Any] = {
            "item_id": pa.array(self.ids.tolist(), pa.string()),
            "predicted": pa.array(self.predicted.tolist()),
        }
        if self.in_set is not None:
            names = np.array(self.classes)
            columns["set"] = pa.array([names[row].tolist() for row in self.in_set])
        if self.interval is not None:
            columns["low"], columns["high"] = self.interval.T
        if self.confidence is not None:
            columns["confidence"] = self.confidence
        if self.unlike is not None:
            columns["unlike_training"] = self.unlike.shares
        if self.probabilities is not None:
            for name, p in zip(self.classes, self.probabilities.T, strict=True):
                columns[f"p:{name}"] = p
        return pa.table(columns)
