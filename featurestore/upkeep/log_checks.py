"""Whether a table's checkpoints say what its commits say."""

from __future__ import annotations

from featurestore.errors import StoreCorrupt
from featurestore.storage.log_files import Damage, checkpoints, named_shards
from featurestore.storage.tables import Table


def checkpoint_damage(table: Table) -> Damage | None:
    """Return what is wrong with the checkpoints of a table whose commits are whole."""
    if not checkpoints(table.path):
        return None
    log = table.path / "_delta_log"
    way = "`featurestore store repair` deletes it, since the commits say all that it says"
    try:
        version = table.version()
        names = {shard.path.name for shard in table.shards(version)}
    except StoreCorrupt:
        return Damage(log, f"a checkpoint of this log cannot be read: {way}")
    said = set(named_shards(table.path, version)[0])
    if names == said:
        return None
    what = "a checkpoint of this log names other shards than the commits"
    if _are_there(table, said) and not _are_there(table, names):
        return Damage(log, f"{what}, which are not there: {way}")
    return Damage(log, f"{what}: restore it from a backup, or delete what is wrong", is_open=True)


def _are_there(table: Table, names: set[str]) -> bool:
    return all((table.path / name).is_file() for name in names)
