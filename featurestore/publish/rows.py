"""The rows of a view as they are published, each with a digest that tells whether it changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.errors import BadTarget, MissingColumn, nearest
from featurestore.storage.key_hashes import text_hashes
from featurestore.store.view import View
from featurestore.store.view_rows import TakeVectors, ViewRows

DIGEST, VECTOR = "featurestore_digest", "vector"
KEY = ("item_id", "content_hash")
LEFT_OUT = ("source", "size", "mtime_ns")  # of use in the store alone
_ROWS_AT_ONCE = 16_384


def schema_of(view: View, columns: Sequence[str] | None = None) -> pa.Schema:
    """Return the columns that are published: ids, contents' hashes, item columns, vectors.

    Raises
    ------
    MissingColumn
        If the items have no such column.
    BadTarget
        If a column has the name of one that is added.
    """
    items = view.dataset.folder.items.schema(view.snapshot.items)
    names = [one for one in items.names if one not in LEFT_OUT] if columns is None else columns
    for name in names:
        if name not in items.names:
            raise MissingColumn(f"no column {name!r}: {nearest(name, items.names)}")
        if name in (DIGEST, VECTOR):
            raise BadTarget(
                f"the items have a column {name!r}, as the table has for its own use: say which "
                "columns to publish with --columns"
            )
    fields = [items.field(name) for name in dict.fromkeys([*KEY, *names])]
    plain = [pa.field(one.name, _plain(one.type)) for one in fields]
    vector = pa.field(VECTOR, pa.list_(pa.float32(), view.dim))
    return pa.schema([*plain, pa.field(DIGEST, pa.int64()), vector])


@dataclass(frozen=True)
class Block:
    """Rows of a view, of which vectors are read when asked for."""

    table: pa.Table  # without vectors
    schema: pa.Schema  # with them
    vectors: TakeVectors

    def take(self, rows: NDArray[np.intp]) -> Iterator[pa.Table]:
        """Yield some rows with their vectors."""
        dim = self.schema.field(VECTOR).type.list_size
        vectors = self.vectors(rows) if len(rows) else np.empty((0, dim), np.float32)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = slice(start, start + _ROWS_AT_ONCE)
            flat = pa.array(np.ascontiguousarray(vectors[some]).reshape(-1))
            vector = pa.FixedSizeListArray.from_arrays(flat, dim)
            columns = self.table.take(pa.array(rows[some])).append_column(VECTOR, vector)
            yield columns.cast(self.schema)


def blocks_of(view: View, schema: pa.Schema) -> Iterator[Block]:
    """Yield the rows of a view that is pinned, a block a shard, with the columns of `schema_of`."""
    names = [one for one in schema.names if one not in (DIGEST, VECTOR)]
    rows = ViewRows(
        view.dataset.folder, view.slug, view.dim, view.snapshot, view.slice_, view.check_vectors
    )
    for items, vectors in rows.by_shard(names):
        columns = [items.column(name).cast(schema.field(name).type) for name in names]
        plain = pa.table(columns, names)
        digest = pa.array(digests(plain, view.fingerprint))
        yield Block(plain.append_column(DIGEST, digest), schema, vectors)


def digests(rows: pa.Table, fingerprint: str) -> NDArray[np.int64]:
    """Return a digest of each row's values, names, types and encoder, (n,)."""
    named = f"{fingerprint} {' '.join(f'{one.name}:{one.type}' for one in rows.schema)}"
    texts = [pa.array([named]).take(pa.array(np.zeros(len(rows), np.int64)))]
    texts += [_as_text(rows.column(name)) for name in rows.column_names]
    found: NDArray[np.int64] = text_hashes(texts)[0].view(np.int64)
    return found


def keys_of(ids: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return ids as two numbers each, (2, n)."""
    return text_hashes([ids.combine_chunks() if len(ids) else pa.array([], pa.string())])


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type as databases have it."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_null(kind) else kind


def _as_text(column: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_nested(column.type):
        found = [
            None if one is None else json.dumps(one, default=str) for one in column.to_pylist()
        ]
        return pa.array(found, pa.string())
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return pa.array([None if one is None else one.hex() for one in column.to_pylist()])
    text = pc.cast(column, pa.string())
    return text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text
