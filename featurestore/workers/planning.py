"""A run cut into parts of some seconds of work each, for workers that know only the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadName
from featurestore.pipeline.estimate import seconds_an_item, some_of
from featurestore.pipeline.job import Job
from featurestore.pipeline.lane import make_lanes
from featurestore.pipeline.plan import EmbedPlan, Tally
from featurestore.pipeline.report import EmbedReport, RunResult, reports_of
from featurestore.pipeline.run import as_loaded, plans
from featurestore.pipeline.run_input import RunInput
from featurestore.pipeline.work import Work
from featurestore.storage.dataset_folder import utc_now
from featurestore.storage.run_folder import RunFolder, open_runs
from featurestore.workers.part_rows import to_table

PART_S, LEAST_S = 60.0, 5.0  # of work in a part: where there is much, and at least
_MANY_PARTS = 64  # of a small data set, so that many workers have something to do
_MOST_ITEMS = 1 << 17


@dataclass(frozen=True, eq=False)
class Planned:
    """What came of planning: a run with parts, or the reports where nothing is to do."""

    run: RunFolder | None
    reports: list[EmbedReport] = field(default_factory=list)


def open_run(job: Job) -> RunFolder | None:
    """Return an unfinished run of the same request: it is gone on with."""
    if job.earlier is None:
        return None
    key = _key(job)
    return next((one for one in open_runs(job.folder.path) if one.facts["request"] == key), None)


def plan_parts(job: Job, say: Callable[[str], None], part_items: int | None = None) -> Planned:
    """Plan what a job lacks, in parts; metadata that alone changed is committed here.

    Parameters
    ----------
    job : Job
    say : callable
    part_items : int, optional
        Items of a part; by default as many as take a minute here.

    Raises
    ------
    BadName
        If the request cannot be handed to other processes.
    """
    if job.request.embed_options.overwrite:
        raise BadName("--overwrite runs on one device: a view is replaced when it is whole")
    if own := [one for one in job.request.encoders if not isinstance(one, str)]:
        raise BadName(
            f"{own[0]!r} is an object of this process: workers need the name of an encoder"
        )
    with job.begun(say) as given:
        return _plan(job, given, part_items)


def _plan(job: Job, given: RunInput, part_items: int | None) -> Planned:
    tally, work = Tally(len(given.resolved)), Work(given, given.folder.encoders())
    run = RunFolder.begin(given.folder.path)
    cutter = _Cutter(run, given, work, tally, part_items)
    try:
        for plan in plans(work, tally):
            cutter.cut(plan)
            del plan  # before the next one is made
        if work.are_others:
            run.close()
            return _plan(job, as_loaded(given, work.encoders), part_items)
        if not cutter.n_parts:
            run.close()
            return Planned(None, reports_of(given, RunResult(tally, 0.0)))
        run.open(_facts(job, given, tally, cutter))
    except BaseException:
        run.close()
        raise
    return Planned(run)


@dataclass(eq=False)
class _Cutter:
    """Cuts plans into parts and writes them."""

    run: RunFolder
    given: RunInput
    work: Work
    tally: Tally
    part_items: int | None
    n_parts: int = 0
    items_version: int | None = None  # the oldest that a plan was compared with

    def cut(self, plan: EmbedPlan) -> None:
        """Write what a plan says is to do."""
        share = self.given.listed.n_rows / max(1, self.tally.n_items)
        self.work.open(plan, share)
        rows = np.flatnonzero(plan.todo.any(axis=0))
        if not len(rows):
            return
        if self.part_items is None:
            self.part_items = self._measured(plan, rows, round(len(rows) * share))
        before = self.items_version
        self.items_version = (
            plan.items_version if before is None else min(before, plan.items_version)
        )
        for some in _slices(rows, self.part_items):
            self.run.add_part(f"{self.n_parts:06d}", to_table(plan, some, self.given.failed))
            self.n_parts += 1

    def _measured(self, plan: EmbedPlan, rows: NDArray[np.intp], n_rows: int) -> int:
        """Return how many items a part is to have, by what some of them take here."""
        seconds, some = 1e-5, some_of([plan.rows.take(rows)])
        for lane in make_lanes(self.work.encoders, self.given.modality, self.given.options):
            seconds += seconds_an_item(some, lane, self.given)
        least, most = LEAST_S / seconds, PART_S / seconds
        return int(np.clip(min(max(n_rows / _MANY_PARTS, least), most), 1, _MOST_ITEMS))


def _slices(rows: NDArray[np.intp], size: int) -> Iterator[NDArray[np.intp]]:
    """Cut rows into parts of one size, or a little less: no small one is left at the end."""
    return iter(np.array_split(rows, -(-len(rows) // size)))


def _facts(job: Job, given: RunInput, tally: Tally, cutter: _Cutter) -> dict[str, Any]:
    folder, options = given.folder, given.options
    since = {one.slug: folder.view(one.slug).version() for one in given.resolved}
    since |= {"items": cutter.items_version or 0, "failures": folder.failures.version()}
    return {
        "request": _key(job),
        "planned": utc_now(),
        "n_parts": cutter.n_parts,
        "part_items": cutter.part_items,
        "n_erasures": folder.n_erasures,
        "modality": str(given.modality),
        "views": [
            {"slug": one.slug, "spec": str(one.spec), "fingerprint": one.fingerprint}
            for one in given.resolved
        ],
        "readers": {name: [one.kind, one.root] for name, one in given.readers.items()},
        "options": {"batch_size": options.batch_size, "compile": options.compile},
        "since": since,  # versions: what the run brings in comes after them
        "tally": vars(tally),
    }


def _key(job: Job) -> str:
    """Return what tells one request from another: sources, encoders and what is chosen."""
    options = job.request.embed_options
    told: Sequence[Any] = [
        sorted(map(str, job.request.sources)),
        [one.fingerprint for one in job.resolved],
        repr(job.request.selection),
        repr(job.request.source_options),
        [options.retry_failed, options.rehash, options.all_items],
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
