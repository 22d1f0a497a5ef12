"""Where the address space is limited (`ulimit -v`), one line for an end that no Python code sees.

Rust code that finds no memory for a few bytes aborts the process, and C++ may follow a null
pointer. So the command runs in a child, and this process, which has loaded nothing, waits for it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from types import FrameType

_BY_MEMORY = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGKILL, signal.SIGTRAP)
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def is_limited() -> bool:
    """Whether the system gives this process less address space than it could."""
    try:
        import resource
    except ImportError:  # Windows
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def go_on_in_a_child() -> None:
    """Return in a child; here, wait for its end and end as it did."""
    parent = os.getpid()
    numbers = [
        number
        for name in ("SIGINT", "SIGTERM", "SIGHUP")
        if signal.getsignal(number := getattr(signal, name)) is not signal.SIG_IGN
    ]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # until they can be handed on
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if sys.platform == "linux":  # who kills the one kills the other
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
        return

    def hand_on(number: int, _: FrameType | None) -> None:
        if number != signal.SIGINT or not os.isatty(0):  # a terminal sends it to both
            os.kill(pid, number)

    for number in numbers:
        signal.signal(number, hand_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code >= 0:
        os._exit(code)
    if -code not in _BY_MEMORY:
        os._exit(128 - code)
    said = (
        "error: out of memory: under this limit (ulimit -v) a library ended the process with "
        f"{signal.Signals(-code).name}; what was committed before is kept: raise the limit, or "
        "take fewer items (--limit, --where) or smaller batches (--batch-size)\n"
    )
    os.write(2, said.encode())
    os._exit(1)
