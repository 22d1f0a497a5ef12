"""Whether a shard holds what was written, and rows that a table can have."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.storage.columns import text_hash
from featurestore.storage.files import sha256_of
from featurestore.storage.shards import vectors_of
from featurestore.storage.tables import Shard


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


def check_vectors(rows: pa.Table, dim: int) -> Iterator[str]:
    """Yield what is wrong with rows of a view."""
    kind = rows.schema.field("vector").type
    if not pa.types.is_fixed_size_list(kind) or kind.list_size != dim:
        yield f"its vectors are {kind}, expected float32[{dim}]"
        return
    vectors = vectors_of(rows.column("vector"), dim)
    n_bad = int((~np.isfinite(vectors).all(axis=1)).sum())
    if n_bad:
        yield f"{n_bad} vectors hold NaN or infinity"
