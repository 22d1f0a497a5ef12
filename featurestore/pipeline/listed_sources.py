"""The sources of a run, opened and listed one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from featurestore.errors import BadSource, ModalityMismatch
from featurestore.pipeline.gathered import Gathered
from featurestore.pipeline.kept_listings import KeptListing, KeptListings, plain
from featurestore.pipeline.stored import Looked
from featurestore.sources.listing import Listing, Source, SourceOptions
from featurestore.sources.locations import Location
from featurestore.sources.opening import lies_in, listings, open_source
from featurestore.sources.stamps import stamp_of
from featurestore.storage.dataset_file import DatasetFile, SourceRecord
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.terms.specs import Modality


@dataclass(eq=False)
class ListedSources:
    """What the sources of a run list."""

    dataset: str
    gathered: Gathered
    records: dict[str, SourceRecord]  # those of earlier runs as well
    modality: Modality | None
    looked: list[Looked] = field(default_factory=list)
    labels: dict[str, None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # ids of rows that cannot be taken → why
    unchanged: list[list[KeptListing]] = field(default_factory=list)  # for each view
    stamped: list[KeptListing] = field(default_factory=list)  # of those that were listed
    n_sources: int = 0

    @classmethod
    def of(
        cls,
        folder: DatasetFolder,
        earlier: DatasetFile | None,
        locations: Sequence[str | Path],
        options: SourceOptions,
        kept: KeptListings | None = None,
    ) -> ListedSources:
        """List sources; none means those that the data set knows.

        Those that ``kept`` has as they are now are left out.

        Raises
        ------
        BadSource, ModalityMismatch
            As `Intake.read` does.
        """
        records = dict(earlier.sources) if earlier else {}
        if not locations:
            locations = [where for record in records.values() for where in record.locations]
        if not locations:
            raise BadSource(
                f"data set {folder.name!r} does not exist yet: name a SOURCE to embed, "
                "a folder of images or a table"
            )
        found = cls(
            folder.name, Gathered(folder.path), records, earlier.modality if earlier else None
        )
        for location in {str(Location.of(one)): one for one in locations}.values():  # each once
            found.n_sources += 1
            source = open_source(location)
            name, moved_from = _source_name(source, records)
            if moved_from:
                found.notes.append(f"source {name} moved from {moved_from} to {source.root}")
            effective = options.over(_options_of(records.get(name)), source.location)
            found._take(source, name, effective, kept)
        return found

    def _take(
        self, source: Source, name: str, options: SourceOptions, kept: KeptListings | None
    ) -> None:
        """List one source, unless it is kept as it is now."""
        where, earlier = str(source.location), self.records.get(name)
        record = _record(source, earlier, options)
        stamp = stamp_of(source, options)  # first: what changes meanwhile is listed again
        unchanged = None
        is_read_alike = earlier is not None and plain(record) == plain(earlier)
        if kept is not None and stamp is not None and is_read_alike:
            unchanged = kept.find(name, where, stamp, record)
        if unchanged is not None:
            self.unchanged.append(unchanged)
            self.notes += unchanged[0].notes
            return
        n_before, notes = self.gathered.n_rows, []
        for listing in _listings(source, options):
            if self.modality not in (None, listing.modality):
                raise ModalityMismatch(
                    f"data set {self.dataset!r} holds {self.modality}s, but {where} holds "
                    f"{listing.modality}s: give it another --dataset name"
                )
            self.modality = listing.modality
            self.gathered.add(listing.rows, name, listing.pointed)
            self.labels |= dict.fromkeys(listing.label_columns)
            notes += [one for one in listing.notes if one not in notes]
            self.failed |= listing.failed
            looked = Looked(name, where, listing.covers, listing.unread)
            if looked not in self.looked:
                self.looked.append(looked)
        self.notes += notes
        self.records[name] = record
        if stamp is not None:
            n_items = self.gathered.n_rows - n_before
            self.stamped.append(KeptListing(name, where, stamp, plain(record), notes, n_items))

    def note_new(self, n_new: int) -> None:
        """Note that items which the data set lacks are left out."""
        if n_new:
            self.notes.append(
                f"only the items that {self.dataset} has: {n_new:,} new ones are left"
            )


def _listings(source: Source, options: SourceOptions) -> Iterator[Listing]:
    """Yield what a source lists; a large one in parts, if it can."""
    try:
        yield from listings(source, options)
    except (pa.ArrowException, UnicodeError) as error:  # damaged files, other encodings
        reason = str(error).splitlines()[0]
        raise BadSource(f"cannot take items from {source.location}: {reason}") from error


def _source_name(source: Source, records: dict[str, SourceRecord]) -> tuple[str, str | None]:
    """Return the name of a source, and its old root where the folder has moved."""
    for name, record in records.items():
        is_it = record.kind == source.kind and record.root == source.root
        if is_it and (source.kind != "table" or source.location.text in record.locations):
            return name, None
    name, number = source.name, 1
    while name in records:
        record = records[name]
        if record.kind == source.kind and record.root == source.root:
            return name, None
        is_local = record.root.startswith("/") and source.root.startswith("/")
        if record.kind == source.kind and is_local and _is_gone(record):
            return name, record.root
        number += 1
        name = f"{source.name}-{number}"
    return name, None


def _is_gone(record: SourceRecord) -> bool:
    # A table's root is the folder it lies in, which may well stay when the table moves.
    places = record.locations if record.kind == "table" else (record.root,)
    return not any(Location(one).exists() for one in places)


def _options_of(record: SourceRecord | None) -> SourceOptions | None:
    if record is None:
        return None
    kept: dict[str, Any] = dict(record.options)
    for name in ("label", "columns", "box"):
        if kept.get(name) is not None:
            kept[name] = tuple(kept[name])
    return SourceOptions(**kept)


def _record(source: Source, earlier: SourceRecord | None, options: SourceOptions) -> SourceRecord:
    said = {key: value for key, value in asdict(options).items() if value is not None}
    said.pop("follow_links", None)  # asked for each time: who may change links changes what is read
    before = earlier.locations if earlier and earlier.root == source.root else ()
    locations = dict.fromkeys((*before, source.location.text))
    # What lies in another one of them (a folder, some of its shards) would be listed twice.
    outermost = [
        one
        for one in locations
        if not any(one != other and lies_in(one, other) for other in locations)
    ]
    return SourceRecord(source.kind, source.root, tuple(outermost), said)
