"""Columns of items, such as age or site, as numbers that stand beside vectors."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadName, BadSource, MissingColumn, nearest
from featurestore.terms.labels import class_name, is_missing
from featurestore.terms.words import counted

MOST_VALUES = 50  # of a category that have a place of their own; the most frequent ones
NUMBER, CATEGORY = "number", "category"
_KINDS = (NUMBER, CATEGORY)
_DAY_S = 86_400.0
_NO_METADATA = {
    "item_id": "it differs for every item",
    "uri": "it differs for every item",
    "text": "a text is what the encoder reads",
    "source": "it says where items were read from",
    "content_hash": "it differs for every item",
    "mtime_ns": "it says when files were written",
    "split": "it says which items teach and which test",
    "group": "items of one group stay together, so that a head never sees the group of new items",
}


@dataclass(frozen=True)
class MetadataColumn:
    """How one column becomes numbers; learned from items without looking at labels."""

    name: str
    kind: str  # number | category
    mean: float = 0.0  # of a number; what is lacking counts as the mean
    spread: float = 1.0  # its standard deviation
    values: tuple[str, ...] = ()  # of a category; all others have no place
    may_lack: bool = False  # some items lacked it, and a place of its own says which

    @property
    def dim(self) -> int:
        """Numbers that it becomes."""
        return (1 if self.kind == NUMBER else len(self.values)) + self.may_lack

    def coded(self, given: Sequence[Any] | NDArray[Any]) -> tuple[NDArray[np.float32], list[str]]:
        """Return n values as numbers, (n, dim), and what was unusual about them.

        A value that cannot be read as a number, where one is expected, counts as lacking.
        """
        held = np.empty(len(given), dtype=object)
        held[:] = list(given)
        lacks, notes = is_missing(held), []
        found = np.zeros((len(held), self.dim), dtype=np.float32)
        if self.kind == NUMBER:
            numbers = np.array([_as_number(one) for one in held], dtype=np.float64)
            odd = ~lacks & ~np.isfinite(numbers)
            if n_odd := int(odd.sum()):
                notes.append(
                    f"{counted(n_odd, 'item')} whose {self.name} cannot be read as a number, such "
                    f"as {str(held[odd][0])[:40]!r}: taken as lacking"
                )
            lacks |= odd
            numbers[lacks] = self.mean
            found[:, 0] = (numbers - self.mean) / self.spread
        else:
            place = {value: at for at, value in enumerate(self.values)}
            names = [self._value(one, place) for one in held[~lacks]]
            for row, name in zip(np.flatnonzero(~lacks), names, strict=True):
                if name in place:
                    found[row, place[name]] = 1.0
            if strange := Counter(one for one in names if one not in place):
                (name, _), n = strange.most_common(1)[0], strange.total()
                notes.append(
                    f"{counted(n, 'item')} with a {self.name} that no training item had, such as "
                    f"{name!r}: the head decides without it"
                )
        if self.may_lack:
            found[:, -1] = lacks
        elif lacks.any():
            then = "the mean is taken" if self.kind == NUMBER else "the head decides without it"
            items = counted(int(lacks.sum()), "item")
            notes.append(f"{items} without {self.name}, which every training item had: {then}")
        return found, notes

    @staticmethod
    def _value(value: object, known: Collection[str]) -> str:
        """Return the name of a value; a text of 1.0 is 1, and true is True, where that is known."""
        name, number = class_name(value), _as_number(value)
        spellings = (name, name.capitalize(), name if number is None else class_name(number))
        return next((one for one in spellings if one in known), name)

    def said(self) -> str:
        """Say how it is read: ``age: a number (mean 61.2)``."""
        if self.kind == NUMBER:
            said = f"{self.name}: a number (mean {self.mean:.4g})"
        else:
            shown = ", ".join(self.values[:3]) + (", …" if len(self.values) > 3 else "")
            said = f"{self.name}: a category of {len(self.values)} values ({shown})"
        return f"{said}, lacking for some items" if self.may_lack else said


@dataclass(frozen=True)
class MetadataCoding:
    """Columns side by side, scaled to a mean squared length of 1 about their mean."""

    columns: tuple[MetadataColumn, ...]
    scale: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(column.name for column in self.columns)

    @property
    def dim(self) -> int:
        """Numbers that they become together."""
        return sum(column.dim for column in self.columns)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all that decides the numbers."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def coded(self, given: Mapping[str, Any]) -> tuple[NDArray[np.float32], list[str]]:
        """Return values by column, n each, as numbers (n, dim), and what was unusual about them.

        Raises
        ------
        MissingColumn
            If a column is not among them.
        BadSource
            If columns are of different lengths.
        """
        parts, notes = [], []
        for column in self.columns:
            if column.name not in given:
                raise MissingColumn(
                    f"this head also reads {', '.join(self.names)}, and there is no column "
                    f"{column.name!r}: {nearest(column.name, list(given))}"
                )
            numbers, said = column.coded(given[column.name])
            parts.append(numbers)
            notes += said
        if len({len(one) for one in parts}) > 1:
            lengths = ", ".join(f"{n}: {len(given[n]):,}" for n in self.names)
            raise BadSource(f"columns of different lengths ({lengths}): expected a value an item")
        return np.hstack(parts) * np.float32(self.scale), notes

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MetadataCoding:
        """Read what `dataclasses.asdict` gave.

        Raises
        ------
        ValueError
            If it holds something else.
        """
        columns = tuple(
            MetadataColumn(**{**one, "values": tuple(one["values"])}) for one in data["columns"]
        )
        if not columns or len({one.name for one in columns}) < len(columns):
            raise ValueError("metadata_columns is empty, or names a column twice")
        for one in columns:
            is_sound = one.kind in _KINDS and math.isfinite(one.mean) and one.dim > 0
            if not (is_sound and 0 < one.spread < math.inf and len(one.values) <= MOST_VALUES):
                raise ValueError(f"metadata_columns: {one.name!r} is not a number or a category")
        if not 0 < data["scale"] < math.inf:
            raise ValueError("metadata_columns.scale: expected a number above 0")
        return cls(columns, float(data["scale"]))


def learned(
    names: Sequence[str], values: Callable[[str], NDArray[Any]], *, labels: Sequence[str] = ()
) -> MetadataCoding:
    """Learn how columns become numbers; ``age`` or, where the kind is told, ``site:category``.

    Parameters
    ----------
    values : function
        Column → its values of the items, (n,), None where an item lacks it.
    labels : sequence of str
        Label columns, which are refused.

    Raises
    ------
    BadName
        If a column says nothing, or is what heads are to predict, or cannot be read as told.
    """
    columns = []
    for asked in names:
        name, kind = _kind_in(asked)
        if name in labels:
            raise BadName(f"column {name!r} is a label: a head cannot read what it is to predict")
        if why := _NO_METADATA.get(name):
            raise BadName(f"column {name!r} cannot stand beside vectors: {why}")
        columns.append(_learned(name, values(name), kind))
    if len({one.name for one in columns}) < len(columns):
        raise BadName(f"columns {', '.join(names)}: a column is named twice")
    coding = MetadataCoding(tuple(columns))
    numbers, _ = coding.coded({one.name: values(one.name) for one in columns})
    variance = float(numbers.var(axis=0, dtype=np.float64).sum())
    return MetadataCoding(tuple(columns), float(1 / np.sqrt(variance)))


def _kind_in(asked: str) -> tuple[str, str | None]:
    """Return a column's name, and the kind if one is told behind a colon."""
    name, colon, kind = asked.rpartition(":")
    return (name, kind) if colon and kind in _KINDS else (asked, None)


