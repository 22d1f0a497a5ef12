"""A trial of a new encoder on a sample: searches, predictions, scores, and what it would cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.encoders.trust import Trust
from featurestore.errors import BadName, NotEnoughData
from featurestore.terms.specs import encoder_label
from heads.catalogue.table import default_heads
from heads.experiments.compare import compare
from heads.labels.options import PlanOptions
from heads.labels.tasks import Task
from heads.measures.comparison import Comparison, Difference, number, unit_of
from heads.saved.ground import ground_of
from heads.upgrade.mapping import K, Vectors, chosen_map, nearest, overlap, recall
from heads.upgrade.sample import draw

if TYPE_CHECKING:
    from featurestore.store.view import View

SAMPLE = 2000
_MOST_PAIRS = 5


@dataclass(frozen=True)
class Searches:
    """What becomes of the ten nearest items."""

    same: float  # share of the old ten that are among the new ten
    mapped: float  # recall of the new ten by old vectors through the map
    unmapped: float | None  # the same without the map; None: vectors of other lengths
    chance: float
    map: str  # procrustes | ridge


@dataclass(frozen=True)
class Flips:
    """Predictions that change, of items that their head did not learn from."""

    n: int
    n_items: int
    pairs: list[tuple[str, str, int]]  # old class, new class, how many; the most frequent first
    n_mended: int  # wrong before, right now
    n_broken: int  # right before, wrong now


@dataclass(frozen=True, eq=False)
class Trial:
    """What a new encoder would change."""

    dataset: str
    old: str
    new: str
    n_items: int  # of the sample
    n_all: int
    searches: Searches
    label: str | None
    difference: Difference | None  # the best head on the new less the best on the old
    scores: tuple[float, float] | None  # old, new
    flips: Flips | None
    n_bytes: int  # of all vectors by the new encoder
    seconds: float | None  # to encode all items, one after another, on this machine
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """Better | worse | open | unknown (no labels)."""
        if self.difference is None:
            return "unknown"
        _, low, high = self.difference.gain
        return "better" if low > 0 else "worse" if high < 0 else "open"

    def sentences(self) -> list[str]:
        """Say what would change, and what to do."""
        old, new = encoder_label(self.old), encoder_label(self.new)
        found = self.searches
        said = [f"{new} in place of {old} for {self.dataset}: a trial on {self.n_items:,} items."]
        if self.difference is not None and self.scores is not None:
            metric = self.difference.metric
            value, low, high = self.difference.gain
            unit, name = unit_of(metric), metric.replace("_", " ")
            said.append(
                f"Heads on {self.label!r}: {number(self.scores[0], metric)} → "
                f"{number(self.scores[1], metric)} {name}, {number(value, metric, '+')} {unit} "
                f"({number(low, metric, '+')} to {number(high, metric, '+')})."
            )
        if self.flips is not None:
            said += _flips_said(self.flips)
        said.append(
            f"Searches: of the ten nearest items, {found.same:.0%} stay the same (chance "
            f"{found.chance:.1%})."
        )
        without = "" if found.unmapped is None else f"; as they are {found.unmapped:.0%}"
        said.append(
            f"Old query vectors find {found.mapped:.0%} of the new ten through a map "
            f"({found.map}, learned from other items){without}."
        )
        said.append(f"Cost: {_bytes(self.n_bytes)}{self._time()} for {self.n_all:,} items.")
        return said + self.notes + [self._advice(old, new)]

    def _time(self) -> str:
        if self.seconds is None:
            return ""
        minutes = self.seconds / 60
        long = f"{minutes:,.0f} minutes" if minutes >= 2 else f"{self.seconds:,.0f} seconds"
        return f" and {long} at most (measured one item after another; `embed` is faster)"

    def _advice(self, old: str, new: str) -> str:
        return {
            "better": f"Take {new}: it is better, and this is more than chance.",
            "worse": f"Stay with {old}: {new} is worse, and this is more than chance.",
            "open": f"Stay with {old}: no difference can be seen on {self.n_items:,} items.",
            "unknown": "Which is better cannot be said without labels: compare some searches "
            "yourself, or label a hundred items (featurestore suggest).",
        }[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        difference = self.difference
        return {
            "dataset": self.dataset, "old": self.old, "new": self.new, "verdict": self.verdict,
            "n_items": self.n_items, "n_all": self.n_all, "searches": vars(self.searches),
            "label": self.label,
            "difference": None if difference is None else {
                "old": list(difference.second), "new": list(difference.first),
                "metric": difference.metric, "value": difference.gain[0],
                "low": difference.gain[1], "high": difference.gain[2],
            },
            "scores": self.scores, "flips": None if self.flips is None else vars(self.flips),
            "n_bytes": self.n_bytes, "seconds": self.seconds, "notes": self.notes,
        }  # fmt: skip


def try_encoder(
    view: View,
    spec: str,
    *,
    n_items: int = SAMPLE,
    label: str | None = None,
    seed: int = 0,
    trust: Trust = False,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> Trial:
    """Try another encoder in the place of a view's, on a sample; nothing of the views changes.

    Parameters
    ----------
    view : View
        Of the encoder that is used now.
    spec : str
        The new one.
    n_items : int
        Labeled items first.
    label : str, optional
        Label column; default the data set's main label. Without labels there are no heads.

    Raises
    ------
    BadName
        If both are one encoder.
    NotEnoughData, UnknownEncoder, ModalityMismatch, NotTrusted
        As of `heads.upgrade.sample.draw`.
    """
    if str(view.spec) == spec:
        raise BadName(f"{spec} is the encoder that is used now: name another")
    sample = draw(view, spec, n_items, label=label, seed=seed, trust=trust, progress=progress)
    old, new = sample.old.table, sample.new.table
    if sample.old.fingerprint == sample.new.fingerprint:
        raise BadName(f"{spec} and {view.spec} are one encoder: name another")
    notes = []
    if sample.n_failed:
        notes.append(f"{sample.n_failed:,} items of the sample cannot be read by the new encoder.")
    label = label or old.label_column
    comparison = None
    if label is None:
        notes.append("The data set has no labels: heads were not compared.")
    else:
        try:
            plan = ground_of([sample.old], PlanOptions(label)).plan
            comparison = compare(
                [sample.old, sample.new],  # type: ignore[list-item]
                default_heads(plan.task), label=label, seed=seed, save=False, progress=progress,
            )  # fmt: skip
        except NotEnoughData as error:
            notes.append(f"Heads were not compared: {error}.")
    n_all = view.now().n_rows
    difference, scores, flips = _of_heads(comparison, sample.old.spec, sample.new.spec)
    return Trial(
        view.dataset.name, str(view.spec), str(sample.new.spec), len(old), n_all,
        _searches(old.vectors, new.vectors, seed), label, difference, scores, flips,
        n_all * new.dim * 4, None if sample.seconds is None else n_all * sample.seconds, notes,
    )  # fmt: skip


def _searches(old: Vectors, new: Vectors, seed: int) -> Searches:
    found, _, rows = chosen_map(old, new, seed)
    k = min(K, len(old) - 1)
    same = overlap(nearest(old[rows], old, rows, k), nearest(new[rows], new, rows, k))
    unmapped = recall(old[rows], new, rows) if old.shape[1] == new.shape[1] else None
    return Searches(same, found.recall, unmapped, k / (len(old) - 1), found.name)


def _of_heads(
    comparison: Comparison | None, old: object, new: object
) -> tuple[Difference | None, tuple[float, float] | None, Flips | None]:
    """Return the difference of the best heads, their scores, and what they predict otherwise."""
    if comparison is None:
        return None, None, None
    best = {
        spec: next(row for row in comparison.rows() if row["encoder"] == str(spec))
        for spec in (old, new)
    }
    first, second = ((str(spec), best[spec]["head"]) for spec in (new, old))
    difference = comparison.difference(first, second, n_claims=comparison.n_claims)
    scores = best[old]["value"], best[new]["value"]
    if comparison.task is not Task.MULTICLASS:
        return difference, scores, None
    before, now = (comparison.cell(*one).report for one in (second, first))
    is_other = before.predicted != now.predicted
    names = np.array(comparison.classes)
    pairs = Counter(
        zip(names[before.predicted[is_other]], names[now.predicted[is_other]], strict=True)
    )
    was_right, is_right = before.predicted == before.truth, now.predicted == now.truth
    return (
        difference,
        scores,
        Flips(
            int(is_other.sum()),
            len(is_other),
            [(str(a), str(b), n) for (a, b), n in pairs.most_common(_MOST_PAIRS)],
            int((~was_right & is_right).sum()),
            int((was_right & ~is_right).sum()),
        ),
    )


def _flips_said(flips: Flips) -> list[str]:
    said = [
        f"Predictions: {flips.n:,} of {flips.n_items:,} ({flips.n / max(flips.n_items, 1):.1%}) "
        f"change; {flips.n_mended:,} become right, {flips.n_broken:,} become wrong."
    ]
    if flips.pairs:
        named = ", ".join(f"{a} → {b}: {n:,}" for a, b, n in flips.pairs)
        said.append(f"  Most often {named}.")
    return said


def _bytes(n: int) -> str:
    return f"{n / 1e9:,.1f} GB" if n >= 1e9 else f"{n / 1e6:,.1f} MB"
