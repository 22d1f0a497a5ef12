"""Whether a Delta log is whole: a commit that is empty or gone would show an older state.

Beside the log lies a copy of each commit, in ``_commits``. It tells that the last commit is gone,
which no other file does, and holds what a damaged one said.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurestore.storage.files import make_folder, sync, write_file
from featurestore.storage.remote import StorePath

COPIES = "_commits"  # other programs leave alone what begins with "_" in a table's folder
LOGS = ("_delta_log", COPIES)
_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.")
_POINTER = "_last_checkpoint"
_ACTIONS = {"add", "remove", "metaData", "protocol", "txn"}  # all but a commit's own note
_NAMES = [f'"{name}"'.encode() for name in _ACTIONS]
_AT_ONCE = 64  # copies that one commit catches up on


@dataclass(frozen=True)
class Damage:
    """A file of a log that is not as it was written."""

    path: StorePath
    what: str
    version: int | None = None  # of a commit; None for a checkpoint, which the commits replace
    has_copy: bool = False
    is_other: bool = False  # than its copy, and both look whole


def commit_file(table: StorePath, version: int) -> StorePath:
    """Return the file of a commit."""
    return table / "_delta_log" / f"{version:020}.json"


def copy_file(table: StorePath, version: int) -> StorePath:
    """Return the file of a commit's copy."""
    return table / COPIES / f"{version:020}.json"


def has_commits(table: StorePath) -> bool:
    """Whether a log, or its copies, hold a commit."""
    return any(_listed(table / name)[0] for name in LOGS)


def seal(table: StorePath, version: int) -> None:
    """Make a new commit last: wait until it is on the disk, then copy it.

    delta-rs does not wait. A copy comes after its commit, so that it never tells of more than
    there is; one that a killed writer owes is made up for by the next commit.
    """
    if isinstance(table, Path):
        sync(table / "_delta_log")
    for number in range(version, max(-1, version - _AT_ONCE), -1):
        if number < version and _size(copy_file(table, number)):
            return
        copy_commit(table, number)


def copy_commit(table: StorePath, version: int) -> None:
    """Copy a commit that is whole, once it is on the disk."""
    path = commit_file(table, version)
    if isinstance(path, Path):
        sync(path)
        checkpoint = path.with_name(f"{version:020}.checkpoint.parquet")
        for derived in [checkpoint, path.with_name(_POINTER)] if checkpoint.exists() else []:
            sync(derived)
    content = path.read_bytes()
    if _wrong_in(content) is None:
        make_folder(table / COPIES)
        write_file(copy_file(table, version), content)


def restore_commit(table: StorePath, version: int, content: bytes | None = None) -> None:
    """Put a commit in place of what is there: its copy, or ``content``; that is kept beside."""
    made = copy_file(table, version).read_bytes() if content is None else content
    path = commit_file(table, version)
    make_folder(path.parent)
    if _size(path):
        make_folder(table / COPIES)
        write_file(copy_file(table, version).with_name(f"{path.name}.damaged"), path.read_bytes())
    write_file(path, made)


def drop_checkpoints(table: StorePath) -> None:
    """Delete a log's checkpoints: all that they say is in its commits."""
    for path in sorted(checkpoints(table), key=lambda path: path.name != _POINTER):  # it is first
        path.unlink(missing_ok=True)


def missing_commit(table: StorePath, version: int | None = None) -> StorePath | None:
    """Return a commit without actions, or one that is gone, that would make a version look older.

    Looked at are names, and on this machine contents, from the newest checkpoint on; the latest
    version is meant by default.
    """
    sizes, checkpoints = _listed(table / "_delta_log")
    newest = max(sizes, default=-1)
    if version is None or version > newest:
        newest = _last_copy(table, newest)
    last = newest if version is None else min(version, newest)
    first = max((one for one in checkpoints if one <= last), default=-1) + 1
    for number in range(first, last + 1):
        path = commit_file(table, number)
        # In an object store each look is a request: only what has no bytes is asked for by name.
        if not isinstance(path, Path) and sizes.get(number):
            continue
        # Listed while others commit, a file may be overlooked: it is asked for by its name.
        if not _has_action(path) or _is_cut_off(path, copy_file(table, number)):
            return path
    return None


def _listed(log: StorePath) -> tuple[dict[int, int], list[int]]:
    """Return the sizes of commits by version, and the versions of checkpoints."""
    sizes, checkpoints = {}, []
    for name, size in _names_and_sizes(log):
        if match := _COMMIT.fullmatch(name):
            sizes[int(match[1])] = size
        elif size and (match := _CHECKPOINT.match(name)):
            checkpoints.append(int(match[1]))
    return sizes, checkpoints


def _names_and_sizes(folder: StorePath) -> list[tuple[str, int]]:
    try:
        if isinstance(folder, Path):
            with os.scandir(folder) as entries:
                return [(one.name, one.stat().st_size) for one in entries]
        return [(one.name, one.known.st_size) for one in folder.iterdir() if one.known]
    except FileNotFoundError:
        return []  # whoever opens the table says so


def _last_copy(table: StorePath, newest: int) -> int:
    """Return the version of the last copy, or of the newest commit that is there."""
    if not isinstance(table, Path):  # one request instead of a list
        return newest + bool(_size(copy_file(table, newest + 1)))
    try:
        names = os.listdir(table / COPIES)  # noqa: PTH208 - names alone are quicker
    except FileNotFoundError:
        return newest
    return max(newest, *(int(one[:20]) for one in names if _COMMIT.fullmatch(one)), -1)


