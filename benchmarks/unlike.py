"""Items unlike the training items: found where they are, and seldom where they are not.

Run: python -m benchmarks.heads unlike   (some ten minutes the first time on 2 cores)
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from benchmarks.report import Row, at_least, at_most
from benchmarks.ten import DATA, IMAGES, PLACE, TEXTS, minilm, mobilenet
from featurestore.pipeline.listing_run import Selection
from featurestore.store.store import open_store
from featurestore.store.view import View
from featurestore.terms.vectors import unit_rows
from heads.labels.plan import make_plan
from heads.saved.unlike import Familiar

SAMPLE = 2000  # items of each data set
DRAWS = 10  # of four fifths that teach and a fifth that tests
NEIGHBOR = 5
NAMES = (
    "neu_steel",
    "hurricane_damage",
    "blood_cells",
    "banking77",
    "snips",
    "medical_abstracts",
    "sms_spam",
)
PAIRS = (
    ("neu_steel", "hurricane_damage"),
    ("hurricane_damage", "neu_steel"),
    ("blood_cells", "hurricane_damage"),
    ("banking77", "snips"),
    ("snips", "banking77"),
    ("medical_abstracts", "sms_spam"),
    ("sms_spam", "medical_abstracts"),
)
FAR, ALARM = 0.95, 0.05


@dataclass(frozen=True, eq=False)
class _Known:
    """Vectors with a class, (n, dim), and which of them stay together."""

    vectors: NDArray[np.float32]
    codes: NDArray[np.intp]
    block: NDArray[np.intp]

    def take(self, rows: NDArray[np.bool_]) -> _Known:
        block = np.unique(self.block[rows], return_inverse=True)[1]
        return _Known(self.vectors[rows], self.codes[rows], block)


def unlike() -> list[Row]:
    """Measure false alarms on the same data, and what is found of other data."""
    rows = _digits()
    found = {}
    for name in NAMES:
        for view in _views(name):
            short = view.spec.label.rpartition("/")[2].replace("model", "MiniLM")
            found[name, short] = _known(view)
            print(name, short, len(found[name, short].codes), file=sys.stderr, flush=True)
    for (name, encoder), known in found.items():
        rows += _same(f"{name} on {encoder}", known)
    for first, second in PAIRS:
        for name, encoder in found:
            if name == first:
                what = f"{first} teaches, {second} comes, on {encoder}"
                rows += _other(what, found[first, encoder], found[second, encoder].vectors)
    for name, encoder in found:
        known = found[name, encoder]
        if name == "banking77":
            what = f"banking77 without a quarter of its intents, which come, on {encoder}"
            rows += _without(what, known, known.codes % 4 == 0)
        if name == "neu_steel":
            for code in range(6):
                what = f"neu_steel without class {code}, which comes, on {encoder}"
                rows += _without(what, known, known.codes == code)
    return rows


def _digits() -> list[Row]:
    """Measure on digits of 8 × 8 pixels: what two of them that were never taught look like."""
    vectors, digits = load_digits(return_X_y=True)
    codes = digits.astype(np.intp)
    known = _Known(vectors.astype(np.float32), codes, np.arange(len(codes)))
    rows = _same("digits on pixels", known)
    for pair in ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9)):
        what = "digits without {} and {}, which come, on pixels".format(*pair)
        rows += _without(what, known, np.isin(codes, pair))
    return rows


def _without(what: str, known: _Known, is_new: NDArray[np.bool_]) -> list[Row]:
    """Measure what is found of classes that were never taught."""
    return _other(what, known.take(~is_new), known.vectors[is_new], is_near=True)


def _views(name: str) -> list[View]:
    """Return views of a sample of a data set: one pretrained encoder, and one of ours."""
    sources, options = {**IMAGES, **TEXTS}[name]
    encoders = [minilm(), "builtin:tiny-text"] if name in TEXTS else [mobilenet()]
    store = open_store(Path(f"{PLACE}-unlike"), create=True)
    store.embed(
        [DATA / one for one in sources],
        dataset=name,
        encoders=encoders,
        source_options=options,
        selection=Selection(sample=SAMPLE),
    )
    return [store.view(name, spec) for spec in encoders]


def _known(view: View) -> _Known:
    items = view.load()
    plan = make_plan(items)
    return _Known(items.vectors[plan.rows], plan.target.values, plan.block)


def _same(what: str, known: _Known) -> list[Row]:
    """Measure false alarms: items of the same data, in blocks that teach nothing."""
    ours, plain = [], []
    n_blocks = int(known.block.max()) + 1
    for draw in range(DRAWS):
        rng = np.random.default_rng([23, draw])
        is_test = (rng.permutation(n_blocks) % 5 == 0)[known.block]
        taught, tested = known.take(~is_test), known.take(is_test)
        familiar = _fit(taught)
        ours.append(familiar(tested.vectors).share)
        limit, near = _near(taught, tested.vectors)
        plain.append(float((near > limit).mean()))
    # Tested blocks, and as many that set the limit again: both are drawn.
    error = (ALARM * (1 - ALARM) * (1 / n_blocks + 1 / len(known.codes))) ** 0.5
    spread = 2 * max(error, float(np.std(ours, ddof=1)) / DRAWS**0.5)
    unit = f"share at 95 % (plain kNN {np.mean(plain):.3f})"
    return [at_most(f"false alarms, {what}", float(np.mean(ours)), unit, round(ALARM + spread, 4))]


def _other(
    what: str, known: _Known, others: NDArray[np.float32], *, is_near: bool = False
) -> list[Row]:
    """Measure what is found of other data, beside a fifth of the same that taught nothing."""
    rng = np.random.default_rng(23)
    is_test = (rng.permutation(int(known.block.max()) + 1) % 5 == 0)[known.block]
    taught, tested = known.take(~is_test), known.take(is_test)
    familiar = _fit(taught)
    share = familiar(others).share
    ours = _auroc(familiar(tested.vectors).shares, familiar(others).shares)
    limit, near_same = _near(taught, tested.vectors)
    _, near = _near(taught, others)
    plain = float((near > limit).mean())
    unit = f"share at 95 % (plain kNN {plain:.3f})"
    is_held = plain >= 0.8 and not is_near
    found = (
        at_least(f"found, {what}", share, unit, 0.8)
        if is_held
        else Row(f"found, {what}", share, unit)
    )
    return [
        found,
        Row(f"AUROC, {what}", ours, f"AUROC (plain kNN {_auroc(near_same, near):.4f})"),
    ]


def _fit(known: _Known) -> Familiar:
    familiar = Familiar.fit(known.vectors, known.codes, known.block)
    assert familiar is not None
    return familiar


def _near(
    taught: _Known, vectors: NDArray[np.float32]
) -> tuple[float, NDArray[np.floating[np.float32]]]:
    """Return cosine distances (n,) to the fifth nearest, and what 95 % of the taught stay below.

    A taught item's own block is not among its neighbors.
    """
    unit = unit_rows(taught.vectors)
    own = unit @ unit.T
    own[taught.block[:, None] == taught.block] = -1
    limit = float(np.quantile(1 - np.sort(own, axis=1)[:, -NEIGHBOR], FAR))
    return limit, 1 - np.sort(unit_rows(vectors) @ unit.T, axis=1)[:, -NEIGHBOR]


def _auroc(same: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    truth = np.repeat([0, 1], [len(same), len(other)])
    return float(roc_auc_score(truth, np.concatenate([same, other])))
