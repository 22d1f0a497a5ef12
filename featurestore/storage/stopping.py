"""What a signal asks for: this process ends soon, whatever it waits for, with its work committed.

Python's own handlers run in the main thread, between two steps of Python code: not while it waits
in a library for a result, nor while a pool waits for a thread that reads from a dead network. So
a thread beside it is woken by the signal, too, and ends the process where the main thread has not
done so within `GRACE_S`. Nothing that is committed can be lost, as with a kill.
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Lock
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
STOPPED = "interrupted; what was done is kept, and the next run goes on from there"
GRACE_S = 1.2  # for the main thread, to leave what it waits for
_MOST_S = 120.0  # for a last commit


class Stopped(KeyboardInterrupt):
    """A signal ends a run as Ctrl-C does, each with its own exit code."""


@dataclass
class _State:
    """Whether this process was asked to stop, and what it still has to do."""

    number: int | None = None  # of the first signal
    n_finishing: int = 0
    quiet_since: float = 0.0  # when the last of them ended, or the signal came
    is_said: bool = False
    is_watched: bool = False
    lock: Lock = field(default_factory=Lock)


_state = _State()


def exit_code() -> int | None:
    """Return the exit code of a process that a signal has asked to stop; None where none has."""
    return None if _state.number is None else 128 + _state.number


def say_nothing_more() -> None:
    """Note that the user was told."""
    _state.is_said = True


@contextmanager
def finishing() -> Iterator[None]:
    """Let the block end when a signal has come, as it keeps what was done: a pass, a commit."""
    with _state.lock:
        _state.n_finishing += 1
    try:
        yield
    finally:
        with _state.lock:
            _state.n_finishing -= 1
            _state.quiet_since = time.monotonic()


def stop_on_signals() -> None:
    """Handle signals in this process; those that were ignored when it began stay so (nohup)."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    if _state.is_watched:
        return
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    with suppress(RuntimeError):  # no memory for a thread
        # Without `threading`, which waits for a thread to begin: for ever, where memory is short.
        _thread.start_new_thread(_watch, (reads,))
        _state.is_watched = True


def leave_to_others() -> None:
    """No longer end this process beside its main thread: a server of another library runs in it."""
    if _state.is_watched:
        signal.set_wakeup_fd(-1)


def _stop(number: int, _: FrameType | None) -> None:
    _note(number)
    if number != signal.SIGINT:
        signal.signal(number, lambda *_: None)  # once is enough; SIGKILL does not ask
    raise Stopped


def _note(number: int) -> None:
    with _state.lock:
        if _state.number is None:
            _state.number, _state.quiet_since = number, time.monotonic()


def _watch(reads: int) -> None:
    """Wait for a signal, then end the process unless it ends by itself."""
    while _state.number is None:
        for number in os.read(reads, 64):
            if number in SIGNALS:
                _note(number)
    asked = time.monotonic()
    while True:
        time.sleep(0.05)
        now = time.monotonic()
        is_quiet = not _state.n_finishing and now - _state.quiet_since > GRACE_S
        if is_quiet or now - asked > _MOST_S:
            if not _state.is_said and select.select([], [2], [], 0)[1]:
                with suppress(OSError):
                    os.write(2, f"{STOPPED}\n".encode())
            os._exit(128 + int(_state.number))
