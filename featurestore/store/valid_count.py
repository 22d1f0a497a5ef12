"""How many items have a valid vector: counted shard by shard, kept, and brought up to date."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.kept_counts import KeptCounts
from featurestore.storage.key_hashes import key_hashes, places
from featurestore.storage.tables import Shard
from featurestore.terms.snapshots import Snapshot


def count_valid(
    folder: DatasetFolder,
    slug: str,
    snapshot: Snapshot,
    items: Sequence[Shard],
    pairs: Sequence[Shard],
) -> int:
    """Return how many items have a vector of their content; shards are those of the snapshot.

    Of a large data set the number is kept in the cache. What came since is read alone, as long as
    each new item has its vector and nothing was taken out.
    """
    kept = KeptCounts(
        folder.local / "cache" / f"count-{slug}.json",
        [folder.items, folder.view(slug)],
        [snapshot.items, snapshot.view],
        [items, pairs],
        folder.watch_erasures(),
    )
    if not kept.is_worth_it:
        return _n_valid(items, pairs)
    n: int | None = None
    if (known := kept.read()) is not None:
        n, since = int(known[0]), known[1]
        if not any(since):
            return n
        new, theirs = map(key_hashes, since)
        n = n + new.shape[1] if np.array_equal(_unique(new), _unique(theirs)) else None
    if n is None:
        n = _n_valid(items, pairs)
    kept.write(n)
    return n


def _n_valid(items: Sequence[Shard], pairs: Sequence[Shard]) -> int:
    keys = key_hashes(items)
    has_vector = np.zeros(keys.shape[1] + 1, bool)
    has_vector[places(keys, key_hashes(pairs))] = True  # the last one, of no item
    return int(has_vector[:-1].sum())


def _unique(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return keys, (2, n), sorted, each once."""
    keys = keys[:, np.lexsort(keys[::-1])]
    is_first = np.ones(keys.shape[1], bool)
    is_first[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    return keys[:, is_first]
