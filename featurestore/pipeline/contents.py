"""Contents that have a vector, by eight bytes of their hashes: for many millions of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Set
from functools import reduce
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_HEX_DIGITS = 16  # of a SHA-256, 64: those that are compared
_LOAD = 0.6  # of the slots, at most so many hold something
_LEAST_SLOTS = 1 << 10
_VALUES = np.full(256, 255, np.uint8)  # of a hexadecimal digit
_VALUES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


class Contents:
    """A set of content hashes that grows, eight bytes each, in one table of numbers.

    Millions of texts in a Python set take ten times the memory, and Python's collector looks at
    each of them again and again. Two hashes that begin alike pass for one: a hash that is said to
    be known may have no vector after all, so whoever takes one must be ready to find none.
    """

    def __init__(self) -> None:
        self._n = 0
        self._slots = np.zeros(_LEAST_SLOTS, np.uint64)  # 0: empty
        self._shown = self._slots.data  # single values are read faster so

    def __contains__(self, content_hash: object) -> bool:
        key, slots = _key(content_hash), self._shown
        mask = len(slots) - 1
        at = key & mask
        while found := slots[at]:
            if found == key:
                return True
            at = (at + 1) & mask
        return False

    def add(self, content_hash: str) -> None:
        """Add one."""
        self._make_room(1)
        key, slots = _key(content_hash), self._shown
        mask = len(slots) - 1
        at = key & mask
        while found := slots[at]:
            if found == key:
                return
            at = (at + 1) & mask
        slots[at] = key
        self._n += 1

    def update(self, hashes: pa.ChunkedArray) -> None:
        """Add many; nulls are left out."""
        keys = keys_of(hashes)
        self._make_room(len(keys))
        _put(keys, self._slots)
        self._n = int(np.count_nonzero(self._slots))

    def marks(self, hashes: pa.ChunkedArray) -> NDArray[np.bool_]:
        """Return which hashes, none of them null, are known; (n,) bool."""
        keys, slots = keys_of(hashes), self._slots
        is_known = np.zeros(len(keys), bool)
        rows, mask = np.arange(len(keys)), np.uint64(len(slots) - 1)
        at = keys & mask
        while len(rows):
            found = slots[at]
            is_known[rows[found == keys]] = True
            goes_on = (found != keys) & (found != 0)
            rows, keys = rows[goes_on], keys[goes_on]
            at = (at[goes_on] + np.uint64(1)) & mask
        return is_known

    def keys(self) -> NDArray[np.uint64]:
        """Return the first eight bytes of each hash as a number; (n,)."""
        keys: NDArray[np.uint64] = self._slots[self._slots != 0]
        return keys

    def _make_room(self, n: int) -> None:
        n_slots = len(self._slots)
        while self._n + n > _LOAD * n_slots:
            n_slots *= 2
        if n_slots > len(self._slots):
            slots = np.zeros(n_slots, np.uint64)
            _put(self._slots[self._slots != 0], slots)
            self._slots, self._shown = slots, slots.data


class ContentsOfPart(set[str]):
    """Those contents of a part of the texts that are known, in a set that is small.

    What stands once in the part is not looked up again, so it is not taken in.
    """

    def __init__(self, contents: Contents, hashes: pa.ChunkedArray) -> None:
        super().__init__(hashes.filter(pa.array(contents.marks(hashes))).to_pylist())
        keys = keys_of(hashes)
        different, counts = np.unique(keys, return_counts=True)
        is_repeated = np.isin(keys, different[counts > 1])
        self._repeated = set(hashes.filter(pa.array(is_repeated)).to_pylist())

    def add(self, content_hash: str) -> None:
        """Add one, if it may be asked for again."""
        if content_hash in self._repeated:
            super().add(content_hash)


Known: TypeAlias = Contents | Set[str]


def known_to_all(known: Iterable[Known]) -> NDArray[np.uint64]:
    """Return the first eight bytes of the hashes that all of these hold, as numbers, sorted."""
    keys = [
        one.keys() if isinstance(one, Contents) else np.array([*map(_key, one)], np.uint64)
        for one in known
    ]
    return reduce(np.intersect1d, keys[1:], np.unique(keys[0]))


def _put(keys: NDArray[np.uint64], slots: NDArray[np.uint64]) -> None:
    """Put keys into the first slots that are free from where each belongs on."""
    mask = np.uint64(len(slots) - 1)
    at = keys & mask
    while len(keys):
        is_free = slots[at] == 0
        slots[at[is_free]] = keys[is_free]  # of several for one slot, one gets it
        is_left = slots[at] != keys
        keys, at = keys[is_left], (at[is_left] + np.uint64(1)) & mask


def _key(content_hash: object) -> int:
    """Return the number that a hash begins with; never 0."""
    text = str(content_hash)
    try:
        return int(text[:_HEX_DIGITS], 16) or 1
    except ValueError:  # no SHA-256: another program's name of the content
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") or 1


def keys_of(hashes: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return the first eight bytes of each hash as a number; nulls are left out."""
    parts = [_keys_of_chunk(chunk.drop_null()) for chunk in hashes.chunks]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def _keys_of_chunk(hashes: pa.StringArray) -> NDArray[np.uint64]:
    starts = np.frombuffer(hashes.buffers()[1], np.int32)[hashes.offset :][: len(hashes) + 1]
    if len(hashes) and (np.diff(starts) == 2 * hashlib.sha256().digest_size).all():
        letters = np.frombuffer(hashes.buffers()[2], np.uint8)[starts[0] : starts[-1]]
        digits = _VALUES[letters.reshape(len(hashes), -1)[:, :_HEX_DIGITS]]
        if (digits < 16).all():
            pairs = np.ascontiguousarray(digits[:, 0::2] << 4 | digits[:, 1::2])
            keys = pairs.view(">u8").reshape(-1).astype(np.uint64)
            return np.maximum(keys, np.uint64(1))
    return np.array([_key(one) for one in hashes.to_pylist()], np.uint64)
