"""What is counted of listed items, which come part by part: values of columns, equal texts."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.sources.name_groups import MOST_NAMES
from featurestore.storage.counts import ColumnCounts


class Counted:
    """How many items there are, and how many of each value; of texts, eight bytes are held.

    Parameters
    ----------
    parts : iterable of Table
        Gone through once.
    names : iterable of str
        The columns that are counted; those that are not there are left out.
    """

    def __init__(self, parts: Iterable[pa.Table], names: Iterable[str]) -> None:
        self.n_rows = 0
        self._counts: dict[str, ColumnCounts] = {}
        self._texts: list[NDArray[np.int64]] = []
        first: list[pa.Table] = []
        for rows in parts:
            if self.n_rows < MOST_NAMES:
                first.append(rows.slice(0, MOST_NAMES - self.n_rows))
            self.n_rows += len(rows)
            for name in {*names} & {*rows.column_names}:
                column = rows.column(name)
                self._counts.setdefault(name, ColumnCounts(column.type)).add(column)
            texts = rows.column("text").drop_null()
            self._texts.append(np.fromiter(map(hash, texts.to_pylist()), np.int64, len(texts)))
        self.first = pa.concat_tables(first)  # so many that they tell how items are named

    def __contains__(self, name: str) -> bool:
        return name in self._counts

    def __getitem__(self, name: str) -> pa.Table:
        """Return the values of a column and how many items have each: ``value`` and ``n``."""
        return self._counts[name].table()

    def values(self, name: str) -> pa.ChunkedArray:
        """Return the values of a column, each once."""
        return self[name].column("value")

    @property
    def n_copies(self) -> int:
        """How many texts are equal to one before them."""
        texts = np.concatenate(self._texts)
        return len(texts) - len(np.unique(texts))
