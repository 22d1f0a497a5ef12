"""The command line: arguments, output, exit codes. Data to stdout, messages to stderr.

Exit codes: 0 success, 1 error, 2 usage, 3 finished with failed items, 130 interrupted,
143 terminated (both with what was done kept).
Everything heavy is imported inside the commands, so that ``--help`` starts at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

import click

from featurestore import __version__
from featurestore.cli import (
    browse,
    embed,
    exchange,
    learn,
    maps,
    predict,
    quality,
    runs,
    search,
    start,
    transfer,
    upkeep,
)
from featurestore.cli.exit_codes import INTERRUPTED, TERMINATED
from featurestore.cli.printing import say
from featurestore.errors import FeatureStoreError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    # Python starts other processes with the working folder as the first place of modules.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    signal.signal(signal.SIGTERM, _terminate)  # of a scheduler or a container that stops
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    try:
        code = cli.main(args=arguments, standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except FeatureStoreError as error:
        say(f"error: {error}")
        return 1
    except OSError as error:  # a full disk, a read-only folder: what was committed is kept
        say(f"error: {error.strerror or error}{_at(error)}; what was committed before is kept")
        return 1
    except (KeyboardInterrupt, click.Abort) as stop:
        if isinstance(stop.__cause__, EOFError):  # click takes it for the end of a terminal
            say(f"error: a file ends too early ({stop.__cause__}): `featurestore verify` names it")
            return 1
        if isinstance(stop, click.Abort) and stop.__cause__ is None:  # no, or nobody there to ask
            say("nothing was done: the question was not answered with yes (--yes answers it)")
            return INTERRUPTED
        say("interrupted; what was done is kept, and the next run goes on from there")
        is_terminated = isinstance(stop.__cause__ or stop, _Terminated)
        return TERMINATED if is_terminated else INTERRUPTED
    return code if isinstance(code, int) else 0


class _Terminated(KeyboardInterrupt):
    """SIGTERM: it ends a run as Ctrl-C does, with another exit code."""


def _terminate(*_: object) -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)  # once is enough; SIGKILL does not ask
    raise _Terminated


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def cli() -> None:
    """Embed data sets once with frozen encoders; train and compare light heads in seconds.

    \b
    featurestore embed photos/ --dataset photos -e timm:mobilenetv3_small_100.lamb_in1k
    featurestore compare photos
    featurestore dashboard
    """  # noqa: D301 - \b is click's mark: the lines below it stay as they are


for command in (
    embed.embed, embed.labels, embed.split,
    browse.list_datasets, browse.info, search.search, search.index, browse.sql,
    browse.list_encoders, learn.train, learn.compare,
    predict.predict, transfer.transfer, transfer.curve, runs.show, maps.project, maps.slices,
    quality.quality, quality.review, quality.suggest,
    upkeep.verify, upkeep.store, upkeep.history, upkeep.compact, upkeep.vacuum, upkeep.delete,
    upkeep.rename, upkeep.relocate, upkeep.drop, exchange.export, exchange.import_,
    start.dashboard, start.demo,
):  # fmt: skip
    cli.add_command(command)


def _at(error: OSError) -> str:
    return f": {error.filename}" if error.filename else ""
