"""A mix of heads on several inputs: where it helps, whether it harms, and what it costs.

Run: python -m benchmarks.heads mix   (some 20 minutes of one core)
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest, t
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline

from benchmarks.report import Row, at_least, at_most
from benchmarks.ten import IMAGES, PLACE, TEXTS, encoders_of, mobilenet, ten
from featurestore.store.store import Store, open_store
from heads.estimators.lda import LdaHead
from heads.estimators.logistic import LogisticHead
from heads.estimators.mix import MixHead
from heads.estimators.prototype import PrototypeHead
from heads.estimators.ridge import RidgeHead
from heads.estimators.tfidf import CountsTfidf, count_ngrams
from heads.labels.blocks import Blocks
from heads.labels.fitting import fit_head
from heads.labels.plan import make_plan
from heads.labels.shared import sharing
from heads.labels.tasks import texts_of
from heads.saved.common_items import load_shared

DRAWS, TIMED = 5, 2
FEW, SOME, MOST = 8, 300, 600  # labels: a class; in all; the most of "all"
MOST_ITEMS, MOST_TESTED = 6000, 2000
FIRST, SECOND, REFERENCE = "encoder", "second encoder", "reference"
PAIRS = (FIRST, REFERENCE), (FIRST, SECOND)
NULL_DRAWS = 1000
SEED = 26  # of the draws
Member = tuple[str, str, Any]


@dataclass(frozen=True, eq=False)
class _Set:
    """One data set: its inputs, with the heads that read each."""

    name: str
    inputs: Blocks
    codes: NDArray[np.intp]
    block: NDArray[np.intp]  # rows of one block stay together
    heads: dict[str, dict[str, Any]]  # by input; logistic regression first


@dataclass(eq=False)
class _Found:
    """What draws gave, by pair, data set and budget."""

    over_both: dict[tuple[tuple[str, str], str, str], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    over_members: dict[tuple[tuple[str, str], str, str], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    scores: dict[tuple[str, str], list[dict[str, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    seconds: dict[str, list[tuple[float, float]]] = field(  # of the mix, of its members
        default_factory=lambda: defaultdict(list)
    )


def mix() -> list[Row]:
    """Measure what a mix adds to the better of two inputs, draw by draw, and what it costs."""
    found = _Found()
    rows: list[Row] = []
    for one in _sets():
        budgets = [f"{FEW} a class", str(SOME), "all"]
        if one.name == "digits":
            budgets[0] = "100"
        for budget in budgets:
            for draw in range(DRAWS):
                _measure(one, budget, draw, found)
            n_before = len(rows)
            rows += _rows_of(one.name, budget, found)
            for row in rows[n_before:]:
                print(f"{row.what}: {row.value:.2f} {row.unit}", file=sys.stderr, flush=True)
    return [*_whole(found), *_costs(found), false_better(), *rows]


def _measure(one: _Set, budget: str, draw: int, found: _Found) -> None:
    """Fit mixes on one draw of labels; score them and their members on held-out items.

    In two of the draws members are fitted by themselves as well, to tell what a mix costs more.
    """
    train, test = _split(one, budget, draw)
    y, groups, truth = one.codes[train], one.block[train], one.codes[test]
    learned, tested = one.inputs[train], one.inputs[test]

    def score(predicted: NDArray[Any]) -> float:
        return float(np.mean([np.mean(predicted[truth == c] == c) for c in np.unique(truth)]))

    alone: dict[str, float] = {}
    for pair in PAIRS:
        if not set(pair) <= set(one.heads) or (budget == "all" and pair != PAIRS[0]):
            continue
        members = [
            (f"{kind} on {where}", where, head)
            for where in pair
            for kind, head in one.heads[where].items()
        ]
        mixed = MixHead(members)
        spent = _timed(lambda: mixed.fit(learned, y, groups))  # noqa: B023
        assert not mixed.failed_, mixed.failed_
        for name, where, head in zip(mixed.names_, mixed.blocks_, mixed.members_, strict=True):
            if name not in alone:
                alone[name] = score(head.predict(tested.block(where)))
        if draw < TIMED and pair == PAIRS[0]:
            kept = [one for one in members if one[0] in mixed.names_]
            with sharing():  # as comparisons fit heads, and as a mix does
                found.seconds[budget].append(
                    (
                        spent,
                        sum(
                            _timed(lambda: fit_head(clone(h), learned.block(w), y, groups))  # noqa: B023
                            for _, w, h in kept
                        ),
                    )
                )
        key = pair, one.name, budget
        value = score(mixed.predict(tested))
        firsts = [alone[f"{next(iter(one.heads[where]))} on {where}"] for where in pair]
        found.over_both[key].append(100 * (value - max(firsts)))
        found.over_members[key].append(100 * (value - max(alone[n] for n in mixed.names_)))
    found.scores[one.name, budget].append(alone)


def _timed(fit: Callable[[], object]) -> float:
    """Return the seconds of this thread, which other processes do not lengthen."""
    begin = time.thread_time()
    fit()
    return time.thread_time() - begin


def _split(one: _Set, budget: str, draw: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows that teach and rows that test: whole blocks, half of them each."""
    rng = np.random.default_rng([SEED, draw])
    n_blocks = int(one.block.max()) + 1
    is_test = (rng.permutation(n_blocks) % 2 == 0)[one.block]
    pool = rng.permutation(np.flatnonzero(~is_test))
    test = rng.permutation(np.flatnonzero(is_test))[:MOST_TESTED]
    if budget.endswith("a class"):
        classes = np.unique(one.codes)
        pool = np.concatenate([pool[one.codes[pool] == c][:FEW] for c in classes])
    elif budget != "all":
        pool = pool[: int(budget)]
    return np.sort(pool[: MOST if budget == "all" else None]), np.sort(test)


