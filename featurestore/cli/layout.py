"""How ``--help`` is laid out: groups of commands and of options, examples that can be pasted."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import click

from featurestore.cli import settings
from featurestore.cli.printing import with_store
from featurestore.errors import FeatureStoreError


class Option(click.Option):
    """An option that also answers to the spellings of earlier releases, which help leaves out."""

    def __init__(self, *args: Any, old: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.old = list(old)

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Let the parser know all spellings."""
        super().add_to_parser(parser, ctx)
        if self.old:
            action = "append" if self.multiple else "store"
            parser.add_option(obj=self, opts=self.old, dest=self.name, action=action)


class Command(click.Command):
    """A command whose help has its options in groups: heading → names of parameters."""

    def __init__(
        self, *args: Any, groups: Mapping[str, Sequence[str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.groups = groups or {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; featurestore.toml fills what is not typed."""
        if not ctx.resilient_parsing:
            args = settings.with_defaults(ctx, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        settings.say_what_was_taken(ctx)
        try:
            return super().invoke(ctx)
        except FeatureStoreError as error:
            error.args = (with_store(str(error)), *error.args[1:])
            raise

    def get_help(self, ctx: click.Context) -> str:
        """Return the help, whatever featurestore.toml says."""
        ctx.default_map = None
        return super().get_help(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options group by group; those of no group come last."""
        options = (one for one in self.get_params(ctx) if isinstance(one, click.Option))
        records = ((one.name, one.get_help_record(ctx)) for one in options)
        left = {name: _plain(*record) for name, record in records if record is not None}
        for title, names in self.groups.items():
            with formatter.section(title):
                formatter.write_dl([left.pop(name) for name in names])
        with formatter.section("Other options" if self.groups else "Options"):
            formatter.write_dl(list(left.values()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example, which runs as it stands at any width."""
        _write_examples(self.epilog, formatter)


class Group(click.Group):
    """A group of commands whose help lists them under headings."""

    def __init__(self, *args: Any, sections: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = {title: names.split() for title, names in sections.items()}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under their headings; those of none come last."""
        listed = {name for names in self.sections.values() for name in names}
        others = [name for name in self.list_commands(ctx) if name not in listed]
        width = max(map(len, self.commands))
        for title, names in {**self.sections, "More": others}.items():
            shown = [
                (name.ljust(width), one.get_short_help_str(formatter.width - width - 4))
                for name in names
                if (one := self.commands.get(name)) is not None and not one.hidden
            ]
            if shown:
                with formatter.section(title):
                    formatter.write_dl(shown)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        _write_examples(self.epilog, formatter)


command = partial(click.command, cls=Command)
option = partial(click.option, cls=Option)


def hidden(one: click.Command) -> click.Command:
    """Return a command that runs under its name of earlier releases, and is not listed."""
    twin = copy.copy(one)
    twin.hidden = True
    return twin


def _plain(option: str, about: str) -> tuple[str, str]:
    """Call a number N, and a text TEXT, whatever its type is called inside."""
    option = re.sub(r"(INTEGER|FLOAT)( RANGE)?$", "N", option)
    return option, re.sub(r"x(?=[<>][^\[]*\]$)", "N", about)


def _write_examples(epilog: str | None, formatter: click.HelpFormatter) -> None:
    if not epilog:
        return
    title, _, examples = epilog.partition(": ")
    with formatter.section(title):
        for one in examples.splitlines():
            for line in broken(one.strip(), formatter.width - formatter.current_indent):
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def broken(command_line: str, width: int) -> list[str]:
    r"""Break a command between its words, each line but the last ending in a backslash.

    >>> broken("featurestore search photos --text 'a cat'", 32)
    ['featurestore search photos \\', "    --text 'a cat'"]
    """
    lines, rest = [], command_line
    while len(rest) > width:
        ends = [n for n, letter in enumerate(rest[: width - 1]) if letter == " "]
        ends = [n for n in ends if rest[:n].strip() and _is_whole(rest[:n])]
        if not ends:
            break
        option_starts = [n for n in ends if rest[n + 1] == "-"]
        end = (option_starts or ends)[-1]
        lines.append(f"{rest[:end]} \\")
        rest = f"    {rest[end + 1 :]}"
    return [*lines, rest]


def _is_whole(words: str) -> bool:
    """Whether no quotation mark is open at the end."""
    try:
        shlex.split(words)
    except ValueError:
        return False
    return True
