"""Whether JSON holds what the annotations of a dataclass say; lenient where older cards were."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

# An undefined score is null.
_MAY_BE_NULL = re.compile(r"metrics\.\w+\.value|as_reviewed\.metrics\.\w+")
_MOST_DEPTH = 50


def check_fields(kind: type, data: Any, *, lenient: frozenset[str] = frozenset()) -> None:
    """Make sure that each key of a dataclass holds what its annotation says.

    Keys that it does not know may hold anything, but not deeper than 50 levels.

    Parameters
    ----------
    kind : type
        A dataclass, whose fields may be dataclasses.
    lenient : frozenset of str
        Keys of the outermost object that may be absent or null, whatever their annotation.

    Raises
    ------
    ValueError
        With the first key that is absent or holds something else.
    """
    _check_depth(data)
    _check_object(kind, data, "", lenient)


def _check_object(kind: type, data: Any, at: str, lenient: frozenset[str]) -> None:
    if not isinstance(data, Mapping):
        raise ValueError(f"{at or 'it'} is {_shown(data)}: expected an object")
    hints = _hints(kind)
    for one in fields(kind):
        name = f"{at}.{one.name}" if at else one.name
        has_default = one.default is not MISSING or one.default_factory is not MISSING
        if data.get(one.name) is None and one.name in lenient and not has_default:
            continue
        if one.name in data:
            _check(hints[one.name], data[one.name], name)
        elif not has_default:
            raise ValueError(f"it lacks {name}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _check(hint: Any, value: Any, at: str) -> None:
    if not _fits(hint, value, at):
        expected = getattr(hint, "__name__", None) or str(hint).replace("typing.", "")
        raise ValueError(f"{at} is {_shown(value)}: expected {expected}")


def _fits(hint: Any, value: Any, at: str) -> bool:
    """Whether a value fits; raises ValueError for what is wrong inside an object or a list."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        if value is None:
            return NoneType in arguments
        return any(_fits(one, value, at) for one in arguments if one is not NoneType)
    if is_dataclass(hint) and isinstance(hint, type):
        _check_object(hint, value, at, frozenset())
        return True
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return isinstance(value, str) and value in list(hint)
    if origin in (list, tuple, Sequence):
        if isinstance(value, list):
            for n, one in enumerate(value):
                _check(arguments[0], one, f"{at}[{n}]")
        return isinstance(value, list)
    if origin in (dict, Mapping):
        if isinstance(value, Mapping):
            for key, one in value.items():
                _check(arguments[1], one, f"{at}.{key}")
        return isinstance(value, Mapping)
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float)) or (
            value is None and _MAY_BE_NULL.fullmatch(at) is not None
        )
    return isinstance(value, hint)


def _check_depth(value: Any) -> None:
    layer = [value]
    for _ in range(_MOST_DEPTH):
        layer = [
            inner
            for one in layer
            if isinstance(one, (Mapping, list))
            for inner in (one.values() if isinstance(one, Mapping) else one)
        ]
        if not layer:
            return
    raise ValueError(f"it is nested deeper than {_MOST_DEPTH} levels")


def _shown(value: Any) -> str:
    if isinstance(value, (Mapping, list)):
        return "an object" if isinstance(value, Mapping) else "a list"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