def _rows_of(name: str, budget: str, found: _Found) -> Iterator[Row]:
    """Yield the rows of one data set and budget."""
    labels = said(budget)
    scores = found.scores[name, budget]
    for pair, bar in zip(PAIRS, (-0.5, -0.5), strict=True):
        gains = found.over_both.get((pair, name, budget))
        if not gains:
            continue
        firsts = [[s[next(k for k in s if k.endswith(f" on {w}"))] for s in scores] for w in pair]
        means = " and ".join(f"{100 * np.mean(one):.1f}" for one in firsts)
        best = np.mean(found.over_members[pair, name, budget])
        unit = f"points {_spread(gains)}; alone {means} %; over the best member {best:+.1f}"
        what = f"{name}, {labels}: mix of {' and '.join(pair)} over the better"
        yield at_least(what, float(np.mean(gains)), unit, bar)


def said(budget: str) -> str:
    """Return a budget as a reader wants it."""
    if budget == "all":
        return f"all labels, at most {MOST:,}"
    return f"{FEW} labels a class" if budget.endswith("a class") else f"{budget} labels"


def _spread(gains: Sequence[float]) -> str:
    """Say the interval of a mean of draws, and the draws."""
    half = t.ppf(0.975, len(gains) - 1) * np.std(gains, ddof=1) / len(gains) ** 0.5
    mean = np.mean(gains)
    draws = " ".join(f"{gain:+.1f}" for gain in gains)
    return f"({mean - half:+.1f} to {mean + half:+.1f}; draws {draws})"


def _whole(found: _Found) -> Iterator[Row]:
    """Yield what holds over all data sets."""
    for pair in PAIRS:
        cells = {key: gains for key, gains in found.over_both.items() if key[0] == pair}
        gains = [gain for one in cells.values() for gain in one]
        worst = min(cells, key=lambda key: float(np.mean(cells[key])))
        what = f"mix of {' and '.join(pair)} over the better"
        unit = f"points, {len(gains)} draws on {len({key[1] for key in cells})} data sets"
        value = float(np.mean(gains))
        yield at_least(what, value, unit, 0.5) if pair == PAIRS[1] else Row(what, value, unit)
        least = float(np.mean(cells[worst]))
        yield at_least(f"{what}: the worst ({worst[1]}, {said(worst[2])})", least, "points", -0.5)
        share = float(np.mean(np.array(gains) < -1))
        unit = f"of draws (the worst: {min(gains):+.1f} points)"
        yield at_most(f"{what}: draws that lose more than a point", share, unit, 0.05)
        over = [g for key, one in found.over_members.items() if key[0] == pair for g in one]
        what = f"mix of {' and '.join(pair)} over its best member, known only afterwards"
        yield Row(what, float(np.mean(over)), f"points (the worst: {min(over):+.1f})")
    snips = [
        g for key, one in found.over_both.items() if key[:2] == (PAIRS[0], "snips") for g in one
    ]
    value = float(np.mean(snips))
    yield Row("snips: mix with TF-IDF over the better", value, "points", "> 0", value > 0)
    digits = float(np.mean(found.over_both[PAIRS[0], "digits", "100"]))
    what = "digits 8 × 8, 100 labels: mix of MobileNetV2 and pixels over the better"
    yield at_least(what, digits, "points", 2)


