"""What commands call: plan, embed on workers, embed a share of the parts, bring in what is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from featurestore.errors import BadName, DuplicateIds, StoreBusy, StoreCorrupt
from featurestore.pipeline.job import EmbedRequest
from featurestore.pipeline.report import EmbedReport, Progress
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.remote import StorePath
from featurestore.storage.run_folder import RunFolder, Unfinished, open_runs
from featurestore.storage.store_marker import check_dataset_name
from featurestore.terms.specs import EncoderSpec
from featurestore.workers.drive import Drive, planned
from featurestore.workers.ways import check_way, workers_on
from featurestore.workers.worker import WorkerOptions


@dataclass(frozen=True)
class Hears:
    """Who hears how far it has come."""

    progress: Callable[[Progress], None] | None = None
    say: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class Shard:
    """One of n shares of a run's parts, for a process that somebody else starts."""

    number: int
    n: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``2/8``: the third of eight, counted from 0.

        Raises
        ------
        BadName
        """
        number, _, n = text.partition("/")
        if not (number.isdecimal() and n.isdecimal() and int(number) < int(n)):
            raise BadName(f"--shard {text}: expected I/N, such as 0/8 to 7/8")
        return cls(int(number), int(n))

    def has(self, part: str) -> bool:
        """Whether a part, or what it was cut into, is one of its own."""
        return int(part.split(".")[0]) % self.n == self.number


@dataclass(frozen=True)
class Share:
    """What a process did of a run that others work on, too."""

    reports: list[EmbedReport] | None  # of the whole run, from whoever closed it
    n_failed: int  # items of its own parts, or of the whole run
    n_left: int  # parts that nobody has done


def embed_on(
    way: str,
    store: StorePath,
    dataset: str,
    request: EmbedRequest,
    options: list[WorkerOptions],
    hears: Hears,
    *,
    part_items: int | None = None,
) -> list[EmbedReport]:
    """Plan a run, do it with workers, and bring it in; see `workers.ways`.

    A run of the same request that was left unfinished is done first.
    """
    check_way(way)
    started = time.perf_counter()
    found = planned(store, dataset, request, hears.say, part_items)
    if found.run is None:
        return found.reports
    folder = DatasetFolder(store / "datasets" / dataset)
    drive = Drive(folder, found.run, hears.progress, hears.say, request.embed_options.max_failures)
    left = found.run.left()
    if left:
        drive.do(left, workers_on(way, folder, found.run, options))
    return drive.finish(time.perf_counter() - started) or []


def plan_only(
    store: StorePath,
    dataset: str,
    request: EmbedRequest,
    hears: Hears,
    *,
    part_items: int | None = None,
) -> RunFolder | None:
    """Plan a run for `embed_shard`; None where nothing is to do."""
    return planned(store, dataset, request, hears.say, part_items).run


def embed_shard(
    store: StorePath,
    dataset: str,
    shard: Shard,
    options: list[WorkerOptions],
    hears: Hears,
    *,
    encoders: Sequence[str] = (),
    commits: bool = False,
) -> Share:
    """Do a share of the parts of a planned run, and bring in what is done if ``commits``.

    Processes of this machine do it, one for each device; one that dies is begun again.
    """
    folder = DatasetFolder(store / "datasets" / check_dataset_name(dataset))
    run = _run_of(folder, encoders)
    started = time.perf_counter()
    drive = Drive(folder, run, hears.progress, hears.say, commits=commits)
    if own := [one for one in run.left() if shard.has(one)]:
        drive.do(own, workers_on("here", folder, run, options))
    return _share(drive, shard, time.perf_counter() - started, commits=commits)


def commit_run(store: StorePath, dataset: str, hears: Hears) -> Share:
    """Bring in what workers of a planned run have done; close the run if it is whole."""
    folder = DatasetFolder(store / "datasets" / check_dataset_name(dataset))
    run = _run_of(folder, ())
    drive = Drive(folder, run, hears.progress, hears.say)
    drive.committer.commit()
    return _share(drive, Shard(0, 1), 0.0, commits=True)


def drop_run(store: StorePath, dataset: str) -> tuple[Unfinished, str]:
    """Give up the oldest planned run; what its workers have done is brought in first.

    A worker that is at a part of it ends with StoreBusy.

    Returns
    -------
    was : Unfinished
    why_not : str
        Why what was done could not be brought in; empty where it was.
    """
    folder = DatasetFolder(store / "datasets" / check_dataset_name(dataset))
    runs = open_runs(folder.path)
    if not runs:
        raise BadName(_none_planned(folder))
    run, why_not = runs[0], ""
    was = run.state
    try:
        Drive(folder, run).committer.commit()
    except (DuplicateIds, StoreBusy, StoreCorrupt) as error:  # nothing of it can come in any more
        why_not = str(error)
    run.close()
    return was, why_not


def _share(drive: Drive, shard: Shard, seconds: float, *, commits: bool) -> Share:
    drive.committer.look()
    done = drive.committer.manifests
    counts = [
        one for name in done if shard.has(name) for one in done[name].get("views", {}).values()
    ]
    n_left = len(drive.run.parts()) - len(done)
    reports = drive.finish(seconds) if commits else None
    n_failed = sum(one["n_failed"] for one in counts)
    return Share(reports, max([n_failed, *(one.n_failed for one in reports or ())]), n_left)


def _run_of(folder: DatasetFolder, encoders: Sequence[str]) -> RunFolder:
    """Return the oldest run that is not done, of the encoders given."""
    wanted = sorted(str(EncoderSpec.parse(one)) for one in encoders)
    for run in open_runs(folder.path):
        if not wanted or wanted == sorted(one["spec"] for one in run.facts["views"]):
            return run
    raise BadName(_none_planned(folder))


def _none_planned(folder: DatasetFolder) -> str:
    return (
        f"no run of {folder.name!r} is planned: `featurestore embed … --plan-only` plans one; "
        "one that is done is closed"
    )
