"""The columns that every table of items, and of failures, has."""

from __future__ import annotations

import pyarrow as pa

ITEMS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("uri", pa.string()),  # relative to the root of the source
        pa.field("text", pa.string()),
        pa.field("size", pa.int64()),  # bytes
        pa.field("mtime_ns", pa.int64()),
        pa.field("content_hash", pa.string()),  # SHA-256 (hex); null where unreadable
        pa.field("split", pa.string()),
        pa.field("group", pa.string()),
    ]
)
FAILURES = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("content_hash", pa.string()),
        pa.field("stage", pa.string(), nullable=False),  # read | decode | encode
        pa.field("fingerprint", pa.string(), nullable=False),  # "" unless stage is encode
        pa.field("error", pa.string(), nullable=False),
        pa.field("when", pa.string(), nullable=False),  # UTC, ISO 8601
    ]
)
