"""What people note about comparisons: tags and a line, an append-only history with who and when.

``runs/notes.jsonl`` holds one JSON object a line, and none is ever changed: the latest of a run
counts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from featurestore.curation.reviews import user_name
from featurestore.errors import BadName, nearest
from featurestore.storage.dataset_folder import DatasetFolder, utc_now
from featurestore.storage.files import append
from featurestore.storage.remote import StorePath

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunNote:
    """What one person noted about a comparison."""

    run: str  # when it was made, as its card says: UTC, ISO 8601
    tags: tuple[str, ...]
    note: str
    who: str
    when: str  # UTC, ISO 8601


def note_run(
    folder: DatasetFolder, run: str, *, tags: Iterable[str], note: str = "", who: str | None = None
) -> RunNote:
    """Tag a comparison and note a line about it, in place of what was noted before.

    Parameters
    ----------
    run : str
        ``created`` of its card.
    who : str, optional
        Default the user's name.

    Raises
    ------
    BadName
        If there is no such comparison.
    """
    known = [str(one["card"]["created"]) for one in folder.runs("compare")]
    if run not in known:
        raise BadName(f"no comparison of {run!r} in {folder.name!r}: {nearest(run, known)}")
    cleaned = tuple(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))
    made = RunNote(run, cleaned, " ".join(note.split()), who or user_name(), utc_now())
    with folder.locked("reviews"):
        append(_file(folder), (json.dumps(asdict(made), ensure_ascii=False) + "\n").encode())
    return made


def run_notes(folder: DatasetFolder) -> dict[str, RunNote]:
    """Return the latest note on each comparison, by run; a half-written line is left out."""
    path = _file(folder)
    found = {}
    for number, line in enumerate(path.read_bytes().split(b"\n") if path.exists() else (), 1):
        try:
            value = json.loads(line)
            found[str(value["run"])] = RunNote(**{**value, "tags": tuple(value["tags"])})
        except (ValueError, TypeError, KeyError):
            if line.strip():
                _log.warning("line %d of %s is not a note: left out", number, path)
    return found


def _file(folder: DatasetFolder) -> StorePath:
    return folder.path / "runs" / "notes.jsonl"
