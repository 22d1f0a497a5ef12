"""Drive a run: hand out its parts, begin again what died, and bring in what is done."""

from __future__ import annotations

import bisect
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol

from featurestore.errors import FeatureStoreError, TooManyFailures
from featurestore.pipeline.job import EmbedRequest, Job
from featurestore.pipeline.report import EmbedReport, Progress
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.remote import StorePath
from featurestore.storage.run_folder import RunFolder
from featurestore.storage.store_marker import make_store
from featurestore.terms.words import counted
from featurestore.workers.committing import Committer
from featurestore.workers.outcome import Count, close_run
from featurestore.workers.planning import Planned, open_run, plan_parts
from featurestore.workers.worker import Ended

_WAIT_S = 1.0
_IDLE_DEATHS = 3  # of workers that died before they began a part: it is not the items
_LOOK_S = 5.0  # between looks at what other drivers and shards did
_LATE, _LATE_S = 2.0, 60.0  # a part that takes so many times the median is begun once more


@dataclass(frozen=True)
class Died:
    """A worker that ended with a part, without a word; another one is there."""

    part: str
    how: str = ""


class Workers(Protocol):
    """Workers of a run, wherever they are; each does one part at a time."""

    @property
    def n_free(self) -> int:
        """How many have nothing to do."""

    def give(self, part: str) -> None:
        """Let a free worker begin a part."""

    def wait(self, timeout_s: float) -> Sequence[Ended | Died]:
        """Return what ended, after some time at most; raises what a worker raised."""

    def close(self) -> None:
        """End all workers; parts that they are at are begun again some day."""


def planned(
    store: StorePath,
    dataset: str,
    request: EmbedRequest,
    say: Callable[[str], None],
    part_items: int | None = None,
) -> Planned:
    """Return the run of a request: one that is unfinished, or a new one."""
    job = Job.make(store, dataset, request, lists_all=False)
    make_store(store)
    run = open_run(job)
    other = run is not None and part_items not in (None, run.facts["part_items"])
    if run is not None and other and _is_untouched(run):
        run.close()  # planned anew
        run = None
    if run is None:
        return plan_parts(job, say, part_items)
    n_left = counted(len(run.left()), "part")
    kept = "; they stay as they were cut, since work has begun" if other else ""
    say(
        f"going on with a run of {_time_of(run)}: {n_left} left{kept}; what came to the sources "
        "since is not in it: type the same once more when it is done"
    )
    return Planned(run)


def _is_untouched(run: RunFolder) -> bool:
    return not run.done() and not any(run.n_attempts(part) for part in run.parts())


def _time_of(run: RunFolder) -> str:
    return str(run.facts["planned"])


@dataclass(eq=False)
class Drive:
    """A run being driven."""

    folder: DatasetFolder
    run: RunFolder
    progress: Callable[[Progress], None] | None = None
    say: Callable[[str], None] = lambda _: None
    max_failures: int | None = None
    commits: bool = True  # else it only makes parts, and others bring them in
    now: Callable[[], float] = time.monotonic  # benchmarks/cluster.py has a clock of its own
    n_idle_deaths: int = 0
    given: dict[str, float] = field(default_factory=dict)  # parts under way → since when
    taken_s: list[float] = field(default_factory=list)  # of parts that are done, sorted
    again: set[str] = field(default_factory=set)  # parts that were given twice, being late
    looked_s: float = -math.inf
    count: Count = field(default_factory=Count)

    def __post_init__(self) -> None:
        self.committer = Committer(self.folder, self.run, self.now)

    def do(self, parts: Sequence[str], workers: Workers) -> None:
        """Do parts, with what they are cut into; commit now and then, and at the end.

        Raises
        ------
        TooManyFailures
            If more items failed than is allowed; what was done is kept.
        FeatureStoreError
            If workers die before they begin.
        """
        queue = deque(parts)
        with closing(workers):
            try:
                while queue or self.given:
                    self._hand_out(queue, workers)
                    for one in workers.wait(_WAIT_S):
                        queue.extend(self._heard(one))
                    self._look()
                    if self.commits and self.committer.is_due():
                        self.committer.commit()
                    self._show()
            except BaseException:  # an interrupt, a worker that failed: what was done is kept
                if self.commits and self.run.is_open:
                    self.committer.commit()
                raise

    def _hand_out(self, queue: deque[str], workers: Workers) -> None:
        while queue and workers.n_free:
            self._give(queue.popleft(), workers)
        if queue or not workers.n_free or not self.taken_s:
            return
        late_s = max(_LATE_S, _LATE * self.taken_s[len(self.taken_s) // 2])
        for part, since in self.given.items():  # its worker hangs, or its node is slow
            if part not in self.again and self.now() - since > late_s and workers.n_free:
                self.again.add(part)
                workers.give(part)

    def _give(self, part: str, workers: Workers) -> None:
        self.given[part] = self.now()
        workers.give(part)

    def _heard(self, one: Ended | Died) -> Sequence[str]:
        """Take in how a part ended; return parts that are to do now."""
        since = self.given.get(one.part)
        if isinstance(one, Died):
            if since is None:  # the late one of two, and the part is done
                return ()
            del self.given[one.part]
            self._look_at_death(one)
            return [one.part]
        if since is not None:
            bisect.insort(self.taken_s, self.now() - self.given.pop(one.part))
        self.n_idle_deaths = 0
        self.committer.take(one.part)
        return one.halves if since is not None else ()

    def _look_at_death(self, one: Died) -> None:
        has_begun = self.run.n_attempts(one.part) > 0
        self.n_idle_deaths = 0 if has_begun else self.n_idle_deaths + 1
        self.say(f"a worker died{one.how}; part {one.part} is begun again")
        if self.n_idle_deaths >= _IDLE_DEATHS:
            raise FeatureStoreError(
                f"{_IDLE_DEATHS} workers died before they began a part{one.how}: memory may be "
                "too small for the encoder; what was done is kept"
            )

    def _look(self) -> None:
        """Look now and then what others did: a folder of ten thousand parts is long to list."""
        if self.now() - self.looked_s >= _LOOK_S:
            self.looked_s = self.now()
            self.committer.look()

    def _show(self) -> None:
        """Say how far it is."""
        self.count.add(self.committer.manifests)
        for number, view in enumerate(self.run.facts["views"]):
            n_failed, slug = self.count.n_failed[view["slug"]], view["slug"]
            if self.progress is not None:
                n_total = self.run.facts["tally"]["n_todo"][number]
                n_done = min(self.count.n_rows, n_total)
                self.progress(Progress(view["spec"], n_done, n_total, n_failed, "workers"))
            if self.max_failures is not None and n_failed > self.max_failures:
                raise TooManyFailures(
                    f"{n_failed} items failed, more than --max-failures {self.max_failures}; "
                    f"first: {self.count.first_failure[slug]}; what was done is kept"
                )

    def finish(self, seconds: float) -> list[EmbedReport] | None:
        """Bring in all that is done; return the reports if the run is whole, and close it."""
        try:
            self.committer.look()
            if self.committer.is_whole:
                self.committer.commit()
                manifests = list(self.committer.manifests.values())
                return close_run(self.folder, self.run, manifests, seconds)
            if self.committer.is_due():
                self.committer.commit()
        except (FeatureStoreError, OSError):
            if self.run.is_open:
                raise
        return None  # others have parts left, or were first to close it
