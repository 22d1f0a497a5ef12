"""The loop that retrains the top of a network on cached activations (torch stands here alone)."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from featurestore.errors import BadBundle
from featurestore.terms.activations import Activations

SHARPER = 2.0 ** np.arange(-2, 11)  # by which scores are multiplied, to find the lowest loss
READ_AT_ONCE = 64  # items that pass at a time where nothing is learned
MOST_ON_GPU = 0.3  # of its free memory: a tap up to this size is copied there once
LEAST_TIMED, ENOUGH_S = 5, 3.0  # steps and seconds that tell how long the others take
Network: TypeAlias = torch.nn.Module
Weights = dict[str, NDArray[np.float32]]  # what a run learned, by name


@dataclass(frozen=True)
class Recipe:
    """How a run learns (``../shared/methods.md`` 7.1: without the clipping it collapses)."""

    epochs: int = 12
    least_steps: int = 96
    batch: int = 32
    decay: float = 0.01
    smoothing: float = 0.1  # of the labels
    clip: float = 1.0  # largest norm of a gradient

    def steps(self, n_rows: int) -> int:
        """Return how many steps a run takes on so many rows."""
        return max(self.least_steps, math.ceil(self.epochs * n_rows / self.batch))


@dataclass(frozen=True, eq=False)
class Linear:
    """The frozen head as a layer: ``((v - shift) · factor) @ weights + bias``.

    ``length`` is that to which each row is scaled before the weights; None: none is.
    """

    shift: NDArray[np.float64]  # (dim,)
    weights: NDArray[np.float64]  # (dim, n_out)
    bias: NDArray[np.float64]  # (n_out,)
    length: float | None = None


@dataclass(frozen=True, eq=False)
class Answers:
    """What the rows are taught."""

    kind: str  # "classes", "labels" or "numbers"
    values: NDArray[Any]  # (n,) class numbers; (n, n_labels) 0 or 1; (n, 1) of variance 1
    weights: NDArray[np.float64] | None = None  # (n,)

    def chance(self) -> float:
        """Return the loss of whoever knows the labels' frequencies and nothing else."""
        if self.kind == "numbers":
            return float(np.average(self.values.var(axis=0)))
        if self.kind == "classes":
            p = np.bincount(self.values, self.weights, self.values.max() + 1)
            p = p[p > 0] / p.sum()
            return float(-(p * np.log(p)).sum())
        p = np.clip(self.values.mean(axis=0, dtype=np.float64), 1e-9, 1 - 1e-9)
        return float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean())


