"""Retraining the top on cached activations: what it gains, where it harms, what it costs.

Run: python -m benchmarks.heads finetune   (hours of one core; what is done is kept)
     python -m benchmarks.heads finetune_costs   (two minutes)

Each draw is of whole groups: half of them teach (some labels of them), half test. Taps and draws
are kept in a folder beside the store of the ten sets, so that a run that was cut off goes on.
FEATURESTORE_FINETUNE="sign_digits:60,240 hurricane_damage:240" runs these alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from benchmarks.report import Row, at_least, at_most
from benchmarks.ten import IMAGES, PLACE, TEXTS, minilm, mobilenet, ten
from featurestore.encoders.images import decode_image
from featurestore.encoders.loading import load_encoder
from featurestore.encoders.upper_part import upper_of
from featurestore.terms.activations import Activations
from featurestore.terms.specs import EncoderSpec
from heads.catalogue.table import HEADS
from heads.estimators.finetune import FinetuneHead
from heads.labels.plan import make_plan
from heads.labels.tasks import texts_of

KEPT = Path(os.environ.get("FEATURESTORE_FINETUNE_AT", f"{PLACE}-finetune"))
DRAWS = 5
MOST_ITEMS, MOST_TESTED = 2400, 400
FROZEN = ("logistic", "lda", "ridge")
SEED = 27  # of the draws
CUTS = {"image": "#tap=5,variants=flip", "text": "#tap=4"}
PLAN = (
    "sign_digits:60 sign_digits:240 hurricane_damage:240 neu_steel:60 hurricane_damage:60 "
    "blood_cells:60 mednist:60 cifar10:60 snips:60 sms_spam:60 banking77:60 banking77:8a "
    "snips:8a medical_abstracts:60 cifar10:240 neu_steel:240 blood_cells:240 mednist:240 "
    "snips:240 sms_spam:240 banking77:240 sign_digits:600 hurricane_damage:600 cifar10:600 "
    "neu_steel:600 blood_cells:600 mednist:600 snips:600 sms_spam:600 banking77:600"
)
BARS = {("sign_digits", "60"): 4.0, ("sign_digits", "240"): 5.0, ("hurricane_damage", "240"): 1.0}


@dataclass(frozen=True, eq=False)
class _Set:
    """One data set: its tap, its vectors, and what heads are taught."""

    name: str
    tap: Activations
    vectors: NDArray[np.float32]
    codes: NDArray[np.intp]
    block: NDArray[np.intp]  # rows of one block stay together


def finetune() -> list[Row]:
    """Compare the answer with frozen heads, draw by draw."""
    rows: list[Row] = []
    cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for name, budget in _plan():
        for draw in range(DRAWS):
            found = _measured(name, budget, draw)
            if found is None:
                break
            cells.setdefault((name, budget), []).append(found)
        if (name, budget) in cells:
            new = list(_rows_of(name, budget, cells[name, budget]))
            for row in new:
                print(f"{row.what}: {row.value:.3g} {row.unit}", file=sys.stderr, flush=True)
            rows += new
    return rows + list(_whole(cells))


def finetune_costs() -> list[Row]:
    """CPU seconds of a cached epoch over a full one, and of a fit; bytes of an item."""
    import torch

    name, n, batch = "sign_digits", 240, 32
    encoder = _encoder(name)
    table = ten().view(name, mobilenet()).load()
    dataset = ten().dataset(name)
    some = [decode_image(dataset.read_bytes(one)) for one in table.ids[:batch].tolist()]
    prepared = [encoder.prepare_image(one) for one in some]
    held = Activations.of(encoder.encode_images(prepared), encoder.tap.variants)
    tap_s = _cpu_s(lambda: encoder.encode_images(prepared)) / batch
    codes = np.arange(batch) % 10

    def steps(network: Any, given: Any, n_steps: int) -> float:
        linear = torch.nn.Linear(1280, 10)
        learned = [
            one for one in [*network.parameters(), *linear.parameters()] if one.requires_grad
        ]
        optimizer = torch.optim.AdamW(learned, lr=1e-6, fused=True)

        def step() -> None:
            loss = torch.nn.functional.cross_entropy(
                linear(network(given)), torch.from_numpy(codes)
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()

        step()
        return min(_cpu_s(step) for _ in range(n_steps))

    whole = encoder.network.module
    pixels = encoder.network.preprocessing.normalize(torch.from_numpy(np.stack(prepared)))
    upper = upper_of(encoder)
    cached_s = steps(upper, torch.from_numpy(held.batch(np.arange(batch))), 5)
    for one in whole.parameters():
        one.requires_grad_(True)
    full_s = steps(whole.eval(), pixels, 3)
    fit_s = 2 * 96 * cached_s
    full_fit_s = max(100, 20 * n // batch) * full_s  # as benchmarks/savings.py trains
    return [
        at_most("one cached epoch over one full epoch, MobileNetV2 at 224 px", cached_s / full_s,
                f"of its CPU seconds ({1000 * cached_s:.0f} and {1000 * full_s:.0f} ms a step of "
                f"{batch})", 0.3),
        at_most(f"a fit with {n} labels, tap included, over full fine-tuning of one rate",
                (n * tap_s + fit_s) / full_fit_s,
                f"of its CPU seconds ({n * tap_s + fit_s:.0f} and {full_fit_s:.0f} s)", 0.25),
        at_most("a second fit on the same tap over the first", fit_s / (n * tap_s + fit_s),
                f"of its CPU seconds (a tap takes {1000 * tap_s:.0f} ms an item)", 0.6),
        at_most("bytes of an item in a tap, MobileNetV2 at 224 px",
                encoder.tap.nbytes / len(encoder.tap.variants) / 1000, "kB a variant", 40),
    ]  # fmt: skip


def _cpu_s(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _plan() -> list[tuple[str, str]]:
    asked = os.environ.get("FEATURESTORE_FINETUNE", PLAN).split()
    cells = [one.partition(":")[::2] for one in asked]
    return [(name, n) for name, budgets in cells for n in budgets.split(",")]


def _measured(name: str, budget: str, draw: int) -> Mapping[str, Any] | None:
    """Fit and score one draw, or read what an earlier run kept; None: too few labels."""
    file = KEPT / f"{name}-{budget}-{draw}.json"
    if file.exists():
        found: Mapping[str, Any] = json.loads(file.read_text())
        return found
    one = _set(name)
    train, test = _split(one, budget, draw)
    if not budget.endswith("a") and len(train) < int(budget):
        return None
    y, truth = one.codes[train], one.codes[test]

    def score(said: NDArray[Any]) -> float:
        return float(np.mean([np.mean(said[truth == c] == c) for c in np.unique(truth)]))

    frozen = {}
    for head in FROZEN:
        build = HEADS[head].classifier
        assert build is not None
        fitted = build(0).fit(one.vectors[train], y, groups=one.block[train])
        frozen[head] = score(fitted.predict(one.vectors[test]))
    began = time.process_time()
    head = FinetuneHead(lambda: upper_of(_encoder(name))).fit(one.tap[train], y, one.block[train])
    seconds = time.process_time() - began
    said = head._said(one.tap[test])
    answer = head.predict(one.tap[test]) if len(said) == 1 else _mean(head, said)
    found = {
        "frozen": frozen,
        "answer": score(answer),
        "each": [score(head.classes_[s.argmax(axis=1)]) for s in said],
        "chosen": head.retrained_,
        "note": head.note_,
        "seconds": seconds,
        "n": len(train),
    }
    np.savez_compressed(
        file.with_suffix(".npz"), truth=truth, classes=head.classes_, said=np.stack(said)
    )
    file.write_text(json.dumps(found))
    print(name, budget, draw, found, file=sys.stderr, flush=True)
    return found


def _mean(head: FinetuneHead, said: list[NDArray[np.float64]]) -> NDArray[Any]:
    """Return the answer from what was said: saves the passes of `predict`."""
    return np.asarray(head.classes_[np.argmax(head.together(said), axis=1)])


def _split(one: _Set, budget: str, draw: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows that teach and rows that test: whole blocks, half of them each."""
    rng = np.random.default_rng([SEED, draw])
    is_test = (rng.permutation(int(one.block.max()) + 1) % 2 == 0)[one.block]
    pool = rng.permutation(np.flatnonzero(~is_test))
    test = rng.permutation(np.flatnonzero(is_test))[:MOST_TESTED]
    if budget.endswith("a"):  # labels a class
        n = int(budget[:-1])
        pool = np.concatenate([pool[one.codes[pool] == c][:n] for c in np.unique(one.codes)])
        return np.sort(pool), np.sort(test)
    return np.sort(pool[: int(budget)]), np.sort(test)


