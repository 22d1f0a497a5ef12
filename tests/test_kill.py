"""Twenty of the kills of `tools.kill`; 1,000 over all commands by hand: docs/reliability.md."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_twenty_kills_lose_nothing_and_block_nothing():
    """Forks, which a process with threads must not: so in one of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.kill", "20", "--only",
         "import, a new|large: a new data set|large: changed|large, two sources"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 tries" in done.stdout
    assert ", 0 findings" in done.stdout