def _costs(found: _Found) -> Iterator[Row]:
    for budget, pairs in found.seconds.items():
        spent, members = np.sum(pairs, axis=0)
        unit = f"of the members' seconds ({members:.0f} s)"
        what = f"what a mix costs beyond fitting its members once, {said(budget)}"
        yield at_most(what, float(spent / members - 1), unit, 0.2)


def false_better() -> Row:
    """Count how often a mix seems better where nothing can be learned: labels are random."""
    rng = np.random.default_rng(26)
    members: list[Member] = [(name, name, PrototypeHead()) for name in ("a", "b")]
    n_better = 0
    for _ in range(NULL_DRAWS):
        inputs = Blocks({name: rng.normal(size=(260, 5)) for name in ("a", "b")})
        codes = rng.integers(2, size=260)
        mixed = MixHead(members, few_rows=0).fit(inputs[:60], codes[:60])
        tested, truth = inputs[60:], codes[60:]
        right = mixed.predict(tested) == truth
        own = mixed.members_[0].predict(tested.block("a")) == truth
        gained, lost = int((right & ~own).sum()), int((own & ~right).sum())
        if gained > lost:
            n_better += binomtest(gained, gained + lost).pvalue < 0.05
    unit = f"of {NULL_DRAWS:,} draws (exact McNemar test of the estimators, not heads.compare)"
    what = "a mix of two equal members that seems better, labels at random"
    return at_most(what, n_better / NULL_DRAWS, unit, 0.05)


def _sets() -> Iterator[_Set]:
    yield _digits()
    store = ten()
    for name in (*IMAGES, *TEXTS):
        yield _set(store, name)


def _set(store: Store, name: str) -> _Set:
    """Return two encoders' vectors, and what needs no pretraining: raw pixels or TF-IDF."""
    tables, _ = load_shared([store.view(name, spec) for spec in encoders_of(name)])
    plan = make_plan(tables[0])
    rows = np.sort(np.random.default_rng(0).permutation(len(plan.rows))[:MOST_ITEMS])
    places, codes = plan.rows[rows], plan.target.values[rows]
    block = np.unique(plan.block[rows], return_inverse=True)[1]
    vectors = [table.vectors[places] for table in tables]
    heads = {FIRST: _heads(), SECOND: _heads()}
    if name in TEXTS:
        counts, n_words = count_ngrams(texts_of(tables[0])[places].tolist())
        vectors.append(counts)
        heads[REFERENCE] = {"logistic": make_pipeline(CountsTfidf(n_words), LogisticHead("none"))}
    else:
        heads[REFERENCE] = {"logistic": LogisticHead()}
    blocks = dict(zip((FIRST, SECOND, REFERENCE), vectors, strict=True))
    return _Set(name, Blocks(blocks), codes, block, heads)


def _heads() -> dict[str, Any]:
    """Return what a mix puts on vectors of few columns."""
    return {"logistic": LogisticHead(), "lda": LdaHead(), "ridge": RidgeHead()}


def _digits() -> _Set:
    """Return scikit-learn's digits: their 64 pixels, and MobileNetV2's vectors of them."""
    pixels, codes = load_digits(return_X_y=True)
    folder = Path(f"{PLACE}-digits-files")
    for number, (digit, code) in enumerate(zip(pixels, codes, strict=True)):
        file = folder / str(code) / f"{number:04d}.png"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((digit.reshape(8, 8) * 255 / 16).astype(np.uint8)).save(file)
    store = open_store(Path(f"{PLACE}-digits"), create=True)
    store.embed([folder], dataset="digits", encoders=[mobilenet()])
    table = store.view("digits", mobilenet()).load()
    order = np.argsort([Path(item).stem for item in table.ids.tolist()])
    inputs = Blocks({FIRST: table.vectors[order], REFERENCE: pixels.astype(np.float32)})
    heads = {FIRST: _heads(), REFERENCE: _heads()}
    return _Set("digits", inputs, codes.astype(np.intp), np.arange(len(codes)), heads)
