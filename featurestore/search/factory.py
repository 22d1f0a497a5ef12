"""Which index a view gets: exact while that is quick, else the cheapest with enough recall."""

from __future__ import annotations

import numpy as np

from featurestore.errors import BadName
from featurestore.search.exact import EXACT_FLOATS

GRAPH = "HNSW32,SQ8"
BITS = "RaBitQ"
SLOW_FLOATS = EXACT_FLOATS // 4  # a query that reads more of them takes about a millisecond


def choose_factory(n: int, dim: int, memory_bytes: int | None = None) -> str:
    """Choose by rows and memory: inverted lists of 8-bit codes, of single bits, or of products.

    RaBitQ keeps a bit a number, and needs no training: of enough candidates that are scored
    exactly it finds what 8 bits find (Gao and Long, 2024, arXiv:2405.12497).

    >>> choose_factory(200_000, 512)
    'IVF512,SQ8'
    >>> choose_factory(200_000, 512, memory_bytes=20 << 20)
    'IVF512,RaBitQ'
    >>> choose_factory(200_000, 512, memory_bytes=10 << 20)
    'IVF512,PQ32'
    """
    n_lists = int(2 ** np.clip(np.round(np.log2(max(n, 1)) / 2), 2, 16))
    n_lists = max(1, min(n_lists, n // 39 or 1))  # FAISS wants 39 vectors to train each
    code = "SQ8"
    if memory_bytes is not None and n * (dim + 8) > memory_bytes:
        code = BITS
    if memory_bytes is not None and n * (dim // 8 + 16) > memory_bytes:
        # The longest product code that fits and divides dim.
        fitting = [m for m in range(1, dim + 1) if dim % m == 0 and n * (m + 8) <= memory_bytes]
        if not fitting:
            raise BadName(
                f"{memory_bytes / 1e6:,.1f} MB are too few for {n:,} vectors: "
                f"expected at least {n * 9 / 1e6:,.1f}"
            )
        code = f"PQ{max(fitting)}"
    return f"IVF{n_lists},{code}"


def check_recall(recall: float) -> None:
    """Raise BadName if a value is not a share."""
    if not 0 < recall <= 1:
        raise BadName(f"recall {recall}: expected a share above 0 and up to 1")


def is_exact_enough(n_floats: int, recall: float, memory_bytes: int | None) -> bool:
    """Whether exact search is fast enough, and fits, so that an index would save nothing."""
    fits = memory_bytes is None or 4 * n_floats <= memory_bytes
    return fits and (n_floats <= EXACT_FLOATS or recall == 1)


def graph_bytes(n: int, dim: int) -> int:
    """Return what a graph takes: a byte a number, 64 links at the bottom and a few above."""
    return n * (dim + 272)
