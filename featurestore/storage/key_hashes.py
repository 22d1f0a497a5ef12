"""Keys of rows in 16 bytes each, however long ids are: for joins that do not hold all texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.storage.shards import each_shard
from featurestore.storage.tables import Shard

KEY = ["item_id", "content_hash"]
_SEEDS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
_ODD = (np.uint64(0xA0761D6478BD642F), np.uint64(0xE7037ED1A0B428DB))  # of each lane
# Shifts and factors that carry each bit to all others (splitmix64, Steele et al. 2014).
_SPREAD = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
_AT_ONCE = 1 << 20  # bytes of texts
_JOINED_AT_ONCE = 500_000


def key_hashes(shards: Sequence[Shard]) -> NDArray[np.uint64]:
    """Return hashes, (2, n), of id and content of all rows of shards, one shard after another.

    That two of 10^9 different pairs are equal in both numbers has a chance of 10^-21.
    """
    parts = [hashes_of(rows) for rows in each_shard([one.path for one in shards], KEY)]
    return np.concatenate(parts, axis=1) if parts else np.empty((2, 0), np.uint64)


def hashes_of(rows: pa.Table) -> NDArray[np.uint64]:
    """Return hashes, (2, n), of id and content."""
    parts = [text_hashes(batch.columns) for batch in rows.select(KEY).to_batches()]
    return np.concatenate(parts, axis=1) if parts else np.empty((2, 0), np.uint64)


def text_hashes(columns: Sequence[pa.StringArray]) -> NDArray[np.uint64]:
    """Return hashes, (2, n), of rows of texts; null is a text of its own."""
    found = np.repeat(np.array(_SEEDS, np.uint64)[:, None], len(columns[0]), axis=1)
    for column in columns:
        _stir(found, column)
    return found


def places(keys: NDArray[np.uint64], asked: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Return where each key asked for stands among ``keys``, of which none are equal, or -1.

    Both are (2, n); what is returned is (n_asked,).
    """
    n_parts = np.uint64(max(1, keys.shape[1] // _JOINED_AT_ONCE))
    found = np.full(asked.shape[1], -1, np.intp)
    for part in range(int(n_parts)):
        known, wanted = (np.flatnonzero(one[1] % n_parts == part) for one in (keys, asked))
        place = SortedKeys(keys[:, known]).places(asked[:, wanted])
        is_there = place >= 0
        found[wanted[is_there]] = known[place[is_there]]
    return found


class SortedKeys:
    """Keys, (2, n), of which none are equal, ready to be looked up again and again."""

    def __init__(self, keys: NDArray[np.uint64]) -> None:
        self._order = np.argsort(keys[0])
        self._first, self._second = keys[0, self._order], keys[1, self._order]

    def places(self, asked: NDArray[np.uint64]) -> NDArray[np.intp]:
        """Return where each key asked for, (2, m), stands, or -1; (m,)."""
        found = np.full(asked.shape[1], -1, np.intp)
        in_turn = np.argsort(asked[0])  # both sorted, the search is quick
        at = np.searchsorted(self._first, asked[0, in_turn])
        left = np.arange(len(at))
        while len(left):  # one round, unless the first numbers of two keys are equal
            left = left[at[left] < len(self._order)]
            left = left[self._first[at[left]] == asked[0, in_turn[left]]]
            is_equal = self._second[at[left]] == asked[1, in_turn[left]]
            found[in_turn[left[is_equal]]] = self._order[at[left[is_equal]]]
            left = left[~is_equal]
            at[left] += 1
        return found


def _stir(hashes: NDArray[np.uint64], texts: pa.StringArray) -> None:
    """Mix texts into hashes, (2, n), in place; null is a text of its own."""
    _, starts, content = texts.buffers()
    width = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    offsets = np.frombuffer(starts, width)[texts.offset : texts.offset + len(texts) + 1]
    lengths = np.diff(offsets).astype(np.int64)
    if texts.null_count:
        lengths[~np.asarray(texts.is_valid())] = -1
    _mix(hashes, lengths.view(np.uint64))
    letters = np.frombuffer(content or b"\0", np.uint8)
    if len(lengths) and lengths[0] > 0 and (lengths == lengths[0]).all():
        block = letters[offsets[0] : offsets[-1]].reshape(len(lengths), -1)
        _mix_all(hashes, block)
        return
    for length in np.unique(lengths[lengths > 0]):
        rows = np.flatnonzero(lengths == length)
        step = max(1, _AT_ONCE // int(length))
        for some in (rows[at : at + step] for at in range(0, len(rows), step)):
            mixed = hashes[:, some]
            _mix_all(mixed, letters[offsets[some][:, None] + np.arange(length)])
            hashes[:, some] = mixed


def _mix_all(hashes: NDArray[np.uint64], texts: NDArray[np.uint8]) -> None:
    """Mix texts of one length, (n, length), into hashes, (2, n), in place."""
    words = np.zeros((len(texts), -(-texts.shape[1] // 8)), np.uint64)
    words.view(np.uint8)[:, : texts.shape[1]] = texts
    for word in words.T:
        _mix(hashes, word)


def _mix(hashes: NDArray[np.uint64], word: NDArray[np.uint64]) -> None:
    """Mix one number a row, (n,), into hashes, (2, n), in place.

    Each bit of the number and of a hash reaches all bits: else what differs in one word of two
    texts is easily undone by the next, as in ids that are the places of a grid.
    """
    for lane, odd in zip(hashes, _ODD, strict=True):
        lane ^= word * odd
        for shift, factor in _SPREAD:
            lane ^= lane >> np.uint64(shift)
            lane *= np.uint64(factor)
