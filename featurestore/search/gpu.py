"""Exact search in the memory of a GPU, where FAISS was built for one (the extra ``gpu``)."""

from __future__ import annotations

import logging
from threading import Lock
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MOST_K = 2048  # neighbors that FAISS finds on a GPU

_log = logging.getLogger(__name__)


class FaissIndex(Protocol):
    """What we call of a FAISS index."""

    is_trained: bool

    def train(self, vectors: NDArray[np.float32], /) -> None:
        """Learn lists and codes from vectors (n, dim)."""

    def add(self, vectors: NDArray[np.float32], /) -> None:
        """Append vectors (n, dim)."""

    def search(
        self, queries: NDArray[np.float32], k: int, /
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Return distances and rows, (n_queries, k)."""


def has_gpu(faiss: ModuleType) -> bool:
    """Whether this FAISS was built for GPUs and sees one."""
    return bool(faiss.get_num_gpus() > 0)


class GpuVectors:
    """Vectors on the first GPU that FAISS sees; any thread may search."""

    def __init__(self, index: FaissIndex, resources: object) -> None:
        self._index: FaissIndex | None = index
        self._resources = resources  # FAISS does not keep them alive
        self._lock = Lock()  # one search at a time: FAISS shares its scratch memory

    @classmethod
    def of(cls, faiss: ModuleType, vectors: NDArray[np.float32], metric: int) -> GpuVectors | None:
        """Copy vectors, (n, dim), to the GPU; None where there is none, or no room on it."""
        if not has_gpu(faiss):
            return None
        try:
            resources = faiss.StandardGpuResources()
            index = faiss.GpuIndexFlat(resources, vectors.shape[1], metric)
            index.add(vectors)
        except RuntimeError as error:
            _tell(f"{vectors.nbytes / 1e9:.1f} GB of vectors do not fit on the GPU", error)
            return None
        return cls(index, resources)

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]] | None:
        """Return FAISS's distances and rows, (n_queries, k), best first; None without memory."""
        try:
            with self._lock:
                if self._index is None:
                    return None
                distances, rows = self._index.search(queries, k)
        except RuntimeError as error:
            self._index = None  # from now on the CPU answers
            _tell(f"{len(queries)} queries do not fit on the GPU", error)
            return None
        return distances, rows


def _tell(what: str, error: RuntimeError) -> None:
    reason = (str(error).strip() or "out of memory").splitlines()[-1][:200]
    _log.warning("%s (%s): searching on the CPU", what, reason)
