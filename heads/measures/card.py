"""Cards: what decided a result, as a frozen value and as the JSON that is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any, ClassVar, Self

from featurestore.terms.snapshots import Snapshot

ABSENT = {"absent": True}  # a key that is not written where its value is None


@dataclass(frozen=True, eq=False, kw_only=True)
class Card(dict[str, Any]):
    """A frozen value that is also the dict of its JSON: ``card.seed`` or ``card["seed"]``."""

    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}  # of fields that are not plain JSON
    needed: ClassVar[frozenset[str]] = frozenset()  # keys without which a card says nothing
    unknown: ClassVar[Mapping[str, Any]] = {}  # keys that a later release wrote, kept as they are

    def __post_init__(self) -> None:
        self.update(self.to_json())

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave, also of other releases: a key that is absent is None.

        Raises
        ------
        ValueError, TypeError, AttributeError
            If a needed key is missing, or a value is of another type.
        """
        if missing := cls.needed - set(data):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        known = known_fields(cls, data)
        for name, read in cls.readers.items():
            if known.get(name) is not None:
                known[name] = read(known[name])
        card = cls(**known)
        unknown = {key: value for key, value in data.items() if key not in known}
        object.__setattr__(card, "unknown", unknown)
        card.update(unknown)
        return card

    def to_json(self) -> dict[str, Any]:
        """Return plain values under the keys that are kept, in their order."""
        return {**_plain(self), **self.unknown}


def known_fields(kind: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that a dataclass knows; those that are absent and have no default are None.

    Cards of other releases may have more keys, or fewer.
    """
    found = {one.name: data[one.name] for one in fields(kind) if one.name in data}
    absent = {
        one.name: None
        for one in fields(kind)
        if one.name not in data and one.default is MISSING and one.default_factory is MISSING
    }
    return found | absent


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {
            one.name: _plain(getattr(value, one.name))
            for one in fields(value)
            if not (one.metadata and getattr(value, one.name) is None)
        }
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, StrEnum) else value


@dataclass(frozen=True)
class ReadView:
    """A stored view that a run read; `store vacuum` keeps the version that it names."""

    encoder: str  # spec
    fingerprint: str
    snapshot: Snapshot | None
    slice: str | None = field(default=None, metadata=ABSENT)  # its name
    slice_digest: str | None = field(default=None, metadata=ABSENT)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what is kept of it."""
        known = known_fields(cls, data)
        return cls(**{**known, "snapshot": known["snapshot"] and Snapshot(**known["snapshot"])})


@dataclass(frozen=True)
class WithColumns:
    """Columns of items beside vectors, in a comparison."""

    columns: list[str]  # as they were asked for
    encoders: Mapping[str, str]  # the rows that read them: encoder → the encoder without them
    alone: str  # the rows that read nothing else
    leaks: Mapping[
        str, float
    ]  # columns that nearly tell the label → how far: 0 guessing, 1 perfect
    gain: list[float] | None  # of the best head with them: value, low, high; more is better

    def reads(self, encoder: str) -> bool:
        """Whether the rows of an encoder read the columns."""
        return encoder in self.encoders or encoder == self.alone


def views_from_json(data: Sequence[Mapping[str, Any]]) -> tuple[ReadView, ...]:
    """Read the ``views`` of a run card."""
    return tuple(ReadView.from_json(one) for one in data)


@dataclass(frozen=True, eq=False, kw_only=True)
class RunCard(Card):
    """What decided a run of any kind; docs/format.md lists the keys."""

    created: str  # ISO 8601, UTC
    seed: int
    views: tuple[ReadView, ...]
    machine: Mapping[str, Any] | None = field(default=None, metadata=ABSENT)  # not in 0.1
    versions: Mapping[str, str] = field(default_factory=dict)  # of libraries

    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"views": views_from_json}


@dataclass(frozen=True)
class TwinsInTest:
    """Test items with a near-duplicate in the training split, and metrics without them."""

    n: int
    n_test: int
    likeness: float  # that makes two items near-duplicates
    # By metric for a head; for a comparison of each row, in the order of its heads.
    without: Mapping[str, float | None] | list[float | None]
