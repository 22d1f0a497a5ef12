"""The card of a head: what it learned from, how well it does, and what decided that."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from featurestore.terms.snapshots import Snapshot
from heads.labels.metadata import MetadataCoding
from heads.labels.tasks import Task
from heads.measures.card import ABSENT, Card, TwinsInTest, known_fields
from heads.measures.evaluate import Estimate

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

CARD_FORMAT = 1
NO_LABEL = "(none)"  # what an item without any of several labels counts as
COLUMNS = ("text", "image", "id")  # what a table's columns may hold, as the options of embed say


@dataclass(frozen=True)
class Evaluated:
    """Which rows taught and tested the head."""

    on: str  # test | folds
    n_folds: int  # 0 on a test split
    n_repeats: int
    n_train: int
    n_tested: int
    n_leaked: int  # test rows whose content also stands in the training rows


@dataclass(frozen=True)
class CoverageOnTest:
    """How prediction sets do on a test split."""

    coverage: float  # share of sets that hold the truth
    low: float  # Wilson, 95 %
    high: float
    mean_size: float | None = field(default=None, metadata=ABSENT)  # of sets of classes


@dataclass(frozen=True)
class Conformal:
    """Split-conformal prediction sets: how they were calibrated."""

    coverage: float  # share of new items whose set is to hold the truth
    n_calibration: int
    limit: float | None  # largest misfit in a set; None: every set holds everything
    on_test: CoverageOnTest | None = field(default=None, metadata=ABSENT)

    @property
    def most(self) -> float:
        """The largest misfit in a set, or infinity."""
        return math.inf if self.limit is None else self.limit

    def sentence(self) -> str:
        """Say what the sets promise, and what they did on the test split."""
        said = (
            f"prediction sets hold the truth in {self.coverage:.0%} of items, on average over "
            f"calibration draws, for items like these (calibrated on {self.n_calibration:,} items "
            "that were held out from training)"
        )
        if self.limit is None:
            return f"{said}; with so few calibration items each set holds everything"
        if test := self.on_test:
            said += (
                f"; measured on the test split: {test.coverage:.1%} ({test.low:.1%} to "
                f"{test.high:.1%})"
            )
            if test.mean_size is not None:
                said += f", {test.mean_size:.2f} classes a set"
        return said


@dataclass(frozen=True)
class Member:
    """A head of a mix, and how much it counts."""

    name: str
    input: str  # spec of the encoder whose vectors it reads, or texts
    weight: float  # of all members together 1
    # How much the loss of held-out training rows (log loss in nats, of numbers the mean squared
    # error) grows without it; None where that is not known.
    without: float | None
    failed: str | None = field(default=None, metadata=ABSENT)  # why it could not be fitted


def members_of(estimator: BaseEstimator) -> list[Member] | None:
    """Return the members of a fitted mix, or of the chosen one; None of another head."""
    head = getattr(estimator, "head_", estimator)
    if not hasattr(head, "left_out_loss_"):
        return None
    rows = zip(head.names_, head.blocks_, head.weights_, head.left_out_loss_, strict=True)
    return [
        Member(
            name,
            block,
            float(weight),
            float(loss) if math.isfinite(loss) else None,
            head.failed_.get(name),
        )
        for name, block, weight, loss in rows
    ]


@dataclass(frozen=True)
class Predicted:
    """What a head says of the items that it was tested on, to compare new items with."""

    n: int
    counts: Mapping[str, int] = field(default_factory=dict)  # by class, or label; (none): no label
    quantiles: list[float] | None = field(default=None, metadata=ABSENT)  # of numbers: 0 to 100 %


@dataclass(frozen=True)
class AsReviewed:
    """Metrics against the labels that reviewers gave to test rows."""

    n_changed: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Seconds:
    """What training took."""

    one_fit: float  # median
    in_all: float


def _read(kind: type[Any]) -> Callable[[Mapping[str, Any]], Any]:
    return lambda data: kind(**known_fields(kind, data))


def _estimate(data: Mapping[str, Any]) -> Estimate:
    value = data["value"]
    return Estimate(
        **known_fields(Estimate, {**data, "value": math.nan if value is None else value})
    )


def _without_nan(value: Any) -> Any:
    """Return JSON in which an undefined score is null."""
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _conformal(data: Mapping[str, Any]) -> Conformal:
    on_test = data.get("on_test")
    known = known_fields(Conformal, data)
    return Conformal(**{**known, "on_test": on_test and _read(CoverageOnTest)(on_test)})


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadCard(Card):
    """What ``card.json`` of a head holds; docs/format.md lists its keys.

    As a dict it has the keys and plain values of the JSON: ``card["metrics"]["accuracy"]``.
    Values that cards of release 0.1 lack are None.
    """

    format: int
    head_id: str
    head: str  # name or estimator
    created: str  # ISO 8601, UTC
    dataset: str
    modality: str | None = field(default=None, metadata=ABSENT)
    columns: Mapping[str, str] | None = field(default=None, metadata=ABSENT)  # flag → column
    # Columns that the head reads beside vectors, and how they become numbers
    metadata_columns: MetadataCoding | None = field(default=None, metadata=ABSENT)
    encoder: str  # spec; baseline:tfidf for heads that read texts
    fingerprint: str  # of the encoder; empty for heads that read texts
    snapshot: Snapshot | None
    slice: str | None = None
    slice_digest: str | None = None
    # vectors | texts | blocks | blocks and texts: several inputs, each by itself | tap
    reads: str
    cut: int | None = field(default=None, metadata=ABSENT)  # of a tap: blocks below it
    dim: int
    search_space: str
    chosen: Mapping[str, Any]
    members: list[Member] | None = field(default=None, metadata=ABSENT)  # of a mix
    conformal: Conformal | None = None
    seed: int
    label: str
    task: Task = Task.MULTICLASS  # cards of 0.1 know nothing else
    classes: list[str]
    never_part: list[str]  # columns whose equal values stay together
    n_blocks: int
    evaluation: Evaluated
    n_items: int
    n_unlabelled: int
    reviews: str | None = None  # digest of what reviewers decided
    notes: list[str]
    estimand: str
    metrics: Mapping[str, Estimate]
    as_reviewed: AsReviewed | None = field(default=None, metadata=ABSENT)
    confusion: list[list[int]] | None = field(default=None, metadata=ABSENT)  # true × predicted
    predicted: Predicted | None = field(default=None, metadata=ABSENT)  # since December 2026
    twins: TwinsInTest | None = None
    seconds: Seconds
    machine: Mapping[str, Any] | None = field(default=None, metadata=ABSENT)
    versions: Mapping[str, str]
    head_sha256: str | None = field(default=None, metadata=ABSENT)  # None until written
    encoder_sha256: str | None = field(default=None, metadata=ABSENT)
    top_sha256: str | None = field(default=None, metadata=ABSENT)  # of heads that retrain
    unlike_sha256: str | None = field(default=None, metadata=ABSENT)  # None: it cannot tell
    card_sha256: str | None = field(default=None, metadata=ABSENT)

    needed: ClassVar[frozenset[str]] = frozenset(  # all that cards of 0.1 have, and that is read
        {
            "format", "head_id", "head", "created", "dataset", "encoder", "fingerprint", "reads",
            "dim", "search_space", "chosen", "seed", "label", "classes", "never_part",
            "evaluation", "n_items", "n_unlabelled", "notes", "estimand", "metrics", "versions",
        }
    )  # fmt: skip

    @classmethod
    def optional(cls) -> frozenset[str]:
        """Return the keys that a card may lack."""
        return frozenset(one.name for one in fields(cls)) - cls.needed

    def to_json(self) -> dict[str, Any]:
        """Return plain values; an undefined score is null."""
        found = super().to_json()
        scores = ("metrics", "as_reviewed", "twins")
        return found | {name: _without_nan(found[name]) for name in scores if name in found}

    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "snapshot": _read(Snapshot),
        "metadata_columns": MetadataCoding.from_json,
        "members": lambda data: [_read(Member)(one) for one in data],
        "conformal": _conformal,
        "task": Task,
        "evaluation": _read(Evaluated),
        "metrics": lambda data: {name: _estimate(one) for name, one in data.items()},
        "as_reviewed": _read(AsReviewed),
        "predicted": _read(Predicted),
        "twins": _read(TwinsInTest),
        "seconds": _read(Seconds),
    }


def predicted_by(card: HeadCard) -> Predicted | None:
    """Return what a head says of the items that it was tested on; None where no card says it."""
    if card.predicted is not None or card.confusion is None:
        return card.predicted
    counts = [sum(column) for column in zip(*card.confusion, strict=True)]
    return Predicted(sum(counts), dict(zip(card.classes, counts, strict=True)))


def digest_of(card: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of a card's JSON, apart from ``card_sha256``."""
    rest = {key: value for key, value in card.items() if key != "card_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
