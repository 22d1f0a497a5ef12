"""An index as files: read, and checked against what index.json says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.errors import StoreCorrupt
from featurestore.search.exact import load_faiss
from featurestore.storage.sums import damage_of

FORMAT = 1
FILES = ("index.faiss", "keys.arrow")
ROWS = "rows.npy"  # of each position, the row in the state that index.json names


def read_facts(folder: Path) -> dict[str, Any] | None:
    """Return index.json; None where there is no index.

    Raises
    ------
    StoreCorrupt
        If it is damaged, or of another format; deleting the folder loses nothing.
    """
    try:
        facts = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreCorrupt(f"cannot read {folder / 'index.json'}: {error}; delete it") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        version = facts.get("format") if isinstance(facts, dict) else None
        raise StoreCorrupt(
            f"{folder / 'index.json'} has format {version}, this release reads {FORMAT}: build the "
            "index anew with `featurestore store index`"
        )
    try:
        damage = damage_of(folder, FILES)
    except OSError as error:
        damage = str(error)
    if damage is not None:
        raise StoreCorrupt(_of_no_use(folder, damage))
    return facts


def _of_no_use(folder: Path, reason: str) -> str:
    return (
        f"the index in {folder} cannot be read: {reason}; delete the folder, or build it anew with "
        "`featurestore store index`"
    )


def check_index(folder: Path, dim: int) -> str | None:
    """Return what is wrong with the index in a folder; None if nothing is, or there is none."""
    try:
        facts = read_facts(folder)
        if facts is None:
            return None
        if (damage := damage_of(folder, FILES, anew=True)) is not None:
            return f"{damage}: delete the folder"
        if facts["dim"] != dim:
            return f"it is of dim {facts['dim']}, the view of {dim}: delete the folder"
        read_files(folder, dim)
    except (StoreCorrupt, OSError, ValueError, KeyError) as error:
        return f"{error}; searches are exact meanwhile"
    return None


def read_files(folder: Path, dim: int) -> tuple[Any, pa.Array]:
    """Return FAISS's index, mapped, and the keys of its positions."""
    faiss = load_faiss()
    try:
        index = faiss.read_index(str(folder / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
        with pa.memory_map(str(folder / "keys.arrow")) as file:
            known = pa.ipc.open_file(file).read_all().column("key").combine_chunks()
        if index.d != dim or index.ntotal != len(known):
            raise ValueError(
                f"{index.ntotal} vectors of dim {index.d}, expected {len(known)} of {dim}"
            )
    except (OSError, ValueError, KeyError, RuntimeError, pa.ArrowInvalid) as error:
        reason = " ".join(str(error).split())[:200]
        raise StoreCorrupt(_of_no_use(folder, reason)) from error
    return index, known


def read_rows(folder: Path, n_positions: int, n_rows: int) -> NDArray[np.intp]:
    """Return the row of each position, (n_positions,), mapped; -1 where it has gone.

    Raises
    ------
    StoreCorrupt
        If these are not rows of a view of ``n_rows``.
    """
    try:
        rows: NDArray[np.intp] = np.load(folder / ROWS, mmap_mode="r", allow_pickle=False)
        if rows.shape != (n_positions,) or rows.max(initial=-1) >= n_rows:
            raise ValueError(f"{ROWS} is not of these {n_rows} rows")
    except (OSError, ValueError) as error:
        raise StoreCorrupt(_of_no_use(folder, str(error))) from error
    return rows
