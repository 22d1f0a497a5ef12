"""What the commands share: options, the store that is meant, tables, JSON, a progress bar."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from featurestore.ingest import Progress
    from featurestore.store import DataSet, Store
    from featurestore.view import View

DEFAULT_STORE = "featurestore-data"

store_option = click.option(
    "--store",
    "store_path",
    envvar="FEATURESTORE_STORE",
    default=DEFAULT_STORE,
    show_default=True,
    metavar="PATH",
    help="Folder of the store, or s3://bucket/folder (or FEATURESTORE_STORE).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
label_option = click.option(
    "--label", metavar="COLUMN", help="Label column; the main one by default."
)

task_option = click.option(
    "--task",
    type=click.Choice(["multiclass", "multilabel", "regression"]),
    help="What the label is; told from its values by default.",
)
metric_option = click.option(
    "--metric", help="balanced_accuracy, macro_f1 or r2 by default, by task."
)
encoders_option = click.option(
    "-e", "--encoder", "encoders", multiple=True, metavar="SPEC",
    help="Encoder; repeatable; all views by default.",
)  # fmt: skip
evaluation_option = click.option(
    "--evaluation",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "test", "folds"]),
    help="The test split, or 5 × 5 folds; auto: the test split if there is one.",
)
groups_option = click.option(
    "--ignore-groups", is_flag=True, help="Let items of one group part: shows the leak."
)
reviews_option = click.option(
    "--apply-reviews", is_flag=True, help="Let reviewers' decisions change the training rows."
)
slice_option = click.option(
    "--slice", "part", metavar="NAME", help="Only the items of a named slice."
)
seed_option = click.option("--seed", default=0, show_default=True)


def say(message: str) -> None:
    """Tell the user, beside the data."""
    click.echo(message, err=True)


def open_given(store_path: str) -> Store:
    """Open the store that ``--store`` names."""
    from featurestore.store import open_store

    return open_store(store_path)


def dataset_of(store_path: str, dataset: str, part: str | None) -> DataSet:
    """Return a data set, or a slice of it."""
    found = open_given(store_path).dataset(dataset)
    return found if part is None else found.within(part)


def view_of(store_path: str, dataset: str, encoder: str | None, part: str | None = None) -> View:
    """Return the view of ``DATASET -e SPEC``, of ``DATASET@SPEC``, or the only one there is."""
    name, at, spec = dataset.partition("@")
    found = dataset_of(store_path, name, part)
    if encoder is None and at:
        encoder = spec
    if encoder is not None:
        return found.view(encoder)
    views = found.views()
    if len(views) != 1:
        known = ", ".join(str(view.spec) for view in views) or "none"
        raise click.UsageError(f"say which encoder with -e SPEC; {name} has views by: {known}")
    return views[0]


def print_json(value: Any) -> None:
    """Print for machines; JSON has no infinity, so what has no end is null."""
    click.echo(json.dumps(_finite(value), indent=1, ensure_ascii=False, default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, err: bool = False) -> None:
    """Print for people."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row), style=None)
    width = None if (sys.stderr if err else sys.stdout).isatty() else 160
    Console(markup=False, highlight=False, width=width, stderr=err).print(table)


@contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None] | None]:
    """Draw a bar with rate, remaining time and limiting stage on stderr, if a person looks."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[limit]}"),
        console=Console(stderr=True),
    )
    tasks: dict[str, Any] = {}

    drawn: dict[str, float] = {}

    def show(now: Progress) -> None:
        recently = time.monotonic() - drawn.get(now.encoder, 0.0) < 0.1
        if recently and now.n_done < now.n_total:
            return  # drawing costs more than some encoders do
        drawn[now.encoder] = time.monotonic()
        if now.encoder not in tasks:
            tasks[now.encoder] = bar.add_task(now.encoder, total=now.n_total, rate="", limit="")
        speed = bar.tasks[tasks[now.encoder]].speed
        failed = f", {now.n_failed} failed" if now.n_failed else ""
        bar.update(
            tasks[now.encoder],
            completed=now.n_done,
            rate=f"{speed:,.0f} items/s" if speed else "",
            limit=f"limit: {now.limit}{failed}",
        )

    with bar:
        yield show
