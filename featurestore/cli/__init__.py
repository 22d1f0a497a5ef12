"""The command line: arguments, output, exit codes. Data to stdout, messages to stderr.

Exit codes: 0 success, 1 error, 2 usage, 3 finished with failed items, 4 more items than allowed
are unlike the training items, 5 drift, 6 too few items to tell of drift; 128 and the signal's
number where one ended it, with what was done kept: 130 by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
Everything heavy is imported inside the commands, so that ``--help`` starts at once.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import click

from featurestore import __version__
from featurestore.cli import (
    advise,
    browse,
    drift,
    embed,
    exchange,
    handover,
    learn,
    limited,
    maps,
    predict,
    quality,
    report,
    runs,
    search,
    serve,
    start,
    transfer,
    upgrade,
    upkeep,
)
from featurestore.cli.exit_codes import INTERRUPTED
from featurestore.cli.layout import Group, hidden
from featurestore.cli.printing import say
from featurestore.errors import FeatureStoreError
from featurestore.storage import stopping
from featurestore.storage.exhausted import causes, is_full_disk, is_out_of_memory


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    # Python starts other processes with the working folder as the first place of modules.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    # Hugging Face's bars stand in the way of ours; a download has its own where a person looks.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if limited.is_limited():
        limited.go_on_in_a_child()
    stopping.stop_on_signals()
    sys.exit(_written(run(arguments)))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    try:
        code = cli.main(args=arguments, standalone_mode=False)
    except BaseException as error:
        ended = _ended_by(error)
        if ended is None:  # a fault of ours: its traceback helps to mend it
            raise
        return ended
    return code if isinstance(code, int) else 0


def _ended_by(error: BaseException) -> int | None:
    """Say in one line why a command ends; return the exit code, None for an unexpected error."""
    cause = error.__cause__
    if (stopped := stopping.exit_code()) is not None:  # whatever a signal has led to
        return _stopped(stopped)
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        if isinstance(cause, EOFError):  # click takes it for the end of a terminal
            say(f"error: a file ends too early ({cause}): `featurestore store verify` names it")
            return 1
        if isinstance(error, click.Abort) and cause is None:  # no, or nobody there to ask
            say("nothing was done: the question was not answered with yes (--yes answers it)")
            return INTERRUPTED
        return _stopped(INTERRUPTED)
    line = _line_of(error)
    if line is not None:
        say(f"error: {line}")
        return 1
    return None


def _stopped(code: int) -> int:
    say(stopping.STOPPED)
    stopping.say_nothing_more()
    return code


def _line_of(error: BaseException) -> str | None:
    """Return what people are told of an error; None for a fault of ours."""
    if isinstance(error, FeatureStoreError):
        return str(error)
    for one in causes(error):
        if is_full_disk(one):
            number = getattr(one, "errno", None) or errno.ENOSPC
            return (
                f"{os.strerror(number)}{_at(one)}; what was committed before is kept: make room "
                "there and run this again"
            )
        if is_out_of_memory(one):
            reason = " ".join(str(one).split())[:200]
            return (
                f"out of memory{f' ({reason})' if reason else ''}; what was committed before is "
                "kept: take fewer items (--limit, --where, --slice), smaller batches "
                "(--batch-size, --num-workers), or a machine with more memory"
            )
    if isinstance(error, OSError):  # a read-only folder, say
        said = " ".join(str(error.strerror or error).split())
        return f"{said}{_at(error)}; what was committed before is kept"
    return None


def _at(error: BaseException) -> str:
    return f": {error.filename}" if isinstance(error, OSError) and error.filename else ""


def _written(code: int) -> int:
    """Write what is left of the output, which may go to a full disk; return the exit code."""
    try:
        sys.stdout.flush()
    except OSError as error:
        say(f"error: the output is cut short: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes it again at its end
        return code or 1
    return code


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    sections={
        "Embed": "embed encoders",
        "Look": "ls info search dashboard",
        "Learn": "train predict serve",
        "Decide": "advise compare curve transfer report",
        "Curate": "labels suggest quality review",
        "Keep": "export store",
    },
    epilog="Examples: featurestore embed photos/ --dataset photos\n"
    "featurestore compare photos\nfeaturestore dashboard",
)
@click.version_option(__version__)
def cli() -> None:
    """Embed data sets once with frozen encoders; train and compare light heads in seconds.

    New here? `featurestore demo` runs the main job on data that the packages bring.
    """


@cli.group(
    cls=Group,
    sections={
        "Check": "verify repair history",
        "Room on disk": "compact vacuum",
        "Data sets and items": "split rename relocate drop delete slices",
        "What was made": "index project show drift upgrade",
        "Read and write": "sql import publish push pull export-model export-onnx",
    },
    epilog="Example: featurestore store verify photos",
)
def store() -> None:
    """Care of the store: check, repair, clean up, rename, delete, SQL."""


for command in (
    embed.embed, embed.labels,
    browse.list_datasets, browse.info, search.search, browse.list_encoders,
    learn.train, learn.compare, predict.predict, serve.serve, advise.advise, transfer.transfer,
    transfer.curve, report.report,
    quality.quality, quality.review, quality.suggest, exchange.export, start.dashboard,
    hidden(start.demo),
):  # fmt: skip
    cli.add_command(command)
for command in (
    upkeep.verify, upkeep.repair, upkeep.history, upkeep.compact, upkeep.vacuum, upkeep.rename,
    embed.split, upkeep.relocate, upkeep.drop, upkeep.delete, search.index, maps.project,
    maps.slices, runs.show, browse.sql, exchange.import_, exchange.export_model,
    exchange.publish, exchange.export_onnx, drift.drift, upgrade.upgrade, handover.push,
    handover.pull,
):  # fmt: skip
    store.add_command(command)
    if command is not upkeep.repair:
        cli.add_command(hidden(command))  # `featurestore verify`, as up to 0.1


@cli.group(hidden=True)
def bundle() -> None:
    """Bundles at other places: `featurestore store push` and `pull`."""


bundle.add_command(hidden(handover.push))
bundle.add_command(hidden(handover.pull))
