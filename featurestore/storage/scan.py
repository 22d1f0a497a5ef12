"""A table that is read only where, and when, a query asks for its rows and columns."""

from __future__ import annotations

from typing import Any

from featurestore.errors import StoreCorrupt
from featurestore.storage.remote import RemotePath
from featurestore.storage.tables import Table

_LITTLE_BYTES = 64 << 20  # of shards that are read whole: the query is ready sooner


def scan(table: Table) -> Any:
    """Return a `pyarrow.dataset.Dataset` of the latest rows.

    Of little, and of an object store, whose small files are kept on this machine, a table.
    """
    version = table.version()
    shards = table.shards(version)
    n_bytes = sum(one.size_bytes for one in shards)
    if isinstance(table.path, RemotePath) or n_bytes <= _LITTLE_BYTES:
        return table.read(None, version)
    from pyarrow import dataset  # here: few commands need it

    paths = [str(one.path) for one in shards]
    try:
        return dataset.dataset(paths, table.schema(version), format="parquet")
    except FileNotFoundError as error:
        raise StoreCorrupt(
            f"{error} is gone; the log names this file, so restore it from a backup (an old "
            "version may have lost it to vacuum)"
        ) from None
