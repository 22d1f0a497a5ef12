"""Files of a table that no version names: left by vacuum's rules, by kills, or by damage."""

from __future__ import annotations

import time
from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.storage.log_files import (
    apply_commit,
    log_damage,
    named_shards,
    newest_checkpoint,
    newest_commit,
)
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
    if log_damage(table.path, briefly=True):
        return []
    now = time.time()
    oldest = now - older_than_s
    # Listed before the log is read: a file that is committed later is then named there.
    there: list[StorePath] = [*table.path.iterdir()]
    once = _ever_named(table.path)
    latest = table.version()  # of a restored backup, below some of `keep`
    first = min(latest, _latest_at(table, oldest))
    named = _named_from(table, first, latest)
    for version in keep:
        if version < first:
            named |= {shard.path.name for shard in table.shards(version)}
    unnamed = []
    for path in there:
        if path.suffix not in (".parquet", ".tmp") or path.name in named:
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


def _latest_at(table: Table, seconds: float) -> int:
    """Return the version that was the latest at a time; its entry and newer ones are read."""
    limit = 16
    while True:
        times = table.times(limit)
        for version, when in times:  # newest first
            if when < seconds:
                return version
        if len(times) < limit:
            return times[-1][0]
        limit *= 4


def _named_from(table: Table, first: int, latest: int) -> set[str]:
    """Return the names of the shards of all versions from one to another."""
    shards = {shard.path.name: 0 for shard in table.shards(first)}
    named = set(shards)
    for version in range(first + 1, latest + 1):
        named |= apply_commit(shards, table.path, version)
    return named


def _ever_named(table: StorePath) -> set[str]:
    """Return the names of all shards that a version ever named, or still may.

    A checkpoint holds those that are in it and those that were taken out before.
    """
    at = newest_checkpoint(table)
    try:
        raw = (table / "_delta_log" / f"{at:020}.checkpoint.parquet").read_bytes()
        rows = pq.read_table(pa.BufferReader(raw), columns=["add.path", "remove.path"])
    except (OSError, pa.ArrowException):  # there is none, or not in one file
        return named_shards(table)[1]
    named: set[str] = set()
    for column in rows.flatten().columns:
        named.update(column.drop_null().to_pylist())
    for version in range(at + 1, newest_commit(table) + 1):
        named |= apply_commit({}, table, version)
    return named