def _rows_of(name: str, budget: str, draws: list[Mapping[str, Any]]) -> Iterator[Row]:
    n = f"{budget[:-1]} labels a class" if budget.endswith("a") else f"{budget} labels"
    means = {head: float(np.mean([d["frozen"][head] for d in draws])) for head in FROZEN}
    best = max(means, key=means.__getitem__)
    answers = np.array([d["answer"] for d in draws])
    for head in dict.fromkeys((best, "logistic")):
        gains = 100 * (answers - [d["frozen"][head] for d in draws])
        which = f"the best frozen head ({head})" if head == best else head
        unit = f"points {_spread(gains)}; {head} {100 * means[head]:.1f} %"
        what = f"{name}, {n}: retrained top, as answered, less {which}"
        bar = BARS.get((name, budget), -0.5)
        yield (
            at_least(what, gains.mean(), unit, bar)
            if head == best
            else Row(what, gains.mean(), unit)
        )
    pure = [np.mean(d["each"][1:]) for d in draws if len(d["each"]) > 1]
    if pure:
        value = 100 * float(np.mean(pure) - means["logistic"])
        yield Row(f"{name}, {n}: one run alone, less logistic", value, "points")
    seconds = float(np.median([d["seconds"] for d in draws]))
    yield Row(f"{name}, {n}: a fit, both runs", seconds, "s of CPU")


