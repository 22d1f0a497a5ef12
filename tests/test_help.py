"""What --help says: commands in groups, examples that can be pasted, one name for one idea."""

import shlex

import click
import pytest

from featurestore.cli import cli
from featurestore.cli.layout import broken


def commands(group=cli, path=("featurestore",)):
    """Return all commands with the words that call them, old spellings left out."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        if not command.hidden:
            yield (*path, name), command


COMMANDS = dict(commands())
GROUPS = {("featurestore",): cli, ("featurestore", "store"): cli.commands["store"]}
MOVED = ("compact", "vacuum", "verify", "history", "relocate", "rename", "drop", "delete")


def help_of(path, command, columns):
    context = click.Context(
        command, info_name=" ".join(path), terminal_width=columns, max_content_width=100,
        help_option_names=["-h", "--help"],
    )  # fmt: skip
    return command.get_help(context)


def test_help_lists_at_most_twenty_commands_in_groups():
    shown = help_of(("featurestore",), cli, 80)
    visible = [name for name, command in cli.commands.items() if not command.hidden]
    assert len(visible) <= 20
    headings = [line[:-1] for line in shown.splitlines() if line and line[0] != " "]
    assert headings[2:] == ["Embed", "Look", "Learn", "Decide", "Curate", "Keep", "Examples"]
    assert all(f"\n  {name} " in shown for name in visible)
    assert not any(f"\n  {name} " in shown for name in MOVED)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("path", GROUPS, ids=" ".join)
def test_lists_of_commands_are_cut_nowhere(path, columns):
    shown = help_of(path, GROUPS[path], columns)
    assert "..." not in shown.split("\n\n", 1)[1]
    assert max(map(len, shown.splitlines())) <= columns


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_ends_in_an_example_of_itself_that_can_be_pasted(path):
    for columns in (80, 120):
        check_help(path, columns)


def check_help(path, columns):
    shown = help_of(path, COMMANDS[path], columns)
    assert "INTEGER" not in shown
    assert "\b" not in shown
    assert "\\b" not in shown
    assert max(map(len, shown.splitlines())) <= columns
    example = shown.partition("\nExample:\n")[2] or shown.partition("\nExamples:\n")[2]
    words = shlex.split(example.replace("\\\n", " "))
    assert words[: len(path)] == list(path) or isinstance(COMMANDS[path], click.Group)
    command, rest = cli, words[1:]
    while isinstance(command, click.Group):
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(command.name, rest)


def test_a_long_example_is_broken_between_words_and_before_options():
    line = "featurestore search photos -e open_clip:ViT-B-32/openai --text 'a cat on a mat'"
    lines = broken(line, 60)
    assert lines == [
        "featurestore search photos -e open_clip:ViT-B-32/openai \\", "    --text 'a cat on a mat'"
    ]  # fmt: skip
    assert shlex.split(" ".join(lines).replace("\\ ", "")) == shlex.split(line)


@pytest.mark.parametrize("name", [*MOVED, "sql", "show", "slices", "index", "project", "import"])
def test_spellings_of_earlier_releases_run_and_are_not_listed(name):
    old, new = cli.commands[name], cli.commands["store"].commands[name]
    assert old.hidden
    assert not new.hidden
    assert old.callback is new.callback


def test_how_many_has_one_name_and_old_ones_work():
    limits = {
        path[-1]: [one.opts for one in command.params if one.name == "limit"]
        for path, command in COMMANDS.items()
    }
    assert {name for name, found in limits.items() if found} >= {
        "embed", "search", "suggest", "quality", "history",
    }  # fmt: skip
    assert all(found in ([], [["-n", "--limit"]]) for found in limits.values())
    for words in (["search", "d", "-k3"], ["suggest", "d", "--number=3"]):
        command = cli.commands[words[0]]
        assert command.make_context(words[0], words[1:]).params["limit"] == 3
        shown = help_of(("featurestore",), command, 80)
        assert "-k" not in shown.split()
        assert "--number" not in shown
    transfer = cli.commands["transfer"]
    context = transfer.make_context("transfer", ["d", "--budgets", "2,4"])
    assert context.params["budgets"] == "2,4"


def test_options_of_embed_stand_in_groups():
    shown = help_of(("featurestore", "embed"), cli.commands["embed"], 80)
    for heading, option in (
        ("What to embed, and with what", "--encoder"),
        ("Columns of a table, and groups", "--group-from"),
        ("A part of the items", "--limit"),
        ("Speed", "--device"),
        ("Other options", "--store"),
    ):
        assert option in shown.partition(f"\n{heading}:\n")[2].partition("\n\n")[0]
