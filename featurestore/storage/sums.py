"""Whether derived files still are what was written, told before anything of them is mapped.

``sums.json`` beside the files holds their SHA-256. ``seen.json`` holds the size, the times and the
inode that each had when its bytes were last found right: as long as the system says the same of
a large file, it is not read again, so that opening costs no more for a million rows than for one.
A small file is read each time. What a disk changes without telling the system, `verify` finds: it
reads all.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from featurestore.storage.files import sha256_of

SUMS, SEEN = "sums.json", "seen.json"
SMALL_BYTES = 1 << 20


def write_sums(folder: Path, names: Sequence[str]) -> None:
    """Note what the files of a folder are; the last thing that is written into it."""
    sums = {name: sha256_of(folder / name) for name in names}
    (folder / SUMS).write_text(json.dumps(sums), encoding="utf-8")
    _note_seen(folder, names)


def damage_of(folder: Path, names: Sequence[str], *, anew: bool = False) -> str | None:
    """Return what is wrong with the files of a folder; None where all are what was written.

    ``names`` are those that must be among them. ``anew`` reads all bytes, also of large files that
    nobody touched.

    Raises
    ------
    FileNotFoundError
        If one of the files is not there.
    """
    for name in names:
        (folder / name).stat()
    try:
        sums = json.loads((folder / SUMS).read_bytes())
        # A store may come from anybody: nothing outside of the folder is read.
        is_sound = set(names) <= sums.keys() <= {path.name for path in folder.iterdir()}
    except (OSError, ValueError, AttributeError, RecursionError):
        is_sound = False
    if not is_sound:
        return f"{SUMS} is missing or damaged"
    seen = {} if anew else _seen(folder)
    has_news = False
    for name, digest in sums.items():
        stamp = _stamp(folder / name)
        if stamp[0] > SMALL_BYTES and seen.get(name) == stamp:
            continue
        if sha256_of(folder / name) != digest:
            return f"{name} is not what was written (SHA-256)"
        has_news |= seen.get(name) != stamp
    if has_news:
        try:
            _note_seen(folder, list(sums))
        except OSError:  # a read-only store: the next process reads them again
            return None
    return None


def damage_of_zip(path: Path) -> str | None:
    """Return what is wrong with a zip file, such as an ``.npz``, by the sums that it holds."""
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as whole:
            name = whole.testzip()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        return str(error) or type(error).__name__
    return None if name is None else f"{name} in it is not what was written (CRC-32)"


def _stamp(path: Path) -> list[int]:
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]


def _seen(folder: Path) -> dict[str, list[int]]:
    try:
        found = json.loads((folder / SEEN).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _note_seen(folder: Path, names: Sequence[str]) -> None:
    stamps = {name: _stamp(folder / name) for name in names}
    (folder / SEEN).write_text(json.dumps(stamps), encoding="utf-8")
