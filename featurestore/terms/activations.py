"""What a network holds at a cut, item by item: numpy only, wherever the numbers lie."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import ShapeMismatch
from featurestore.terms.taps import PLAIN

HALF = np.dtype("<f2")  # as activations are stored: float16, little-endian


class Block(Protocol):
    """Bytes of many items: in memory, or a file."""

    def read_into(self, out: NDArray[np.uint8], at: int) -> None:
        """Fill ``out``, (n_bytes,), with the bytes from ``at`` on."""


class _InMemory:
    def __init__(self, content: NDArray[np.uint8]) -> None:
        self.content = content

    def read_into(self, out: NDArray[np.uint8], at: int) -> None:
        out[:] = self.content[at : at + len(out)]


class Activations:
    """Whole activations of n items at a cut, float16; taking rows copies nothing.

    They lie in memory or in the files of a store, which are read batch by batch: more of them
    than memory holds can be trained on.

    Parameters
    ----------
    blocks : sequence of Block
    places : ndarray of shape (n, 3), int64
        Of each item: number of its block, first byte there, number of bytes.
    shape : tuple of int
        Of one item in one variant: (channels, height, width), or (length, width) of tokens;
        (0, width) where lengths differ (texts).
    variants : sequence of str
        An item's bytes hold them one after another; the plain one is the first.
    ids : ndarray of shape (n,), optional

    Examples
    --------
    >>> import numpy as np
    >>> acts = Activations.of(np.zeros((5, 2, 8, 4, 4)), ("plain", "flip"))
    >>> len(acts), acts.shape, acts[1:4].batch(np.array([0, 2]), variant=1).shape
    (5, (8, 4, 4), (2, 8, 4, 4))
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        places: NDArray[np.int64],
        shape: Sequence[int],
        variants: Sequence[str] = (PLAIN,),
        ids: NDArray[Any] | None = None,
    ) -> None:
        self.blocks = tuple(blocks)
        self.places = places
        self.shape = tuple(int(side) for side in shape)
        self.variants = tuple(variants)
        self.ids = ids
        if self.is_ragged and len(self.variants) != 1:
            raise ShapeMismatch(f"variants {variants}: items of different lengths have one")
        one = self.variant_bytes * len(self.variants)
        wrong = places[:, 2] % one if self.is_ragged else places[:, 2] != one
        if wrong.any():
            n_bytes = places[np.flatnonzero(wrong)[0], 2]
            raise ShapeMismatch(
                f"{n_bytes:,} bytes of an item do not fit activations of shape {self.shape} "
                f"in {len(self.variants)} variants"
            )
        if ids is not None and len(ids) != len(places):
            raise ShapeMismatch(f"{len(ids)} ids, but activations of {len(places)} items")

    @classmethod
    def of(
        cls,
        arrays: NDArray[Any] | Sequence[NDArray[Any]],
        variants: Sequence[str] = (PLAIN,),
        *,
        ids: Iterable[str] | None = None,
    ) -> Activations:
        """Hold arrays in memory: one (n, variants, *shape), or a list of (length, width).

        Raises
        ------
        ShapeMismatch
            If they do not fit together.
        """
        named = None if ids is None else np.array(list(ids), object)
        if isinstance(arrays, np.ndarray):
            if arrays.ndim < 3 or arrays.shape[1] != len(variants):
                raise ShapeMismatch(
                    f"activations of shape {arrays.shape}: expected (items, {len(variants)}, …)"
                )
            shape: tuple[int, ...] = arrays.shape[2:]
            sizes = np.full(len(arrays), math.prod(arrays.shape[1:]) * HALF.itemsize)
            flat = np.ascontiguousarray(arrays, HALF).reshape(-1)
        else:
            widths = {one.shape[1:] for one in arrays}
            if len(widths) != 1 or len(next(iter(widths))) != 1:
                raise ShapeMismatch(f"items of widths {sorted(widths)}: expected (length, width)")
            shape = (0, *widths.pop())
            sizes = np.array([one.size * HALF.itemsize for one in arrays])
            flat = np.concatenate(arrays).astype(HALF, copy=False).reshape(-1)
        ends = np.cumsum(sizes, dtype=np.int64)
        places = np.stack([np.zeros_like(ends), ends - sizes, sizes], axis=1)
        return cls([_InMemory(flat.view(np.uint8))], places, shape, variants, named)

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        what = "x".join(map(str, self.shape[self.is_ragged :]))
        what = f"texts, {what} a token" if self.is_ragged else f"items of {what}"
        return f"Activations of {len(self):,} {what} ({', '.join(self.variants)})"

    def __getitem__(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Activations:
        """Return some items; ``rows`` are positions, a mask (n,) or a slice."""
        ids = None if self.ids is None else self.ids[rows]
        return Activations(self.blocks, self.places[rows], self.shape, self.variants, ids)

    @property
    def is_ragged(self) -> bool:
        """Whether items have different lengths, as texts have."""
        return self.shape[0] == 0

    @property
    def variant_bytes(self) -> int:
        """Bytes of an item in one variant; of ragged ones, of one token."""
        return math.prod(self.shape[self.is_ragged :]) * HALF.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all items in all variants."""
        return int(self.places[:, 2].sum())

    @property
    def lengths(self) -> NDArray[np.intp]:
        """How many tokens each ragged item has, (n,)."""
        return (self.places[:, 2] // self.variant_bytes).astype(np.intp)

    def batch(self, rows: NDArray[np.intp], variant: int = 0) -> NDArray[np.float16]:
        """Return some items in one variant, (len(rows), *shape); read where they lie on disk.

        Raises
        ------
        ShapeMismatch
            If items have different lengths: `ragged` returns those.
        """
        if self.is_ragged:
            raise ShapeMismatch("items of different lengths: ask for them with ragged(rows)")
        start = range(len(self.variants))[variant] * self.variant_bytes
        out = np.empty((len(rows), self.variant_bytes), np.uint8)
        for to, (block, at, _) in zip(out, self.places[rows].tolist(), strict=True):
            self.blocks[block].read_into(to, at + start)
        return _halves(out).reshape(len(rows), *self.shape)

    def ragged(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.float16], NDArray[np.intp]]:
        """Return some items one below another, (sum of lengths, width), and their lengths.

        Raises
        ------
        ShapeMismatch
            If all items have one shape: `batch` returns those.
        """
        if not self.is_ragged:
            raise ShapeMismatch("items of one shape: ask for them with batch(rows)")
        lengths = self.lengths[rows]
        out = np.empty(int(self.places[rows, 2].sum()), np.uint8)
        done = 0
        for block, at, n_bytes in self.places[rows].tolist():
            self.blocks[block].read_into(out[done : done + n_bytes], at)
            done += n_bytes
        return _halves(out).reshape(-1, self.shape[-1]), lengths


def _halves(content: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Return bytes as float16 of this machine."""
    return content.reshape(-1).view(HALF).astype(np.float16, copy=False)
