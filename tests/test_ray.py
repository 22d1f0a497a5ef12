"""Workers on a real Ray cluster of three nodes, which die; it needs Ray and a network namespace.

20 runs by hand: ``python -m tools.worker_kills 20``.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.ray_nodes import has_namespaces

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def ray_is_here():
    """Skip where there is no Ray or no namespace; fail where CI requires it."""
    reason = None
    if importlib.util.find_spec("ray") is None:
        reason = "Ray is not installed: pip install 'featurestore[ray]'"
    elif not has_namespaces():
        reason = "no network namespace may be made here, and Ray listens on all addresses"
    if reason is not None:
        if os.environ.get("FEATURESTORE_REQUIRE_RAY") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def alone(*words):
    """Run a module of this project on the loopback of a namespace."""
    done = subprocess.run(
        ["timeout", "-k", "5", "600", sys.executable, "-m", *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_three_runs_in_which_workers_nodes_and_drivers_are_killed():
    code, out, err = alone("tools.worker_kills", "3", "--seed", "7")
    assert code == 0, out + err[-4000:]
    assert out.count("as it should be") == 3
    assert "3 runs, 0 findings" in out
