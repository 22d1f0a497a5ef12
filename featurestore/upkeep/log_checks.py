"""Whether a table's checkpoints say what its commits say."""

from __future__ import annotations

from featurestore.errors import StoreCorrupt
from featurestore.storage.log_files import checkpoints, named_shards
from featurestore.storage.tables import Table


def checkpoint_damage(table: Table) -> str | None:
    """Return what is wrong with the checkpoints of a table whose commits are whole."""
    if not checkpoints(table.path):
        return None
    way = "`featurestore store repair` deletes it, since the commits say all that it says"
    try:
        version = table.version()
        names = {shard.path.name for shard in table.shards(version)}
    except StoreCorrupt:
        return f"a checkpoint of this log cannot be read: {way}"
    if names != set(named_shards(table.path, version)[0]):
        return f"a checkpoint of this log names other shards than the commits: {way}"
    return None
