"""Folds that are the same for every head and encoder: arrays in, fold numbers out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import NotEnoughData
from featurestore.terms.labels import is_missing

N_FOLDS = 5
N_REPEATS = 5


@dataclass(frozen=True, eq=False)
class Folds:
    """Repeated folds: in repeat r, row i is tested in fold ``number[r, i]``."""

    number: NDArray[np.intp]  # (n_repeats, n), from 0 to n_folds - 1; -1 always teaches
    n_folds: int

    @property
    def n_repeats(self) -> int:
        """How often the rows were dealt anew."""
        return len(self.number)

    def parts(self) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield training and test rows, (n_train,) and (n_test,): all folds of each repeat."""
        for number in self.number:
            for fold in range(self.n_folds):
                yield np.flatnonzero(number != fold), np.flatnonzero(number == fold)

    def spread(self, is_dealt: NDArray[np.bool_], block: NDArray[np.intp]) -> Folds:
        """Return folds over more rows: those of these folds, and others that only teach.

        One that shares a block with a dealt row goes with it.

        Parameters
        ----------
        is_dealt : ndarray of shape (n,), bool
            The rows that these folds are of.
        block : ndarray of shape (n,)
        """
        if is_dealt.all():
            return self
        number = np.full((self.n_repeats, len(is_dealt)), -1, dtype=np.intp)
        number[:, is_dealt] = self.number
        known, first = np.unique(block[is_dealt], return_index=True)
        place = np.searchsorted(known, block).clip(max=len(known) - 1)
        goes_along = ~is_dealt & (known[place] == block)
        number[:, goes_along] = self.number[:, first[place[goes_along]]]
        return Folds(number, self.n_folds)


