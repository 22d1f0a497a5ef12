"""The versions of a data set: history, vacuum, compaction."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from featurestore.storage.dataset_folder import DatasetFolder, all_views_locked
from featurestore.storage.files import read_json, remove
from featurestore.storage.log_files import log_damage
from featurestore.storage.markers import left_by_runs
from featurestore.storage.remote import StorePath
from featurestore.storage.run_folder import drop_runs, shards_of_runs
from featurestore.storage.shards import local_copy
from featurestore.storage.tables import YOUNG_S
from featurestore.storage.unnamed import unreferenced
from featurestore.upkeep.head_files import snapshots_of_heads
from featurestore.upkeep.tables import tables_of


@dataclass(frozen=True)
class Event:
    """One commit to one of a data set's tables."""

    when: str  # UTC, ISO 8601
    table: str  # items, failures, or the spec of a view
    version: int
    n_rows: int
    n_shards: int


def history(folder: DatasetFolder, limit: int = 20) -> list[Event]:
    """Return the latest commits, newest first."""
    events = []
    for name, table in tables_of(folder):
        latest = ""  # versions of a table stand in their order, whatever its writers' clocks said
        for one in reversed(table.history(limit)):
            when = one.when.isoformat(timespec="seconds")
            latest = max(latest, when)
            event = Event(when, name, one.version, one.n_rows, one.n_shards)
            events.append((latest, one.version, event))
    return [event for *_, event in sorted(events, key=lambda one: one[:2], reverse=True)][:limit]


@dataclass(frozen=True)
class Vacuumed:
    """Files that no kept version names."""

    files: tuple[StorePath, ...]
    n_bytes: int
    leftovers: tuple[Path, ...] = ()  # of writers that were killed
    damaged: tuple[str, ...] = ()  # files of logs; no shard of their tables was looked at


def vacuum(
    folder: DatasetFolder, *, older_than_s: float = YOUNG_S, dry_run: bool = False
) -> Vacuumed:
    """Delete files that only old versions name.

    Kept are the present state, each snapshot that a head or a run card names, each version that
    was the latest within ``older_than_s``, and each file younger than that. Of a table whose log
    is damaged, all shards are kept. What workers of an unfinished run made is kept, unless nobody
    touched the run for a month. Temporary files that no writer touched for a day go, too.
    """
    # A look takes no lock: a store that cannot be written to can be looked at.
    with nullcontext() if dry_run else all_views_locked(folder):
        if not dry_run:
            drop_runs(folder.path, only_forgotten=True)
        keep, spared = _named_versions(folder), shards_of_runs(folder.path)
        tables = [table for _, table in tables_of(folder, replaced=True)]
        damaged = {
            str(one.path): table for table in tables for one in log_damage(table.path, briefly=True)
        }
        found = [
            path
            for table in tables
            if table not in damaged.values()
            for path in unreferenced(table, keep.get(table.path, set()), older_than_s=older_than_s)
            if path.name not in spared
        ]
        size = sum(path.stat().st_size for path in found)
        leftovers = [path for path in _leftovers(folder) if path not in found]
        if not dry_run:
            for path in found:
                path.unlink(missing_ok=True)
                local_copy(path).unlink(missing_ok=True)
                remove(folder.local / "cache" / "taps" / path.parent.name / path.stem)
            for path in leftovers:
                remove(path)
    return Vacuumed(tuple(found), size, tuple(leftovers), tuple(damaged))


def _leftovers(folder: DatasetFolder) -> list[Path]:
    """Return temporary files and folders of this machine that no writer touched for a day."""
    oldest = time.time() - YOUNG_S
    found = []
    staged = folder.local.rglob("_delta_log/*.json#*")  # delta-rs writes commits so
    for path in sorted([*folder.local.rglob(".*.tmp"), *staged]):
        if any(parent in found for parent in path.parents):
            continue
        try:
            touched = max(one.stat().st_mtime for one in [path, *path.rglob("*")])
        except FileNotFoundError:
            continue  # its writer has just renamed it
        if touched < oldest:
            found.append(path)
    dropped = [] if folder.local != folder.path else folder.local.parent.glob(".dropped-*")
    found += sorted(one for one in dropped if one.stat().st_ctime < oldest)
    return found + left_by_runs(oldest)


def compact(folder: DatasetFolder) -> dict[str, int]:
    """Join small shards; return by how many files each table has fewer."""
    with all_views_locked(folder):
        return {name: table.compact() for name, table in tables_of(folder)}


def _named_versions(folder: DatasetFolder) -> dict[StorePath, set[int]]:
    """Return the versions of each table that heads and run cards name."""
    views: dict[str, StorePath] = {}  # by the encoder's fingerprint
    for path in (folder.path / "views").glob("*/encoder.json"):
        views[read_json(path)["fingerprint"]] = path.parent
    named: dict[StorePath, set[int]] = defaultdict(set)
    for fingerprint, snapshot in [*snapshots_of_heads(folder), *_snapshots_of_runs(folder)]:
        if snapshot is None:
            continue
        named[folder.items.path].add(snapshot["items"])
        if fingerprint in views:
            named[views[fingerprint]].add(snapshot["view"])
    return named


def _snapshots_of_runs(
    folder: DatasetFolder,
) -> Iterator[tuple[str | None, Mapping[str, int] | None]]:
    for kind in ("compare", "curve", "transfer", "quality"):
        for card in folder.runs(kind):
            for view in card.get("card", card).get("views", []):
                yield view.get("fingerprint"), view.get("snapshot")
