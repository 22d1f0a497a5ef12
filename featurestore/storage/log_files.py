"""Whether a Delta log is whole: a commit that is empty or gone would show an older state."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from featurestore.storage.remote import StorePath

_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.")
_ACTIONS = {"add", "remove", "metaData", "protocol", "txn"}  # all but a commit's own note
_SHORT = 1024  # bytes: a note alone is shorter


def missing_commit(table: Path, version: int | None = None) -> Path | None:
    """Return a commit without actions, or one that is gone, that would make a version look older.

    Looked at are names, and the content of short commits, from the newest checkpoint on; the
    latest version is meant by default.
    """
    log = table / "_delta_log"
    sizes, checkpoints = {}, [-1]
    try:
        with os.scandir(log) as entries:
            for entry in entries:
                if match := _COMMIT.fullmatch(entry.name):
                    sizes[int(match[1])] = entry.stat().st_size
                elif (match := _CHECKPOINT.match(entry.name)) and entry.stat().st_size:
                    checkpoints.append(int(match[1]))
    except FileNotFoundError:
        return None  # whoever opens the table says so
    newest = max(sizes, default=-1)
    last = newest if version is None else min(version, newest)
    first = max(one for one in checkpoints if one <= max(last, -1)) + 1
    for number in range(first, last + 1):
        path = log / f"{number:020}.json"
        # Listed while others commit, a file may be overlooked: it is asked for by its name.
        if sizes.get(number, 0) < _SHORT and not _has_action(path):
            return path
    return None


def _has_action(commit: Path) -> bool:
    try:
        content = commit.read_bytes()
    except FileNotFoundError:
        return False
    return len(content) >= _SHORT or any(f'"{name}"'.encode() in content for name in _ACTIONS)


def log_damage(table: StorePath) -> list[tuple[StorePath, str]]:
    """Read a whole log; return each damaged file of it, and what that means."""
    log = table / "_delta_log"
    commits = {path.name: path for path in log.iterdir() if _COMMIT.fullmatch(path.name)}
    found: list[tuple[StorePath, str]] = []
    for number in range(int(max(commits, default="-1")[:20]) + 1):
        path = log / f"{number:020}.json"
        if (wrong := _wrong_with(path)) is not None:
            what = (
                f"{wrong}, so what version {number} added is not seen, and vacuum deletes no "
                "shard of this table: restore the file from a backup"
            )
            found.append((path, what))
    pointer = log / "_last_checkpoint"
    if pointer.exists():
        try:
            version = int(json.loads(pointer.read_bytes())["version"])
        except (ValueError, KeyError, TypeError):
            found.append((pointer, "is damaged: delete it, the commits say all that it says"))
        else:
            names = [path for path in log.iterdir() if path.name.startswith(f"{version:020}.ch")]
            found += [
                (one, "is an empty checkpoint: delete it and _last_checkpoint beside it")
                for one in names
                if not one.stat().st_size
            ]
            if not names:
                found.append((pointer, f"names the checkpoint {version}, which is gone: delete it"))
    return found


def _wrong_with(commit: StorePath) -> str | None:
    try:
        lines = commit.read_bytes().splitlines()
    except FileNotFoundError:
        return "this commit is gone"
    if not lines:
        return "this commit has no bytes"
    try:
        actions = [json.loads(line) for line in lines if line.strip()]
    except ValueError:
        return "this commit cannot be read as JSON"
    if not any(isinstance(one, dict) and _ACTIONS & one.keys() for one in actions):
        return "this commit holds no action"
    return None
