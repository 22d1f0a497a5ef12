"""Sources that are as they were when all their items had a vector: they need not be listed.

What was found is a file of the cache for each source and view. It counts as long as no file that
the tables had then was taken out of them: rows that others add change nothing for a source.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from featurestore.storage.dataset_file import SourceRecord
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.kept_counts import WORTH_ROWS, KeptCounts
from featurestore.storage.log_files import has_removed_since
from featurestore.storage.table_files import TableState
from featurestore.storage.tables import Table


@dataclass(frozen=True)
class KeptListing:
    """What a source listed."""

    name: str  # of the source
    location: str
    stamp: str  # of all files that were read
    record: Mapping[str, object]  # how they were read
    notes: Sequence[str]
    n_items: int
    n_known_failures: int = 0  # of one view


@dataclass(eq=False)
class KeptListings:
    """What the sources of a data set listed, for some of its views (their slugs)."""

    folder: DatasetFolder
    slugs: Sequence[str]
    _states: dict[str, TableState] = field(default_factory=dict)  # as they were first seen

    @property
    def is_worth_it(self) -> bool:
        """Whether the data set is so large that looking here saves time."""
        return self._state(self.folder.items).n_rows >= WORTH_ROWS

    def find(
        self, name: str, location: str, stamp: str, record: SourceRecord
    ) -> list[KeptListing] | None:
        """Return what a source listed, for each view; None where it is to be listed again."""
        found = []
        for slug in self.slugs:
            try:
                kept = self._file(name, location, slug).read()
                listing = None if kept is None else KeptListing(**kept[0])
            except TypeError:  # of another release
                return None
            if listing is None or (listing.stamp, listing.record) != (stamp, plain(record)):
                return None
            found.append(listing)
        return found

    def keep(self, listings: Iterable[KeptListing], slug: str, since: Mapping[str, int]) -> None:
        """Keep listings whose items all have a vector in a view, or a failure that is known.

        Nothing is kept if rows were taken out of a table after a version ``since`` which, by the
        name of its folder, it was looked at: they might be theirs.
        """
        if not self.is_worth_it or any(
            has_removed_since(table.path, since[table.path.name], self._state(table).version)
            for table in self._tables(slug)
        ):
            return
        for one in listings:
            self._file(one.name, one.location, slug).write(asdict(one))

    def versions(self) -> dict[str, int]:
        """Return the versions of all tables, by the names of their folders."""
        tables = {table.path.name: table for slug in self.slugs for table in self._tables(slug)}
        return {name: self._state(table).version for name, table in tables.items()}

    def _tables(self, slug: str) -> list[Table]:
        return [self.folder.items, self.folder.failures, self.folder.view(slug)]

    def _state(self, table: Table) -> TableState:
        name = table.path.name
        if name not in self._states:
            self._states[name] = table.state()
        return self._states[name]

    def _file(self, name: str, location: str, slug: str) -> KeptCounts:
        key = hashlib.sha256(json.dumps([name, location, slug]).encode()).hexdigest()[:16]
        path = self.folder.local / "cache" / f"listed-{key}.json"
        tables = self._tables(slug)
        states = [self._state(table) for table in tables]
        versions, shards = [one.version for one in states], [one.shards for one in states]
        return KeptCounts(path, tables, versions, shards, self.folder.watch_erasures())


def plain(record: SourceRecord) -> dict[str, object]:
    """Return a record as it comes back from a file."""
    value: dict[str, object] = json.loads(json.dumps(asdict(record)))
    return value
