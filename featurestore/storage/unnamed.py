"""Files of a table that no version names: left by vacuum's rules, by kills, or by damage."""

from __future__ import annotations

import time
from collections.abc import Collection

from featurestore.storage.log_files import log_damage, named_shards
from featurestore.storage.remote import StorePath
from featurestore.storage.tables import YOUNG_S, Table


def unreferenced(
    table: Table,
    keep: Collection[int] = (),
    *,
    older_than_s: float = YOUNG_S,
    unnamed_s: float = YOUNG_S,
) -> list[StorePath]:
    """Return the files that may be deleted: no version that is kept names them.

    Kept are the versions given, the latest, and all that were the latest at some time
    within the last ``older_than_s`` seconds; files younger than that stay too. A file that no
    version ever named stays for ``unnamed_s`` seconds, since a writer may be about to commit
    it. A clock that runs ahead therefore only keeps more files. Of a damaged log, nobody can
    say what it named: all shards stay.
    """
    if log_damage(table.path):
        return []
    now = time.time()
    oldest = now - older_than_s
    # Listed before the log is read: a file that is committed later is then named there.
    there: list[StorePath] = [*table.path.iterdir()]
    _, once = named_shards(table.path)
    latest = table.version()  # of a restored backup, below some of `keep`
    kept = {
        latest,
        *(version for version in keep if version <= latest),
    }
    for version, when in table.times():  # newest first
        kept.add(version)
        if when < oldest:
            break
    named = {shard.path for version in kept for shard in table.shards(version)}
    unnamed = []
    for path in there:
        if path.suffix not in (".parquet", ".tmp") or path in named:
            continue
        try:
            changed = path.stat().st_mtime
        except FileNotFoundError:
            continue  # a writer has just renamed it
        if changed < (oldest if path.name in once else now - unnamed_s):
            unnamed.append(path)
    return sorted(unnamed, key=str)


def unnamed_shards(table: StorePath) -> list[StorePath]:
    """Return the shards that no version ever named, the newest first."""
    there: list[StorePath] = [*table.glob("*.parquet")]  # before the log is read: see above
    _, once = named_shards(table)
    left = [path for path in there if path.name not in once]
    return sorted(left, key=lambda path: (-path.stat().st_mtime, path.name))