def blocks(*keys: NDArray[Any]) -> NDArray[np.intp]:
    """Find the rows that must stay together, and number these blocks.

    Rows that share a value in any key (a group, a content hash) are in one block, and so
    are the rows that a chain of such pairs connects. Missing values connect nothing.

    Parameters
    ----------
    *keys : ndarray of shape (n,)

    Returns
    -------
    ndarray of shape (n,)
        Block numbers, by first appearance.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(keys[0])
    rows, nodes, n_nodes = [], [], n
    for key in keys:
        known = np.flatnonzero(~is_missing(key))
        code, n_values = numbered(key[known])
        if n_values == len(known):
            continue  # no two are equal: it joins nothing
        rows.append(known)
        nodes.append(n_nodes + code)
        n_nodes += n_values
    if not rows:
        return np.arange(n)
    edges = np.concatenate(rows), np.concatenate(nodes)
    graph = coo_array((np.ones(len(edges[0]), dtype=np.int8), edges), shape=(n_nodes, n_nodes))
    component = connected_components(graph, directed=False)[1][:n]
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse], dtype=np.intp)


def numbered(values: NDArray[Any]) -> tuple[NDArray[np.intp], int]:
    """Return a number of each value, (n,), equal for equal texts, and how many texts there are."""
    of_value: dict[str, int] = {}
    number = of_value.setdefault
    code = np.fromiter((number(str(one), len(of_value)) for one in values.tolist()), np.intp)
    return code, len(of_value)


def make_folds(
    ids: NDArray[np.str_],
    codes: NDArray[np.intp] | NDArray[np.bool_],
    block: NDArray[np.intp],
    *,
    classes: Sequence[str] = (),
    n_folds: int = N_FOLDS,
    n_repeats: int = N_REPEATS,
    seed: int = 0,
) -> Folds:
    """Assign rows to stratified folds, block by block.

    Largest blocks go first, equal ones in random order, each to the fold that so far has
    least of its classes. The result depends on the ids and the seed, not on the row order.

    Parameters
    ----------
    ids : ndarray of shape (n,), str
    codes : ndarray of shape (n,), or of shape (n, n_strata), bool
        Class numbers from 0; or which strata each row is in, to be spread as well as can be.
    block : ndarray of shape (n,)
        Rows of one block stay together.
    classes : sequence of str
        Names for messages.
    n_folds : int
        Fewer are made where a class has fewer blocks.

    Raises
    ------
    NotEnoughData
        With fewer than two classes or blocks, or with a class that lies in one block.
    """
    are_classes = codes.ndim == 1
    if are_classes and len(np.unique(codes)) < 2:
        raise NotEnoughData("at least two classes with labels are needed, found one or none")
    order = np.argsort(ids.astype(str), kind="stable")
    _, first, sorted_block = np.unique(block[order], return_index=True, return_inverse=True)
    sorted_block = np.argsort(np.argsort(first))[sorted_block]  # numbered by id order
    if are_classes:
        counts = np.zeros((len(first), codes.max() + 1))  # (n_blocks, n_classes)
        np.add.at(counts, (sorted_block, codes[order]), 1)
        n_blocks = (counts > 0).sum(axis=0)  # of each class
    else:
        counts = np.zeros((len(first), codes.shape[1]))
        np.add.at(counts, sorted_block, codes[order].astype(float))
        n_blocks = np.array([len(first)])
        if len(first) < 2:
            raise NotEnoughData("all items are in one group: folds need two or more")
    for c in np.flatnonzero(n_blocks == 1).tolist() if are_classes else ():
        name = repr(classes[c]) if len(classes) else f"number {c}"
        n_rows = int(counts[:, c].sum())
        raise NotEnoughData(
            f"class {name} has {n_rows} item{'s' * (n_rows > 1)} in one group: folds need two "
            "groups or more; label more of it, merge it with another class, or leave it out"
        )
    n_folds = min(n_folds, int(n_blocks[n_blocks > 0].min()))
    number = np.empty((n_repeats, len(ids)), dtype=np.intp)
    for repeat in range(n_repeats):
        fold_of_block = deal(counts, np.ones(n_folds), np.random.default_rng([seed, repeat]))
        number[repeat, order] = fold_of_block[sorted_block]
    return Folds(number, n_folds)


def deal(
    counts: NDArray[np.float64],
    shares: NDArray[np.float64],
    rng: np.random.Generator,
    taken: NDArray[np.intp] | None = None,
) -> NDArray[np.intp]:
    """Deal blocks to parts, so that each class is spread over the parts by their shares.

    Parameters
    ----------
    counts : ndarray of shape (n_blocks, n_classes)
    shares : ndarray of shape (n_parts,)
        Relative sizes of the parts, positive.
    rng : Generator
    taken : ndarray of shape (n_blocks,), optional
        Parts that are fixed; -1 where a block is still to be dealt.

    Returns
    -------
    ndarray of shape (n_blocks,)
        The part of each block.
    """
    share = counts / np.maximum(counts.sum(axis=0), 1)  # rare classes weigh as much as common ones
    sizes = counts.sum(axis=1)
    only = share.argmax(axis=1)
    is_single = (counts > 0).sum(axis=1) == 1  # of one class: no matrix product needed
    load = np.zeros((len(shares), counts.shape[1]))  # over the part's share
    total = np.zeros(len(shares))
    part = np.full(len(counts), -1, dtype=np.intp) if taken is None else taken.copy()
    for f in range(len(shares)):
        load[f] = share[part == f].sum(axis=0) / shares[f]
        total[f] = sizes[part == f].sum() / shares[f]
    shuffled = rng.permutation(len(counts))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    order = order[part[order] < 0]
    if is_single.all():
        own = share[np.arange(len(share)), only]
        part[order] = _deal_single(load, total, shares, only[order], own[order], sizes[order])
        return part
    for b in order:
        cost = load[:, only[b]] if is_single[b] else load @ share[b]
        # The part's size breaks ties: it is too small to outweigh a row of a class.
        f = part[b] = int(np.argmin(cost + total * 1e-9))
        load[f] += share[b] / shares[f]
        total[f] += sizes[b] / shares[f]
    return part


def _deal_single(
    load: NDArray[np.float64],
    total: NDArray[np.float64],
    shares: NDArray[np.float64],
    only: NDArray[np.intp],
    own: NDArray[np.float64],
    sizes: NDArray[np.float64],
) -> list[int]:
    """Deal blocks of one class each, as `deal` does: plain numbers are several times faster."""
    loads, totals, of_part = load.T.tolist(), total.tolist(), shares.tolist()
    parts, found = range(len(of_part)), []
    for c, more, size in zip(only.tolist(), own.tolist(), sizes.tolist(), strict=True):
        column = loads[c]
        costs = [column[f] + totals[f] * 1e-9 for f in parts]
        f = costs.index(min(costs))
        column[f] += more / of_part[f]
        totals[f] += size / of_part[f]
        found.append(f)
    return found
