"""Rows drawn evenly: whole blocks, and of each class its share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import NotEnoughData
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.labels import is_missing
from heads.labels.folds import blocks, numbered
from heads.labels.options import PlanOptions

LARGE_ROWS = 100_000  # of more, folds are dealt once, and some heads learn from a sample


def fair_rows(
    strata: NDArray[np.intp], block: NDArray[np.intp], n: int, seed: int | None = 0
) -> NDArray[np.intp]:
    """Return some n rows, ascending: whole blocks, of each stratum as many as its share.

    ``strata`` and ``block`` are (n_rows,), numbers; each stratum is among them. A block counts for
    the rarest of its strata, so that mixed blocks may make the shares differ.
    """
    if n >= len(strata):
        return np.arange(len(strata))
    _, code, counts = np.unique(strata, return_inverse=True, return_counts=True)
    rank = np.argsort(np.argsort(counts, kind="stable"))[code]  # 0: of the rarest
    _, number = np.unique(block, return_inverse=True)
    sizes = np.bincount(number)
    of_block = np.full(len(sizes), len(counts))
    np.minimum.at(of_block, number, rank)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    order = shuffled[np.argsort(of_block[shuffled], kind="stable")]
    before = np.cumsum(sizes[order]) - sizes[order]
    before -= before[np.searchsorted(of_block[order], of_block[order])]  # of its stratum alone
    quota = np.bincount(of_block, weights=sizes) * n / len(strata)
    chosen = np.zeros(len(sizes), bool)
    chosen[order[before + sizes[order] / 2 <= quota[of_block[order]]]] = True
    for absent in np.setdiff1d(rank, rank[chosen[number]]):
        chosen[number[np.flatnonzero(rank == absent)[0]]] = True
    return np.flatnonzero(chosen[number])


def some_rows(
    tables: Sequence[Embeddings], options: PlanOptions, n_rows: int | None
) -> tuple[list[Embeddings], list[str]]:
    """Return tables of some of the labelled items, and a note; unlabelled items all stay.

    Groups and exact copies stay whole, labels and splits keep their shares.
    """
    table = tables[0]
    name = options.label or table.label_column
    if n_rows is None or name is None:  # without labels: whoever asks for them says so
        return list(tables), []
    if n_rows < 2:
        raise NotEnoughData(f"{n_rows} rows: expected two or more")
    is_known = ~is_missing(table.column(name))
    known = np.flatnonzero(is_known)
    if len(known) <= n_rows:
        return list(tables), []
    empty = np.full(len(table), None, dtype=object)
    content, group, split = (
        table.columns.get(key, empty)[known] for key in ("content_hash", "group", "split")
    )
    block = blocks(content, *([group] if options.group else []))
    labels, n_labels = numbered(table.column(name)[known])
    if n_labels > n_rows / 2:  # numbers, or names: nothing to keep shares of
        labels = np.zeros(len(known), np.intp)
    splits, n_splits = numbered(split)
    chosen = known[fair_rows(labels * n_splits + splits, block, n_rows, options.seed)]
    is_known[known] = False
    is_known[chosen] = True
    is_known |= is_missing(table.column(name))
    note = (
        f"{len(chosen):,} of {len(known):,} labelled items were drawn at random (seed "
        f"{options.seed}): whole groups, and of each label and split its share."
    )
    rows = np.flatnonzero(is_known)
    return [one.take(rows) for one in tables], [note]
