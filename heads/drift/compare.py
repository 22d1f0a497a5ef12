"""Whether what came in differs from what a head learned from, each test beside its chance level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.terms.intervals import wilson
from featurestore.terms.words import counted
from heads.labels.tasks import Task
from heads.saved.answer_log import Logged
from heads.saved.bundle import FittedHead
from heads.saved.card import NO_LABEL, Predicted, predicted_by
from heads.saved.unlike import Unlike
from heads.transfer.shift import domain_shift

ALPHA = 0.05
LEAST_ITEMS = 20  # of fewer nothing is said
N_DRAWS = 4999
MOST_NAMED = 10


@dataclass(frozen=True)
class Test:
    """One question, its figure beside what chance gives, and how likely chance is to give it."""

    __test__ = False  # no test of pytest's
    name: str  # unlike | farther | predictions | vectors
    sentence: str
    value: float
    chance: float  # 95 of 100 times what comes in without drift stays within
    p: float


@dataclass(frozen=True)
class ClassShare:
    """How often a class is predicted now, and was of held-out training items."""

    name: str
    n: int
    share: float
    low: float  # 95 % (Wilson)
    high: float
    before: float
    p: float  # adjusted for all classes (Holm)

    def sentence(self) -> str:
        """Say both shares."""
        span = f"{self.low:.1%} to {self.high:.1%}"
        return f"    {self.name}: {self.share:.1%} ({span}), was {self.before:.1%}"


@dataclass(frozen=True)
class UnlikeItem:
    """An item that lies far out."""

    item_id: str
    at: datetime
    share: float  # of the training items that lie less far out
    predicted: Any
    text: str | None = None
    path: str | None = None
    picture: Path | None = None  # a file that is there


@dataclass(frozen=True)
class Day:
    """Items of one day, UTC."""

    day: str  # ISO 8601
    n: int
    n_unlike: int
    mean_place: float  # mean share of training items that lie less far out; 0.5 without drift


@dataclass(frozen=True, eq=False)
class Drift:
    """What came in, compared with what the head learned from."""

    head_id: str
    n_items: int
    first: datetime | None
    last: datetime | None
    tests: list[Test]
    classes: list[ClassShare]
    items: list[UnlikeItem]  # the farthest first
    days: list[Day]
    alpha: float = ALPHA
    notes: list[str] = field(default_factory=list)

    @property
    def is_enough(self) -> bool:
        """Whether there are items enough to tell."""
        return self.n_items >= LEAST_ITEMS and bool(self.tests)

    @property
    def found(self) -> list[Test]:
        """Tests that chance does not explain; all together raise a false alarm in ``alpha``."""
        if not self.is_enough:
            return []
        return [one for one in self.tests if one.p * len(self.tests) <= self.alpha]

    @property
    def is_drift(self) -> bool:
        """Whether what came in differs by more than chance."""
        return bool(self.found)

    def sentences(self) -> list[str]:
        """Say what was found, and what to do."""
        span = "" if self.first is None or self.last is None else f" of {_span(self)}"
        what = f"{counted(self.n_items, 'item')}{span}"
        if not self.is_enough:
            return [f"Too few to tell: {what}; a comparison needs {LEAST_ITEMS}.", *self.notes]
        verdict = "Drift" if self.is_drift else "No drift seen"
        said = [f"{verdict}: {what}."]
        found = self.found
        for test in self.tests:
            said.append(f"{'* ' if test in found else '  '}{test.sentence}.")
            if test in found and test.name == "predictions":
                said += [one.sentence() for one in self.classes if one.p <= self.alpha][:MOST_NAMED]
        if found:
            said.append(
                f"* is more than chance: without drift one of {len(self.tests)} such lines has a "
                f"star in {self.alpha:.0%} of all weeks."
            )
        return said + self.notes

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "head": self.head_id,
            "n_items": self.n_items,
            "first": None if self.first is None else self.first.isoformat(),
            "last": None if self.last is None else self.last.isoformat(),
            "is_enough": self.is_enough,
            "is_drift": self.is_drift,
            "alpha": self.alpha,
            "tests": [{**vars(one), "is_found": one in self.found} for one in self.tests],
            "classes": [vars(one) for one in self.classes],
            "items": [
                {
                    **vars(one),
                    "at": one.at.isoformat(),
                    "picture": None if one.picture is None else str(one.picture),
                }
                for one in self.items
            ],
            "days": [vars(one) for one in self.days],
            "notes": self.notes,
        }


def drift(
    head: FittedHead,
    log: Logged,
    *,
    training: NDArray[np.float32] | None = None,
    alpha: float = ALPHA,
    seed: int = 0,
) -> Drift:
    """Compare the logged answers of a head with what it learned from.

    Up to four tests, each at ``alpha`` over their number (Bonferroni): how many items are unlike
    the training items (`Unlike.by_chance`); whether they lie farther out in general, by the rank
    sum of items and training items [1]_; whether other classes are predicted than of held-out
    training items, by χ² with the counts dealt anew 4,999 times (numbers: by Kolmogorov-Smirnov);
    and whether a linear classifier tells the vectors apart (`domain_shift`). They take the items
    as independent: many pictures of one thing look like drift.

    Parameters
    ----------
    training : ndarray of shape (n, dim), optional
        What the head read of its training items; needed for the last, with vectors in the log.

    References
    ----------
    .. [1] Mann and Whitney, Annals of Mathematical Statistics 18, 1947, 50-60.
    """
    tests, notes = [], []
    if len(log) >= LEAST_ITEMS:
        tests += _of_places(log)
        if not tests:
            notes.append(head.cannot_tell or "The log does not say how far out the items lie.")
    classes: list[ClassShare] = []
    known = predicted_by(head.card)
    if known is None:
        notes.append(
            "What the head says of its training items is not in this bundle, so that its "
            "predictions are not compared: train it again."
        )
    elif len(log) >= LEAST_ITEMS and (said := _said(head, log)):
        test, classes = _of_predictions(said, known, np.random.default_rng(seed))
        tests.append(test)
    if training is not None:
        _, vectors = log.vectors(training.shape[1])
        if len(vectors) >= LEAST_ITEMS and len(training) >= LEAST_ITEMS:
            tests.append(_of_vectors(training, vectors, seed))
        else:
            notes.append("The log holds too few vectors to compare (--log-vectors keeps them).")
    if log.n_again:
        notes.append(f"{counted(log.n_again, 'answer')} about content that came again count once.")
    if log.n_odd:
        notes.append(f"{counted(log.n_odd, 'line')} of the log cannot be read and are left out.")
    first, last = (min(log.at), max(log.at)) if len(log) else (None, None)
    return Drift(
        head.head_id, len(log), first, last, tests, classes, _farthest(log), _days(log), alpha,
        notes,
    )  # fmt: skip


def _of_places(log: Logged) -> list[Test]:
    """Compare how far out items lie with the training items, whose places are spread evenly."""
    shares = log.unlike[np.isfinite(log.unlike)]
    if log.n_training is None or len(shares) < LEAST_ITEMS:
        return []
    from scipy.stats import betabinom

    found, n, m = Unlike(shares, log.n_training), len(shares), log.n_training
    n_unlike = int(found.is_unlike.sum())
    tests = []
    n_beyond = m + 1 - round(found.least * m)
    if n_beyond >= 1:
        p = float(betabinom(n, n_beyond, m + 1 - n_beyond).sf(n_unlike - 1))
        sentence = (
            f"{n_unlike:,} of {n:,} items ({n_unlike / n:.1%}) are unlike the training items "
            f"(chance: up to {found.by_chance:,})"
        )
        tests.append(Test("unlike", sentence, n_unlike / n, found.by_chance / n, p))
    place = float(shares.mean())
    spread = float(np.sqrt((n + m + 1) / (12 * n * m)))
    limit = 0.5 + NormalDist().inv_cdf(1 - ALPHA) * spread
    p = 1 - NormalDist().cdf((place - 0.5) / spread)
    sentence = (
        f"an item lies farther out than a training item in {place:.1%} of pairs (chance: up to "
        f"{limit:.1%})"
    )
    return [*tests, Test("farther", sentence, place, limit, p)]


def _said(head: FittedHead, log: Logged) -> list[Any]:
    """Return what was predicted, one entry a label; without those that were not."""
    kept = [one for one in log.predicted if one is not None]
    if head.task is Task.REGRESSION:
        return [float(one) for one in kept if isinstance(one, (int, float))]
    return kept


def _of_predictions(
    said: Sequence[Any], known: Predicted, rng: np.random.Generator
) -> tuple[Test, list[ClassShare]]:
    if known.quantiles is not None:
        return _of_numbers(said, known.quantiles, known.n), []
    names = sorted({*known.counts, *(name for one in said for name in _names(one))})
    now = Counter(name for one in said for name in _names(one))
    here = np.array([now[name] for name in names])
    there = np.array([known.counts.get(name, 0) for name in names])
    drawn = rng.multivariate_hypergeometric(here + there, int(here.sum()), size=N_DRAWS)
    statistics = _chi_square(np.vstack([here, drawn]), here + there)
    p = float(np.mean(statistics >= statistics[0] - 1e-9))
    limit = float(np.quantile(statistics[1:], 1 - ALPHA))
    sentence = (
        f"the classes predicted differ from those of held-out training items by χ² = "
        f"{statistics[0]:.1f} (chance: up to {limit:.1f})"
    )
    shares = _class_shares(names, here, there)
    return Test("predictions", sentence, float(statistics[0]), limit, p), shares


def _names(one: object) -> list[str]:
    """Return the labels of one prediction; none of several counts as one of its own."""
    return ([str(name) for name in one] or [NO_LABEL]) if isinstance(one, list) else [str(one)]


def _chi_square(counts: NDArray[Any], both: NDArray[Any]) -> NDArray[np.float64]:
    """Return χ² of (n, k) counts of one side, given those of both sides together, (k,)."""
    share = counts[0].sum() / both.sum()
    expected = both * share
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = (counts - expected) ** 2 / (expected * (1 - share))
    return np.asarray(np.where(both > 0, terms, 0).sum(axis=1))


def _class_shares(
    names: Sequence[str], here: NDArray[Any], there: NDArray[Any]
) -> list[ClassShare]:
    """Return the share of each class, those that moved most surely first."""
    from scipy.stats import fisher_exact

    n, m = int(here.sum()), int(there.sum())
    p = [
        float(fisher_exact([[a, n - a], [b, m - b]]).pvalue)
        for a, b in zip(here.tolist(), there.tolist(), strict=True)
    ]
    order = np.argsort(p, kind="stable")
    holm = np.maximum.accumulate([min(1.0, p[k] * (len(p) - rank)) for rank, k in enumerate(order)])
    return [
        ClassShare(
            names[k], int(here[k]), here[k] / n, *wilson(here[k] / n, n), there[k] / max(m, 1), q
        )
        for k, q in zip(order.tolist(), holm.tolist(), strict=True)
    ]


def _of_numbers(said: Sequence[float], quantiles: Sequence[float], n_before: int) -> Test:
    """Compare numbers with those of held-out training items, of which quantiles are known."""
    from scipy.stats import kstwobign

    values = np.sort(np.asarray(said, dtype=np.float64))
    levels = np.linspace(0, 1, len(quantiles))
    before = np.interp(values, quantiles, levels, left=0.0, right=1.0)
    ranks = np.arange(1, len(values) + 1) / len(values)
    gap = float(max(np.max(ranks - before), np.max(before - ranks + 1 / len(values))))
    size = np.sqrt(len(values) * n_before / (len(values) + n_before))
    limit = float(kstwobign.ppf(1 - ALPHA) / size)
    sentence = (
        f"predicted numbers (median {np.median(values):.4g}; of held-out training items "
        f"{np.interp(0.5, levels, quantiles):.4g}) differ by {gap:.2f} of the items at most "
        f"(chance: up to {limit:.2f})"
    )
    return Test("predictions", sentence, gap, limit, float(kstwobign.sf(gap * size)))


def _of_vectors(training: NDArray[np.float32], vectors: NDArray[np.float32], seed: int) -> Test:
    training = training.astype(np.float16).astype(np.float32)  # as the log has them
    found = domain_shift(training, vectors, between="training items and these", seed=seed)
    sentence = (
        f"a linear classifier can separate them from the training items: A-distance "
        f"{found.a_distance:.2f} of 2 (chance: up to {found.floor:.2f})"
    )
    return Test("vectors", sentence, found.a_distance, found.floor, found.p)


def _farthest(log: Logged) -> list[UnlikeItem]:
    """Return the items that lie farthest out, if they are unlike the training items."""
    if log.n_training is None:
        return []
    known = np.nan_to_num(log.unlike, nan=-1.0)
    least = Unlike(known, log.n_training).least
    order = [n for n in np.argsort(-known, kind="stable").tolist() if known[n] >= least - 1e-12]
    return [
        UnlikeItem(
            log.ids[n], log.at[n], float(known[n]), log.predicted[n], _text(log.rows[n], "text"),
            _text(log.rows[n], "path"), log.picture(n),
        )
        for n in order[: 10 * MOST_NAMED]
    ]  # fmt: skip


def _text(row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    return value if isinstance(value, str) else None


def _days(log: Logged) -> list[Day]:
    days = [f"{one.astimezone(UTC):%Y-%m-%d}" for one in log.at]
    found = []
    for day in sorted(set(days)):
        shares = log.unlike[[one == day for one in days]]
        known = shares[np.isfinite(shares)]
        n_unlike = 0
        if log.n_training is not None and len(known):
            n_unlike = int(Unlike(known, log.n_training).is_unlike.sum())
        mean = float(known.mean()) if len(known) else float("nan")
        found.append(Day(day, len(shares), n_unlike, mean))
    return found


def _span(one: Drift) -> str:
    assert one.first is not None
    assert one.last is not None
    first, last = f"{one.first:%Y-%m-%d}", f"{one.last:%Y-%m-%d}"
    return first if first == last else f"{first} to {last}"
