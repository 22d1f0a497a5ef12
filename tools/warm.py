"""Commands in processes of their own without the seconds that a start of Python takes.

One process imports what commands use, then forks for each: a crash, a signal or a kill is that
child's alone, and its exit status is what the system says it is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int  # exit code; minus the signal's number where a signal ended it
    out: str
    err: str
    seconds: float


@dataclass(frozen=True)
class Running:
    """A command that has begun."""

    pid: int
    out: Path
    err: Path
    began: float

    def kill(self) -> None:
        """Send SIGKILL to it and to what it started."""
        os.killpg(self.pid, signal.SIGKILL)

    def wait(self, limit_s: float = 120.0) -> Ended:
        """Wait for its end; after ``limit_s`` it is killed, which counts as signal 9."""
        until = time.monotonic() + limit_s
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > until:
                self.kill()
                until = float("inf")
            time.sleep(0.002)
        code = os.waitstatus_to_exitcode(status)
        texts = [path.read_text(errors="replace") for path in (self.out, self.err)]
        for path in (self.out, self.err):
            path.unlink()
        return Ended(code, texts[0], texts[1], time.monotonic() - self.began)


def preload() -> None:
    """Import what commands import; nothing here may start a thread, which a fork would lose."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import deltalake
    import duckdb
    import faiss
    import pyarrow.dataset
    import pyarrow.parquet
    import sklearn.linear_model
    import torch

    import dashboard.page_data
    import featurestore.cli
    import featurestore.store.store
    import heads

    assert all((deltalake, duckdb, faiss, pyarrow, sklearn, torch, dashboard, featurestore, heads))


Work = Sequence[str] | Callable[[], object]  # a command line of ours, or a function


def start(
    work: Work,
    environment: dict[str, str] | None = None,
    before: Callable[[], None] = lambda: None,
) -> Running:
    """Begin a command line of ours, or a function, in a process group of its own.

    ``before()`` is called in it first.
    """
    folder = Path(tempfile.gettempdir())
    (out_fd, out), (err_fd, err) = (tempfile.mkstemp(dir=folder, prefix="warm-") for _ in range(2))
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:  # the child: nothing of the parent's may run after this
        code = 70
        try:
            os.setpgid(0, 0)
            os.dup2(out_fd, 1)
            os.dup2(err_fd, 2)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            os.environ.update(environment or {})
            before()
            if callable(work):
                work()
                code = 0
            else:
                from featurestore.cli import main

                main(list(work))
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else int(done.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            _end(code)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it did so itself
        os.setpgid(pid, pid)
    os.close(out_fd)
    os.close(err_fd)
    return Running(pid, Path(out), Path(err), began)


def _end(code: int) -> None:
    """End the child as Python would: its threads are waited for, its output is written."""
    import threading

    try:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                with contextlib.suppress(RuntimeError):  # a signal came before it was started
                    thread.join()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:  # nothing of the parent's may run in the child
        os._exit(code)


def run(work: Work, environment: dict[str, str] | None = None) -> Ended:
    """Run a command line of ours, or a function, in a process of its own, and wait for it."""
    return start(work, environment).wait()
