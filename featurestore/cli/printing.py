"""What several commands print: messages, tables, JSON."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet


Contents: TypeAlias = Callable[[Sequence[str]], Mapping[str, str]]  # ids → texts or files
_SHOWN_FAILURES = 20
_TYPED = ParameterSource.COMMANDLINE
_LEAST_COLUMN = 12  # characters of a column of a wide table, longer values are folded


def say(message: str) -> None:
    """Tell the user, beside the data."""
    tell(with_store(message), err=True)


def tell(line: str, *, err: bool = False) -> None:
    """Print a line for people: in a terminal it breaks between words, unless it is to be typed."""
    stream = sys.stderr if err else sys.stdout
    width = shutil.get_terminal_size().columns
    if len(line) > width and stream.isatty() and "\n" not in line and not _is_typed(line):
        indent = " " * (len(line) - len(line.lstrip(" •")))
        line = textwrap.fill(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    click.echo(line, err=err)


def _is_typed(line: str) -> bool:
    return line.startswith(("featurestore ", "Type next"))


def with_store(message: str) -> str:
    """Return a message whose `commands to type` name the store that was typed."""
    context = click.get_current_context(silent=True)
    if context is None or context.get_parameter_source("store_path") is not _TYPED:
        return message
    store = f" --store {shlex.quote(context.params['store_path'])}"

    def named(match: re.Match[str]) -> str:
        words = match[1].split()
        is_name = len(words) < (4 if words[1] == "store" else 3)  # of a command, without arguments
        return (
            match[0]
            if is_name or words[1] == "predict" or store in match[1]
            else f"`{match[1]}{store}`"
        )

    return re.sub(r"`(featurestore [^`]+)`", named, message)


def say_failed(failures: Sequence[str]) -> None:
    """Name rows that failed, with their reasons: the first of them, and how many more."""
    for one in failures[:_SHOWN_FAILURES]:
        say(f"failed: {one}")
    if len(failures) > _SHOWN_FAILURES:
        say(f"… and {len(failures) - _SHOWN_FAILURES:,} more rows failed")
    if failures:
        from featurestore.sources.bad_rows import line_note

        if note := line_note(failures):
            say(note)


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


def contents_of(dataset: DataSet) -> Contents:
    """Return a function from ids to what people know items by: their texts, or their files."""

    def contents(ids: Sequence[str]) -> dict[str, str]:
        import pyarrow as pa
        import pyarrow.compute as pc

        from featurestore.sources.locations import Location

        items = dataset.items(["item_id", "text", "uri", "source"])
        rows = items.filter(pc.is_in(items["item_id"], pa.array(ids, pa.string()))).to_pylist()
        here, sources = f"{Path.cwd()}/", dataset.description.sources
        known = {}
        for row in rows:
            place = row["uri"] and Location(sources[row["source"]].root).join(row["uri"]).text
            known[row["item_id"]] = row["text"] or (place or "").removeprefix(here)
        return known

    return contents


def print_items(
    header: Sequence[str], rows: Sequence[Sequence[Any]], known: Mapping[str, str]
) -> None:
    """Print a table of items, ids first, beside them the texts or files that people know.

    Where the ids are the files' names, one line says where these lie.
    """
    places = [known.get(row[0], "") for row in rows]
    roots = {
        place.removesuffix(row[0]) if place.endswith(row[0]) else None
        for row, place in zip(rows, places, strict=True)
    }
    if any(places) and len(roots) + (None in roots) > 1:
        header = [header[0], "text or file", *header[1:]]
        rows = [[row[0], short(one), *row[1:]] for row, one in zip(rows, places, strict=True)]
    print_table(header, rows)
    if len(roots) == 1 and (root := roots.pop()):
        click.echo(f"The files lie in {root}")


def short(text: str, n: int = 60) -> str:
    """Return a text on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= n else f"{line[: n - 1]}…"


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
