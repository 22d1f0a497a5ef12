"""Vectors out to other programs' files."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from featurestore.errors import BadSource, ShapeMismatch
from featurestore.exchange.hf_folders import write_folder
from featurestore.exchange.imports import STORE_ONLY
from featurestore.exchange.known_columns import KEY, KnownColumns
from featurestore.exchange.pictures import KIND, pictures_of
from featurestore.exchange.vector_rows import matrix
from featurestore.search.exact import ExactIndex
from featurestore.storage.files import written_beside
from featurestore.store.view import View
from featurestore.terms.vectors import principal

ATLAS = ".atlas.parquet"
ATLAS_COLUMNS = ("projection_x", "projection_y", "neighbors")


def export(
    view: View,
    path: str | Path,
    *,
    split: str | None = None,
    where: str | None = None,
    points: NDArray[np.float32] | None = None,
    pictures: str | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> int:
    """Write a view for other programs; return the number of rows.

    ``.parquet`` and ``.arrow`` hold ids, columns and vectors; ``.npy`` the matrix, with the rest
    in ``.items.parquet`` beside it; ``.atlas.parquet`` has ``projection_x``, ``projection_y`` and
    ``neighbors`` besides, as Embedding Atlas reads them; a path without a suffix becomes a
    Hugging Face data set, or one a split where the items have splits and none is named. What is
    known of label columns goes along, and `import_vectors` takes it from there.

    Parameters
    ----------
    view : View
    path : str or Path
    split, where : str, optional
        Only items of a split, or those that fulfil an SQL condition.
    points : ndarray of shape (n, 2), optional
        For ``.atlas.parquet``: a map of all items of the view, rows as `View.load` gives them;
        the two directions of greatest variance by default.
    pictures : {"path", "bytes"}, optional
        Add a column of pictures: the paths of their files, or the bytes (which pass through
        memory).
    overwrite : bool
        Replace a file that is there; a folder never is.
    say : callable
        Told what a user should know.

    Raises
    ------
    BadSource
        For another suffix, or where there is something already.
    ShapeMismatch
        If ``points`` are not those of the view.
    """
    path, view = Path(path), view.now()
    ending = check_path(path, has_map=points is not None, overwrite=overwrite)
    table = view.to_arrow(split=split, where=where)
    if len(table) == 0:
        raise BadSource("no item fulfils the condition: nothing is written")
    if ending == ATLAS:  # an export that was imported: made anew
        table = table.drop_columns([one for one in ATLAS_COLUMNS if one in table.column_names])
    added: dict[str, pa.Array | pa.ChunkedArray] = {}
    if pictures is not None:
        name, column = pictures_of(view, table, pictures, say)
        added[name] = column
    if ending == ATLAS:
        added |= _atlas_columns(table, _chosen(view, points, split, where), path.name)
    table = table.drop_columns([name for name in STORE_ONLY if name in table.column_names])
    for name, column in added.items():
        table = table.append_column(name, column)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = _with_facts(table, view, added)
    if ending == "" and split is None and table.column("split").null_count < len(table):
        with written_beside(path) as temporary:
            write_folder(table, temporary, by_split=True, say=say)
    else:
        with written_beside(path) as temporary:
            _WRITERS[ending](table, temporary)
            if ending == ".npy":
                items = table.drop_columns(["vector"])
                _write_items(items, _items_beside(path), overwrite=overwrite)
    return len(table)


def check_path(path: str | Path, *, has_map: bool = False, overwrite: bool = False) -> str:
    """Return the ending of a file that `export` can write, in the spelling of its table.

    Raises
    ------
    BadSource
        For another suffix, where there is something already, or where no map belongs.
    """
    path = Path(path)
    ending = next((one for one in _WRITERS if one and path.name.endswith(one)), path.suffix)
    if ending not in _WRITERS:
        known = ", ".join(one or "a folder" for one in _WRITERS)
        raise BadSource(f"cannot write {path.name}: expected {known}")
    if has_map and ending != ATLAS:
        raise BadSource(f"{path.name} has no place for a map: expected a name that ends in {ATLAS}")
    _check_free(path, overwrite=overwrite)
    return ending


def _check_free(path: Path, *, overwrite: bool) -> None:
    if path.is_dir() or (path.exists() and not overwrite):
        how = "" if path.is_dir() else ", or overwrite it (--overwrite)"
        raise BadSource(f"there is something at {path}: name another file{how}")


def _write_items(rows: pa.Table, path: Path, *, overwrite: bool) -> None:
    """Write the items of an ``.npy`` file, which comes last; a killed run may have left them."""
    with suppress(OSError, pa.ArrowInvalid):
        if pq.read_table(path).equals(rows, check_metadata=True):
            return
    _check_free(path, overwrite=overwrite)
    with written_beside(path) as temporary:
        _write_parquet(rows, temporary)


def _write_parquet(table: pa.Table, path: Path) -> None:
    # Arrow reads no group of pictures of over 2 GB; Hugging Face writes groups of 100, too.
    has_pictures = KIND in table.schema.types
    pq.write_table(table, path, row_group_size=100 if has_pictures else 16_384)


def _write_arrow(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)


def _write_npy(table: pa.Table, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, matrix(table.column("vector"), path.name)[0])


def _items_beside(path: Path) -> Path:
    """Return the file of what belongs to the rows of an ``.npy`` file."""
    return path.with_suffix(".items.parquet")


def _chosen(
    view: View, points: NDArray[np.float32] | None, split: str | None, where: str | None
) -> NDArray[np.float32] | None:
    """Return the points of the items that are exported."""
    if points is None:
        return None
    chosen = view.matching(where, split)
    if points.shape != (len(chosen), 2):
        raise ShapeMismatch(
            f"points of shape {points.shape} for {len(chosen):,} items of {view.name}: expected "
            f"({len(chosen)}, 2), a row for each item of the view"
        )
    found: NDArray[np.float32] = points[chosen]
    return found


def _atlas_columns(
    table: pa.Table, points: NDArray[np.float32] | None, name: str
) -> dict[str, pa.Array]:
    vectors, _ = matrix(table.column("vector"), name)
    flat = principal(vectors, 2) if points is None else points
    index = ExactIndex.build(np.arange(len(table)).astype(str), vectors)
    found = index.search(vectors, k=min(16, len(table)))
    neighbors = [
        {"ids": rows.tolist(), "distances": (1 - scores).tolist()}
        for rows, scores in zip(found.rows, found.scores, strict=True)
    ]
    kind = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float64()))])
    columns = (*(pa.array(flat[:, at], pa.float32()) for at in (0, 1)), pa.array(neighbors, kind))
    return dict(zip(ATLAS_COLUMNS, columns, strict=True))


_WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    ATLAS: _write_parquet,
    ".parquet": _write_parquet,
    ".arrow": _write_arrow,
    ".npy": _write_npy,
    "": write_folder,
}


def _with_facts(table: pa.Table, view: View, added: Collection[str]) -> pa.Table:
    """Add to the file's metadata which view and encoder the vectors are from."""
    facts = {
        "dataset": view.dataset.name,
        "encoder": str(view.spec),
        "fingerprint": view.fingerprint,
        "snapshot": str(view.snapshot),
    }
    known = KnownColumns.of_dataset(view.dataset, table.column_names, added)
    return table.replace_schema_metadata({"featurestore": json.dumps(facts), KEY: known.to_json()})
