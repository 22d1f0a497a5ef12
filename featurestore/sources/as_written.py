"""Columns of text files: a column becomes one of numbers where each reads back as written."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.storage.columns import EXACT
from featurestore.terms.labels import SEPARATOR

_ABOUT = b"featurestore: as written"  # what we note of a table, in the metadata of its schema
_PEEK = 200  # values that show whether a column may be one of numbers
_LOOKS = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-][0-9]+)?|nan|NaN")
_SHORT = r"^(0|-?(0\.0{0,3}[1-9][0-9]*|[1-9][0-9]{0,8}(\.[0-9]*[1-9])?))$"  # Arrow and repr agree


class WrittenFloat(float):
    """A number of a JSON file that knows how it was written: 1.10 is still 1.10 as a text."""

    def __new__(cls, written: str) -> WrittenFloat:
        """Parse a number; takes the place of float in `json.loads`."""
        value = super().__new__(cls, written)
        value.written = written
        return value

    written: str


def typed(table: pa.Table, texts: Collection[str] = ()) -> pa.Table:
    """Return a table of texts with numbers where each value of a column reads back as written.

    ``01``, ``0x1A``, ``1.10`` and whole numbers over 64 bits would not, so that their columns stay
    text; so do the columns named in ``texts``. Empty texts and NaN among numbers become null.
    """
    point = []
    for at, name in enumerate(table.column_names):
        column = table.column(name)
        if name in texts or not pa.types.is_string(column.type):
            continue
        numbers, has_point = _numbers(column)
        if has_point:
            point.append(name)
        table = table.set_column(at, name, numbers)
    return _with(table, {"texts": True, "point": point})


def about(table: pa.Table) -> dict[str, Any]:
    """Return what was noted of a table: ``texts``, ``point`` (1.0, not 1), ``mixed``."""
    noted: dict[str, Any] = json.loads((table.schema.metadata or {}).get(_ABOUT, b"{}"))
    return noted


def _with(table: pa.Table, noted: dict[str, Any]) -> pa.Table:
    known = table.schema.metadata or {}
    return table.replace_schema_metadata({**known, _ABOUT: json.dumps(about(table) | noted)})


def _numbers(texts: pa.ChunkedArray) -> tuple[pa.ChunkedArray, bool]:
    """Return a column of numbers, and whether whole ones are written 1.0; else the texts."""
    if texts.null_count == len(texts):
        return pa.chunked_array([pa.nulls(len(texts))]), False
    gaps = pc.is_in(texts, value_set=pa.array(["", "nan", "NaN"]))
    values = pc.if_else(gaps, pa.scalar(None, pa.string()), texts)
    peek = values.slice(0, _PEEK).to_pylist()
    if not all(one is None or (_LOOKS.fullmatch(one) and _may_read_back(one)) for one in peek):
        return texts, False
    if values.null_count == len(values):
        return texts, False
    try:
        whole = values.cast(pa.int64())
    except pa.ArrowInvalid:
        return _floats(values) or (texts, False)
    same = pc.all(pc.equal(whole.cast(pa.string()), values)).as_py()
    return (whole, False) if same else (texts, False)


def _floats(values: pa.ChunkedArray) -> tuple[pa.ChunkedArray, bool] | None:
    try:
        numbers = values.cast(pa.float64())
    except pa.ArrowInvalid:
        return None
    if not pc.all(pc.is_finite(numbers)).as_py():
        return None  # 1e400, or inf
    short = pc.and_(
        pc.equal(numbers.cast(pa.string()), values), pc.match_substring_regex(values, _SHORT)
    )
    wholes = pc.fill_null(pc.match_substring_regex(values, r"^-?[0-9]+(\.0)?$"), False)
    pointed = pc.ends_with(values.filter(wholes), ".0")
    has_point = bool(pc.any(pointed).as_py())
    if has_point and not pc.all(pointed).as_py():
        return None  # 1 and 1.0 would be one
    rest = pc.unique(values.filter(pc.invert(pc.fill_null(short, True)))).to_pylist()
    return (numbers, has_point) if all(map(_reads_back, rest)) else None


def _may_read_back(text: str) -> bool:
    return text.isdecimal() or text in ("nan", "NaN") or _reads_back(text)


def _reads_back(text: str) -> bool:
    value = float(text)
    if value % 1:
        return repr(value) == text
    is_exact = abs(value) <= EXACT and (value != 0 or text[0] != "-")
    return is_exact and text in (str(int(value)), f"{int(value)}.0")


def number_note(name: str, column: pa.ChunkedArray, table: pa.Table) -> str | None:
    """Say why a label column of nothing but numbers is text; None where it is not so."""
    if not about(table).get("texts") or not pa.types.is_string(column.type):
        return None
    known = [one for one in pc.unique(column).to_pylist() if one and one not in ("nan", "NaN")]
    try:
        values = {one: float(one) for one in known}
    except ValueError:
        return None
    odd = next((one for one in known if not _reads_back(one)), None)
    odd = odd or next((one for one in known if one.endswith(".0")), None)  # beside a whole number
    if odd is None:
        return None
    spelt: dict[float, list[str]] = {}
    for one, value in values.items():
        spelt.setdefault(value, []).append(one)
    alike = next((sorted(names) for names in spelt.values() if len(names) > 1), None)
    if alike is not None:
        shown = " and ".join(map(repr, alike))
        return (
            f"label {name!r} is kept as text: {shown} are {len(alike)} classes, though one number; "
            "if they mean one class, spell them alike in the table and run this again"
        )
    return (
        f"label {name!r} is kept as text, since {odd!r} would not stay as written if it were "
        f"the number {values[odd]:g}: --task regression of train and compare reads it as numbers"
    )


def columns_of(facts: Sequence[dict[str, Any]], names: Sequence[str]) -> pa.Table:
    """Make a table of dicts; a column whose values have several types becomes text."""
    arrays, mixed = [], {}
    for name in names:
        values = [one.get(name) for one in facts]
        made = _plain_column(values)
        if made is None:
            made = pa.array([None if one is None else as_written(one) for one in values])
            shown = {_kind(one): as_written(one) for one in reversed(values) if one is not None}
            if len(shown) > 1:
                mixed[name] = " and ".join(f"{kind} ({one})" for kind, one in shown.items())
        arrays.append(made)
    if not arrays:
        return pa.table({"": pa.nulls(len(facts))}).select([])
    table = pa.Table.from_arrays(arrays, names=list(names))
    return _with(table, {"mixed": mixed}) if mixed else table


def _plain_column(values: list[Any]) -> pa.Array | None:
    """Return an array of values of one kind; None where none holds them as they were written."""
    kinds = {_kind(one) for one in values if one is not None}
    if len(kinds) > 1 and kinds != {"whole numbers", "numbers"}:
        return None
    if kinds == {"whole numbers", "numbers"}:
        if any(isinstance(one, int) and abs(one) > EXACT for one in values):
            return None
        values = [None if one is None else float(one) for one in values]
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeError):
        return None  # an integer over 64 bits, lists of all sorts


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "truth values"
    if isinstance(value, int):
        return "whole numbers"
    if isinstance(value, float):
        return "numbers"
    if isinstance(value, list):
        return "lists"
    return "texts" if isinstance(value, str) else "objects"


def as_written(value: Any) -> str | None:
    """Return a value of a JSON file as text; lists of plain values as ``cat|dog``."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return None  # half of a pair of surrogates is no text
        return value
    if isinstance(value, WrittenFloat):
        return value.written
    if isinstance(value, list) and len({_kind(one) for one in value if one is not None}) > 1:
        return str(value)
    if isinstance(value, list) and not any(isinstance(one, (list, dict)) for one in value):
        parts = [as_written(one) for one in value if one is not None]
        return SEPARATOR.join(one.replace(SEPARATOR, "/") for one in parts if one is not None)
    return json.dumps(value, ensure_ascii=False)


def mixed_notes(table: pa.Table, names: Collection[str], where: str) -> list[str]:
    """Say which of these columns became text because their values are of several kinds."""
    mixed = about(table).get("mixed", {})
    return [
        f"column {name!r} of {where} holds {kinds}: it is kept as text"
        for name, kinds in mixed.items()
        if name in names
    ]
