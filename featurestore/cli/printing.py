"""What several commands print: messages, tables, JSON, a progress bar."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from featurestore.pipeline.report import Progress


_SHOWN_FAILURES = 20
_LEAST_COLUMN = 12  # characters of a column of a wide table, longer values are folded


def say(message: str) -> None:
    """Tell the user, beside the data."""
    click.echo(message, err=True)


def say_failed(failures: Sequence[str]) -> None:
    """Name rows that failed, with their reasons: the first of them, and how many more."""
    for one in failures[:_SHOWN_FAILURES]:
        say(f"failed: {one}")
    if len(failures) > _SHOWN_FAILURES:
        say(f"… and {len(failures) - _SHOWN_FAILURES:,} more rows failed")


def say_fits(n_done: int, n_fits: int, what: str) -> None:
    """Count fits on one line."""
    click.echo(f"\r\033[K{n_done}/{n_fits} fits: {what}", err=True, nl=n_done == n_fits)


def print_json(value: object) -> None:
    """Print for machines."""
    click.echo(json_text(value))


def json_text(value: object, *, indent: int | None = 1) -> str:
    """Return JSON; it has no infinity, so what has no end is null, and decimals are numbers."""
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, default=str)


def _plain(value: object) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        return int(value) if value == value.to_integral_value() else float(value)
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
    console = Console(markup=False, highlight=False, width=width, stderr=err)
    console.width = max(console.width, _least_width(header, rows))
    console.print(table)


def _least_width(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> int:
    """Return the characters that a table needs, so that no column is squeezed away."""
    columns = zip(header, *rows, strict=True)
    longest = (max(len(str(value)) for value in column) for column in columns)
    return sum(min(width, _LEAST_COLUMN) + 3 for width in longest) + 2  # blanks between them


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
