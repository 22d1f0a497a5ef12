"""Commands that run beside the server: what was started, how far it is, how it ended.

Each has a folder in the user's cache, and a process that goes on when a tab or the server is
closed. The process holds a lock on a file there as long as it runs: the kernel ends it with the
process, however that ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from uuid import uuid4

import featurestore
from featurestore.storage.files import write_json
from featurestore.storage.user_cache import cache_dir

MOST_KEPT = 40  # jobs of a store that have ended
FOLDER = "{folder}"  # in the words of a command: the folder of its job
_STEP = re.compile(r"^([\d,]+) of ([\d,]+) (.*)$")
_STARTED: list[subprocess.Popen[bytes]] = []  # of this server; asked now and then, so that they go


class State(StrEnum):
    """Where a job is."""

    RUNNING = "running"
    DONE = "done"
    CANCELED = "canceled"
    FAILED = "failed"
    LOST = "ended without a word"  # killed, or the machine was restarted


@dataclass(frozen=True)
class Request:
    """What is to be run; two requests of one subject never run at once."""

    command: str  # transfer
    dataset: str
    words: tuple[str, ...]  # all of the command line after `featurestore`
    encoder: str = ""
    about: str = ""  # the state of the data that it is for

    @property
    def subject(self) -> tuple[str, str, str]:
        """What it works on."""
        return self.command, self.dataset, self.encoder


@dataclass(frozen=True)
class Job:
    """A command that was started."""

    folder: Path
    request: Request
    began: datetime
    pid: int

    @cached_property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return _is_locked(self.folder / "alive")

    @cached_property
    def code(self) -> int | None:
        """The exit code; None while it runs, or where nobody could write it."""
        try:
            return int((self.folder / "code").read_text())
        except (OSError, ValueError):
            return None

    @property
    def state(self) -> State:
        """Where it is."""
        if self.is_running:
            return State.RUNNING
        if self.code in (0, 3):
            return State.DONE
        if (self.folder / "canceled").exists():
            return State.CANCELED
        return State.LOST if self.code is None or self.code == -signal.SIGKILL else State.FAILED

    @property
    def seconds(self) -> float:
        """How long it ran, or runs."""
        with suppress(OSError):
            if not self.is_running:
                last = max(path.stat().st_mtime for path in self.folder.iterdir())
                return max(0.0, last - self.began.timestamp())
        return (datetime.now(UTC) - self.began).total_seconds()

    @cached_property
    def lines(self) -> list[str]:
        """What it said of its progress, on stderr."""
        return _lines(self.folder / "said")

    @cached_property
    def output(self) -> list[str]:
        """What it found, on stdout."""
        return _lines(self.folder / "output")

    @property
    def progress(self) -> tuple[float | None, str]:
        """How much of the present step is done, and what it says of it."""
        for line in reversed(self.lines):
            if found := _STEP.match(line):
                done, n = (int(one.replace(",", "")) for one in found.groups()[:2])
                return min(1.0, done / max(1, n)), line
        return None, self.lines[-1] if self.lines else "Starting…"

    @property
    def error(self) -> str | None:
        """Why it failed: the last line of what it said."""
        if self.state is State.LOST:
            return (
                "it ended without a word: it was killed, or the machine was restarted. "
                "What it had committed is kept."
            )
        if self.state is not State.FAILED:
            return None
        return self.lines[-1] if self.lines else f"exit code {self.code}"


def start(store: str, request: Request) -> Job:
    """Start a command; where one of the same subject runs, that one is returned."""
    home = _home(store)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(home / "lock"):
        for job in jobs(store):
            if job.request.subject == request.subject and job.is_running:
                return job
        began = datetime.now(UTC)
        folder = home / f"{began:%Y%m%dT%H%M%S}-{request.command}-{uuid4().hex[:6]}"
        folder.mkdir()
        words = [word.replace(FOLDER, str(folder)) for word in request.words]
        pid = _spawn(folder, words)
        job = Job(folder, request, began, pid)
        facts = {"began": began.isoformat(), "pid": pid, "request": asdict(request)}
        write_json(folder / "job.json", facts)
    _forget_old(store)
    return job


def _spawn(folder: Path, words: Sequence[str]) -> int:
    """Start the process of a job, which holds the lock from its first moment."""
    # -P: a module of the working folder is not taken for one of ours, or of a library.
    ours = [str(Path(featurestore.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    with (
        (folder / "alive").open("wb") as alive,
        (folder / "said").open("wb") as said,
        (folder / "output").open("wb") as output,
    ):
        fcntl.flock(alive, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "dashboard.worker",
                str(folder),
                str(alive.fileno()),
                *words,
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, ours))},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=said,
            pass_fds=(alive.fileno(),),
            start_new_session=True,  # Ctrl-C of the server is not for it
        )
    _STARTED.append(process)
    return process.pid


def cancel(job: Job) -> None:
    """Ask a job to end; it keeps what it has committed."""
    if _is_locked(job.folder / "alive"):
        (job.folder / "canceled").touch()
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGTERM)


def jobs(store: str) -> list[Job]:
    """Return the jobs of a store, newest first."""
    _STARTED[:] = [one for one in _STARTED if one.poll() is None]
    found = []
    for path in sorted(_home(store).glob("*/job.json"), reverse=True):
        with suppress(OSError, ValueError, KeyError, TypeError):  # half written, or of a newer kind
            facts = json.loads(path.read_text(encoding="utf-8"))
            asked = facts["request"]
            request = Request(**{**asked, "words": tuple(asked["words"])})
            began = datetime.fromisoformat(facts["began"])
            found.append(Job(path.parent, request, began, facts["pid"]))
    return found


def latest(store: str, command: str, dataset: str, encoder: str = "") -> Job | None:
    """Return the newest job of a subject."""
    wanted = (command, dataset, encoder)
    return next((job for job in jobs(store) if job.request.subject == wanted), None)


def forget(job: Job) -> None:
    """Drop a job that has ended from the list."""
    if not _is_locked(job.folder / "alive"):
        shutil.rmtree(job.folder, ignore_errors=True)


def _forget_old(store: str) -> None:
    ended = [job for job in jobs(store) if not job.is_running]
    for job in ended[MOST_KEPT:]:
        forget(job)


def _home(store: str) -> Path:
    return cache_dir() / "jobs" / hashlib.sha256(store.encode()).hexdigest()[:16]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # gone
        return False
    return False
