"""What the sources of a run list, checked against the data set before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import BadSource, DuplicateIds, ModalityMismatch
from featurestore.pipeline.listed import Listed, WholeListing
from featurestore.pipeline.plan import keep_attached
from featurestore.pipeline.stored import StoredItems
from featurestore.sources.listing import Listing, Source, SourceOptions, with_stem
from featurestore.sources.locations import Location
from featurestore.sources.opening import lies_in, open_source
from featurestore.storage.columns import agreed, converted, new_columns, widened
from featurestore.storage.dataset_file import DatasetFile, SourceRecord, task_of
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.query import evaluate
from featurestore.storage.tables import ITEMS
from featurestore.terms.specs import Modality


@dataclass(frozen=True)
class Selection:
    """Which of the listed items this run is about; the others stay as they are."""

    where: str | None = None  # SQL condition over the listing
    limit: int | None = None  # the first so many
    sample: int | None = None  # so many at random, the same for the same seed
    seed: int = 0
    known: bool = False  # only items that the data set has: no new ones of its sources
    ids: Sequence[str] | None = None  # only these

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        limits = (self.where, self.limit, self.sample, self.ids)
        return not self.known and all(one is None for one in limits)

    def apply(self, rows: pa.Table) -> pa.Table:
        """Return the chosen rows, in their order.

        A sample is drawn by a hash of seed and id: it does not depend on the order of the
        items, and of a data set that grows it changes little.
        """
        if self.ids is not None:
            rows = rows.filter(pc.is_in(rows.column("item_id"), value_set=pa.array(self.ids)))
        if self.where is not None:
            chosen = evaluate(self.where, with_stem(rows))
            if not pa.types.is_boolean(chosen.type):
                raise BadSource(
                    f"--where {self.where} gives {chosen.type}: expected a condition, true or false"
                )
            rows = rows.filter(chosen)
            if len(rows) == 0:
                raise BadSource(f"no item fulfils --where {self.where}")
        if self.sample is not None and self.sample < len(rows):
            ids = rows.column("item_id").to_pylist()
            drawn = np.array([_draw(self.seed, one) for one in ids])
            rows = rows.take(pa.array(np.sort(np.argsort(drawn, kind="stable")[: self.sample])))
        return rows if self.limit is None else rows.slice(0, self.limit)


@dataclass(frozen=True, eq=False)
class Intake:
    """All items that the sources of one run list."""

    listed: Listed  # those of this run's selection
    modality: Modality
    labels: tuple[str, ...]
    sources: Mapping[str, SourceRecord]  # those of earlier runs as well
    stored: StoredItems  # what the data set has of them, and what it has that is gone
    notes: tuple[str, ...]
    retyped: Mapping[str, str]  # label column whose type changes → its task
    failed: Mapping[str, str]  # ids of rows that cannot be taken → why

    @classmethod
    def read(
        cls,
        folder: DatasetFolder,
        earlier: DatasetFile | None,
        locations: Sequence[str | Path],
        options: SourceOptions,
        selection: Selection | None = None,
    ) -> Intake:
        """List the sources; none means those that the data set knows.

        Raises
        ------
        BadSource
            If a source cannot be listed, or does not fit the data set.
        ModalityMismatch
            If it holds images and the data set texts, or the reverse.
        """
        records = dict(earlier.sources) if earlier else {}
        if not locations:
            locations = [where for record in records.values() for where in record.locations]
        if not locations:
            raise BadSource(
                f"data set {folder.name!r} does not exist yet: name a SOURCE to embed, "
                "a folder of images or a table"
            )
        parts: list[pa.Table] = []
        looked: list[tuple[str, Listing]] = []
        notes: list[str] = []
        labels: dict[str, None] = {}
        modality = earlier.modality if earlier else None
        for location in {str(Location.of(one)): one for one in locations}.values():  # each once
            source = open_source(location)
            name, moved_from = _source_name(source, records)
            effective = options.over(_options_of(records.get(name)), source.location)
            listing = _listing(source, effective)
            if modality is not None and listing.modality is not modality:
                raise ModalityMismatch(
                    f"data set {folder.name!r} holds {modality}s, but {source.location} holds "
                    f"{listing.modality}s: give it another --dataset name"
                )
            modality = listing.modality
            if moved_from:
                notes.append(f"source {name} moved from {moved_from} to {source.root}")
            notes += listing.notes
            labels |= dict.fromkeys(listing.label_columns)
            records[name] = _record(source, records.get(name), effective)
            names = pa.array([name] * len(listing.rows), pa.string())
            parts.append(listing.rows.append_column("source", names))
            looked.append((name, listing))
        assert modality is not None, "at least one source"
        rows = _concatenate(folder, parts, [listing.pointed for _, listing in looked])
        # A column that is just being attached may not be there yet.
        there = folder.items.schema().names if earlier else []
        attached = [name for name in earlier.attached if name in there] if earlier else []
        stored = StoredItems.look(folder, rows, looked, records)
        _check_items(rows, stored.items, records)
        rows = keep_attached(rows, stored.items, attached)
        retyped = _retyped(folder, rows, earlier)
        notes += [
            f"label {name!r} has another type than before, and the task {task}"
            for name, task in retyped.items()
        ]
        selection = selection or Selection()
        if selection.known:
            there = pc.is_in(rows.column("item_id"), value_set=stored.items.column("item_id"))
            if n_new := len(rows) - pc.sum(there).as_py():
                notes.append(f"only the items that {folder.name} has: {n_new:,} new ones are left")
            rows = rows.filter(there)
        rows = selection.apply(rows)
        failed = {one: why for _, listing in looked for one, why in listing.failed.items()}
        listed = WholeListing(rows, stored)
        return cls(listed, modality, tuple(labels), records, stored, tuple(notes), retyped, failed)

    def described(self, earlier: DatasetFile | None) -> DatasetFile:
        """Return dataset.json with this run's labels and sources added."""
        labels = dict(earlier.labels) if earlier else {}
        if new := [name for name in self.labels if name not in labels]:
            counted = self.listed.counted(new)
            labels |= {name: {"task": task_of(counted.values(name))} for name in new}
        labels |= {name: {"task": task} for name, task in self.retyped.items()}
        sources = (dict(earlier.sources) if earlier else {}) | dict(self.sources)
        return DatasetFile(self.modality, labels, sources, earlier.attached if earlier else ())


