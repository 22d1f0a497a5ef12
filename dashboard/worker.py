"""The process of a job (`dashboard.page_data.jobs`): runs one command and writes its exit code.

Run: python -m dashboard.worker FOLDER LOCK WORDS…   (LOCK: an open file's number)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROGRESS_S = 2.0  # between two lines of progress: a page waits for them


def main(folder: Path, lock: int, words: Sequence[str]) -> None:
    """Run a command of ours to its end, in a process of its own, which holds the lock as well."""
    os.nice(5)  # pages come first
    signal.signal(signal.SIGTERM, lambda *_: None)  # it goes to the whole group: the command ends
    command = [sys.executable, "-P", "-m", "dashboard.worker", "--run", *words]
    code = subprocess.call(command, pass_fds=(lock,))
    beside = folder / "code.part"
    beside.write_text(str(code))
    beside.rename(folder / "code")


def run(words: Sequence[str]) -> None:
    """Be the command line, with progress at shorter intervals."""
    from featurestore.cli import main as command_line
    from featurestore.cli import watching

    watching.EVERY_S = PROGRESS_S
    command_line(words)


if __name__ == "__main__":
    if sys.argv[1] == "--run":
        run(sys.argv[2:])
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
