"""Several inputs of the same items: vectors of some encoders, raw pixels, texts."""

from __future__ import annotations

from collections.abc import ItemsView, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from featurestore.errors import BadName, ShapeMismatch
from heads.labels.matrix import Matrix


class Blocks:
    """Matrices and texts by name, all of the same n items; taking rows takes them of each.

    Parameters
    ----------
    blocks : mapping
        Name → matrix of shape (n, dim), dense or CSR, or texts of shape (n,). They are kept as
        they are, and must not be changed.

    Raises
    ------
    ShapeMismatch
        Unless all have the same number of rows.
    """

    __slots__ = ("_blocks", "_n")

    def __init__(self, blocks: Mapping[str, Matrix]) -> None:
        if not blocks:
            raise ShapeMismatch("no block: expected one or more")
        self._blocks = {
            str(name): csr_array(block) if issparse(block) else np.asarray(block)
            for name, block in blocks.items()
        }
        sizes = {name: block.shape[0] for name, block in self._blocks.items()}
        if len(set(sizes.values())) > 1:
            said = ", ".join(f"{name!r} has {size:,}" for name, size in sizes.items())
            raise ShapeMismatch(f"blocks of one number of rows are needed: {said}")
        self._n: int = next(iter(sizes.values()))

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Any:
        raise TypeError("blocks are read by name: use block(name), names or items()")

    def __getitem__(self, rows: NDArray[Any] | slice) -> Self:
        """Return some rows of every block: positions, a mask of shape (n,), or a slice."""
        return type(self)({name: block[rows] for name, block in self._blocks.items()})

    def __repr__(self) -> str:
        said = ", ".join(f"{name}: {block.shape}" for name, block in self._blocks.items())
        return f"Blocks({said})"

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order given."""
        return tuple(self._blocks)

    def items(self) -> ItemsView[str, Any]:
        """Return names with blocks."""
        return self._blocks.items()

    def block(self, name: str) -> Any:
        """Return the block of a name: always the same object.

        Raises
        ------
        BadName
            If there is none.
        """
        try:
            return self._blocks[name]
        except KeyError:
            known = ", ".join(map(repr, self._blocks))
            raise BadName(f"no block {name!r} among the inputs: there are {known}") from None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and columns of all blocks together; texts count as one column."""
        widths = (block.shape[1] if block.ndim == 2 else 1 for block in self._blocks.values())
        return self._n, sum(widths)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return sum(int(getattr(block, "data", block).nbytes) for block in self._blocks.values())
