"""Lines of a JSONL file; a line that cannot be read is one failure, and the others are read."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from featurestore.sources.csv_rows import BLOCK_BYTES
from featurestore.sources.locations import Location

_DEEP = 500
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_SHOWN = 60  # characters of a line that cannot be read


def json_rows(
    location: Location,
    *,
    parse_float: Callable[[str], Any] | None = None,
    is_clean: bool = True,
) -> tuple[list[dict[str, Any]], dict[int, str]]:
    r"""Read line by line; blank lines are skipped.

    Parameters
    ----------
    parse_float : callable, optional
        As in `json.loads`.
    is_clean : bool
        Whether values that no UTF-8 holds are left out; else halves of surrogate pairs stay, and
        other bytes come as ``\\xff``.

    Returns
    -------
    rows : list of dict
        Of a line that cannot be read, an empty one.
    bad : dict of int to str
        Why rows cannot be taken, by row.

    Raises
    ------
    ValueError
        If no line can be read.
    """
    with location.open() as file:
        lines = file.read().removeprefix(codecs.BOM_UTF8).splitlines()
    rows: list[dict[str, Any]] = []
    bad: dict[int, str] = {}
    n_unread = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            if len(line) > BLOCK_BYTES:
                raise ValueError(f"it is longer than {BLOCK_BYTES >> 20} MB")
            text = line.decode("utf-8", "surrogateescape" if is_clean else "backslashreplace")
            row = _object(text, parse_float)
        except (ValueError, RecursionError) as error:
            shown = line[: 4 * _SHOWN].decode(errors="replace")[:_SHOWN]
            bad[len(rows)] = f"line {number}: {_reason(error)}: {shown}"
            n_unread += 1
            row = {}
        odd = [name for name, value in row.items() if not _is_text(name, value)]
        if odd:
            bad[len(rows)] = f"line {number}: {odd[0]!a} holds what is no text in UTF-8"
        rows.append({name: row[name] for name in row if name not in odd} if is_clean else row)
    if n_unread == len(rows):
        raise ValueError(next(iter(bad.values()), "it is empty"))
    return rows, bad


def is_deep(location: Location) -> bool:
    """Whether a line may nest so deep that Arrow's reader, which recurses, ends the process."""
    with location.open() as file:
        return any(_depth(line) > _DEEP for line in file if len(line) > _DEEP)


def _depth(line: bytes) -> int:
    """Return how deep a line nests at most; brackets within its texts count, too."""
    if line.count(b"[") + line.count(b"{") <= _DEEP:
        return 0
    return max(accumulate(_STEPS.get(one, 0) for one in line))


def _object(text: str, parse_float: Callable[[str], Any] | None) -> dict[str, Any]:
    row = json.loads(text, parse_float=parse_float, object_pairs_hook=_dict)
    if not isinstance(row, dict):
        raise ValueError('expected an object, as in {"text": "…"}')
    return row


def _dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(name for name in made if sum(name == one for one, _ in pairs) > 1)
        raise ValueError(f"{twice!a} stands twice in it")
    return made


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON ({error.msg}, character {error.pos + 1})"
    return "nested too deep" if isinstance(error, RecursionError) else str(error)


def _is_text(*values: Any) -> bool:
    """Whether UTF-8 holds all texts in some values of JSON."""
    for value in values:
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                return False
        elif isinstance(value, dict):
            if not _is_text(*value.keys(), *value.values()):
                return False
        elif isinstance(value, list) and not _is_text(*value):
            return False
    return True
