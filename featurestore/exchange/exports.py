"""Vectors out to other programs' files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import BadSource, MissingExtra
from featurestore.exchange.imports import STORE_ONLY, matrix
from featurestore.search.exact import ExactIndex
from featurestore.store.view import View
from featurestore.terms.vectors import principal

ATLAS_COLUMNS = ("projection_x", "projection_y", "neighbors")


def export(
    view: View, path: str | Path, *, split: str | None = None, where: str | None = None
) -> int:
    """Write a view for other programs; return the number of rows.

    ``.parquet`` and ``.arrow`` hold ids, columns and vectors; ``.npy`` the matrix, with the rest
    in ``.items.parquet`` beside it; ``.atlas.parquet`` has ``projection_x``, ``projection_y`` and
    ``neighbors`` besides, as Embedding Atlas reads them; a path without a suffix becomes a
    Hugging Face data set.

    Raises
    ------
    BadSource
        For another suffix, or where there is something already.
    """
    path = Path(path)
    ending = next((one for one in _WRITERS if one and path.name.endswith(one)), path.suffix)
    if ending not in _WRITERS:
        known = ", ".join(one or "a folder" for one in _WRITERS)
        raise BadSource(f"cannot write {path.name}: expected {known}")
    for target in (path, *([_items_beside(path)] if ending == ".npy" else [])):
        if target.exists():
            raise BadSource(f"there is something at {target}: name another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    table = view.to_arrow(split=split, where=where)
    table = table.drop_columns([name for name in STORE_ONLY if name in table.column_names])
    if len(table) == 0:
        raise BadSource("no item fulfils the condition: nothing is written")
    _WRITERS[ending](table, path, view)
    return len(table)


def _write_parquet(table: pa.Table, path: Path, view: View) -> None:
    pq.write_table(_with_facts(table, view), path, row_group_size=16_384)


def _write_arrow(table: pa.Table, path: Path, view: View) -> None:
    table = _with_facts(table, view)
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)


def _write_npy(table: pa.Table, path: Path, view: View) -> None:
    np.save(path, matrix(table.column("vector"), path.name))
    rest = _with_facts(table.drop_columns(["vector"]), view)
    pq.write_table(rest, _items_beside(path))


def _items_beside(path: Path) -> Path:
    """Return the file of what belongs to the rows of an ``.npy`` file."""
    return path.with_suffix(".items.parquet")


def _write_datasets(table: pa.Table, path: Path, view: View) -> None:
    try:
        from datasets import Dataset
    except ImportError as error:
        raise MissingExtra(
            "a Hugging Face data set needs datasets: pip install 'featurestore[datasets]'"
        ) from error
    Dataset(_with_facts(table, view)).save_to_disk(path)


def _write_atlas(table: pa.Table, path: Path, view: View) -> None:
    vectors = matrix(table.column("vector"), path.name)
    flat = principal(vectors, 2)
    index = ExactIndex.build(np.arange(len(table)).astype(str), vectors)
    found = index.search(vectors, k=min(16, len(table)))
    neighbors = [
        {"ids": rows.tolist(), "distances": (1 - scores).tolist()}
        for rows, scores in zip(found.rows, found.scores, strict=True)
    ]
    of_earlier = [name for name in ATLAS_COLUMNS if name in table.column_names]
    table = table.drop_columns(of_earlier)  # an export that was imported: made anew
    table = table.append_column("projection_x", pa.array(flat[:, 0], pa.float32()))
    table = table.append_column("projection_y", pa.array(flat[:, 1], pa.float32()))
    kind = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float64()))])
    _write_parquet(table.append_column("neighbors", pa.array(neighbors, kind)), path, view)


_WRITERS: dict[str, Callable[[pa.Table, Path, View], None]] = {
    ".atlas.parquet": _write_atlas,
    ".parquet": _write_parquet,
    ".arrow": _write_arrow,
    ".npy": _write_npy,
    "": _write_datasets,
}


def _with_facts(table: pa.Table, view: View) -> pa.Table:
    """Add to the file's metadata which view and encoder the vectors are from."""
    facts = {
        "dataset": view.dataset.name,
        "encoder": str(view.spec),
        "fingerprint": view.fingerprint,
        "snapshot": str(view.snapshot),
    }
    return table.replace_schema_metadata({"featurestore": json.dumps(facts)})
