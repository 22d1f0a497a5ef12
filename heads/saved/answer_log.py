"""A log of answers: what a head said, when, and how far out each item lies.

One folder a head, one file a process and day, one JSON object a line; lines are only ever added.
The first line of a file says what the others are about. docs/format.md lists the keys.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadName, BadSource
from heads.saved.answers import Answers

if TYPE_CHECKING:
    from heads.saved.bundle import FittedHead

FORMAT = 1
ENDING = ".answers.jsonl"
PICTURES = "pictures"  # folder of the unlike pictures that were kept
_MOST_LINE = 1 << 20  # bytes: a longer line is none of ours
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class About:
    """What is known of an item beside its id."""

    digest: str | None = None  # SHA-256 (hex) of its content
    text: str | None = None
    path: str | None = None
    content: bytes | None = None  # of a picture that came without a path


class AnswerLog:
    """Adds answers of one process to a folder.

    A log that cannot be written stops nobody: it is said once, what is lost is counted, and the
    next answers are tried again.

    Parameters
    ----------
    folder : path
    items : bool
        Also keep texts and paths of items, and the pictures of items that are unlike the training
        items where they came without a path.
    vectors : bool
        Also keep what the head read, as float16, if that is one vector an item.
    say : callable
        Told once that the log cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        items: bool = False,
        vectors: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder, self.items, self.vectors, self.say = Path(folder), items, vectors, say
        self.n_lost = 0
        self._own = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._begun: set[Path] = set()
        self._lock = Lock()
        check_local(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadName(f"--log-to {folder}: {error.strerror or error}") from None

    def write(self, head: FittedHead, answers: Answers, about: Sequence[About]) -> None:
        """Add the answers about n items, whose ids are those of the answers."""
        now = datetime.now(UTC)
        folder = self.folder / head.head_id
        file = folder / f"{now:%Y-%m-%d}-{self._own}{ENDING}"
        with self._lock:
            try:
                folder.mkdir(exist_ok=True)
                lines = [self._line(answers, n, one, now) for n, one in enumerate(about)]
                if file not in self._begun:
                    lines.insert(0, _header(head, answers))
                self._keep_pictures(folder, answers, about)
                _add(file, "".join(lines))
                self._begun.add(file)
            except OSError as error:
                if not self.n_lost:
                    self.say(
                        f"the log of answers cannot be written ({error.strerror or error}: "
                        f"{error.filename or file}): answers go on without it"
                    )
                self.n_lost += len(about)

    def _line(self, answers: Answers, n: int, about: About, now: datetime) -> str:
        said = answers.predicted[n]
        row: dict[str, Any] = {"at": now.isoformat(timespec="seconds"), "id": str(answers.ids[n])}
        if about.digest:
            row["content"] = about.digest
        row["predicted"] = said.item() if isinstance(said, np.generic) else said
        if answers.confidence is not None:
            row["confidence"] = round(float(answers.confidence[n]), 4)
        if answers.unlike is not None:
            row["unlike"] = round(float(answers.unlike.shares[n]), 6)
        if self.items:
            row |= {k: v for k, v in (("text", about.text), ("path", about.path)) if v is not None}
        if self.vectors and answers.vectors is not None:
            row["vector"] = base64.b64encode(answers.vectors[n].astype("<f2").tobytes()).decode()
        return json.dumps(row, ensure_ascii=False) + "\n"

    def _keep_pictures(self, folder: Path, answers: Answers, about: Sequence[About]) -> None:
        """Keep the pictures that are unlike the training items and have no path."""
        if not self.items or answers.unlike is None:
            return
        for n in np.flatnonzero(answers.unlike.is_unlike).tolist():
            content, digest = about[n].content, about[n].digest
            if content is None or digest is None:
                continue
            (folder / PICTURES).mkdir(exist_ok=True)
            if not (file := folder / PICTURES / digest).exists():
                file.write_bytes(content)


def check_local(folder: str | Path) -> None:
    """Make sure that a log is in a folder of this machine.

    Raises
    ------
    BadName
    """
    if "://" in str(folder):
        raise BadName(f"{folder}: a log of answers lies in a folder of this machine")


def _header(head: FittedHead, answers: Answers) -> str:
    n_training = None if answers.unlike is None else answers.unlike.n_training
    return (
        json.dumps(
            {
                "format": FORMAT,
                "head": head.head_id,
                "created": head.card.created,
                "fingerprint": head.card.fingerprint,
                "n_training": n_training,
            }
        )
        + "\n"
    )


def _add(file: Path, lines: str) -> None:
    """Add lines in one piece; what a full disk cut off is taken away again."""
    with file.open("ab", buffering=0) as sink:
        before = sink.tell()
        content = lines.encode()
        try:
            n = sink.write(content)
            if n != len(content):
                raise OSError(28, os.strerror(28), str(file))
        except OSError:
            sink.truncate(before)
            raise


@dataclass(frozen=True, eq=False)
class Logged:
    """Answers of one head, read from logs; the same content counts once, the latest time."""

    at: list[datetime]
    ids: list[str]
    predicted: list[Any]
    unlike: NDArray[np.float64]  # (n,), NaN where it was not known
    rows: list[Mapping[str, Any]] = field(repr=False)  # as they were written
    n_training: int | None  # that shares are of
    n_again: int = 0  # of content that came before
    n_odd: int = 0  # lines that could not be read
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def vectors(self, dim: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Return which rows have a vector of so many numbers, and these, (n, dim)."""
        found = [_vector(row, dim) for row in self.rows]
        kept = [n for n, one in enumerate(found) if one is not None]
        given = [found[n] for n in kept]
        return np.array(kept, dtype=np.intp), np.array(given, dtype=np.float32).reshape(-1, dim)

    def picture(self, n: int) -> Path | None:
        """Return the file of a row's picture, if it was kept, or its path is there."""
        row, kept = self.rows[n], None
        if self.folder is not None and _DIGEST.fullmatch(str(row.get("content"))):
            kept = self.folder / PICTURES / str(row["content"])
        own = Path(row["path"]) if isinstance(row.get("path"), str) else None
        return next((one for one in (kept, own) if one is not None and one.is_file()), None)


def read_log(
    folder: str | Path,
    head: FittedHead,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Logged:
    """Read what a head answered from a moment on, and before another.

    Lines that are damaged, as the last one after a kill may be, are counted and passed over.

    Raises
    ------
    BadSource
        If there is no log of this head, or it is of another head under its name.
    """
    check_local(folder)
    own = Path(folder) / head.head_id
    files = sorted(own.glob(f"*{ENDING}"))
    if not files:
        others = sorted(one.parent.name for one in Path(folder).glob(f"*/*{ENDING}"))
        known = f"; it has logs of {', '.join(dict.fromkeys(others))}" if others else ""
        raise BadSource(
            f"{folder} holds no log of {head.head_id}: predict or serve with --log-to "
            f"{folder}{known}"
        )
    rows: list[Mapping[str, Any]] = []
    n_odd, n_training = 0, None
    for file in files:
        if since is not None and _day_of(file) < since.date():
            continue
        header, found, odd = _rows_of(file)
        n_odd += odd
        if header.get("created", head.card.created) != head.card.created:
            raise BadSource(f"{file} is of another head named {head.head_id}: name another folder")
        n_training = header.get("n_training") or n_training
        rows += found
    kept: dict[str, Mapping[str, Any]] = {}
    n_rows = 0
    for row in sorted(rows, key=lambda one: str(one["at"])):
        moment = datetime.fromisoformat(row["at"])
        if (since is None or moment >= since) and (until is None or moment < until):
            n_rows += 1
            kept[str(row.get("content") or f"id {row['id']}")] = row
    last = list(kept.values())
    return Logged(
        [datetime.fromisoformat(row["at"]) for row in last],
        [str(row["id"]) for row in last],
        [row.get("predicted") for row in last],
        np.array([_share(row) for row in last], dtype=np.float64),
        last,
        n_training,
        n_rows - len(last),
        n_odd,
        own,
    )


def _day_of(file: Path) -> date:
    try:
        return date.fromisoformat(file.name[:10])
    except ValueError:
        return date.max


def _rows_of(file: Path) -> tuple[Mapping[str, Any], list[Mapping[str, Any]], int]:
    """Return the first line of a file, the others, and how many could not be read.

    Raises
    ------
    BadSource
        If a newer release wrote it.
    """
    header: Mapping[str, Any] = {}
    rows: list[Mapping[str, Any]] = []
    n_odd = 0
    with file.open("rb") as lines:
        # At most so much of a line at once: one without an end would fill the memory.
        for line in iter(lambda: lines.readline(_MOST_LINE), b""):
            row = _parsed(line)
            if row is None:
                n_odd += 1
            elif "format" in row:
                header = row
            elif _is_row(row):
                rows.append(row)
            else:
                n_odd += 1
    if header.get("format", FORMAT) != FORMAT:
        raise BadSource(f"{file} was written by a newer release: format {header['format']}")
    return header, rows, n_odd


def _parsed(line: bytes) -> Mapping[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _is_row(row: Mapping[str, Any]) -> bool:
    try:
        moment = datetime.fromisoformat(row["at"])
    except (KeyError, TypeError, ValueError):
        return False
    return moment.tzinfo is not None and "id" in row


def _share(row: Mapping[str, Any]) -> float:
    value = row.get("unlike")
    is_share = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
    return float(value) if is_share else math.nan  # type: ignore[arg-type]


def _vector(row: Mapping[str, Any], dim: int) -> NDArray[np.float32] | None:
    try:
        raw = base64.b64decode(row["vector"], validate=True)
        found = np.frombuffer(raw, dtype="<f2").astype(np.float32)
    except (KeyError, TypeError, ValueError):
        return None
    return found if len(found) == dim and np.isfinite(found).all() else None


def digest_of(content: str | bytes) -> str:
    """Return the SHA-256 (hex) of a text or of the bytes of a picture."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
