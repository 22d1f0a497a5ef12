"""The one rule on code that is neither ours nor an installed package's.

It runs where this very command, or call, names it (``-e python:module:object``), or with
``--trust`` (``trust=True``). What a store, a bundle or a model's folder names is refused by name
until then. Pickles are never opened, with or without it; docs/decisions/0018-trust.md says why.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import TypeAlias

from featurestore.errors import NotTrusted

Trust: TypeAlias = bool | Collection[str]  # all of it, none of it, or what is named

PYTHON = "python:"  # how a name of code begins: python:module:object


def is_trusted(name: str, trust: Trust) -> bool:
    """Whether code of this name may run."""
    if isinstance(trust, (bool, str)):
        return trust is True or trust == name
    return name in trust


def asked_for(*names: object) -> tuple[str, ...]:
    """Return the names of code among those that somebody typed just now: that asks for it."""
    given = (one.strip() for one in names if isinstance(one, str))
    return tuple(one for one in given if one.startswith(PYTHON))


def either(trust: Trust, other: Trust) -> Trust:
    """Return what one of two allows, or both."""
    if trust is True or other is True:
        return True
    names = [
        name
        for one in (trust, other)
        if not isinstance(one, bool)
        for name in ([one] if isinstance(one, str) else one)
    ]
    return tuple(dict.fromkeys(names)) or False


def check_trusted(name: str, trust: Trust, *, where: str, what: str) -> None:
    """Refuse code that is not trusted: an encoder, a head or a type.

    Raises
    ------
    NotTrusted
    """
    if not is_trusted(name, trust):
        raise not_trusted(where, f"the {what} {name}")


def not_trusted(where: str, what: str) -> NotTrusted:
    """Say what would have run, who named it, and how to ask for it."""
    return NotTrusted(
        f"{where} names {what}, which is code that is not featurestore's own: if you trust it, "
        "run the same command with --trust (in Python: trust=True)"
    )


def find_in_working_folder() -> None:
    """Let Python find modules in the working folder, for code that may run."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # as `python` itself would
