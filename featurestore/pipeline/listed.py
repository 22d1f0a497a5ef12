"""Listed items, whole or in parts that are planned and embedded one after the other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.pipeline.counted import Counted
from featurestore.pipeline.stored import FEW_ROWS, StoredItems
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.tables import ITEMS

if TYPE_CHECKING:
    from featurestore.pipeline.run_input import RunInput


@dataclass(frozen=True, eq=False)
class Part:
    """Listed items that are planned together."""

    rows: pa.Table  # with a ``source`` column
    items: pa.Table  # what a version of the items table has of them, and maybe others
    version: int
    n_done: int = 0  # further items that lack nothing
    is_all: bool = True  # that the run is about


class Listed(Protocol):
    """All items that a run is about."""

    @property
    def n_rows(self) -> int:
        """How many there are."""

    def parts(self, given: RunInput, existing: Collection[str]) -> Iterator[Part]:
        """Yield the items, beside what the data set has of them now.

        Those that lack nothing in any of the ``existing`` views (their slugs) may be left out.
        """

    def is_apart(self, folder: DatasetFolder) -> bool:
        """Whether no item has by now come from another source; False where it takes long to say."""

    def counted(self, names: Sequence[str]) -> Counted:
        """Count the values of columns."""

    def table(self) -> pa.Table:
        """Return all rows."""


@dataclass(frozen=True, eq=False)
class WholeListing:
    """Items that are held in memory."""

    rows: pa.Table
    stored: StoredItems  # as it was when they were listed

    @property
    def n_rows(self) -> int:
        """How many there are."""
        return len(self.rows)

    def parts(self, given: RunInput, existing: Collection[str]) -> Iterator[Part]:
        """Yield all items at once."""
        folder = given.folder
        if not folder.exists:
            yield Part(self.rows, ITEMS.empty_table(), 0)
            return
        version, items = self.stored.now(folder, self.rows.column("item_id"))
        # Beside many items, contents tell of a new one whether a vector is there.
        yield Part(self.rows, items, version, is_all=self.stored.n_rows <= FEW_ROWS)

    def is_apart(self, folder: DatasetFolder) -> bool:
        """Whether no item has by now come from another source."""
        _, items = self.stored.now(folder, self.rows.column("item_id"))
        places = pc.index_in(self.rows.column("item_id"), value_set=items.column("item_id"))
        theirs = items.column("source").take(places)
        return not pc.any(pc.not_equal(theirs, self.rows.column("source"))).as_py()

    def counted(self, names: Sequence[str]) -> Counted:
        """Count the values of columns."""
        return Counted([self.rows], names)

    def table(self) -> pa.Table:
        """Return all rows."""
        return self.rows