class Top(torch.nn.Module):
    """The blocks above the cut, and a linear layer that begins as the frozen head."""

    shift: torch.Tensor
    length: torch.Tensor

    def __init__(self, upper: torch.nn.Module, linear: Linear) -> None:
        super().__init__()
        self.upper = upper
        weights = torch.tensor(linear.weights.T, dtype=torch.float32)
        # Without torch's own beginning, which draws from its generator.
        layer: Any = torch.nn.utils.skip_init  # untyped
        self.linear = layer(torch.nn.Linear, *weights.T.shape)
        self.linear.weight.data = weights
        self.linear.bias.data = torch.tensor(linear.bias, dtype=torch.float32)
        self.register_buffer("shift", torch.tensor(linear.shift, dtype=torch.float32))
        self.register_buffer("length", torch.tensor(linear.length or 0.0))
        self.has_length = linear.length is not None

    def forward(self, batch: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Return scores, (n, n_out), of activations as `Upper` takes them."""
        vectors = self.upper(batch, lengths).float() - self.shift
        if self.has_length:
            vectors = functional.normalize(vectors, dim=1) * self.length
        scores: torch.Tensor = self.linear(vectors)
        return scores

    def learned(self) -> Weights:
        """Return what a run may change, as arrays."""
        return {
            name: one.detach().cpu().numpy().copy()
            for name, one in self.named_parameters()
            if one.requires_grad
        }

    def take(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Take what a run had learned.

        Raises
        ------
        BadBundle
            If these are not the parameters that a run changes, by name and shape.
        """
        own = {name: one for name, one in self.named_parameters() if one.requires_grad}
        if odd := sorted(own.keys() ^ weights.keys()):
            raise BadBundle(
                f"what a run learned and the network above the cut differ in {odd[0]}"
                + (f" and {len(odd) - 1} more" if len(odd) > 1 else "")
                + ": fit the head again"
            )
        for name, value in weights.items():
            if own[name].shape != value.shape:
                raise BadBundle(
                    f"what a run learned of {name} has shape {value.shape}, expected "
                    f"{tuple(own[name].shape)}: fit the head again"
                )
        with torch.no_grad():
            for name, value in weights.items():
                own[name].copy_(torch.from_numpy(np.asarray(value)))


class Feed:
    """Rows of a tap as batches on a device."""

    def __init__(self, X: Activations, device: torch.device) -> None:
        self.X, self.device = X, device
        self.n_variants = len(X.variants)
        self._there: list[torch.Tensor] | None = None  # by variant, (n, *shape)
        is_small = device.type == "cuda" and not X.is_ragged and X.nbytes < _free_bytes(device)
        if is_small:
            every = np.arange(len(X))
            self._there = [
                torch.from_numpy(X.batch(every, variant)).to(device)
                for variant in range(self.n_variants)
            ]

    def plain(self, rows: NDArray[np.intp]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return rows as they are, (n, *shape); of ragged ones padded, with their lengths."""
        return self.take(rows, np.zeros(len(rows), dtype=np.intp))

    def take(
        self, rows: NDArray[np.intp], variant: NDArray[np.intp]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return rows, each in one of the variants."""
        if self.X.is_ragged:
            return self._padded(rows)
        if self._there is not None:
            at = torch.from_numpy(rows).to(self.device)
            which = torch.from_numpy(variant).to(self.device)
            found = self._there[0][at]
            for number in range(1, self.n_variants):
                found = torch.where(
                    (which == number).view(-1, *[1] * (found.ndim - 1)),
                    self._there[number][at],
                    found,
                )
            return _settled(found.float()), None
        values = np.empty((len(rows), *self.X.shape), dtype=np.float16)
        for number in np.unique(variant):
            is_own = variant == number
            values[is_own] = self.X.batch(rows[is_own], int(number))
        return _settled(torch.from_numpy(values).to(self.device).float()), None

    def _padded(self, rows: NDArray[np.intp]) -> tuple[torch.Tensor, torch.Tensor]:
        flat, lengths = self.X.ragged(rows)
        values = np.zeros((len(rows), int(lengths.max()), flat.shape[1]), dtype=np.float16)
        values[np.arange(values.shape[1]) < lengths[:, None]] = flat
        found = torch.from_numpy(values).to(self.device).float()
        return found, torch.from_numpy(np.asarray(lengths, dtype=np.int64)).to(self.device)

    def in_passes(self) -> Iterator[NDArray[np.intp]]:
        """Yield rows for passes that learn nothing; texts of about one length together."""
        order = np.arange(len(self.X))
        if self.X.is_ragged:
            order = np.argsort(self.X.lengths, kind="stable")
        for begin in range(0, len(order), READ_AT_ONCE):
            yield order[begin : begin + READ_AT_ONCE]


def _free_bytes(device: torch.device) -> float:
    """Return how much of a GPU's memory a tap may take."""
    return MOST_ON_GPU * torch.cuda.mem_get_info(device)[0]


def _settled(batch: torch.Tensor) -> torch.Tensor:
    return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch


def outputs(network: torch.nn.Module, X: Activations) -> NDArray[np.float32]:
    """Return what an upper part, or a whole top, gives for the plain rows, (n, n_out)."""
    device = _device_of(network)
    feed = Feed(X, device)
    found: NDArray[np.float32] | None = None
    with _one_core_a_fold(), torch.inference_mode():
        for rows in feed.in_passes():
            with _precision(device):
                said = network(*feed.plain(rows)).float().cpu().numpy()
            if found is None:
                found = np.empty((len(X), said.shape[1]), dtype=np.float32)
            found[rows] = said
    assert found is not None, "there are rows"
    return found


@dataclass(frozen=True, eq=False)
class Run:
    """What one run gave.

    Smoothed labels keep scores low: where labels are rare, a run that is right everywhere may
    then have as high a loss as one that knows nothing. So its scores are made as sharp as is best;
    that takes none below chance who says the same of all rows.
    """

    weights: Weights
    loss: float  # of the last passage over all rows, labels as they are, scores as sharp as best

    def has_collapsed(self, chance: float, share: float = 0.9) -> bool:
        """Whether it knows little more than the labels' frequencies, or broke off."""
        return not self.loss < share * chance


def retrain(
    top: Top,
    X: Activations,
    answers: Answers,
    rate: float,
    recipe: Recipe,
    *,
    seed: int,
    n_steps: int | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Run:
    """Train a top, which is changed, and return what it learned.

    Nothing is drawn from torch's own generator, and its number of threads stays as it was.
    """
    device = _device_of(top)
    rng = np.random.default_rng(seed)
    feed, n = Feed(X, device), len(X)
    n_steps = n_steps or recipe.steps(n)
    learned = [one for one in top.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=recipe.decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=n_steps)
    values = torch.from_numpy(np.ascontiguousarray(answers.values))
    counts = None if answers.weights is None else answers.weights / answers.weights.mean()
    size = min(recipe.batch, n)
    n_passed = n_steps * size // n * n  # rows within whole passages over all of them
    last, n_seen = np.zeros(len(SHARPER)), 0
    top.train()
    with _one_core_a_fold(), torch.enable_grad():
        for step, rows in enumerate(_batches(n, size, n_steps, rng)):
            variant = rng.integers(feed.n_variants, size=len(rows))
            weights = None if counts is None else torch.from_numpy(counts[rows]).float().to(device)
            with _precision(device):
                scores = top(*feed.take(rows, variant)).float()
            taught = values[rows].to(device)
            loss = _losses(answers.kind, scores, taught, weights, recipe.smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(learned, recipe.clip)
            if not torch.isfinite(norm):
                return Run(top.learned(), math.inf)
            optimizer.step()
            schedule.step()
            at = step * size + np.arange(size)
            is_last = (at >= n_passed - n) & (at < n_passed) if n_passed else at >= 0
            if is_last.any():
                plain = _plain_losses(answers.kind, scores.detach(), taught, weights)
                last += plain[:, is_last].sum(axis=1)
                n_seen += int(is_last.sum())
            on_step()
    return Run(top.learned(), float((last / n_seen).min()))


def seconds_a_step(
    network: torch.nn.Module, X: Activations, n_out: int, rate: float, recipe: Recipe
) -> float:
    """Time steps of a network, which is changed: some, or more where they take no time."""
    ends: list[float] = []

    def on_step() -> None:
        ends.append(time.perf_counter())
        if len(ends) > LEAST_TIMED and ends[-1] - ends[0] > ENOUGH_S:
            raise StopIteration

    dim = outputs(network, X[:1]).shape[1]
    top = Top(network, Linear(np.zeros(dim), np.zeros((dim, n_out)), np.zeros(n_out)))
    answers = Answers("classes", np.arange(len(X)) % n_out)
    with suppress(StopIteration):
        retrain(top, X, answers, rate, recipe, seed=0, n_steps=3 * LEAST_TIMED, on_step=on_step)
    return float(np.median(np.diff(ends)[1:]))  # the first ones are slower


def _batches(
    n: int, size: int, n_steps: int, rng: np.random.Generator
) -> Iterator[NDArray[np.intp]]:
    """Yield the rows of each step: all rows in turn, each time in another order."""
    left = np.empty(0, dtype=np.intp)
    for _ in range(n_steps):
        while len(left) < size:
            left = np.concatenate([left, rng.permutation(n)])
        rows, left = left[:size], left[size:]
        yield rows


def _losses(
    kind: str,
    scores: torch.Tensor,
    taught: torch.Tensor,
    weights: torch.Tensor | None,
    smoothing: float,
) -> torch.Tensor:
    """Return the loss that is learned from."""
    if kind == "numbers":
        losses = functional.smooth_l1_loss(scores, taught.float(), reduction="none").mean(dim=1)
    elif kind == "classes":
        losses = functional.cross_entropy(
            scores, taught, reduction="none", label_smoothing=smoothing
        )
    else:
        smooth = taught.float() * (1 - smoothing) + smoothing / 2
        loss = functional.binary_cross_entropy_with_logits
        losses = loss(scores, smooth, reduction="none").mean(dim=1)
    return (losses if weights is None else losses * weights).mean()


def _plain_losses(
    kind: str, scores: torch.Tensor, taught: torch.Tensor, weights: torch.Tensor | None
) -> NDArray[np.float64]:
    """Return the losses of labels as they are, (len(SHARPER), n): of scores made sharper."""
    if kind == "numbers":
        losses = [(scores - taught.float()).square().mean(dim=1)] * len(SHARPER)
    elif kind == "classes":
        of_classes = partial(functional.cross_entropy, target=taught, reduction="none")
        losses = [of_classes(scores * sharper) for sharper in SHARPER]
        losses = losses if weights is None else [one * weights for one in losses]
    else:
        of_labels = functional.binary_cross_entropy_with_logits
        true = taught.float()
        losses = [of_labels(scores * k, true, reduction="none").mean(dim=1) for k in SHARPER]
    return np.asarray(torch.stack(losses).cpu().numpy(), dtype=np.float64)


def has_gpu() -> bool:
    """Whether runs may be made on a GPU, in another precision."""
    return torch.cuda.is_available()


def _device_of(network: torch.nn.Module) -> torch.device:
    return next(network.parameters()).device


@contextmanager
def _precision(device: torch.device) -> Iterator[None]:
    """Compute in bfloat16 on a GPU, whose weights stay float32."""
    if device.type != "cuda":
        yield
        return
    with torch.autocast("cuda", dtype=torch.bfloat16):
        yield


_lock = threading.Lock()
_within: list[int] = []  # how many threads torch had, one entry for each fold that computes


@contextmanager
def _one_core_a_fold() -> Iterator[None]:
    """Let torch compute with one core in a thread beside others, as folds are fitted.

    In the main thread it has all of them. What other threads see is as before at the end.
    """
    if threading.current_thread() is threading.main_thread():
        yield
        return
    with _lock:
        _within.append(_within[0] if _within else torch.get_num_threads())
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            torch.set_num_threads(_within.pop())
