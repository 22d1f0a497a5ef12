"""What frozen features save: seconds and labels, against the same network trained.

Run: python -m benchmarks.savings [neu_steel] [hurricane_damage] [sign_digits] [neu_steel-224 …]
(all by default).
Needs ../shared; some twenty-five minutes a data set on one core.

MobileNetV2 at 96 px: its frozen ImageNet features with our logistic head, the same network
fine-tuned, and the same network from random weights, each over three draws of training and test
pictures (of whole groups, where there are groups). The loop is plain: AdamW, one-cycle learning
rate, flips; the best learning rate of three on a hundred held-out training rows, which is not
timed. Seconds are those from files to a head that can predict: reading, features, fitting.

Fine-tuning begins from the head on the frozen features, and leaves batch normalisation as it was
trained (Kumar et al., "Fine-Tuning can Distort Pretrained Features", ICLR 2022): with a random
last layer and statistics of a few batches it stayed behind training from scratch.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.report import Row, at_least, run_sections, saved
from benchmarks.ten import DATA, mobilenet, ten
from heads.estimators.logistic import LogisticHead

SIZE_PX = 96
BUDGETS = (60, 240, 600)  # of all three ways; the last is half of the pictures where that is less
FROZEN_BUDGETS = (30, 60, 120, 240, 360, 480, 600)
N_DRAWS = 3
MOST_TEST = 600
BATCH = 32
RATES = {"fine-tuned": (3e-5, 1e-4, 3e-4), "from scratch": (3e-4, 1e-3, 3e-3)}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DATASETS = ("neu_steel", "hurricane_damage", "sign_digits")


@dataclass(frozen=True, eq=False)
class Pictures:
    """A data set in memory."""

    X: torch.Tensor  # (n, 3, SIZE_PX, SIZE_PX), normalised
    y: NDArray[np.intp]
    group: NDArray[np.intp]
    features: NDArray[np.float32]  # of the frozen network
    read_s: float  # of one picture
    encode_s: float

    def draw(self, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return training and test rows: whole groups, half of the rows each."""
        rng = np.random.default_rng(seed)
        order = rng.permutation(self.group.max() + 1)
        place = np.argsort(order)[self.group]
        rows = np.argsort(place + rng.random(len(place)), kind="stable")
        half = int(place[rows[len(rows) // 2]])
        train, test = np.flatnonzero(place < half), np.flatnonzero(place >= half)
        return rng.permutation(train)[: max(BUDGETS)], rng.permutation(test)[:MOST_TEST]


def savings(name: str) -> list[Row]:
    """Compare the three ways on one data set."""
    data = pictures(name)
    rates = {kind: best_rate(kind, data, data.draw(0)[0]) for kind in RATES}
    scores: dict[tuple[str, int], list[float]] = {}
    seconds: dict[tuple[str, int], list[float]] = {}
    for seed in range(N_DRAWS):
        train, test = data.draw(seed)
        budgets = sorted({min(n, len(train)) for n in BUDGETS})
        for n in sorted({*budgets, *(n for n in FROZEN_BUDGETS if n <= len(train))}):
            some = train[:n]
            begin = time.perf_counter()
            head = LogisticHead(device="cpu").fit(data.features[some], data.y[some])
            cost = time.perf_counter() - begin + n * (data.read_s + data.encode_s)
            scores.setdefault(("frozen", n), []).append(
                recall(head.predict(data.features[test]), data.y[test])
            )
            seconds.setdefault(("frozen", n), []).append(cost)
            for kind, rate in rates.items() if n in budgets else ():
                begin = time.perf_counter()
                network = trained(kind, data, some, rate)
                cost = time.perf_counter() - begin + n * data.read_s
                if kind == "fine-tuned":  # it begins from the head
                    cost += n * data.encode_s
                said = predicted(network, data.X[test])
                scores.setdefault((kind, n), []).append(recall(said, data.y[test]))
                seconds.setdefault((kind, n), []).append(cost)
                print(name, seed, n, kind, scores[kind, n][-1], cost, file=sys.stderr, flush=True)
    return rows_of(name, scores, seconds)


def rows_of(
    name: str,
    scores: dict[tuple[str, int], list[float]],
    seconds: dict[tuple[str, int], list[float]],
) -> list[Row]:
    rows = []
    for (kind, n), values in sorted(scores.items(), key=lambda one: (one[0][1], one[0][0])):
        spread = f"share (of {len(values)} draws {min(values):.3f} to {max(values):.3f})"
        rows += [
            Row(f"{name}, {n} labels, {kind}: balanced accuracy", float(np.mean(values)), spread),
            Row(f"{name}, {n} labels, {kind}: from files to a head",
                float(np.median(seconds[kind, n])), "s"),
        ]  # fmt: skip
    budgets = sorted(n for kind, n in scores if kind == "from scratch")
    frozen = sorted(n for kind, n in scores if kind == "frozen")
    means = [float(np.mean(scores["frozen", n])) for n in frozen]
    for kind in RATES:
        for n in budgets:
            gains = np.array(scores["frozen", n]) - np.array(scores[kind, n])
            rows.append(Row(
                f"{name}, {n} labels: frozen less {kind}", 100 * float(gains.mean()),
                f"points (of {len(gains)} draws {100 * gains.min():+.1f} to "
                f"{100 * gains.max():+.1f})",
            ))  # fmt: skip
        most = budgets[-1]
        ratio = np.median(seconds["frozen", most]) / np.median(seconds[kind, most])
        what = f"{name}: time saved against {kind}, {most} labels each"
        rows.append(at_least(what, float(1 - ratio), "share", 0.75))
        goal = float(np.mean(scores[kind, most]))
        needed = labels_for(goal, frozen, means)
        what = f"{name}: labels saved against {kind} with {most}, at its accuracy of {goal:.3f}"
        if needed is None:
            unit = f"share: frozen does not reach it with {frozen[-1]}"
        else:
            unit = f"share: frozen reaches it with {needed:.0f}"
        rows.append(Row(what, 0.0 if needed is None else max(0.0, 1 - needed / most), unit))
        if needed is not None:
            cost = np.interp(needed, frozen, [np.median(seconds["frozen", n]) for n in frozen])
            what = f"{name}: time saved against {kind} with {most} labels, at its accuracy"
            saved = 1 - float(cost) / float(np.median(seconds[kind, most]))
            rows.append(at_least(what, saved, "share", 0.75))
    return rows


def own_preprocessing(name: str) -> list[Row]:
    """Frozen features as `embed` makes them, at the encoder's own 224 px: same draws, same budgets.

    Training at 224 px would take five times as long, so the other ways have 96 px.
    """
    view = ten().view(name, mobilenet())
    loaded = view.load()
    data = pictures(name)
    place = {one: i for i, one in enumerate(loaded.ids)}
    ids = view.dataset.items().column("item_id").to_pylist()
    features = loaded.vectors[[place[one] for one in ids]]
    some = [view.dataset.read_bytes(one) for one in ids[:64]]
    view.encode(some[:8])  # loaded
    begin = time.perf_counter()
    view.encode(some)
    encode_s = (time.perf_counter() - begin) / len(some)
    rows = []
    for n in BUDGETS:
        scores, seconds = [], []
        for seed in range(N_DRAWS):
            train, test = data.draw(seed)
            taught = train[:n]
            begin = time.perf_counter()
            head = LogisticHead(device="cpu").fit(features[taught], data.y[taught])
            seconds.append(time.perf_counter() - begin + len(taught) * encode_s)
            scores.append(recall(head.predict(features[test]), data.y[test]))
        n = min(n, len(train))
        spread = f"share (of {N_DRAWS} draws {min(scores):.3f} to {max(scores):.3f})"
        what = f"{name}, {n} labels, frozen at its own 224 px"
        mean, cost = float(np.mean(scores)), float(np.median(seconds))
        rows += [Row(f"{what}: balanced accuracy", mean, spread),
                 Row(f"{what}: from files to a head", cost, "s")]  # fmt: skip
        for kind in RATES:
            known = {row.what: row.value for row in saved("savings", name)}
            other = known.get(f"{name}, {n} labels, {kind}: balanced accuracy")
            took = known.get(f"{name}, {n} labels, {kind}: from files to a head")
            if other is not None and took is not None:
                rows.append(Row(f"{what} less {kind} at 96 px", 100 * (mean - other), "points"))
                saving = 1 - cost / took
                rows.append(at_least(f"{what}: time saved against {kind}", saving, "share", 0.75))
    return rows


def labels_for(goal: float, budgets: list[int], means: list[float]) -> float | None:
    """Return where a curve first reaches a score, between budgets on a log scale of labels."""
    for i, (n, value) in enumerate(zip(budgets, means, strict=True)):
        if value >= goal:
            if i == 0 or means[i - 1] >= value:
                return float(n)
            share = (goal - means[i - 1]) / (value - means[i - 1])
            return float(budgets[i - 1] * (n / budgets[i - 1]) ** share)
    return None


def pictures(name: str) -> Pictures:
    """Read a data set, and encode it with the frozen network."""
    items = ten().dataset(name).items()
    files = [DATA / name / uri for uri in items.column("uri").to_pylist()]
    y = np.unique(
        items.column("label").to_numpy(zero_copy_only=False).astype(str), return_inverse=True
    )[1]
    groups = items.column("group").to_pylist()
    ids = items.column("item_id").to_pylist()
    named = [one if g is None else g for one, g in zip(ids, groups, strict=True)]
    group = np.unique(np.array(named, dtype=str), return_inverse=True)[1]
    begin = time.perf_counter()
    pixels = np.stack(
        [np.asarray(Image.open(p).convert("RGB").resize((SIZE_PX, SIZE_PX))) for p in files]
    )
    X = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    X = (X - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    X = X.contiguous(memory_format=torch.channels_last)
    read_s = (time.perf_counter() - begin) / len(files)
    network = network_of("frozen", 0).eval()
    with torch.inference_mode():
        network(X[:BATCH])
        begin = time.perf_counter()
        found = torch.cat([network(X[i : i + BATCH]) for i in range(0, len(X), BATCH)])
    encode_s = (time.perf_counter() - begin) / len(files)
    return Pictures(X, y, group, found.numpy(), read_s, encode_s)


def network_of(kind: str, n_classes: int) -> Any:
    import timm

    folder = mobilenet().removeprefix("timm:")
    torch.manual_seed(0)
    network = timm.create_model(folder, pretrained=kind != "from scratch", num_classes=n_classes)
    return network.to(memory_format=torch.channels_last)


def trained(kind: str, data: Pictures, rows: NDArray[np.intp], rate: float) -> Any:
    network = network_of(kind, int(data.y.max()) + 1).train()
    if kind == "fine-tuned":
        head = LogisticHead("standardise", device="cpu")
        begin_from(network, head.fit(data.features[rows], data.y[rows]))
        for one in network.modules():
            if isinstance(one, torch.nn.BatchNorm2d):
                one.eval()
    n_steps = max(100, 20 * len(rows) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=n_steps)
    rng = np.random.default_rng(0)
    target = torch.from_numpy(data.y)
    for _ in range(n_steps):
        batch = torch.from_numpy(rng.choice(rows, min(BATCH, len(rows)), replace=False))
        inputs = data.X[batch]
        if rng.random() < 0.5:
            inputs = inputs.flip(3)
        loss = torch.nn.functional.cross_entropy(network(inputs), target[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def begin_from(network: Any, head: LogisticHead) -> None:
    """Put a head, which is affine in the features, into the network's last layer."""
    last = network.get_classifier()
    bias = head._scores(np.zeros((1, last.in_features)))
    weight = head._scores(np.eye(last.in_features)) - bias
    with torch.no_grad():
        last.weight.copy_(torch.from_numpy(weight.T))
        last.bias.copy_(torch.from_numpy(bias[0]))


def predicted(network: Any, X: torch.Tensor) -> NDArray[np.intp]:
    with torch.inference_mode():
        found = [network(X[i : i + BATCH]).argmax(dim=1) for i in range(0, len(X), BATCH)]
    return torch.cat(found).numpy()


def best_rate(kind: str, data: Pictures, train: NDArray[np.intp]) -> float:
    """Choose a learning rate on held-out training rows of a middle budget; not timed."""
    teach, held = train[:200], train[200:300]
    scores = []
    for rate in RATES[kind]:
        network = trained(kind, data, teach, rate)
        scores.append(recall(predicted(network, data.X[held]), data.y[held]))
        print(kind, rate, scores[-1], file=sys.stderr, flush=True)
    return RATES[kind][int(np.argmax(scores))]


def recall(said: NDArray[np.intp], y: NDArray[np.intp]) -> float:
    return float(np.mean([np.mean(said[y == c] == c) for c in np.unique(y)]))


SECTIONS = {name: partial(savings, name) for name in DATASETS} | {
    f"{name}-224": partial(own_preprocessing, name) for name in DATASETS
}


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(run_sections("savings", SECTIONS, sys.argv[1:]))