def _draw(seed: int, item_id: str) -> int:
    """Return a number that looks random: a checksum would draw alike for all seeds."""
    return int.from_bytes(blake2b(f"{seed} {item_id}".encode(), digest_size=7).digest(), "big")


def _listing(source: Source, options: SourceOptions) -> Listing:
    try:
        return source.listing(options)
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
    for name in ("label", "columns"):
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


def _concatenate(
    folder: DatasetFolder, parts: list[pa.Table], pointed: Sequence[frozenset[str]]
) -> pa.Table:
    """Join the listings; a column has the type that holds all its values, stored ones included."""
    have = folder.items.schema() if folder.exists else ITEMS
    for part in parts:
        have = widened(have, part.schema)
        have = pa.unify_schemas([have, pa.schema(new_columns(have, part.schema))])
    stored = None
    if folder.exists:
        known = folder.items.schema()
        other = {
            field.name
            for part in parts
            for field in part.schema
            if field.name in known.names and known.field(field.name).type != field.type
        }
        stored = folder.items.read(sorted(other)) if other else None
    agreeing = agreed(parts, pointed, stored)
    return pa.concat_tables(agreeing, promote_options="permissive").combine_chunks()


def _retyped(folder: DatasetFolder, rows: pa.Table, earlier: DatasetFile | None) -> dict[str, str]:
    """Return the tasks of label columns whose stored type gives way to a wider one."""
    tasks: dict[str, str] = {}
    if earlier is None or not folder.exists:
        return tasks
    known = folder.items.schema()
    for name in earlier.labels:
        if name not in rows.column_names or name not in known.names:
            continue
        kind = rows.schema.field(name).type
        if kind not in (known.field(name).type, pa.null()):
            stored = converted(folder.items.read([name]).column(name), kind)
            chunks = [*rows.column(name).chunks, *stored.chunks]
            tasks[name] = task_of(pa.chunked_array(chunks, kind))
    return tasks


def _check_items(rows: pa.Table, items: pa.Table, records: dict[str, SourceRecord]) -> None:
    """Refuse ids that two sources share."""
    counts = pc.value_counts(rows.column("item_id"))
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    if not twice:
        positions = pc.index_in(rows.column("item_id"), value_set=items.column("item_id"))
        theirs = items.column("source").take(positions)
        other = pc.fill_null(pc.not_equal(theirs, rows.column("source")), False)
        twice = rows.column("item_id").filter(other).to_pylist()
    if twice:
        roots = ", ".join(f"{name} ({record.root})" for name, record in records.items())
        raise DuplicateIds(
            f"{len(twice)} ids come from two sources (first: {twice[0]!r}; sources: {roots}): "
            "embed the folder above them as one source, or give tables unique ids with --id; "
            "a table that was renamed takes its old name back"
        )
