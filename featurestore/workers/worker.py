"""One worker: encoders loaded once, then part after part through the pipeline of any run.

A worker commits nothing. It writes shards, and at the end of a part a manifest that names them,
where there is none: of two workers that did the same part, the first counts.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from featurestore.encoders.base import LoadOptions
from featurestore.encoders.loading import load_encoders
from featurestore.encoders.trust import Trust
from featurestore.errors import EncoderChanged, StoreBusy
from featurestore.pipeline.lane import remember_batch_sizes
from featurestore.pipeline.listed import WholeListing
from featurestore.pipeline.options import AUTO, EmbedOptions
from featurestore.pipeline.plan import EmbedPlan, Tally
from featurestore.pipeline.profile import Clock
from featurestore.pipeline.run_input import RunInput
from featurestore.pipeline.stored import StoredItems
from featurestore.pipeline.todo import Outcome, Todo
from featurestore.pipeline.work import Work
from featurestore.pipeline.writer import Writer
from featurestore.sources.reading import Reader
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.run_folder import ATTEMPTS, RunFolder
from featurestore.storage.tables import ITEMS
from featurestore.terms.specs import EncoderSpec, Modality
from featurestore.workers.part_rows import to_plan
from featurestore.workers.stage import Stage

KILLED = (
    f"{ATTEMPTS} workers ended while they embedded it: it kills its process (out of memory, or a "
    "crash in a decoder)"
)


@dataclass(frozen=True)
class WorkerOptions:
    """How a worker works; the rest is in the run."""

    device: str = "auto"
    n_workers: int | None = None  # that decode; None: one a core
    decode_in: str = AUTO
    trust: Trust = False


@dataclass(frozen=True)
class Ended:
    """What became of a part: nothing, if it has been cut into the parts named."""

    part: str
    halves: tuple[str, ...] = ()


@dataclass(eq=False)
class Worker:
    """A worker of a run; making one loads its encoders and checks them."""

    folder: DatasetFolder
    run: RunFolder
    options: WorkerOptions = field(default_factory=WorkerOptions)

    def __post_init__(self) -> None:
        facts = self.run.facts
        self._modality = Modality(facts["modality"])
        self._fingerprints = {one["slug"]: one["fingerprint"] for one in facts["views"]}
        self._stage = Stage(self.folder, self.run)
        specs = [EncoderSpec.parse(one["spec"]) for one in facts["views"]]
        made = dict(zip(specs, self._fingerprints.values(), strict=True))
        given, is_compiled = self.options, facts["options"]["compile"]
        encoders = load_encoders(specs, LoadOptions(given.device, given.trust, is_compiled, made))
        for spec, encoder in zip(specs, encoders, strict=True):
            if encoder.resolved.fingerprint != made[spec]:
                raise EncoderChanged(
                    f"{spec} is another encoder here than where the run was planned (fingerprint "
                    f"{encoder.resolved.fingerprint[:8]}, not {made[spec][:8]}): give all workers "
                    "the same weights and the same versions of the libraries"
                )
        nothing = pa.nulls(0, pa.string())
        stored = StoredItems(0, ITEMS.empty_table(), nothing, nothing, is_whole=False)
        given_to_all = RunInput(
            self.folder,
            WholeListing(ITEMS.empty_table(), stored),
            self._modality,
            {name: Reader(kind, root) for name, (kind, root) in facts["readers"].items()},
            tuple(one.resolved for one in encoders),
            EmbedOptions(
                given.device, facts["options"]["batch_size"], given.n_workers,
                trust=given.trust, decode_in=given.decode_in,
            ),
            is_whole=False,
            load=lambda _: encoders,
        )  # fmt: skip
        self._work = Work(given_to_all, self.folder.encoders(), sink=self._stage)
        self._work.encoders = dict(enumerate(encoders))
        self._work.open()  # checks the vectors of the probes

    def embed(self, part: str) -> Ended:
        """Do a part and write its manifest, unless there is one.

        A part with which workers died is cut in two, down to the item, which then has failed.

        Raises
        ------
        StoreBusy
            If the run was closed meanwhile.
        """
        self._check_open()
        if self.run.is_done(part):
            return Ended(part)
        rows = self.run.part(part)
        plan, reasons = to_plan(rows, self._modality, len(self._fingerprints))
        is_half = "." in part and len(rows) > 1
        attempt = self.run.begin_attempt(part, 1 if is_half else ATTEMPTS)
        if attempt is None and len(rows) > 1:
            return self._halve(part, rows)
        self._begin(reasons)
        started = time.perf_counter()
        try:
            if attempt is None:
                self._give_up(plan)
            else:
                self._work.embed(plan, Tally(len(plan.todo)), None)
        except BaseException:
            if attempt is not None:  # it lives: the part is not to blame
                self.run.forget_attempt(part, attempt)
            self._stage.forget()
            raise
        self._finish(part, plan, time.perf_counter() - started)
        return Ended(part)

    def close(self) -> None:
        """Keep what was found out for the next worker on this machine."""
        remember_batch_sizes(self._work.lanes, self._work.given.options)

    def _check_open(self) -> None:
        if not self.run.is_open:
            raise StoreBusy(f"the run {self.run.name} is over, or was dropped: nothing is left")
        if self.folder.n_erasures != self.run.facts["n_erasures"]:
            raise StoreBusy(
                f"items were erased since the run {self.run.name} was planned: plan it again"
            )

    def _begin(self, reasons: Mapping[str, str]) -> None:
        """Count from zero, for a part."""
        self._stage.begin()
        self._work.given = replace(self._work.given, failed=reasons, clock=Clock())
        for view in self._work.views.values():
            view.reset()

    def _give_up(self, plan: EmbedPlan) -> None:
        """Say that the one item of a part has failed."""
        views = self._work.views
        for view in views:
            views[view].begin(plan, view)
        writer = Writer(self._stage, plan, views, None, self._work.given.clock, {})
        for todo in writer.todos():
            content = todo.content_hash or self._hash_of(todo)
            for view in todo.views:
                writer.take(Outcome(todo.row, content, None, "encode", KILLED, view))
        writer.close()

    def _hash_of(self, todo: Todo) -> str | None:
        """Return the hash of a picture, which is read and not opened; None if it cannot be."""
        if todo.uri is None:
            return None
        try:
            content = self._work.given.readers[todo.source](todo.uri)
        except Exception:  # file systems raise what they like
            return None
        return hashlib.sha256(content).hexdigest()

    def _halve(self, part: str, rows: pa.Table) -> Ended:
        middle = len(rows) // 2
        halves = (f"{part}.0", f"{part}.1")
        self.run.add_part(halves[0], rows.slice(0, middle))
        self.run.add_part(halves[1], rows.slice(middle))
        self.run.write_manifest(part, {"halves": halves})  # after its halves: they are not lost
        return Ended(part, halves)

    def _finish(self, part: str, plan: EmbedPlan, seconds: float) -> None:
        """Write the manifest of a part."""
        self._check_open()
        counts = {
            self._work.given.resolved[number].slug: {
                "n_encoded": view.n_encoded, "n_copied": view.n_copied, "n_same": view.n_same,
                "n_failed": view.n_failed, "remarks": dict(view.remarks),
                "failures": view.first_failures,
            }
            for number, view in self._work.views.items()
        }  # fmt: skip
        lane = next(iter(self._work.lanes), None)
        manifest: dict[str, Any] = {
            **self._stage.taken(),
            "n_rows": len(plan.rows),
            "views": counts,
            "seconds": round(seconds, 4),
            "stages": {name: [round(s, 4), n] for name, s, n in self._work.given.clock.rows()},
            "device": lane.encoder.device if lane else None,
            "batch_size": lane.batch_size.size if lane else None,
            "batch_unit": None if lane is None else "tokens" if lane.counts_tokens else "items",
            "worker": f"{socket.gethostname()} {os.getpid()}",
        }
        if not self.run.write_manifest(part, manifest):
            self._stage.forget()  # another was first: these shards are nobody's
