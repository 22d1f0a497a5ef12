"""A small Ray cluster on the loopback of a network namespace of its own, for tests.

With default options Ray's servers listen on all addresses, whatever they are told. Inside
``unshare --net`` there is only loopback: what runs there cannot be reached from outside.

``python -m tools.ray_nodes COMMAND…`` runs a command in such a namespace, with a token.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

ADDRESS = "127.0.0.1"
_INSIDE = "FEATURESTORE_IN_NAMESPACE"


def alone(arguments: Sequence[str], *, timeout_s: float = 900.0) -> int:
    """Run a command where nothing of the network is there but loopback; return its exit code."""
    if os.environ.get(_INSIDE) == "1":
        return subprocess.run(arguments, check=False, timeout=timeout_s).returncode
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: AF_UNIX paths end at 107 bytes
    environment = {
        **os.environ,
        _INSIDE: "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TMPDIR": folder,
    }
    command = ["timeout", "-k", "5", str(int(timeout_s)), "unshare", *_how(), "sh", "-c",
               'ip link set lo up && exec "$@"', "sh", *arguments]  # fmt: skip
    try:
        return subprocess.run(command, env=environment, check=False).returncode
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _how() -> list[str]:
    """Return how to get a namespace: its processes end with it."""
    own = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["--net", "--pid", "--fork", "--kill-child", "--mount-proc", *own]


def has_namespaces() -> bool:
    """Whether this machine lets us have one."""
    done = subprocess.run(["unshare", *_how(), "true"], capture_output=True, check=False)
    return done.returncode == 0


@contextmanager
def cluster(n_nodes: int = 3) -> Iterator[Any]:
    """Start a head and nodes of one core each; yields Ray's own `Cluster`, with ``address``."""
    assert os.environ.get(_INSIDE) == "1", "only in a namespace: see `alone`"
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "node_ip_address": ADDRESS,
                        "object_store_memory": 80 << 20},
    )  # fmt: skip
    try:
        for _ in range(n_nodes):
            add_node(made)
        yield made
    finally:
        made.shutdown()


def add_node(made: Any) -> Any:
    """Start a node of one core."""
    return made.add_node(num_cpus=1, object_store_memory=80 << 20, node_ip_address=ADDRESS)


if __name__ == "__main__":
    sys.exit(alone(sys.argv[1:]))