def _learned(name: str, values: NDArray[Any], kind: str | None) -> MetadataColumn:
    lacks = is_missing(values)
    known = values[~lacks]
    if not len(known):
        raise BadName(f"column {name!r} is empty: no item has a value there")
    if any(isinstance(one, (list, tuple, dict, np.ndarray)) for one in known):
        raise BadName(f"column {name!r} holds lists: expected one value an item")
    numbers = [_as_number(one) for one in known]
    if kind == NUMBER or (kind is None and None not in numbers):
        if None in numbers:
            odd = known[numbers.index(None)]
            raise BadName(
                f"column {name!r} holds {str(odd)[:40]!r}, which cannot be read as a number: "
                f"{name}:{CATEGORY} takes it as a category"
            )
        return _number(name, np.array(numbers, dtype=np.float64), may_lack=bool(lacks.any()))
    return _category(name, [class_name(one) for one in known], may_lack=bool(lacks.any()))


def _number(name: str, numbers: NDArray[np.float64], *, may_lack: bool) -> MetadataColumn:
    if not np.isfinite(numbers).all():
        raise BadName(f"column {name!r} holds an infinite number: expected finite ones")
    mean, spread = float(numbers.mean()), float(numbers.std())
    if not spread > 1e-9 * abs(mean):
        if not may_lack:
            raise BadName(f"column {name!r} is {mean:.4g} for every item: it tells none apart")
        spread = 1.0
    return MetadataColumn(name, NUMBER, mean, spread, may_lack=may_lack)


def _category(name: str, values: Sequence[str], *, may_lack: bool) -> MetadataColumn:
    counts = Counter(values)
    if len(counts) == 1 and not may_lack:
        raise BadName(f"column {name!r} is {values[0]!r} for every item: it tells none apart")
    if len(counts) > max(MOST_VALUES, len(values) // 4):
        raise BadName(
            f"column {name!r} holds {len(counts):,} different values for {len(values):,} items, as "
            "ids or free text do: name a column whose values come back"
        )
    kept = sorted(counts, key=lambda one: (-counts[one], one))[:MOST_VALUES]
    return MetadataColumn(name, CATEGORY, values=tuple(sorted(kept)), may_lack=may_lack)


def _as_number(value: object) -> float | None:
    """Return a value as a number: also one in a text, and a date as days; None if it is none."""
    if isinstance(value, (bool, np.bool_)):
        return None
    if isinstance(value, (int, float, Decimal, np.integer, np.floating)):
        return float(value)
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return moment.timestamp() / _DAY_S
    if isinstance(value, date):
        return float(value.toordinal() - date(1970, 1, 1).toordinal())
    if isinstance(value, np.datetime64):
        return float((value - np.datetime64(0, "s")) / np.timedelta64(1, "s")) / _DAY_S
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return _day_of(value)
    return None


def _day_of(text: str) -> float | None:
    """Return the days since 1970 of a date as ISO 8601 writes it."""
    try:
        return _as_number(datetime.fromisoformat(text))
    except ValueError:
        return None
