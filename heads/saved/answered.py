"""What a head says beside the rows of its input: every row, in its order, with all its columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.sources.written import InputRows
from featurestore.terms.shown import Shown
from heads.saved.answer_log import About
from heads.saved.answers import Answers

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_CLASSES = 12  # in a summary
_NO_VECTOR = "it was not taken as an item"  # neither a vector nor a failure tells of it


@dataclass(frozen=True, eq=False, repr=False)
class AnsweredRows(Shown):
    """Answers, failures, and the rows that they are about."""

    rows: InputRows
    answers: Answers
    failed: Mapping[str, str] = field(default_factory=dict)  # item id → reason
    notes: Sequence[str] = ()  # for the user's eyes
    origins: Mapping[str, About] = field(default_factory=dict)  # item id → what a log keeps of it

    def about(self) -> str:
        """Count rows and failures."""
        failed = f", {len(self.failed):,} failed" if self.failed else ""
        return f"for {len(self.rows.ids):,} rows{failed}"

    def to_arrow(self) -> pa.Table:
        """Return the input's columns, then item_id, what the head said, and ``failed``.

        A row is matched with its answer by item id. A failed row has nothing but its reason.
        A column of ours whose name the input has is called ``head_…``.
        """
        import pyarrow as pa

        columns: dict[pa.Field, pa.ChunkedArray] = {}
        for table in (self.rows.columns, self.ours()):
            columns.update(zip(table.schema, table.columns, strict=True))
        return pa.table(list(columns.values()), schema=pa.schema(list(columns)))

    def ours(self) -> pa.Table:
        """Return our columns alone, by the names that they have beside the input's."""
        names = self._said.column_names
        return self._said.rename_columns([self.renamed.get(name, name) for name in names])

    @cached_property
    def _said(self) -> pa.Table:
        """Our columns, one row for each of the input."""
        import pyarrow as pa
        import pyarrow.compute as pc

        said = self.answers.to_arrow()
        at = pc.index_in(self.rows.ids, value_set=said.column("item_id"))
        ours = said.drop_columns(["item_id"]).take(at)
        if self.rows.id_column is None:
            ours = ours.add_column(0, "item_id", self.rows.ids)
        return ours.append_column("failed", pa.array(self._reasons(at.to_pylist()), pa.string()))

    @cached_property
    def renamed(self) -> dict[str, str]:
        """Other names for those of our columns whose name the input has."""
        theirs = {name.casefold() for name in self.rows.columns.column_names}
        taken = theirs | {name.casefold() for name in self._said.column_names}
        found: dict[str, str] = {}
        for name in self._said.column_names:
            if name.casefold() in theirs:
                free = f"head_{name}"
                while free.casefold() in taken:
                    free = f"head_{free}"
                found[name] = free
                taken.add(free.casefold())
        return found

    def _reasons(self, at: Sequence[int | None]) -> list[str | None]:
        ids = self.rows.ids.to_pylist()
        return [
            None if row is not None else self.failed.get(one, _NO_VECTOR)
            for one, row in zip(ids, at, strict=True)
        ]

    @property
    def failures(self) -> list[str]:
        """Each failed row with its reason."""
        known = set(self.answers.ids.tolist())
        ids = [one for one in self.rows.ids.to_pylist() if one not in known]
        return [f"{one}: {self.failed.get(one, _NO_VECTOR)}" for one in ids]

    def summary(self) -> list[str]:
        """Say how many rows there are, how many failed, and what was predicted."""
        n, n_failed = len(self.rows.ids), len(self.failures)
        kept = [one for one in self.answers.predicted.tolist() if one is not None]
        line = f"{n:,} rows: {len(kept):,} predicted, {n_failed:,} failed"
        if n_abstained := len(self.answers.predicted) - len(kept):
            line += f", {n_abstained:,} below the least confidence"
        said = [line, *_distribution(kept)]
        if why := self.answers.cannot_tell:
            said.append(why)
        elif self.answers.unlike is not None:
            said.append(self.answers.unlike.sentence())
        return said


def _distribution(predicted: Sequence[Any]) -> list[str]:
    """Say how often each class was predicted, or the quartiles of numbers."""
    if not predicted:
        return []
    if isinstance(predicted[0], (float, int)) and not isinstance(predicted[0], bool):
        least, q1, median, q3, most = np.quantile(predicted, [0, 0.25, 0.5, 0.75, 1])
        return [
            f"least {least:.4g}, quartiles {q1:.4g}, {median:.4g} and {q3:.4g}, most {most:.4g}"
        ]
    names = [
        name for one in predicted for name in (one if isinstance(one, list) else [one]) or ["none"]
    ]
    counts = sorted(Counter(map(str, names)).items(), key=lambda one: (-one[1], one[0]))
    said = ", ".join(f"{name}: {n:,}" for name, n in counts[:_MOST_CLASSES])
    more = len(counts) - _MOST_CLASSES
    return [said + (f" and {more:,} more classes" if more > 0 else "")]