def _size(path: StorePath) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _has_action(commit: StorePath) -> bool:
    try:
        content = commit.read_bytes()
    except FileNotFoundError:
        return False
    return any(name in content for name in _NAMES)


def _is_cut_off(commit: StorePath, copy: StorePath) -> bool:
    """Whether a commit ends before its copy does: at the end of a line, nothing else tells."""
    if _size(copy) <= _size(commit):
        return False
    kept = copy.read_bytes()
    return kept.startswith(commit.read_bytes()) and _wrong_in(kept) is None


def log_damage(table: StorePath) -> list[Damage]:
    """Read a whole log and its copies; return each damaged file of it."""
    sizes, _ = _listed(table / "_delta_log")
    copies, _ = _listed(table / COPIES)
    found = []
    for number in range(max([*sizes, *copies], default=-1) + 1):
        path = commit_file(table, number)
        copy = copy_file(table, number)
        wrong, has_copy = _wrong_with(path), number in copies
        # In an object store, where each look is a request, only copies of another size are read.
        if (
            wrong is None
            and has_copy
            and (isinstance(copy, Path) or copies[number] != sizes.get(number))
        ):
            kept, said = copy.read_bytes(), path.read_bytes()
            if kept == said or _wrong_in(kept) is not None:
                continue
            wrong = "this commit is cut off" if kept.startswith(said) else None
            if wrong is None:
                what = (
                    f"this commit is another one than its copy in {COPIES}, so one of the two was "
                    "changed: delete the wrong one (`featurestore store repair` makes it anew)"
                )
                found.append(Damage(path, what, number, has_copy, is_other=True))
        if wrong is not None:
            found.append(_lost(path, wrong, number, has_copy and _wrong_with(copy) is None))
    return found + _checkpoint_damage(table / "_delta_log")


def _lost(path: StorePath, wrong: str, version: int, has_copy: bool) -> Damage:
    way = "`featurestore store repair` restores it from its copy"
    if not has_copy:
        way = "restore it from a backup, or `featurestore store repair` saves the shards"
    what = (
        f"{wrong}, so what version {version} added is not seen, and vacuum deletes no shard of "
        f"this table: {way}"
    )
    return Damage(path, what, version, has_copy)


def named_shards(table: StorePath, version: int | None = None) -> tuple[list[str], set[str]]:
    """Return the names of a version's shards, oldest first, and of all named up to it.

    Of a damaged commit counts what its copy says; without one, it is left out.
    """
    latest: dict[str, None] = {}
    ever: set[str] = set()
    versions = {number for name in LOGS for number in _listed(table / name)[0]}
    for number in sorted(versions):
        if version is not None and number > version:
            break
        for action in _actions(table, number):
            for kind in ("remove", "add"):
                if (named := action.get(kind)) is None:
                    continue
                ever.add(named["path"])
                latest.pop(named["path"], None)
                if kind == "add":
                    latest[named["path"]] = None
    return list(latest), ever


def _actions(table: StorePath, version: int) -> list[dict[str, Any]]:
    for path in (commit_file(table, version), copy_file(table, version)):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        if _wrong_in(content) is None:
            lines = [line for line in content.splitlines() if line.strip()]
            return [one for one in map(json.loads, lines) if isinstance(one, dict)]
    return []


def lacking_copies(table: StorePath) -> dict[int, bool]:
    """Return the versions whose commits lack a copy; True where there is one that is damaged."""
    sizes, copies = (_listed(table / name)[0] for name in LOGS)
    return {
        number: number in copies
        for number in sorted(sizes)
        if number not in copies or _wrong_with(copy_file(table, number)) is not None
    }


def checkpoints(table: StorePath) -> list[StorePath]:
    """Return the checkpoints of a log, and the file that names the last one."""
    log = table / "_delta_log"
    paths: list[StorePath] = [*log.iterdir()] if log.is_dir() else []
    return [one for one in paths if _CHECKPOINT.match(one.name) or one.name == _POINTER]


def newest_checkpoint(table: StorePath) -> int:
    """Return the version of a log's newest checkpoint; -1 where there is none."""
    return max(_listed(table / "_delta_log")[1], default=-1)


def _checkpoint_damage(log: StorePath) -> list[Damage]:
    pointer = log / _POINTER
    if not pointer.exists():
        return []
    way = "`featurestore store repair` deletes it, since the commits say all that it says"
    try:
        version = int(json.loads(pointer.read_bytes())["version"])
    except (ValueError, KeyError, TypeError):
        return [Damage(pointer, f"is damaged: {way}")]
    named = [path for path in log.iterdir() if path.name.startswith(f"{version:020}.checkpoint.")]
    if not named:
        return [Damage(pointer, f"names the checkpoint {version}, which is gone: {way}")]
    return [Damage(one, f"is a damaged checkpoint: {way}") for one in named if not _is_parquet(one)]


def _is_parquet(path: StorePath) -> bool:
    content = path.read_bytes()
    return len(content) > 12 and content[:4] == content[-4:] == b"PAR1"


def _wrong_with(commit: StorePath) -> str | None:
    try:
        return _wrong_in(commit.read_bytes())
    except FileNotFoundError:
        return "this commit is gone"


def _wrong_in(content: bytes) -> str | None:
    if not content:
        return "this commit has no bytes"
    try:
        actions = [json.loads(line) for line in content.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        return "this commit cannot be read as JSON"
    if not any(isinstance(one, dict) and _ACTIONS & one.keys() for one in actions):
        return "this commit holds no action"
    return None
