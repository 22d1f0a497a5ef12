"""Outcomes to rows: items, then vectors, then failures, written beside the encoder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.errors import TooManyFailures
from featurestore.pipeline.plan import EmbedPlan
from featurestore.pipeline.profile import Clock
from featurestore.pipeline.sink import Sink
from featurestore.pipeline.todo import Outcome, Todo
from featurestore.pipeline.view_writer import ViewWriter
from featurestore.storage.dataset_folder import utc_now
from featurestore.storage.stopping import finishing
from featurestore.storage.tables import FAILURES

COMMIT_ROWS = 16_384
COMMIT_BYTES = 64 << 20
COMMIT_S = 30.0
N_SAMPLE = 64
_TODO_SLICE = 8192
_COPIES = 8  # commits of items of equal content, for which the view is looked through once


class Writer:
    """Collects the outcomes of a run and commits them.

    Parameters
    ----------
    sink : Sink
        Where the rows go.
    plan : EmbedPlan
    views : mapping of int to ViewWriter
        By the view's number in the plan; those with nothing to do may be left out.
    max_failures : int, optional
        Of one view, before the run stops.
    clock : Clock
    failed : mapping of str to str
        Why items without content have none.
    """

    def __init__(
        self,
        sink: Sink,
        plan: EmbedPlan,
        views: Mapping[int, ViewWriter],
        max_failures: int | None,
        clock: Clock,
        failed: Mapping[str, str],
    ) -> None:
        self.sink = sink
        self.plan = plan
        self.views = views
        self.max_failures = max_failures
        self.clock = clock
        self.failed = failed
        self._ids = plan.rows.column("item_id").combine_chunks()
        self._is_new = plan.is_new.copy()  # not in the items table yet
        self._is_written = np.zeros(len(plan.rows), bool)  # with the state of this run
        self._n_pending = 0
        self._pending_bytes = 0
        self._committed = time.monotonic()
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._commit: Future[None] | None = None
        self._counting = Lock()  # failures are counted in both threads
        self._is_closed = False

    def todos(self) -> Iterator[Todo]:
        """Yield the items that some view needs a vector of."""
        return self._todos(np.flatnonzero(self.plan.todo.any(axis=0)))

    def _todos(self, wanted: Sequence[int] | NDArray[np.intp]) -> Iterator[Todo]:
        for start in range(0, len(wanted), _TODO_SLICE):
            rows = np.asarray(wanted[start : start + _TODO_SLICE])
            chosen = self.plan.rows.select(["source", "uri", "text"]).take(pa.array(rows))
            hashes = self.plan.content_hash.take(pa.array(rows))
            columns = (one.to_pylist() for one in [*chosen.columns, hashes])
            wants = self.plan.todo[:, rows]
            if wants.all():  # the common case, without a tuple for each
                everyone = tuple(range(len(wants)))
                views = [everyone] * len(rows)
            else:
                views = [tuple(np.flatnonzero(one).tolist()) for one in wants.T]
            for row, source, uri, text, content, of in zip(
                rows.tolist(), *columns, views, strict=True
            ):
                reason = self.failed.get(self.id_of(row), "") if self.failed else ""
                content_hash = content if self.plan.is_text else None  # else the file may differ
                yield Todo(row, source, uri, text, of, reason, content_hash)

    def id_of(self, row: int) -> str:
        """Return the id of a listed item."""
        item_id: str = self._ids[row].as_py()
        return item_id

    def take(self, outcome: Outcome) -> None:
        """Keep one outcome; commit when enough is there.

        Raises
        ------
        TooManyFailures
            With what was done committed.
        """
        view = self.views[outcome.view]
        self._n_pending += 1
        if outcome.vector is not None:
            view.pending.append(outcome)
            view.n_encoded += 1
            if len(view.first) < N_SAMPLE:
                rows = self.plan.rows
                view.first.append(
                    (rows["source"][outcome.row].as_py(), rows["uri"][outcome.row].as_py())
                )
            view.remarks.update(outcome.remarks)
            self._pending_bytes += outcome.vector.nbytes
            if outcome.content_hash is not None:
                view.known.add(outcome.content_hash)
        elif outcome.failed_stage is None:
            key = f"{self.id_of(outcome.row)}\x1f{outcome.content_hash}"
            if key in view.pairs:
                view.n_same += 1
                view.pending.append(outcome)
            else:
                view.copies.append(outcome)
        else:
            view.pending.append(outcome)
            self._count_failure(view, outcome)
        if (
            self._n_pending >= COMMIT_ROWS
            or self._pending_bytes >= COMMIT_BYTES
            or time.monotonic() - self._committed > COMMIT_S
        ):
            self.flush()
        if self.max_failures is not None and view.n_failed > self.max_failures:
            self.close()
            raise TooManyFailures(
                f"{view.n_failed} items failed, more than --max-failures {self.max_failures}; "
                f"first: {view.first_failures[0]}; what was done is kept"
            )

    def flush(self) -> None:
        """Start to commit what is collected, once the previous commit has ended."""
        self._wait()
        batch: list[tuple[ViewWriter, list[Outcome], list[Outcome]]] = []
        for view in self.views.values():
            if view.pending or view.copies:
                batch.append((view, view.pending, view.copies))
                view.pending, view.copies = [], []
        self._n_pending = self._pending_bytes = 0
        self._committed = time.monotonic()
        if batch:
            self._commit = self._committer.submit(self._write, batch)

    def close(self) -> None:
        """Commit everything, once; raises what a commit raised."""
        if self._is_closed:
            return
        self._is_closed = True
        with finishing():
            self._close()

    def _close(self) -> None:
        try:
            self.flush()
            self._wait()
            self.settle_copies()
        finally:
            self._committer.shutdown()

    def settle_copies(self) -> list[Todo]:
        """Commit the items of equal content; return those whose content has no vector after all.

        A run that is cut short leaves some whose originals were never encoded.
        """
        self.flush()
        self._wait()
        left: dict[int, list[int]] = {}
        with self.clock.stage("commit", 0):
            for number, view in self.views.items():
                waiting, view.waiting = view.waiting, []
                for one in self._copied(view, waiting):
                    left.setdefault(one.row, []).append(number)
        return [replace(one, views=tuple(left[one.row])) for one in self._todos(sorted(left))]

    def _wait(self) -> None:
        if self._commit is None:
            return
        try:
            self._commit.result()
        finally:
            if self._commit.done():  # an interrupt while waiting must not hide how it ends
                self._commit = None

    def _write(self, batch: list[tuple[ViewWriter, list[Outcome], list[Outcome]]]) -> None:
        n = sum(len(pending) for _, pending, _ in batch)
        with self.clock.stage("commit", n):
            for view, pending, copies in batch:
                made = {one.content_hash: one.vector for one in pending if one.vector is not None}
                for one in copies:
                    if (vector := made.get(one.content_hash)) is not None:
                        pending.append(self._copy(view, one, vector))
                    else:
                        view.waiting.append(one)
            self._write_outcomes([(view, pending) for view, pending, _ in batch])
            for view, _, _ in batch:
                if len(view.waiting) >= _COPIES * COMMIT_ROWS:
                    view.waiting = self._copied(view, view.waiting)

    def _write_outcomes(self, batch: Sequence[tuple[ViewWriter, list[Outcome]]]) -> None:
        self._write_items([one for _, outcomes in batch for one in outcomes])
        for view, outcomes in batch:
            made = [one for one in outcomes if one.vector is not None]
            for part in _portions(made):
                view.append(self._ids.take(pa.array([one.row for one in part])), part)
        self._write_failures(batch)

    def _copied(self, view: ViewWriter, copies: Sequence[Outcome]) -> list[Outcome]:
        """Copy vectors to items whose content was committed under another id.

        Returned are those whose original is still on its way through the encoder, if it is at all.
        """
        wanted: dict[str, list[Outcome]] = {}
        for one in copies:
            wanted.setdefault(str(one.content_hash), []).append(one)
        settled: list[Outcome] = []
        n_bytes = 0
        for found in view.vectors_by_content(wanted.keys()):
            for content, vector in found.items():
                settled += [self._copy(view, one, vector) for one in wanted.pop(content)]
                n_bytes += vector.nbytes
            if len(settled) >= COMMIT_ROWS or n_bytes >= COMMIT_BYTES:
                self._write_outcomes([(view, settled)])
                settled, n_bytes = [], 0
        for content in wanted.keys() & view.failed_content.keys():
            failed = view.failed_content[content]
            for one in wanted.pop(content):
                again = Outcome(one.row, content, None, failed.failed_stage, failed.error, one.view)
                settled.append(again)
                self._count_failure(view, again)
        if settled:
            self._write_outcomes([(view, settled)])
        return [one for left in wanted.values() for one in left]

    def _copy(self, view: ViewWriter, one: Outcome, vector: NDArray[Any]) -> Outcome:
        view.n_copied += 1
        return Outcome(one.row, one.content_hash, vector, view=one.view)

    def _count_failure(self, view: ViewWriter, outcome: Outcome) -> None:
        with self._counting:
            view.n_failed += 1
        if outcome.content_hash is not None:
            view.failed_content[outcome.content_hash] = outcome
        if len(view.first_failures) < 5:
            view.first_failures.append(f"{self.id_of(outcome.row)}: {outcome.error}")

    def _write_items(self, outcomes: Sequence[Outcome]) -> None:
        """Commit item rows that are new, or whose content, time or metadata changed."""
        changed: dict[int, str | None] = {}
        known = self.plan.content_hash
        for one in outcomes:
            row = one.row
            if self._is_written[row] or row in changed:
                continue
            # A file that cannot be read just now keeps what was known of it.
            if one.content_hash is None and not self._is_new[row]:
                continue
            if self.plan.is_stale[row] or one.content_hash != known[row].as_py():
                changed[row] = one.content_hash
        if not changed:
            return
        rows = np.fromiter(changed, int, len(changed))
        hashes = pa.array(list(changed.values()), pa.string())
        table = self.plan.rows.take(pa.array(rows)).append_column("content_hash", hashes)
        came = self.sink.put_items(table, all_new=bool(self._is_new[rows].all()))
        self._is_written[rows] = True
        if came is not None:
            self._is_new &= ~np.asarray(pc.is_in(self._ids, value_set=came))
        self._is_new[rows] = False

    def _write_failures(self, batch: Sequence[tuple[ViewWriter, list[Outcome]]]) -> None:
        when = utc_now()
        failed: dict[tuple[str, str], tuple[str | None, ...]] = {}
        settled: dict[str, list[str]] = {"": []}  # fingerprint → ids that are decided now
        for view, outcomes in batch:
            fingerprint = view.resolved.fingerprint
            settled.setdefault(fingerprint, [])
            for one in outcomes:
                if one.failed_stage is None and not self.plan.failed_before:
                    continue
                item_id = self.id_of(one.row)
                of = fingerprint if one.failed_stage == "encode" else ""
                if one.failed_stage is not None:
                    row = (item_id, one.content_hash, one.failed_stage, of, one.error, when)
                    failed[item_id, of] = row
                if one.failed_stage is not None or item_id in self.plan.failed_before:
                    settled[""].append(item_id)
                    settled[fingerprint].append(item_id)
        if not settled[""]:
            return
        columns = zip(*failed.values(), strict=True) if failed else ([] for _ in FAILURES)
        rows = pa.table(
            [pa.array(list(column), pa.string()) for column in columns], schema=FAILURES
        )
        decided = pa.array(
            [f"{item_id}\x1f{of}" for of, ids in settled.items() for item_id in ids], pa.string()
        )
        self.sink.put_failures(rows, decided)


def _portions(outcomes: Sequence[Outcome]) -> Iterator[list[Outcome]]:
    """Yield outcomes with vectors in portions for a shard: copies of large ones may be many."""
    part: list[Outcome] = []
    n_bytes = 0
    for one in outcomes:
        size = 0 if one.vector is None else one.vector.nbytes
        if part and n_bytes + size > 2 * COMMIT_BYTES:
            yield part
            part, n_bytes = [], 0
        part.append(one)
        n_bytes += size
    if part:
        yield part
