"""Small files written whole or not at all, on this machine or in an object store.

An object store has no locks: what is read, changed and written back there (`rewrite`) is
written only over what was read, and else read again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from featurestore.errors import StoreBusy, StoreCorrupt
from featurestore.storage.exhausted import naming
from featurestore.storage.remote import ABSENT, RemotePath, StorePath, delete_all

_ATTEMPTS = 20
_SEAL = "sha256"


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Give an unused path beside ``path``; what is there at the end, file or folder, is deleted."""
    temporary = path.with_name(f".{path.name[:60]}.{uuid4().hex}.tmp")
    try:
        with naming(path):
            yield temporary
    finally:
        remove(temporary)


@contextmanager
def written_beside(target: StorePath, *, last: str = "", over: bool = True) -> Iterator[Path]:
    """Give a local path to write a file or a folder at, and `publish` it as ``target``.

    If the block raises, nothing is published and nothing is left of it.
    """
    near = target if isinstance(target, Path) else Path(tempfile.gettempdir(), target.name)
    with temporary_beside(near) as temporary:
        yield temporary
        publish(temporary, target, last=last, over=over)


def publish(made: Path, target: StorePath, *, last: str = "", over: bool = True) -> None:
    """Move a finished file or folder to ``target``, in place of what is there.

    On this machine it is synced, renamed, and its new name synced; with ``over=False`` a folder
    that is there raises OSError. To an object store it is uploaded; the file ``last`` of a
    folder, which says that the folder is there, is deleted first and written last.
    """
    is_folder = made.is_dir()
    if isinstance(target, RemotePath):
        if not is_folder:
            target.upload(made)
            return
        assert last, f"{target}: expected the name of the file that says that the folder is there"
        (target / last).unlink(missing_ok=True)
        for file in sorted(made.iterdir(), key=lambda file: file.name == last):
            (target / file.name).upload(file)
        return
    for file in [*made.iterdir(), made] if is_folder else [made]:
        sync(file)
    if not (over and is_folder and target.exists()):
        made.replace(target)
        sync(target.parent)
        return
    old = target.with_name(f".{target.name[:60]}.{uuid4().hex}.tmp")
    target.rename(old)
    try:
        made.rename(target)
    finally:
        if target.exists():  # the new one, or that of another process
            remove(old)
        else:
            old.rename(target)
        sync(target.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk and outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems sync no folder
            raise
    finally:
        os.close(descriptor)


def make_folder(path: StorePath) -> None:
    """Make a folder, and those that it lies in, that outlive a power cut; it may be there."""
    if isinstance(path, Path) and not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def remove(path: Path) -> None:
    """Delete a file or a folder; there may be none."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_file(path: StorePath, content: bytes | memoryview) -> None:
    """Write bytes, all of them or none."""
    if isinstance(path, RemotePath):
        path.write_bytes(bytes(content))
        return
    with written_beside(path) as temporary:
        temporary.write_bytes(content)


def write_new(path: StorePath, content: bytes) -> bool:
    """Write a file where there is none; False where there is one. Of several writers one wins.

    Raises
    ------
    FileNotFoundError
        If its folder is gone, on this machine.
    """
    if isinstance(path, RemotePath):
        try:
            path.write_bytes(content, over=ABSENT)
        except StoreBusy:
            return False
        return True
    with temporary_beside(path) as temporary:
        temporary.write_bytes(content)
        sync(temporary)
        try:
            os.link(temporary, path)  # whole or not at all, and never over another
        except FileExistsError:
            return False
    sync(path.parent)
    return True


def write_json(path: StorePath, value: object, *, indent: int | None = 1) -> None:
    """Write JSON, with sorted keys."""
    write_file(path, json_bytes(value, indent=indent))


def json_bytes(value: object, *, indent: int | None = 1) -> bytes:
    """Return JSON as our files have it."""
    text = json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False)
    return f"{text}\n".encode()


def write_sealed(path: StorePath, value: Mapping[str, Any]) -> None:
    """Write a JSON object with the SHA-256 of what it says, which `read_sealed` looks at."""
    write_json(path, {**value, _SEAL: _seal_of(value)}, indent=None)


def read_sealed(path: StorePath) -> dict[str, Any]:
    """Read a JSON object of `write_sealed`, or one of before that has no seal.

    Raises
    ------
    StoreCorrupt
        If it does not say what was written.
    """
    value = read_json(path)
    seal = value.pop(_SEAL, None)
    if seal is not None and seal != _seal_of(value):
        raise StoreCorrupt(
            f"{path} is not what was written (SHA-256): restore it from a backup, or delete it"
        )
    return value


def _seal_of(value: Mapping[str, Any]) -> str:
    as_read = json.loads(json.dumps(value))  # with keys that are text
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def rewrite(path: StorePath, change: Callable[[bytes | None], bytes]) -> None:
    """Replace a file by what ``change`` makes of it; None stands for no file.

    On this machine the caller holds a lock. In an object store ``change`` may be called again.

    Raises
    ------
    StoreBusy
        If others write to it all the time.
    """
    if not isinstance(path, RemotePath):
        write_file(path, change(path.read_bytes() if path.exists() else None))
        return
    for attempt in range(_ATTEMPTS):
        try:
            now, e_tag = path.read_version()
        except FileNotFoundError:
            content, over = change(None), ABSENT
        else:
            content, over = change(now), e_tag
        try:
            path.write_bytes(content, over=over)
            return
        except StoreBusy:
            if attempt + 1 == _ATTEMPTS:
                raise
            time.sleep(0.02 * attempt)


def append(path: StorePath, lines: bytes) -> None:
    """Add whole lines to a file; a half-written last line, left by a kill, is ended first."""
    if isinstance(path, RemotePath):
        rewrite(path, lambda now: (now or b"") + lines)
        return
    is_new = not path.exists()
    with naming(path), path.open("ab") as file:
        torn = file.tell() > 0 and not _ends_whole(path)
        file.write((b"\n" if torn else b"") + lines)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync(path.parent)


def sha256_of(path: StorePath) -> str:
    """Return the SHA-256 (hex) of a file."""
    if isinstance(path, RemotePath):
        digest = hashlib.sha256()
        for block in path.blocks():
            digest.update(block)
        return digest.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_folder(path: StorePath) -> None:
    """Delete a folder and all that lies in it; there may be none."""
    if isinstance(path, RemotePath):
        delete_all(list(path.walk()))
    elif path.exists():
        shutil.rmtree(path)


def matching(folder: StorePath, pattern: str) -> list[StorePath]:
    """Return what fits a pattern such as ``*/card.json``, in a stable order."""
    return sorted(folder.glob(pattern), key=str)


def move_folder(path: StorePath, target: StorePath, *, last: str) -> None:
    """Move a folder: in one step on this machine, object by object in an object store.

    The file ``last`` says that the folder is there: it is written last at the target and deleted
    first at ``path``, so that an interrupted move can be repeated. Nobody may write to the folder
    meanwhile.
    """
    if isinstance(path, Path):
        path.rename(str(target))
        sync(path.parent)
        return
    assert isinstance(target, RemotePath), "one store"
    done: set[RemotePath] = set()
    if not (target / last).is_file():  # else all is there, and may have been written to since
        while new := [one for one in path.walk() if one not in done and one != path / last]:
            for one in new:
                one.copy_to(RemotePath(target.bucket, target.key + one.key[len(path.key) :]))
            done.update(new)
        (path / last).copy_to(target / last)
    (path / last).unlink(missing_ok=True)
    delete_all(list(path.walk()))


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def read_json(path: StorePath) -> dict[str, Any]:
    """Read a JSON object of the store."""
    return json_object(path, path.read_bytes)


def json_object(path: StorePath, read: Callable[[], bytes]) -> dict[str, Any]:
    """Parse a JSON object; raises StoreCorrupt where it is damaged."""
    try:
        value = json.loads(read())
    except (OSError, ValueError, RecursionError) as error:
        raise StoreCorrupt(f"cannot read {path}: {error}; restore it from a backup") from error
    if not isinstance(value, dict):
        raise StoreCorrupt(f"{path} holds no JSON object; restore it from a backup")
    return value
