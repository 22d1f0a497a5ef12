"""From sources to a view: what is new or changed, embed it, commit it every half minute.

Items are committed before their vectors, so that a vector always finds its item; a kill
between the two leaves items whose vectors the next run makes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore import user_cache
from featurestore.batching import START, BatchSize
from featurestore.canary import canary_vectors, check_canary
from featurestore.embed import Clock, Outcome, Todo, embed_items, text_hash
from featurestore.errors import TooManyFailures
from featurestore.layout import DatasetFolder, utc_now
from featurestore.tables import (
    FAILURES,
    Table,
    drop_equal,
    each_shard,
    row_keys,
    vectors_of,
    view_rows,
)
from featurestore.values import Modality, ResolvedEncoder

COMMIT_ROWS = 16_384
COMMIT_S = 30.0


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    encoder: str
    n_done: int
    n_total: int
    n_failed: int
    limit: str  # the stage that sets the pace


@dataclass(frozen=True)
class EmbedOptions:
    """How to embed; what to embed is in the sources."""

    device: str = "auto"
    batch_size: int | None = None  # None: found by measuring
    n_workers: int | None = None  # None: one a core
    overwrite: bool = False
    retry_failed: bool = False
    max_failures: int | None = None
    prune: bool = False  # drop items that are gone from their source


@dataclass(frozen=True)
class EmbedReport:
    """What a run did to one view."""

    dataset: str
    encoder: str
    n_items: int
    n_encoded: int  # went through the encoder
    n_copied: int  # equal content: took another item's vector
    n_unchanged: int
    n_updated: int  # labels or metadata changed, vector kept
    n_failed: int  # in this run
    n_known_failures: int  # failed before, unchanged, not tried again
    seconds: float
    batch_size: int | None = None
    device: str | None = None
    limit: str | None = None
    failures: tuple[str, ...] = ()  # the first few, in words

    @property
    def items_per_s(self) -> float:
        """Items embedded per second, loading included."""
        return (self.n_encoded + self.n_copied) / max(self.seconds, 1e-9)

    def describe(self) -> str:
        """Say in one line, and one for each of the first failures, what the run did."""
        parts = [f"{self.n_encoded:,} embedded"]
        counts = {
            "of equal content": self.n_copied,
            "unchanged": self.n_unchanged,
            "with new labels or metadata": self.n_updated,
            "failed": self.n_failed,
            "failed before (--retry-failed tries them again)": self.n_known_failures,
        }
        parts += [f"{count:,} {what}" for what, count in counts.items() if count]
        speed = f", {self.items_per_s:,.0f} items/s" if self.n_encoded else ""
        line = f"{self.dataset}@{self.encoder}: {', '.join(parts)} ({self.seconds:.1f} s{speed})"
        failures = [f"  failed: {one}" for one in self.failures]
        if self.n_failed > len(failures):
            failures.append(f"  … all of them: featurestore info {self.dataset}")
        return "\n".join([line, *failures])


@dataclass(frozen=True, eq=False)
class Plan:
    """What has to be done so that each listed item has a vector."""

    rows: pa.Table  # the listing, with its source
    content_hash: pa.Array  # what is known of each row without reading it; null otherwise
    todo: NDArray[np.intp]
    stale: NDArray[np.bool_]  # the items table lacks this row, or has other metadata
    n_known_failures: int
    failed_before: frozenset[str]  # item ids with a failure on record


def make_plan(
    folder: DatasetFolder,
    rows: pa.Table,
    view: Table | None,
    fingerprint: str,
    options: EmbedOptions,
) -> Plan:
    """Compare a listing with the store.

    Parameters
    ----------
    folder : DatasetFolder
    rows : pyarrow.Table
        Listed items, with a ``source`` column.
    view : Table, optional
        The view, or None where it does not exist yet.
    fingerprint : str
        Of the encoder, to tell which failures are its own.
    options : EmbedOptions
    """
    items = folder.items.read()
    place = pc.index_in(rows.column("item_id"), value_set=items.column("item_id"))
    is_text = rows.column("text").null_count < len(rows)
    if is_text:
        texts = rows.column("text").to_pylist()
        content_hash = pa.array([None if t is None else text_hash(t) for t in texts], pa.string())
        same_content = np.ones(len(rows), bool)  # the hash tells
    else:
        same_content = _equal(rows, items, place, "size") & _equal(rows, items, place, "mtime_ns")
        stored = items.column("content_hash").take(place).combine_chunks()
        content_hash = pc.if_else(pa.array(same_content), stored, pa.nulls(len(rows), pa.string()))
    is_new = np.asarray(pc.is_null(place))
    compared = [name for name in rows.column_names if name not in ("size", "mtime_ns")]
    same = np.logical_and.reduce([_equal(rows, items, place, name) for name in compared])
    stale = is_new | ~same
    keys = row_keys([rows.column("item_id"), content_hash])
    if view is None or options.overwrite:
        embedded = np.zeros(len(rows), bool)
    else:
        pairs = view.read(["item_id", "content_hash"])
        have = row_keys([pairs.column("item_id"), pairs.column("content_hash")])
        embedded = np.asarray(pc.is_in(keys, value_set=have))
    failures = folder.failures.read()
    own = pc.or_(
        pc.not_equal(failures.column("stage"), "encode"),
        pc.equal(failures.column("fingerprint"), fingerprint),
    )
    failures = failures.filter(own)
    failed = np.zeros(len(rows), bool)
    if not options.retry_failed and not options.overwrite:
        bad = row_keys([failures.column("item_id"), failures.column("content_hash")])
        # An unreadable image is known by its unchanged size and time, not by its content.
        failed = np.asarray(pc.is_in(keys, value_set=bad)) & ~is_new & same_content
    todo = np.flatnonzero(~embedded & ~failed)
    failed_before = frozenset(failures.column("item_id").to_pylist())
    n_known_failures = int((failed & ~embedded).sum())
    return Plan(rows, content_hash, todo, stale, n_known_failures, failed_before)


def run(
    folder: DatasetFolder,
    rows: pa.Table,
    modality: Modality,
    roots: Mapping[str, Path],
    resolved: ResolvedEncoder,
    options: EmbedOptions,
    *,
    load: Callable[[], Any],
    progress: Callable[[Progress], None] | None = None,
) -> EmbedReport:
    """Bring one view up to date with a listing; see `EmbedReport`.

    ``load`` gives the encoder; it is not called where there is nothing to embed. On an
    interrupt, what was encoded is committed before KeyboardInterrupt goes on.

    Raises
    ------
    EncoderDrift
        If the encoder no longer gives the view's canary vectors.
    TooManyFailures
        If more items fail than ``options.max_failures``; what was done is kept.
    """
    started = time.perf_counter()
    encoders = folder.encoders()
    existing = encoders.get(resolved.slug)
    view = folder.view(resolved.slug) if existing else None
    plan = make_plan(folder, rows, view, resolved.fingerprint, options)
    n_updated = _update_metadata(folder, plan)
    if existing and existing["spec"] != str(resolved.spec):
        folder.respell(resolved)  # the folder of the weights has moved
    if len(plan.todo) == 0 and existing:
        return _report(folder, resolved, plan, None, n_updated, started)
    encoder = load()
    if encoder.resolved.fingerprint != resolved.fingerprint:
        # What the user's cache remembered is no longer so: what is loaded counts.
        return run(
            folder, rows, modality, roots, encoder.resolved, options,
            load=lambda: encoder, progress=progress,
        )  # fmt: skip
    if existing and not options.overwrite:
        check_canary(encoder, existing["canary"])
        canary = None
    else:
        canary = canary_vectors(encoder)
        view = folder.create_view(resolved.slug, resolved.dim)
        # Until it is whole, a new view does not take the place of the one it replaces.
        if not existing:
            is_hidden = any(one["spec"] == str(resolved.spec) for one in encoders.values())
            folder.write_encoder(resolved, canary, encoder.device, is_hidden=is_hidden)
    assert view is not None
    writer = _Writer(folder, view, plan, modality, resolved, options)
    try:
        _stream(writer, encoder, modality, roots, options, progress)
    except KeyboardInterrupt:
        writer.flush()
        raise
    if options.overwrite and canary is not None:
        writer.drop_superseded()
        folder.write_encoder(resolved, canary, encoder.device)
    report = _report(folder, resolved, plan, writer, n_updated, started)
    folder.write_run("embed", {**vars(report), "items_per_s": report.items_per_s})
    return report


def _stream(
    writer: _Writer,
    encoder: Any,
    modality: Modality,
    roots: Mapping[str, Path],
    options: EmbedOptions,
    progress: Callable[[Progress], None] | None,
) -> None:
    batch_key = f"{writer.resolved.fingerprint[:16]} {encoder.device}"
    found = user_cache.recall("batch_sizes", batch_key)
    largest = 64 if encoder.device == "cpu" else 1024  # memory: larger gained nothing on CPUs
    writer.batch_size = BatchSize(
        options.batch_size or found or START,
        settled=bool(options.batch_size or found),
        largest=max(largest, options.batch_size or 0),
    )
    outcomes = embed_items(
        writer.todos(roots),
        encoder,
        modality=modality,
        known=writer.known,
        batch_size=writer.batch_size,
        n_workers=options.n_workers,
        clock=writer.clock,
    )
    writer.device = encoder.device
    for n_done, outcome in enumerate(outcomes, start=1):
        writer.take(outcome)
        if progress is not None:
            progress(
                Progress(
                    writer.resolved.spec.label,
                    n_done,
                    len(writer.plan.todo),
                    writer.n_failed,
                    writer.clock.limit,
                )
            )
    writer.flush()
    writer.copy_equal_content()
    if writer.batch_size.settled and not options.batch_size:
        user_cache.remember("batch_sizes", batch_key, writer.batch_size.size)


@dataclass
class _Writer:
    """Collects outcomes and commits them: items, then vectors, then failures."""

    folder: DatasetFolder
    view: Table
    plan: Plan
    modality: Modality
    resolved: ResolvedEncoder
    options: EmbedOptions
    clock: Clock = field(default_factory=Clock)
    batch_size: BatchSize = field(default_factory=BatchSize)
    device: str = ""
    n_copied: int = 0
    n_same: int = 0  # touched, but of equal content
    n_failed: int = 0
    first_failures: list[str] = field(default_factory=list)
    _pending: list[Outcome] = field(default_factory=list)
    _copies: list[Outcome] = field(default_factory=list)
    _failed_content: dict[str, Outcome] = field(default_factory=dict)
    _committed: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.old_shards = self.view.shards()

    @cached_property
    def known(self) -> set[str]:
        """Content that has a vector in this view; grows as the run goes."""
        if self.options.overwrite:
            return set()
        return set(self.view.read(["content_hash"]).column("content_hash").to_pylist())

    @cached_property
    def _ids(self) -> list[str]:
        ids: list[str] = self.plan.rows.column("item_id").to_pylist()
        return ids

    @cached_property
    def _stored(self) -> dict[str, str | None]:
        """Item id → content hash, as the items table has it."""
        items = self.folder.items.read(["item_id", "content_hash"])
        return dict(
            zip(
                items.column("item_id").to_pylist(),
                items.column("content_hash").to_pylist(),
                strict=True,
            )
        )

    @cached_property
    def _pairs(self) -> set[tuple[str, str]]:
        """(item id, content hash) that the view holds."""
        if self.options.overwrite:
            return set()
        rows = self.view.read(["item_id", "content_hash"])
        return set(
            zip(
                rows.column("item_id").to_pylist(),
                rows.column("content_hash").to_pylist(),
                strict=True,
            )
        )

    def todos(self, roots: Mapping[str, Path]) -> list[Todo]:
        """Return what the pipeline has to look at."""
        chosen = self.plan.rows.take(pa.array(self.plan.todo))
        sources = chosen.column("source").to_pylist()
        uris = chosen.column("uri").to_pylist()
        texts = chosen.column("text").to_pylist()
        return [
            Todo(int(row), None if uri is None else roots[source] / uri, text)
            for row, source, uri, text in zip(self.plan.todo, sources, uris, texts, strict=True)
        ]

    def take(self, outcome: Outcome) -> None:
        """Keep one outcome; commit when enough is there."""
        if outcome.is_known:
            if (self._ids[outcome.row], outcome.content_hash) in self._pairs:
                self.n_same += 1
                self._pending.append(outcome)
            else:
                self._copies.append(outcome)
        else:
            self._pending.append(outcome)
            if outcome.vector is not None and outcome.content_hash is not None:
                self.known.add(outcome.content_hash)
            else:
                self._count_failure(outcome)
        overdue = time.monotonic() - self._committed > COMMIT_S
        if len(self._pending) + len(self._copies) >= COMMIT_ROWS or overdue:
            self.flush()
            self.copy_equal_content()
        limit = self.options.max_failures
        if limit is not None and self.n_failed > limit:
            self.flush()
            raise TooManyFailures(
                f"{self.n_failed} items failed, more than --max-failures {limit}; first: "
                f"{self.first_failures[0]}; what was done is kept"
            )

    def flush(self) -> None:
        """Commit what is collected."""
        pending, self._pending = self._pending, []
        self._committed = time.monotonic()
        if not pending:
            return
        self._write_items(pending)
        made = [one for one in pending if one.vector is not None]
        if made:
            ids = [self._ids[one.row] for one in made]
            hashes = [str(one.content_hash) for one in made]
            vectors = np.stack([one.vector for one in made if one.vector is not None])
            self.view.append(view_rows(ids, hashes, vectors))
        self._write_failures(pending)

    def copy_equal_content(self) -> None:
        """Give items whose content is committed under another id their own rows."""
        copies, self._copies = self._copies, []
        if not copies:
            return
        found = self._vectors_by_content({str(one.content_hash) for one in copies})
        for one in copies:
            content = str(one.content_hash)
            if content in found:
                self._pending.append(Outcome(one.row, content, found[content]))
                self.n_copied += 1
            elif (failed := self._failed_content.get(content)) is not None:
                again = Outcome(one.row, content, None, failed.failed_stage, failed.error)
                self._pending.append(again)
                self._count_failure(again)
        self.flush()

    def drop_superseded(self) -> None:
        """Drop the old rows of items that this run embedded again."""
        new = [one for one in self.view.shards() if one not in self.old_shards]
        ids = [part.column("item_id").combine_chunks() for part in each_shard(new, ["item_id"])]
        if ids:
            drop = drop_equal({"item_id": pa.concat_arrays(ids)}, ["item_id"])
            self.view.merge(None, drop=drop, keys=["item_id"], only=self.old_shards)

    def _count_failure(self, outcome: Outcome) -> None:
        self.n_failed += 1
        if outcome.content_hash is not None:
            self._failed_content[outcome.content_hash] = outcome
        if len(self.first_failures) < 5:
            self.first_failures.append(f"{self._ids[outcome.row]}: {outcome.error}")

    def _vectors_by_content(self, wanted: set[str]) -> dict[str, NDArray[np.float32]]:
        found: dict[str, NDArray[np.float32]] = {}
        value_set = pa.array(sorted(wanted), pa.string())
        shards = self.view.shards()
        shards.sort(key=lambda one: one not in self.old_shards)  # what is newer counts
        for part in each_shard(shards, ["content_hash", "vector"]):
            chosen = part.filter(pc.is_in(part.column("content_hash"), value_set=value_set))
            if len(chosen):
                vectors = vectors_of(chosen.column("vector"), self.resolved.dim)
                found.update(zip(chosen.column("content_hash").to_pylist(), vectors, strict=True))
        return found

    def _write_items(self, outcomes: Sequence[Outcome]) -> None:
        """Commit item rows that are new, or whose content, time or metadata changed."""
        changed = [
            one
            for one in outcomes
            if self.plan.stale[one.row]
            or one.content_hash != self.plan.content_hash[one.row].as_py()
        ]
        # A file that cannot be read just now keeps what was known of it.
        changed = [
            one
            for one in changed
            if one.content_hash is not None or self._ids[one.row] not in self._stored
        ]
        if not changed:
            return
        rows = pa.array([one.row for one in changed])
        hashes = pa.array([one.content_hash for one in changed], pa.string())
        write_items(self.folder, self.plan.rows.take(rows), hashes)

    def _write_failures(self, outcomes: Sequence[Outcome]) -> None:
        failed = [one for one in outcomes if one.failed_stage is not None]
        settled = [self._ids[one.row] for one in outcomes]
        cleared = [one for one in settled if one in self.plan.failed_before]
        if not failed and not cleared:
            return
        when = utc_now()
        fields = [
            (
                self._ids[one.row],
                one.content_hash,
                one.failed_stage,
                self.resolved.fingerprint if one.failed_stage == "encode" else "",
                one.error,
                when,
            )
            for one in failed
        ]
        columns = zip(*fields, strict=True) if fields else ([] for _ in FAILURES)
        rows = pa.table(
            [pa.array(list(column), pa.string()) for column in columns], schema=FAILURES
        )
        ids = pa.array(settled, pa.string())
        fingerprint = self.resolved.fingerprint

        def drop(part: pa.Table) -> NDArray[np.bool_]:
            mine = pc.is_in(part.column("fingerprint"), value_set=pa.array(["", fingerprint]))
            return np.asarray(pc.and_(pc.is_in(part.column("item_id"), value_set=ids), mine))

        self.folder.failures.merge(rows, drop=drop, keys=["item_id", "fingerprint"])


def write_items(folder: DatasetFolder, rows: pa.Table, content_hash: pa.Array) -> None:
    """Commit item rows, in place of those with the same ids."""
    table = rows.append_column("content_hash", content_hash)
    ids = table.column("item_id")
    folder.items.merge(table, drop=drop_equal({"item_id": ids}, ["item_id"]), keys=["item_id"])


def _update_metadata(folder: DatasetFolder, plan: Plan) -> int:
    """Commit changed labels and metadata of items whose content is known unchanged."""
    known = np.asarray(pc.is_valid(plan.content_hash))
    due = np.setdiff1d(np.flatnonzero(plan.stale & known), plan.todo)
    if len(due):
        rows = pa.array(due)
        write_items(folder, plan.rows.take(rows), plan.content_hash.take(rows))
    return len(due)


def _report(
    folder: DatasetFolder,
    resolved: ResolvedEncoder,
    plan: Plan,
    writer: _Writer | None,
    n_updated: int,
    started: float,
) -> EmbedReport:
    n_failed = writer.n_failed if writer else 0
    n_copied = writer.n_copied if writer else 0
    n_same = writer.n_same if writer else 0
    return EmbedReport(
        dataset=folder.name,
        encoder=str(resolved.spec),
        n_items=len(plan.rows),
        n_encoded=writer.clock.n_encoded if writer else 0,
        n_copied=n_copied,
        n_unchanged=len(plan.rows) - len(plan.todo) - plan.n_known_failures + n_same,
        n_updated=n_updated,
        n_failed=n_failed,
        n_known_failures=plan.n_known_failures,
        seconds=round(time.perf_counter() - started, 3),
        batch_size=writer.batch_size.size if writer else None,
        device=writer.device if writer else None,
        limit=writer.clock.limit if writer and writer.clock.n_encoded else None,
        failures=tuple(writer.first_failures) if writer else (),
    )


def _equal(rows: pa.Table, items: pa.Table, place: pa.Array, name: str) -> NDArray[np.bool_]:
    """Tell which listed rows have the stored value in a column; two nulls are equal."""
    ours = rows.column(name)
    if name not in items.column_names:
        return np.asarray(pc.is_null(ours))
    theirs = items.column(name).take(place)
    same = pc.fill_null(pc.equal(ours.cast(theirs.type), theirs), False)
    both_null = pc.and_(pc.is_null(ours), pc.is_null(theirs))
    return np.asarray(pc.or_(same, both_null))
