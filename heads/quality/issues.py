"""What was found in a data set: a value, its sentences, JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from featurestore.errors import StoreCorrupt
from featurestore.terms.shown import Tabular
from heads.measures.card import RunCard

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet

FORMAT = 1


class Kind(StrEnum):
    """What may be wrong with an item."""

    LABEL = "label"  # another class than it says
    LEAK = "leak"  # a twin on the other side of a split or group
    DUPLICATE = "duplicate"  # a twin
    OUTLIER = "outlier"  # like nothing else


TITLES = {  # for people, in the order in which they are looked at
    Kind.LABEL: "Labels that may be wrong",
    Kind.LEAK: "The same item on both sides of a split or group",
    Kind.DUPLICATE: "Near-duplicates",
    Kind.OUTLIER: "Items unlike all others",
}


@dataclass(frozen=True)
class Issue:
    """One item that someone should look at."""

    kind: Kind
    item_id: str
    score: float  # higher is worse: a doubt, a likeness, robust standard deviations
    reason: str
    others: tuple[str, ...] = ()  # a few twins, or neighbors that speak against the label
    label: str | None = None  # as given
    suggested: str | None = None  # the likeliest class


@dataclass(frozen=True, eq=False, kw_only=True)
class QualityCard(RunCard):
    """What decided a quality report."""

    head: str  # that judged the labels
    n_items: int
    slice: str | None = None  # its name
    thresholds: Mapping[str, float]


@dataclass(frozen=True, eq=False, repr=False)
class Issues(Tabular):
    """Everything that was found, the worst of each kind first."""

    dataset: str
    encoder: str
    label: str | None
    issues: tuple[Issue, ...]
    found: Mapping[str, int]  # of each kind; more than `issues` holds of very many
    counts: Mapping[str, int]  # items of each class
    notes: tuple[str, ...]
    card: QualityCard
    looked_at: DataSet | None = None  # whose items a notebook shows

    def about(self) -> str:
        """Name the view, and count what was found."""
        counts = ", ".join(f"{self.found.get(kind, 0):,} {kind}" for kind in Kind)
        return f"in {self.dataset}@{self.encoder}: {counts}"

    def rows(self) -> list[dict[str, Any]]:
        """Return the table, the worst of each kind first."""
        rows = [asdict(one) for one in self.issues]
        return [{**row, "kind": str(row["kind"]), "others": list(row["others"])} for row in rows]

    def strip(self) -> str:
        """Return the first items as HTML."""
        if self.looked_at is None:
            return ""
        from featurestore.store.strip import strip

        return strip(self.looked_at, [one.item_id for one in self.issues])

    def of(self, kind: Kind | str) -> list[Issue]:
        """Return the issues of one kind, the worst first."""
        return [one for one in self.issues if one.kind == kind]

    def summary(self) -> list[str]:
        """Say what was found, kind by kind."""
        said = {
            Kind.LABEL: "probable label errors",
            Kind.LEAK: "items with a twin across the split or group",
            Kind.DUPLICATE: "items that are near-duplicates of another",
            Kind.OUTLIER: "outliers",
        }
        return [f"{self.found.get(kind, 0):,} {words}" for kind, words in said.items()]

    def to_json(self) -> dict[str, Any]:
        """Return everything, with the ids that it names in one list."""
        named = {one.item_id for one in self.issues}.union(*(one.others for one in self.issues))
        return {
            "format": FORMAT,
            "kind": "quality",
            "dataset": self.dataset,
            "encoder": self.encoder,
            "label": self.label,
            "issues": [asdict(one) for one in self.issues],
            "found": dict(self.found),
            "counts": dict(self.counts),
            "notes": list(self.notes),
            "card": self.card.to_json(),
            "item_ids": sorted(named),  # `featurestore store delete --erase` looks here
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave.

        Raises
        ------
        StoreCorrupt
            If it is something else, or of a newer format.
        """
        try:
            if data["format"] > FORMAT or data["kind"] != "quality":
                raise StoreCorrupt(f"no quality report of format {FORMAT} or older")
            issues = tuple(
                Issue(**{**one, "kind": Kind(one["kind"]), "others": tuple(one["others"])})
                for one in data["issues"]
            )
            return cls(
                data["dataset"],
                data["encoder"],
                data["label"],
                issues,
                data["found"],
                data["counts"],
                tuple(data["notes"]),
                QualityCard.from_json(data["card"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StoreCorrupt(f"this is not a stored quality report: {error!r}") from error
