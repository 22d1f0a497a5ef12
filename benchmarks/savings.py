"""What frozen features save: seconds and labels, against the same network trained.

Run: python -m benchmarks.savings   (some fifteen minutes on 2 cores; needs ../shared)

MobileNetV2 at 96 px on neu_steel, 600 pictures to learn from and 600 to test on: its frozen
ImageNet features with our logistic head, the same network fine-tuned, and the same network from
random weights. The loop is plain: AdamW, one-cycle learning rate, flips; the best learning rate of
three on a hundred held-out training rows, which is not timed.

Fine-tuning begins from the head on the frozen features, and leaves batch normalisation as it was
trained (Kumar et al., "Fine-Tuning can Distort Pretrained Features", ICLR 2022): with a random
last layer and statistics of a few batches it stayed behind training from scratch.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.report import Row, at_least, finish
from benchmarks.ten import DATA, mobilenet
from heads.estimators.logistic import LogisticHead

SIZE_PX = 96
BUDGETS = (60, 240)  # 600 labels from scratch take another quarter of an hour
BATCH = 32
RATES = {"fine-tuned": (3e-5, 1e-4, 3e-4), "from scratch": (3e-4, 1e-3, 3e-3)}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> int:
    torch.manual_seed(0)
    X, y, seconds_read = pictures()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(y))
    train, test = order[:600], order[600:]
    frozen_s, features = frozen(X)
    rows = [
        Row("reading and scaling 1,200 pictures", seconds_read, "s"),
        Row("frozen features of 1,200 pictures", frozen_s, "s"),
    ]
    rates = {kind: best_rate(kind, X, y, train, features) for kind in RATES}
    found: dict[tuple[str, int], tuple[float, float]] = {}
    for n in BUDGETS:
        some = train[:n]
        begin = time.perf_counter()
        head = LogisticHead().fit(features[some], y[some])
        seconds = time.perf_counter() - begin + frozen_s * n / len(y)
        found["frozen", n] = recall(head.predict(features[test]), y[test]), seconds
        for kind, rate in rates.items():
            begin = time.perf_counter()
            network = trained(kind, X, y, some, rate, features)
            seconds = time.perf_counter() - begin
            if kind == "fine-tuned":
                seconds += frozen_s * n / len(y)
            found[kind, n] = recall(predicted(network, X[test]), y[test]), seconds
        for kind in ("frozen", *rates):
            value, seconds = found[kind, n]
            rows += [
                Row(f"{n} labels, {kind}: balanced accuracy", value, "share"),
                Row(f"{n} labels, {kind}: seconds from pictures to predictions", seconds, "s"),
            ]
            print(rows[-2].what, value, seconds, file=sys.stderr, flush=True)
    for kind in rates:
        most = max(BUDGETS)
        ratio = found["frozen", most][1] / found[kind, most][1]
        rows.append(at_least(f"time saved against {kind}, {most} labels", 1 - ratio, "share", 0.75))
        reached = [n for n in BUDGETS if found["frozen", n][0] >= found[kind, most][0]]
        saved = 1 - reached[0] / most if reached else 0.0
        what = f"labels saved against {kind} with {most}, at equal accuracy or better"
        rows.append(Row(what, saved, "share"))
    return finish("savings", rows)


def pictures() -> tuple[torch.Tensor, NDArray[np.intp], float]:
    begin = time.perf_counter()
    files = sorted((DATA / "neu_steel").rglob("*.jpg"))
    names = sorted({path.parent.name for path in files})
    y = np.array([names.index(path.parent.name) for path in files])
    pixels = np.stack(
        [np.asarray(Image.open(p).convert("RGB").resize((SIZE_PX, SIZE_PX))) for p in files]
    )
    X = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    X = (X - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return X.contiguous(memory_format=torch.channels_last), y, time.perf_counter() - begin


def network_of(kind: str, n_classes: int) -> Any:
    import timm

    folder = mobilenet().removeprefix("timm:")
    torch.manual_seed(0)
    network = timm.create_model(folder, pretrained=kind != "from scratch", num_classes=n_classes)
    return network.to(memory_format=torch.channels_last)


def frozen(X: torch.Tensor) -> tuple[float, NDArray[np.float32]]:
    network = network_of("frozen", 0).eval()
    begin = time.perf_counter()
    with torch.inference_mode():
        found = torch.cat([network(X[i : i + BATCH]) for i in range(0, len(X), BATCH)])
    return time.perf_counter() - begin, found.numpy()


def trained(
    kind: str,
    X: torch.Tensor,
    y: NDArray[np.intp],
    rows: NDArray[np.intp],
    rate: float,
    features: NDArray[np.float32],
) -> Any:
    network = network_of(kind, int(y.max()) + 1).train()
    if kind == "fine-tuned":
        begin_from(network, LogisticHead("standardise").fit(features[rows], y[rows]))
        for one in network.modules():
            if isinstance(one, torch.nn.BatchNorm2d):
                one.eval()
    n_steps = max(100, 20 * len(rows) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=n_steps)
    rng = np.random.default_rng(0)
    target = torch.from_numpy(y)
    for _ in range(n_steps):
        batch = torch.from_numpy(rng.choice(rows, min(BATCH, len(rows)), replace=False))
        inputs = X[batch]
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


def best_rate(
    kind: str,
    X: torch.Tensor,
    y: NDArray[np.intp],
    train: NDArray[np.intp],
    features: NDArray[np.float32],
) -> float:
    """Choose a learning rate on held-out training rows of a middle budget; not timed."""
    teach, held = train[:200], train[200:300]
    scores = []
    for rate in RATES[kind]:
        network = trained(kind, X, y, teach, rate, features)
        scores.append(recall(predicted(network, X[held]), y[held]))
        print(kind, rate, scores[-1], file=sys.stderr, flush=True)
    return RATES[kind][int(np.argmax(scores))]


def recall(said: NDArray[np.intp], y: NDArray[np.intp]) -> float:
    return float(np.mean([np.mean(said[y == c] == c) for c in np.unique(y)]))


if __name__ == "__main__":
    sys.exit(main())
