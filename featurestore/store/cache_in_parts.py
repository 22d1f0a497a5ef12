"""The cache of a large view, written part by part: some 80 bytes a row, and ids, are in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.storage.columns import fit_to
from featurestore.storage.key_hashes import KEY, hashes_of, key_hashes, places
from featurestore.storage.shards import each_block, each_shard
from featurestore.storage.tables import Shard
from featurestore.storage.taking import taken

_ROWS = 65_536  # of items that are written at once


def write_in_parts(
    folder: Path, items: Sequence[Shard], pairs: Sequence[Shard], schema: pa.Schema, dim: int
) -> None:
    """Write the items that have a vector, sorted by id, and their vectors, (n, dim).

    ``items`` and ``pairs`` are the shards of a snapshot, ``schema`` the columns of the items.
    """
    schema = pa.schema([pa.field(one.name, one.type) for one in schema])
    order, target = _joined(items, pairs)
    _write_vectors(folder / "vectors.npy", pairs, target, (len(order), dim))
    _write_items(folder, items, order, schema)


def _joined(
    items: Sequence[Shard], pairs: Sequence[Shard]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows of items that have a vector, by id, and where among them each pair goes.

    The second is -1 for a pair that does not count; of equal ones the last one does.
    """
    ids: list[pa.StringArray] = []
    keys = [np.empty((2, 0), np.uint64)]  # of no shards, too
    for rows in each_shard([one.path for one in items], KEY):
        ids += rows.column("item_id").chunks
        keys.append(hashes_of(rows))
    item_of_pair = places(np.concatenate(keys, axis=1), key_hashes(pairs))
    known = np.flatnonzero(item_of_pair >= 0)
    pair_of_item = np.full(sum(map(len, ids)), -1)
    pair_of_item[item_of_pair[known]] = known
    order = np.asarray(pc.sort_indices(pa.chunked_array(ids, pa.string()))).astype(np.intp)
    order = order[pair_of_item[order] >= 0]
    target = np.full(len(item_of_pair), -1)
    target[pair_of_item[order]] = np.arange(len(order))
    return order, target


def _write_vectors(
    path: Path, pairs: Sequence[Shard], target: NDArray[np.intp], shape: tuple[int, int]
) -> None:
    if shape[0] == 0:
        np.save(path, np.empty(shape, np.float32))
        return
    vectors = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a signal later
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    read_into(vectors, pairs, target)
    vectors.flush()


def read_into(
    vectors: NDArray[np.float32], pairs: Sequence[Shard], target: NDArray[np.intp]
) -> None:
    """Read the vectors of shards into rows of an array, (n, dim); those below 0 are left out."""

    def room_for(start: int, n: int) -> NDArray[np.float32] | None:
        rows = target[start : start + n]
        follow = len(rows) and rows[0] >= 0 and (np.diff(rows) == 1).all()  # as a first run leaves
        return vectors[rows[0] : rows[0] + n] if follow else None

    def put(start: int, block: NDArray[np.float32]) -> None:
        rows = target[start : start + len(block)]
        vectors[rows[rows >= 0]] = block[rows >= 0]  # below 0: superseded, or of no item

    def is_wanted(start: int, n: int) -> bool:
        return bool((target[start : start + n] >= 0).any())

    each_block([one.path for one in pairs], vectors.shape[1], put, room_for, is_wanted)


def _write_items(
    folder: Path, items: Sequence[Shard], order: NDArray[np.intp], schema: pa.Schema
) -> None:
    unsorted = folder / "unsorted.arrow"
    with pa.ipc.new_file(str(unsorted), schema) as file:
        for rows in each_shard([one.path for one in items], schema.names):
            file.write_table(fit_to(rows, schema))
    with pa.memory_map(str(unsorted)) as mapped:
        columns = pa.ipc.open_file(mapped).read_all().columns
        with pa.ipc.new_file(str(folder / "items.arrow"), schema) as file:
            for at in range(0, len(order), _ROWS):
                some = [taken(column, order[at : at + _ROWS]) for column in columns]
                file.write_batch(pa.record_batch(some, schema=schema))
        del columns
    unsorted.unlink()
