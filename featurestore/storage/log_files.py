"""Whether a Delta log is whole: a commit that is empty or gone would show an older state.

Beside the log lies a copy of each commit, in ``_commits``, with a line of its own at the end:
version and SHA-256. It tells that the last commit is gone, which no other file does, and holds
what a damaged one said.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
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
# All but a commit's own note; the last two are of other programs.
_ACTIONS = {"add", "remove", "metaData", "protocol", "txn", "cdc", "domainMetadata"}
_NAMES = [f'"{name}"'.encode() for name in _ACTIONS]
_AT_ONCE = 64  # copies that one commit catches up on


@dataclass(frozen=True)
class Damage:
    """A file of a log that is not as it was written."""

    path: StorePath
    what: str
    version: int | None = None  # of a commit; None for a checkpoint, which the commits replace
    has_copy: bool = False
    is_open: bool = False  # nobody can say which file is right


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
            with suppress(FileNotFoundError):
                sync(derived)
    content = path.read_bytes()
    if _wrong_in(content) is None:
        make_folder(table / COPIES)
        write_file(copy_file(table, version), content + _sum_of(content, version))


def _sum_of(content: bytes, version: int) -> bytes:
    digest = hashlib.sha256(content).hexdigest()
    return f'\n{{"version": "{version:020}", "sha256": "{digest}"}}\n'.encode()


_SUM_BYTES = len(_sum_of(b"", 0))


def read_copy(table: StorePath, version: int) -> bytes | None:
    """Return a commit as its copy has it; None where there is none, or it is damaged."""
    try:
        raw = copy_file(table, version).read_bytes()
    except FileNotFoundError:
        return None
    content = raw[:-_SUM_BYTES]
    return content if content and raw[-_SUM_BYTES:] == _sum_of(content, version) else None


def replace_commit(table: StorePath, version: int, content: bytes) -> None:
    """Put a commit in place of what is there, which is kept beside the copies."""
    path = commit_file(table, version)
    make_folder(path.parent)
    if _size(path):
        make_folder(table / COPIES)
        write_file(copy_file(table, version).with_name(f"{path.name}.damaged"), path.read_bytes())
    write_file(path, content)


def drop_checkpoints(table: StorePath, only: StorePath) -> None:
    """Delete a checkpoint, or all of a log: all that they say is in its commits."""
    (table / "_delta_log" / _POINTER).unlink(missing_ok=True)  # first: it names one of the others
    for path in checkpoints(table):
        if only.name in ("_delta_log", path.name):
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
        if not _has_action(path) or _has_lost_bytes(table, number):
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


def _has_lost_bytes(table: StorePath, version: int) -> bool:
    """Whether a commit has not the size that its copy says: cut off after a line, it is JSON."""
    size = _size(copy_file(table, version)) - _SUM_BYTES
    if size < 0 or size == _size(commit_file(table, version)):
        return False
    return read_copy(table, version) is not None


def log_damage(table: StorePath, *, briefly: bool = False) -> list[Damage]:
    """Read a log and its copies; return each damaged file of it.

    ``briefly``, only sizes are compared of commits that a checkpoint sums up.
    """
    sizes, summed_up = _listed(table / "_delta_log")
    copies, _ = _listed(table / COPIES)
    newest = max(summed_up, default=-1) if briefly else -1
    found = []
    for number in range(max([*sizes, *copies], default=-1) + 1):
        same_size = sizes.get(number) == copies.get(number, 0) - _SUM_BYTES
        if number <= newest and same_size:
            continue
        path = commit_file(table, number)
        wrong = _wrong_with(path)
        # In an object store, where each look is a request, a copy of the right size is not read.
        is_read = number in copies and (wrong or isinstance(path, Path) or not same_size)
        kept = read_copy(table, number) if is_read else None
        if wrong is None and kept is not None and kept != path.read_bytes():
            wrong = "this commit is not as it was written"
        if wrong is not None:
            found.append(_lost(path, wrong, number, kept is not None))
    return found + _checkpoint_damage(table / "_delta_log")


def _lost(path: StorePath, wrong: str, version: int, has_copy: bool) -> Damage:
    way = "`featurestore store repair` restores it from its copy"
    if not has_copy:
        way = "restore it from a backup, or `featurestore store repair` saves the shards"
    what = (
        f"{wrong}, so what version {version} did is not seen, and vacuum deletes no shard of "
        f"this table: {way}"
    )
    return Damage(path, what, version, has_copy)


def named_shards(table: StorePath, version: int | None = None) -> tuple[list[str], set[str]]:
    """Return the names of a version's shards, oldest first, and of all named up to it.

    Of a damaged commit counts what its copy says; without one, it is left out.
    """
    latest: dict[str, int] = {}
    ever: set[str] = set()
    versions = {number for name in LOGS for number in _listed(table / name)[0]}
    for number in sorted(versions):
        if version is not None and number > version:
            break
        ever |= apply_commit(latest, table, number)
    return list(latest), ever


def apply_commit(shards: dict[str, int], table: StorePath, version: int) -> set[str]:
    """Change what was there (shards, and how many rows) as a commit does; return what it names."""
    names = set()
    for action in _actions(table, version):
        for kind in ("remove", "add"):
            if (named := action.get(kind)) is None:
                continue
            names.add(named["path"])
            shards.pop(named["path"], None)
            if kind == "add":
                n_rows = json.loads(named.get("stats") or "{}").get("numRecords")
                shards[named["path"]] = n_rows or 0
    return names


def added_since(table: StorePath, version: int, latest: int) -> set[str]:
    """Return the names of shards that the commits after a version, up to the latest one, add."""
    commits = (_actions(table, number) for number in range(version + 1, latest + 1))
    return {action["add"]["path"] for actions in commits for action in actions if "add" in action}


@dataclass(frozen=True)
class Since:
    """What the commits after a version say."""

    added: set[str]  # names of shards
    notes: list[dict[str, Any]]  # what each says of itself


def said_since(table: StorePath, version: int, latest: int) -> Since:
    """Return what the commits after a version, up to the latest one, add and say of themselves."""
    since = Since(set(), [])
    for number in range(version + 1, latest + 1):
        for action in _actions(table, number):
            if "add" in action:
                since.added.add(action["add"]["path"])
            if "commitInfo" in action:
                since.notes.append(action["commitInfo"])
    return since


def has_removed_since(table: StorePath, version: int, latest: int) -> bool:
    """Whether a commit after a version, up to the latest one, takes a shard out."""
    commits = (_actions(table, number) for number in range(version + 1, latest + 1))
    return any("remove" in action for actions in commits for action in actions)


def _actions(table: StorePath, version: int) -> list[dict[str, Any]]:
    content = read_copy(table, version)
    if content is None and _wrong_with(path := commit_file(table, version)) is None:
        content = path.read_bytes()
    lines = [line for line in (content or b"").splitlines() if line.strip()]
    return [one for one in map(json.loads, lines) if isinstance(one, dict)]


def lacking_copies(table: StorePath) -> dict[int, bool]:
    """Return the versions whose commits lack a copy; True where there is one that is damaged."""
    sizes, copies = (_listed(table / name)[0] for name in LOGS)
    return {
        number: number in copies
        for number in sorted(sizes)
        if number not in copies or read_copy(table, number) is None
    }


def checkpoints(table: StorePath) -> list[StorePath]:
    """Return the checkpoints of a log, and the file that names the last one."""
    log = table / "_delta_log"
    paths: list[StorePath] = [*log.iterdir()] if log.is_dir() else []
    return [one for one in paths if _CHECKPOINT.match(one.name) or one.name == _POINTER]


def newest_checkpoint(table: StorePath) -> int:
    """Return the version of a log's newest checkpoint; -1 where there is none."""
    return max(_listed(table / "_delta_log")[1], default=-1)


def newest_commit(table: StorePath) -> int:
    """Return the version of the newest commit that is there; -1 where there is none."""
    return max(_listed(table / "_delta_log")[0], default=-1)


def _checkpoint_damage(log: StorePath) -> list[Damage]:
    pointer = log / _POINTER
    if not pointer.exists():
        return []
    way = "`featurestore store repair` deletes it, since the commits say all that it says"
    try:
        version = int(json.loads(pointer.read_bytes())["version"])
    except (ValueError, KeyError, TypeError, RecursionError):
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
