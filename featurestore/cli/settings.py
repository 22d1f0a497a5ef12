"""What featurestore.toml says, as defaults of options and of DATASET.

The file lies in the working folder, or else beside the store. Options and the environment win.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import click
from click.core import ParameterSource

from featurestore.cli.printing import say
from featurestore.encoders.trust import PYTHON, not_trusted
from featurestore.store.commands import DEFAULT_STORE
from featurestore.store.settings_file import KEYS, NAME, Settings, read_settings, settings_path

_DATASET = f"{NAME}: dataset"  # in the context: put in front of the other arguments
_PARAMETERS = {"store": "store_path", "id": "id_column"}  # others are called as the key
_SEVERAL_ENCODERS = ("embed", "train")  # commands that take a list of them from the file
_EMBED_ALONE = ("text", "image", "group")
# A name that nobody typed must not decide what is deleted or renamed.
_NAMED_EACH_TIME = ("delete", "drop", "rename", "relocate", "vacuum", "compact")


class _Defaults(dict[str, Callable[[], Any]]):
    """Parameter → how to ask the file for its value; one that it does not give is not there."""

    def __contains__(self, name: object) -> bool:
        return name in self.keys() and self[str(name)]() is not None


def with_defaults(ctx: click.Context, arguments: list[str]) -> list[str]:
    """Let the file fill what is not typed; return the arguments, with DATASET where it was left.

    It is read when the first value is asked for.
    """
    command = ctx.command
    names = {one.name for one in command.params}
    if "store_path" not in names or command.name == "demo":
        return arguments
    defaults = _Defaults()
    for key in KEYS:
        parameter = _PARAMETERS.get(key, key)
        if key == "encoder" and command.name in _SEVERAL_ENCODERS:
            parameter = "encoders"
        if parameter in names and _takes(command.name, key):
            defaults[parameter] = partial(_value, ctx, key)
    ctx.default_map = defaults
    positional = [one for one in command.params if isinstance(one, click.Argument)]
    is_first = len(positional) > 1 and positional[0].name == "dataset"
    if is_first and "dataset" in defaults.keys() and positional[-1].required:  # noqa: SIM118
        typed = command.make_parser(ctx).parse_args(list(arguments))[0]
        if not isinstance(typed.get(str(positional[-1].name)), str) and not typed.get("help"):
            dataset = _dataset(ctx, typed.get("store_path"))
            if dataset is not None:
                ctx.meta[_DATASET] = True
                return [dataset, *arguments]
    return arguments


def say_what_was_taken(ctx: click.Context) -> None:
    """Say in one line which values came from the file."""
    said = []
    for key in KEYS:
        for name in {key, _PARAMETERS.get(key, key), f"{key}s"}:
            is_taken = ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP
            if is_taken or (name == "dataset" and _DATASET in ctx.meta):
                value = ctx.params[name]
                said.append(f"{key} {value if isinstance(value, str) else ', '.join(value)}")
    if said:
        say(f"from {os.path.relpath(ctx.meta[NAME].path)}: {'; '.join(said)}")


def _takes(command: str | None, key: str) -> bool:
    if key in _EMBED_ALONE:
        return command == "embed"
    if key == "id":
        return command in ("embed", "labels")
    if key == "label":
        return command not in ("labels", "import")
    if key == "encoder":
        return command != "predict"  # a head knows its own
    return key != "dataset" or command not in _NAMED_EACH_TIME


def _settings(ctx: click.Context, store: str | None) -> Settings | None:
    """Return what the file in the working folder says, or else that beside a local store."""
    path = settings_path(store)
    if path is None:
        return None
    if NAME not in ctx.meta or ctx.meta[NAME].path != path:
        ctx.meta[NAME] = read_settings(path)
    found: Settings = ctx.meta[NAME]
    return found


def _dataset(ctx: click.Context, typed: object) -> str | None:
    """Return the data set where DATASET was left out before another argument."""
    store = typed if isinstance(typed, str) else os.environ.get("FEATURESTORE_STORE")
    named = _settings(ctx, None)
    store = store or (named and named.store) or DEFAULT_STORE
    found = _settings(ctx, store)
    if found is None or not found.is_of(store):
        return None
    name = _checked(ctx, found, "data set", found.values.get("dataset"))
    return None if name is None else str(name)


def _value(ctx: click.Context, key: str) -> Any:
    """Return what the file says, where it is about this store and data set."""
    found = _settings(ctx, None if key == "store" else ctx.params["store_path"])
    if found is None or key == "store":
        return found and found.store
    if not found.is_of(ctx.params["store_path"]):
        return None
    if key == "dataset":
        return _checked(ctx, found, "data set", found.values.get(key))
    name, at, _ = str(ctx.params.get("dataset")).partition("@")
    if found.values.get("dataset", name) != name or (key == "encoder" and at):
        return None
    value = found.encoder if key == "encoder" else found.values.get(key)
    _checked(ctx, found, "encoder" if key == "encoder" else "", value)
    if value is None:
        return None
    values = [value] if isinstance(value, str) else value
    if key == "encoder" and ctx.command.name == "train":
        return values[:1]
    return values if ctx.command.name == "embed" and key in ("encoder", "label") else values[0]


def _checked(ctx: click.Context, found: Settings, what: str, value: Any) -> Any:
    """Return the value, unless it names code in a command that would run it (decision 18)."""
    runs_code = what and any(one.name == "trust" for one in ctx.command.params)
    if runs_code and PYTHON in str(value) and not ctx.params.get("trust"):
        raise not_trusted(str(found.path), f"the {what} {str(value).strip()}")
    return value
