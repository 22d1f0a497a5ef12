"""Texts on a CPU: each core runs a pass of its own, on a part of the batch.

The operations on a short text are small. If all cores share each of them, they wait for each
other a hundred times a pass, here once; `python -m benchmarks.embed texts` measures the gain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain, pairwise
from threading import Barrier
from typing import Any

import numpy as np
import torch

from featurestore.encoders.base import Steps
from featurestore.encoders.tokens import Tokens

_LEAST_TOKENS = 256  # of a part: below it, Python takes longer than the arithmetic

Vectors = list[Any]  # of each depth, (n, dim) float32; of a tap a list of arrays


def beside_each_other(
    forward: Callable[[Sequence[Tokens]], Vectors],
) -> Steps:
    """Return the steps of `Encoder.runner` for texts on a CPU."""

    def stage(contents: Sequence[Tokens]) -> list[Sequence[Tokens]]:
        return _parts(contents, torch.get_num_threads())

    def launch(parts: list[Sequence[Tokens]]) -> list[Vectors]:
        if len(parts) == 1:
            return [forward(parts[0])]
        return list(_single_threads(torch.get_num_threads()).map(forward, parts))

    def fetch(parts: list[Vectors]) -> Vectors:
        return [
            list(chain.from_iterable(one)) if isinstance(one[0], list) else np.concatenate(one)
            for one in zip(*parts, strict=True)
        ]

    return Steps(stage, launch, fetch)


def _parts(contents: Sequence[Tokens], n: int) -> list[Sequence[Tokens]]:
    """Cut into at most ``n`` parts of about equally many tokens, at least `_LEAST_TOKENS` each."""
    ends = np.cumsum([len(one["input_ids"]) for one in contents])
    n = max(1, min(n, int(ends[-1]) // _LEAST_TOKENS))
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, n) / n) + 1
    bounds = sorted({0, *cuts.tolist(), len(contents)})
    return [contents[start:end] for start, end in pairwise(bounds)]


@cache
def _single_threads(n: int) -> ThreadPoolExecutor:
    """Return ``n`` threads in which torch computes with one core each."""
    all_here = Barrier(n + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread's first call takes the number that any thread set last
        all_here.wait()

    pool = ThreadPoolExecutor(n, "forward", initializer=begin)
    for _ in range(n):
        pool.submit(int)
    all_here.wait()
    torch.set_num_threads(n)  # for threads to come
    return pool
