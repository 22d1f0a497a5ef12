"""The options of embed for several machines, and what they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.exit_codes import FAILED_ITEMS
from featurestore.cli.watching import Watch
from featurestore.errors import BadName
from featurestore.terms.words import counted

if TYPE_CHECKING:
    from featurestore.pipeline.job import EmbedRequest
    from featurestore.pipeline.report import EmbedReport
    from featurestore.storage.remote import StorePath
    from featurestore.workers.doors import Hears, Share
    from featurestore.workers.worker import WorkerOptions


def _note(context: click.Context, option: click.Parameter, value: object) -> None:
    context.meta[f"{__name__}.{option.name}"] = value


_NOTED: Mapping[str, Any] = {"expose_value": False, "callback": _note}


@dataclass(frozen=True)
class PartsOptions:
    """What was asked for of a run in parts."""

    way: str | None
    plan_only: bool
    shard: str | None
    commits: bool
    drops: bool
    part_items: int | None

    @classmethod
    def asked(cls) -> PartsOptions:
        """Return what the command that runs was asked for."""
        meta = click.get_current_context().meta
        names = ("on", "plan_only", "shard", "commit", "drop_plan", "part_items")
        return cls(*(meta[f"{__name__}.{name}"] for name in names))

    @property
    def are_asked_for(self) -> bool:
        """Whether a run in parts is meant.

        Raises
        ------
        UsageError
            If options exclude each other.
        """
        chosen = [self.way is not None, self.plan_only, self.shard is not None, self.drops]
        if sum(chosen) > 1:
            raise click.UsageError("give one of --on, --plan-only, --shard and --drop-plan")
        if self.commits and (self.way is not None or self.plan_only or self.drops):
            raise click.UsageError("--commit goes with --shard, or stands alone")
        if self.part_items is not None and not (self.way is not None or self.plan_only):
            raise click.UsageError("--part-items goes with --on or --plan-only")
        return any(chosen) or self.commits


def parts_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options; what is asked for with them is `PartsOptions.asked`."""
    for option in (
        click.option(
            "--part-items", type=click.IntRange(min=1), metavar="N",
            help="Items of a part; as many as take a minute on this machine by default.",
            **_NOTED,
        ),
        click.option(
            "--commit", is_flag=True,
            help="With --shard: also bring what all workers have done into the data set; the last "
            "one completes the run. Alone: only that.",
            **_NOTED,
        ),
        click.option(
            "--drop-plan", is_flag=True,
            help="Give up the planned run; what its workers have done is kept.",
            **_NOTED,
        ),
        click.option(
            "--shard", metavar="I/N",
            help="Embed every Nth part of the planned run, counted from 0; SOURCES are not needed.",
            **_NOTED,
        ),
        click.option(
            "--plan-only", is_flag=True,
            help="Only cut the work into parts, for --shard on any machine.",
            **_NOTED,
        ),
        click.option(
            "--on", metavar="WAY",
            help="Let workers embed parts of the items: here:4 (processes of this machine), "
            "ray:ADDRESS (a cluster).",
            **_NOTED,
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def embed_in_parts(
    parts: PartsOptions,
    devices: Sequence[str],
    store: StorePath,
    dataset: str,
    request: EmbedRequest,
    watch: Watch,
) -> tuple[list[EmbedReport], int]:
    """Do what was asked for; return reports, and the exit code."""
    from featurestore.workers import doors

    hears = doors.Hears(**watch.hears)
    options = _worker_options(devices, request)
    if parts.way is not None:
        size = parts.part_items
        reports = doors.embed_on(
            parts.way, store, dataset, request, options, hears, part_items=size
        )
        return reports, _code(sum(one.n_failed for one in reports))
    if parts.plan_only:
        run = doors.plan_only(store, dataset, request, hears, part_items=parts.part_items)
        finer = "" if parts.part_items else "; --part-items N cuts parts of N items"
        hears.say(
            "nothing is to do" if run is None else
            f"{counted(len(run.left()), 'part')}: embed with "
            f"`featurestore embed --dataset {dataset} "
            f"--shard 0/N --commit` to N-1/N, on any machine{finer}"
        )  # fmt: skip
        return [], 0
    if parts.drops:
        was, why_not = doors.drop_run(store, dataset)
        kept = f"nothing of it was brought in: {why_not}" if why_not else (
            f"what its workers had done ({counted(was.n_done, 'part')}) is in the data set"
        )  # fmt: skip
        hears.say(f"given up; {kept}. To plan it again: `featurestore embed … --plan-only`")
        return [], 0
    if parts.shard is not None:
        try:
            shard = doors.Shard.parse(parts.shard)
        except BadName as error:
            raise click.UsageError(str(error)) from None
        encoders = [one for one in request.encoders if isinstance(one, str)]
        done = doors.embed_shard(
            store, dataset, shard, options, hears, encoders=encoders, commits=parts.commits
        )
    else:
        done = doors.commit_run(store, dataset, hears)
    _say_left(done, hears)
    return done.reports or [], _code(done.n_failed)


def _say_left(done: Share, hears: Hears) -> None:
    if done.reports is None and done.n_left:
        hears.say(f"done; {counted(done.n_left, 'part')} of the run left to other shards")
    elif done.reports is None:
        hears.say("done; `--commit` brings it into the data set")


def _code(n_failed: int) -> int:
    return FAILED_ITEMS if n_failed else 0


def _worker_options(devices: Sequence[str], request: EmbedRequest) -> list[WorkerOptions]:
    from featurestore.encoders.trust import asked_for, either
    from featurestore.workers.worker import WorkerOptions

    options = request.embed_options
    trust = either(options.trust, asked_for(*request.encoders))
    return [
        WorkerOptions(device, options.n_workers, options.decode_in, trust) for device in devices
    ]
