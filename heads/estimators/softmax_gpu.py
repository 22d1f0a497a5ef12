"""The loss of `fit_softmax`, computed on a CUDA GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_lock = Lock()

Loss = Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]


def loss_on_gpu(
    X: NDArray[Any],
    codes: NDArray[np.intp],
    n_classes: int,
    C: float,
    weights: NDArray[np.float64] | None,
    offset: NDArray[np.float64] | None,
    device: str,
) -> Loss:
    """Return the function of the weights that gives their loss and gradient; see `fit_softmax`.

    ``X``, (n, dim), is dense and stays on the device. Each call sends weights and returns a
    gradient.
    """
    dim = X.shape[1]
    n = len(X) if weights is None else float(weights.sum())

    def there(value: NDArray[Any]) -> torch.Tensor:
        return torch.tensor(value, dtype=torch.float32, device=device)

    rows, own = there(X), torch.from_numpy(np.asarray(codes, np.int64)).to(device)[:, None]
    counts = None if weights is None else there(weights)[:, None]
    given = None if offset is None else there(offset)

    def loss_and_gradient(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        W = there(flat.reshape(dim + 1, n_classes))
        scores = torch.addmm(W[dim], rows, W[:dim])
        if given is not None:
            scores += given
        log_p = scores.log_softmax(dim=1)
        losses = -log_p.gather(1, own)
        p = log_p.exp_().scatter_add_(1, own, torch.full_like(losses, -1.0))
        if counts is not None:
            losses *= counts
            p *= counts
        gradient = torch.cat([torch.addmm(W[:dim], rows.T, p, beta=1 / C), p.sum(0, keepdim=True)])
        penalty = W[:dim].square().sum(dtype=torch.float64) / (2 * C)
        loss = float(losses.sum(dtype=torch.float64) + penalty)
        return loss / n, gradient.cpu().numpy().ravel().astype(np.float64) / n

    return loss_and_gradient


@contextmanager
def alone() -> Iterator[None]:
    """Keep a GPU to one fit at a time, whatever thread asks, and leave it as it was.

    Folds run in threads, each with its own rows. TF32, which an encoder may have allowed, is too
    coarse for the line search; it is a setting of the whole process.
    """
    with _lock, torch.no_grad():
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def give_back() -> None:
    """Free torch's cached GPU memory."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def find_gpu() -> str | None:
    """Return the device to fit on, or None where torch sees no CUDA GPU."""
    return "cuda" if torch.cuda.is_available() else None
