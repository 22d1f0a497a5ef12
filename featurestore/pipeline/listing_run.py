"""What the sources of a run list, checked against the data set before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import BadSource, DuplicateIds
from featurestore.pipeline.gathered import Gathered
from featurestore.pipeline.kept_listings import KeptListing, KeptListings
from featurestore.pipeline.large_listing import LargeListing
from featurestore.pipeline.listed import Listed, WholeListing
from featurestore.pipeline.listed_sources import ListedSources
from featurestore.pipeline.plan import keep_attached
from featurestore.pipeline.stored import StoredItems
from featurestore.sources.listing import LISTING, SourceOptions, check_once, with_stem
from featurestore.storage.columns import converted, new_columns, widened
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


_NOTHING = pa.schema([*LISTING, ("source", pa.string())]).empty_table()


@dataclass(frozen=True)
class _Columns:
    """The columns of a listing; attached ones keep what the store has."""

    schema: pa.Schema
    attached: Sequence[str]


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
    unchanged: Sequence[Sequence[KeptListing]] = ()  # sources left out, for each view
    stamped: Sequence[KeptListing] = ()  # those listed that can be told to be as they were
    n_sources: int = 1

    @classmethod
    def read(
        cls,
        folder: DatasetFolder,
        earlier: DatasetFile | None,
        locations: Sequence[str | Path],
        options: SourceOptions,
        selection: Selection | None = None,
        kept: KeptListings | None = None,
    ) -> Intake:
        """List the sources; none means those that the data set knows.

        Those that ``kept`` has as they are now are left out.

        Raises
        ------
        BadSource
            If a source cannot be listed, or does not fit the data set.
        ModalityMismatch
            If it holds images and the data set texts, or the reverse.
        """
        found = ListedSources.of(folder, earlier, locations, options, kept)
        assert found.modality is not None, "at least one source"
        selection = selection or Selection()
        schema = _schema(folder, found.gathered)
        # A column that is just being attached may not be there yet.
        there = folder.items.schema().names if earlier else []
        attached = [name for name in earlier.attached if name in there] if earlier else []
        columns = _Columns(schema, attached)
        is_large = found.gathered.is_large and replace(selection, known=False).is_all
        listed: Listed
        if is_large:
            listed, stored = _large(folder, found, columns, selection)
        else:
            listed, stored = _whole(folder, found, columns, selection)
        retyped = _retyped(folder, schema, listed, earlier)
        notes = [
            f"label {name!r} has another type than before, and the task {task}"
            for name, task in retyped.items()
        ]
        return cls(
            listed, found.modality, tuple(found.labels), found.records, stored,
            (*found.notes, *notes), retyped, found.failed,
            found.unchanged, found.stamped, found.n_sources,
        )  # fmt: skip

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


def _schema(folder: DatasetFolder, gathered: Gathered) -> pa.Schema:
    """Return the columns of a listing; their types hold what is listed and what is stored."""
    known = folder.items.schema() if folder.exists else ITEMS
    have, others = known, set()
    for part in gathered.schemas():
        have = widened(have, part)
        have = pa.unify_schemas([have, pa.schema(new_columns(have, part))])
        others |= {
            field.name
            for field in part
            if field.name in known.names and known.field(field.name).type != field.type
        }
    stored = folder.items.read(sorted(others)) if folder.exists and others else known.empty_table()
    return gathered.schema({name: stored.column(name) for name in others})


def _whole(
    folder: DatasetFolder, found: ListedSources, columns: _Columns, selection: Selection
) -> tuple[WholeListing, StoredItems]:
    """Hold all rows in memory, those of the selection."""
    tables = [*found.gathered.tables(columns.schema)] or [_NOTHING]
    rows = pa.concat_tables(tables).combine_chunks()
    stored = StoredItems.look(folder, rows, found.looked, found.records)
    _check_items(rows, stored.items, found)
    rows = keep_attached(rows, stored.items, columns.attached)
    if selection.known:
        there = pc.is_in(rows.column("item_id"), value_set=stored.items.column("item_id"))
        found.note_new(len(rows) - pc.sum(there).as_py())
        rows = rows.filter(there)
    return WholeListing(selection.apply(rows), stored), stored


def _large(
    folder: DatasetFolder, found: ListedSources, columns: _Columns, selection: Selection
) -> tuple[LargeListing, StoredItems]:
    """Leave the rows where they are; compare them by numbers."""
    assert found.modality is not None, "there are rows"
    listed = LargeListing(
        folder, found.gathered, columns.schema, found.modality, columns.attached,
        known_only=selection.known,
    )  # fmt: skip
    twice, elsewhere = listed.doubtful()
    nothing = ITEMS.empty_table()
    _check_items(twice, nothing, found)
    _check_items(elsewhere, listed.items_of(elsewhere.column("item_id")), found)
    if selection.known:
        found.note_new(listed.n_new)
    return listed, listed.beside(found.looked, found.records)


def _retyped(
    folder: DatasetFolder, schema: pa.Schema, listed: Listed, earlier: DatasetFile | None
) -> dict[str, str]:
    """Return the tasks of label columns whose stored type gives way to a wider one."""
    tasks: dict[str, str] = {}
    if earlier is None or not folder.exists:
        return tasks
    known = folder.items.schema()
    for name in earlier.labels:
        if name not in schema.names or name not in known.names:
            continue
        kind = schema.field(name).type
        if kind not in (known.field(name).type, pa.null()):
            stored = converted(folder.items.read([name]).column(name), kind)
            listed_too = listed.counted([name]).values(name)
            tasks[name] = task_of(pa.chunked_array([*listed_too.chunks, *stored.chunks], kind))
    return tasks


def _check_items(rows: pa.Table, items: pa.Table, found: ListedSources) -> None:
    """Refuse ids that stand twice, in one source or in two."""
    for one in found.looked:
        ids = rows.filter(pc.equal(rows.column("source"), one.name)).column("item_id")
        check_once(ids, one.location)
    counts = pc.value_counts(rows.column("item_id"))
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    if not twice:
        positions = pc.index_in(rows.column("item_id"), value_set=items.column("item_id"))
        theirs = items.column("source").take(positions)
        other = pc.fill_null(pc.not_equal(theirs, rows.column("source")), False)
        twice = rows.column("item_id").filter(other).to_pylist()
    if twice:
        roots = ", ".join(f"{name} ({record.root})" for name, record in found.records.items())
        raise DuplicateIds(
            f"{len(twice)} ids come from two sources (first: {twice[0]!r}; sources: {roots}): "
            "embed the folder above them as one source, or give tables unique ids with --id; "
            "a table that was renamed takes its old name back"
        )
