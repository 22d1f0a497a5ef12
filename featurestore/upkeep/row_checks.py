"""Whether a shard holds what was written, and rows that a table can have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.storage.columns import text_hash
from featurestore.storage.files import sha256_of
from featurestore.storage.shards import ACTIVATIONS, VECTOR, vectors_of
from featurestore.storage.tables import Shard
from featurestore.terms.activations import HALF
from featurestore.terms.taps import TapShape


def shard_damage(shard: Shard) -> str | None:
    """Return what is wrong with a file's bytes; None if nothing is."""
    try:
        size = shard.path.stat().st_size
        if size != shard.size_bytes:
            return f"it has {size} bytes, the log says {shard.size_bytes}"
        digest = sha256_of(shard.path)
    except OSError as error:
        return f"cannot be read: {error.strerror}; restore it from a backup"
    if digest != shard.path.stem:
        return "its bytes are not those that were written (SHA-256); restore it from a backup"
    return None


def check_ids(rows: pa.Table, seen: set[str]) -> Iterator[str]:
    """Yield what is wrong with rows of items; ``seen`` holds the ids of others, and grows."""
    for item_id in rows.column("item_id").to_pylist():
        if item_id in seen:
            yield f"item {item_id!r} has two rows"
        seen.add(item_id)
    texts = rows.filter(pc.is_valid(rows.column("text"))).select(
        ["item_id", "text", "content_hash"]
    )
    for row in texts.to_pylist():
        if row["content_hash"] is not None and text_hash(row["text"]) != row["content_hash"]:
            yield f"the text of item {row['item_id']!r} is not the one that was hashed"


def check_view(rows: pa.Table, info: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with rows of a view; ``info`` is its encoder.json."""
    tap = TapShape.of(info["chosen"])
    return _check_vectors(rows, info["dim"]) if tap is None else _check_activations(rows, tap)


def _check_activations(rows: pa.Table, tap: TapShape) -> Iterator[str]:
    if rows.schema.field(ACTIVATIONS).type != pa.binary():
        yield f"its activations are {rows.schema.field(ACTIVATIONS).type}, expected binary"
        return
    sizes = np.asarray(pc.binary_length(rows.column(ACTIVATIONS)))
    is_whole = sizes % tap.nbytes == 0 if tap.is_ragged else sizes == tap.nbytes
    if not is_whole.all():
        each = f"{tap.nbytes:,}" + (" a token" if tap.is_ragged else "")
        wrong = int(sizes[~is_whole][0])
        yield f"{(~is_whole).sum()} items have {wrong:,} bytes or so, expected {each}"
        return
    values = rows.column(ACTIVATIONS).to_pylist()
    n_bad = sum(not np.isfinite(np.frombuffer(one, HALF)).all() for one in values)
    if n_bad:
        yield f"the activations of {n_bad} items hold NaN or infinity"


def _check_vectors(rows: pa.Table, dim: int) -> Iterator[str]:
    kind = rows.schema.field(VECTOR).type
    if not pa.types.is_fixed_size_list(kind) or kind.list_size != dim:
        yield f"its vectors are {kind}, expected float32[{dim}]"
        return
    vectors = vectors_of(rows.column(VECTOR), dim)
    n_bad = int((~np.isfinite(vectors).all(axis=1)).sum())
    if n_bad:
        yield f"{n_bad} vectors hold NaN or infinity"
