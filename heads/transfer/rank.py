"""Which encoder or layer first: scores without training, beside what real heads do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import NotEnoughData
from heads.labels.tasks import Target, Task
from heads.transfer.scores import SCORES, ridge_loo_rows

MOST_ROWS = 5000  # that scores look at; the interval of a rank says what so few cannot tell
N_DRAWS = 1000
PRIMARY = "ridge_loo"
LEAST_BLOCKS = 5  # of rows, for an interval of ranks
LEAST_HEADS = 3  # for a correlation with them


@dataclass(frozen=True)
class Ranked:
    """One encoder among others."""

    encoder: str
    dim: int
    scores: Mapping[str, float]
    rank: int  # by ridge_loo, 1 is best
    rank_low: int  # 95 % of bootstrap draws of the rows
    rank_high: int
    head_value: float | None = None  # what the real head reaches, where it was trained
    n_parameters: int | None = None  # of the whole network; None where nobody counted them


def rank_encoders(
    vectors: Mapping[str, NDArray[np.float32]],
    target: Target,
    *,
    groups: NDArray[np.intp] | None = None,
    head_values: Mapping[str, float] | None = None,
    n_parameters: Mapping[str, int | None] | None = None,
    seed: int = 0,
) -> list[Ranked]:
    """Score vectors of the same rows by several encoders, best first.

    The rank is that of ridge leave-one-out; its interval is from a bootstrap of whole groups of
    rows, with the left-out predictions as they are.

    Parameters
    ----------
    vectors : mapping
        Encoder → (n, dim).
    target : Target
        Of the n rows. Of several labels each one is scored for itself, and the scores' mean taken.
    head_values, n_parameters : mapping, optional
        Encoder → what its head reaches, how large its network is: to stand beside the scores.

    Raises
    ------
    NotEnoughData
        If no label has rows with and without it.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(target))[:MOST_ROWS])
    block = np.arange(len(rows)) if groups is None else np.asarray(groups)[rows]
    parts = _parts_of(target.values[rows], target.task)
    of_classes = target.task is not Task.REGRESSION
    named = [name for name, entry in SCORES.items() if entry.of_numbers or of_classes]
    scores: dict[str, dict[str, float]] = {}
    right: list[list[NDArray[np.float64]]] = [[] for _ in parts]  # of each label, each encoder's
    codes: list[NDArray[np.intp] | None] = [None] * len(parts)
    for encoder, F in vectors.items():
        F = F[rows]
        scores[encoder] = {
            name: float(np.mean([_score(name, F, y, block) for y in parts])) for name in named
        }
        for i, y in enumerate(parts):
            found, codes[i] = ridge_loo_rows(F, y, groups=block)
            right[i].append(found)
    counts, number = _drawn(block, rng)
    drawn = [
        _values_of_draws(np.stack(one), of, counts, number)
        for one, of in zip(right, codes, strict=True)
    ]
    draws = _ranks_of(np.mean(drawn, axis=0))
    order = sorted(scores, key=lambda encoder: -scores[encoder][PRIMARY])
    low = np.quantile(draws[0], 0.025, axis=0, method="inverted_cdf")
    high = np.quantile(draws[1], 0.975, axis=0, method="inverted_cdf")
    if len(np.unique(block)) < LEAST_BLOCKS:  # that few cannot tell
        low, high = np.ones(len(scores)), np.full(len(scores), len(scores))
    column = {encoder: i for i, encoder in enumerate(scores)}
    return [
        Ranked(
            encoder,
            int(vectors[encoder].shape[1]),
            scores[encoder],
            1 + sum(one[PRIMARY] > scores[encoder][PRIMARY] + 1e-12 for one in scores.values()),
            int(low[column[encoder]]),
            int(high[column[encoder]]),
            (head_values or {}).get(encoder),
            (n_parameters or {}).get(encoder),
        )
        for encoder in order
    ]


def _parts_of(values: NDArray[Any], task: Task) -> list[NDArray[Any]]:
    """Return what is scored: the target, or each label of several that some rows have."""
    if task is not Task.MULTILABEL:
        return [values]
    varied = [label for label in values.T.astype(np.intp) if len(np.unique(label)) == 2]
    if not varied:
        raise NotEnoughData("no label has rows with and without it: nothing to rank by")
    return varied


def _score(
    name: str, F: NDArray[np.float32], y: NDArray[np.float64], block: NDArray[np.intp]
) -> float:
    compute = SCORES[name].compute
    if name in ("ridge_loo", "knn_loo", "prototype_loo"):
        return compute(F, y, groups=block)
    return compute(F, y)


def _drawn(
    block: NDArray[np.intp], rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return how often each block is drawn, (n_draws, n_blocks), and the block of each row."""
    _, number = np.unique(block, return_inverse=True)
    n_blocks = int(number.max()) + 1
    return rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=N_DRAWS), number


def _values_of_draws(
    right: NDArray[np.float64],
    codes: NDArray[np.intp] | None,
    counts: NDArray[np.intp],
    number: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Return each encoder's score in each bootstrap draw, (n_draws, n_encoders)."""
    n_blocks = counts.shape[1]
    strata = np.zeros(len(number), dtype=np.intp) if codes is None else codes
    total = np.zeros((N_DRAWS, len(right)))
    n_seen = np.zeros((N_DRAWS, 1))
    for c in np.unique(strata):
        rows = strata == c
        size = np.bincount(number[rows], minlength=n_blocks)
        drawn = counts @ size  # rows of the class in each draw
        sums = np.stack(
            [np.bincount(number[rows], weights=r[rows], minlength=n_blocks) for r in right]
        )
        seen = drawn > 0
        total[seen] += (counts @ sums.T)[seen] / drawn[seen, None]
        n_seen[seen] += 1
    return np.asarray(total / np.maximum(n_seen, 1))


def _ranks_of(value: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return best and worst rank in each draw, (n_draws, n_encoders); they differ on ties."""
    better = value[:, None, :] > value[:, :, None] + 1e-12  # (n_draws, encoder, others)
    as_good = value[:, None, :] >= value[:, :, None] - 1e-12
    return 1 + better.sum(axis=2), as_good.sum(axis=2)


def agreement(ranking: Sequence[Ranked], *, higher_is_better: bool = True) -> dict[str, float]:
    """Return Kendall's τ of each score, of dim and of parameters with what the heads reach.

    Empty with fewer than three encoders whose heads are known. Dim and, where all were counted,
    parameters stand beside the scores so that nobody trusts one that does no better.
    """
    from scipy.stats import kendalltau

    known = [one for one in ranking if one.head_value is not None]
    if len(known) < LEAST_HEADS:
        return {}
    sign = 1 if higher_is_better else -1
    values = [sign * one.head_value for one in known if one.head_value is not None]
    columns = {name: [one.scores[name] for one in known] for name in known[0].scores}
    columns["dim"] = [float(one.dim) for one in known]
    counted = [one.n_parameters for one in known if one.n_parameters is not None]
    if len(counted) == len(known):
        columns["parameters"] = [float(n) for n in counted]
    taus = {}
    for name, column in columns.items():
        tau = float(kendalltau(column, values).statistic)
        taus[name] = tau if tau == tau else 0.0  # a column that does not vary
    return taus
