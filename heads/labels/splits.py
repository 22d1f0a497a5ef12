"""A split into train, val and test that heads can trust: groups and equal content stay together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadName, MissingColumn, NotEnoughData
from featurestore.terms.labels import is_missing
from heads.labels.folds import blocks, deal

if TYPE_CHECKING:
    from featurestore import DataSet


def make_split(
    ids: NDArray[np.str_],
    *,
    test: float,
    val: float = 0.0,
    labels: NDArray[Any] | None = None,
    keys: tuple[NDArray[Any], ...] = (),
    taken: NDArray[Any] | None = None,
    seed: int = 0,
) -> NDArray[Any]:
    """Deal items to train, val and test, stratified by label, block by block.

    Parameters
    ----------
    ids : ndarray of shape (n,), str
        The result depends on them and the seed, not on their order.
    test, val : float
        Shares of the items.
    labels : ndarray of shape (n,), optional
        What each part gets its share of; items without a label count as one more class.
    keys : tuple of ndarray of shape (n,)
        Items that share a value in any of them (a group, a content hash) stay together.
    taken : ndarray of shape (n,), optional
        Splits that stay; None where an item is still to be dealt. A block goes where most of
        its items are already.

    Returns
    -------
    ndarray of shape (n,), object
        ``train``, ``val`` or ``test``; what is taken under another name keeps it.

    Raises
    ------
    BadName
        If the shares leave nothing to learn from.
    NotEnoughData
        If a part would be empty.
    """
    shares = {"train": 1 - test - val, "val": val, "test": test}
    if min(test, val) < 0 or test <= 0 or shares["train"] <= 0:
        raise BadName(f"--test {test} --val {val}: expected shares between 0 and 1, some to train")
    names = [name for name, share in shares.items() if share > 0]
    held = [] if taken is None else sorted({str(v) for v in taken if v is not None} - {*names})
    order = np.argsort(ids.astype(str), kind="stable")
    classes = np.zeros(len(ids), dtype=np.intp)
    if labels is not None:
        texts = np.where(is_missing(labels), "", labels.astype(str))
        names_of, classes = np.unique(texts, return_inverse=True)
        if len(names_of) * 3 > len(ids):  # numbers to predict, not classes: nothing to stratify
            classes = np.zeros(len(ids), dtype=np.intp)
    block = blocks(*(key[order] for key in keys)) if keys else np.arange(len(ids))
    counts = np.zeros((block.max() + 1, classes.max() + 1))
    np.add.at(counts, (block, classes[order]), 1)
    parts = [*names, *held]  # what another hand has named keeps its blocks, and gets no more
    votes = np.zeros((len(counts), len(parts)))
    known = np.full(len(ids), None, dtype=object) if taken is None else taken
    for part, name in enumerate(parts):
        np.add.at(votes[:, part], block[known[order] == name], 1)
    fixed = np.where(votes.sum(axis=1) > 0, votes.argmax(axis=1), -1)
    rng = np.random.default_rng(seed)
    sizes = np.array([shares[name] for name in names] + [1e-9] * len(held))
    part_of = deal(counts, sizes, rng, fixed)
    split = np.empty(len(ids), dtype=object)
    split[order] = np.array(parts, dtype=object)[part_of[block]]
    kept = np.array([value is not None for value in known], dtype=bool)
    split[kept] = known[kept]
    empty = [name for name in names if not (split == name).any()]
    if empty:
        raise NotEnoughData(
            f"{len(counts)} blocks of equal content or group are too few: "
            f"nothing would be in {', '.join(empty)}"
        )
    return split


def split_dataset(
    dataset: DataSet,
    *,
    test: float,
    val: float = 0.0,
    group: str | None = None,
    label: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> NDArray[Any]:
    """Split a data set and keep the split in its store; see `make_split`.

    Returns
    -------
    ndarray of shape (n_items,), object
        The split of each item, in the order of ``dataset.items()``.

    Raises
    ------
    NotEnoughData
        If every item has a split already (and ``overwrite`` is false).
    MissingColumn
        No such label or group.
    """
    import pyarrow as pa

    items = dataset.items()
    for name in (label, group):
        if name is not None and name not in items.column_names:
            known = ", ".join(items.column_names)
            raise MissingColumn(f"{dataset.name} has no column {name!r}; known: {known}")

    def column(name: str) -> NDArray[Any]:
        values = np.empty(len(items), dtype=object)
        values[:] = items.column(name).to_pylist()
        return values

    main = label or next(iter(dataset.label_columns), None)
    taken = None if overwrite else column("split")
    if taken is not None and all(value is not None for value in taken):
        raise NotEnoughData(
            f"every item of {dataset.name} has a split already: --overwrite splits them again"
        )
    groups = ("content_hash", "group", *([group] if group else []))
    ids = column("item_id")
    split = make_split(
        ids,
        test=test,
        val=val,
        labels=column(main) if main else None,
        keys=tuple(map(column, groups)),
        taken=taken,
        seed=seed,
    )
    dataset.attach(pa.table({"item_id": ids.tolist(), "split": split.tolist()}), are_labels=False)
    return split