def _whole(cells: Mapping[tuple[str, str], list[Mapping[str, Any]]]) -> Iterator[Row]:
    """Yield what holds over all that was run."""
    gains, dropped = defaultdict(list), 0
    for (name, budget), draws in cells.items():
        means = {head: np.mean([d["frozen"][head] for d in draws]) for head in FROZEN}
        best = max(means, key=means.__getitem__)
        gains[name, budget] += [100 * (d["answer"] - d["frozen"][best]) for d in draws]
        dropped += sum("left out" in d["chosen"] for d in draws)
    every = [one for of_cell in gains.values() for one in of_cell]
    if not every:
        return
    unit = f"points, {len(every)} draws of {len(gains)} sets and budgets"
    yield Row("retrained top, as answered, less the best frozen head", np.mean(every), unit)
    worst = min(gains, key=lambda key: float(np.mean(gains[key])))
    what = f"… the worst set and budget ({worst[0]}, {worst[1]})"
    yield at_least(what, float(np.mean(gains[worst])), "points", -0.5)
    yield at_least("… the worst draw", min(every), "points", -3)
    yield at_most("… draws with a run that collapsed and was left out", dropped, "draws", 0)


def _spread(gains: NDArray[np.float64]) -> str:
    """Say the interval of a mean of draws, and the draws."""
    draws = " ".join(f"{gain:+.1f}" for gain in gains)
    if len(gains) < 2:
        return f"(draw {draws})"
    half = t.ppf(0.975, len(gains) - 1) * np.std(gains, ddof=1) / len(gains) ** 0.5
    return f"({gains.mean() - half:+.1f} to {gains.mean() + half:+.1f}; draws {draws})"


@cache
def _encoder_of(spec: str) -> Any:
    return load_encoder(EncoderSpec.parse(spec))


def _encoder(name: str) -> Any:
    return _encoder_of(mobilenet(CUTS["image"]) if name in IMAGES else minilm() + CUTS["text"])


@cache
def _set(name: str) -> _Set:
    view = ten().view(name, mobilenet() if name in IMAGES else minilm())
    table = view.load()
    plan = make_plan(table)
    rows = np.sort(np.random.default_rng(0).permutation(len(plan.rows))[:MOST_ITEMS])
    at = plan.rows[rows]
    tap = _tap_of_texts if name in TEXTS else _tap_of_pictures
    held = tap(name, view.dataset, table, at)
    block = np.unique(plan.block[rows], return_inverse=True)[1]
    return _Set(name, held, table.vectors[at], plan.target.values[rows], block)


def _tap_of_texts(name: str, dataset: Any, table: Any, at: NDArray[np.intp]) -> Activations:
    return Activations.of(_encoder(name).encode_texts(texts_of(table)[at].tolist()))


def _tap_of_pictures(name: str, dataset: Any, table: Any, at: NDArray[np.intp]) -> Activations:
    file, ids = KEPT / f"{name}.tap.npy", table.ids[at].astype(str)
    encoder = _encoder(name)
    shape = (len(ids), len(encoder.tap.variants), *encoder.tap.shape)
    if not file.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part.npy")
        out = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)
        for i in range(0, len(ids), 32):
            some = [decode_image(dataset.read_bytes(one)) for one in ids[i : i + 32].tolist()]
            out[i : i + 32] = encoder.encode_images([encoder.prepare_image(one) for one in some])
        out.flush()
        part.rename(file)
        np.save(KEPT / f"{name}.ids.npy", ids)
    if not np.array_equal(np.load(KEPT / f"{name}.ids.npy"), ids):
        raise ValueError(f"{file} is of other items: delete it")
    return Activations.of(np.load(file), encoder.tap.variants)
