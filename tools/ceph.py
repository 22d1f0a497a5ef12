"""An S3 server on loopback, kept in memory: Ceph's gateway, monitor and one store, as processes.

    apt-get install --no-install-recommends radosgw ceph-mon ceph-osd
    python tools/ceph.py        # prints the environment that opens it; Ctrl-C ends it

Tests of stores at s3://… start it themselves.
"""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

PROGRAMS = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd")
KEY, SECRET, BUCKET = "loopback", "loopback-secret", "bucket"
_CONF = """
[global]
fsid = {fsid}
mon_host = v1:127.0.0.1:{mon}
public_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_data_avail_crit = 0
mon_tick_interval = 1
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
run_dir = {folder}
log_file = {folder}/$name.log
admin_socket = {folder}/$name.asok
keyring = {folder}/keyring
[mon]
mon_data = {folder}/mon
[osd]
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = {memory}
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:{gateway} tcp_nodelay=1
rgw_data = {folder}/rgw
"""


@contextmanager
def running(*, with_bucket: bool = True) -> Iterator[dict[str, str]]:
    """Serve from a process of its own; yield the environment that opens an empty bucket.

    Without ``with_bucket``, `make_bucket` is left to the caller, such as one that forks later:
    the client has threads.

    Raises
    ------
    FileNotFoundError
        If Ceph is not installed; the message says what to install.
    """
    if absent := _absent():
        raise FileNotFoundError(absent)
    for _ in range(3):  # a port that was free may be taken by now
        server = subprocess.Popen(
            [sys.executable, __file__], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        if said := server.stdout.readline():
            break
        why = server.communicate()[1].strip()
    else:
        raise RuntimeError(why)
    environment = json.loads(said)
    try:
        if with_bucket:
            make_bucket(environment)
        yield environment
    finally:
        server.terminate()
        server.communicate(timeout=30)


def make_bucket(environment: dict[str, str]) -> None:
    """Make the empty bucket."""
    from obstore import sign
    from obstore.store import S3Store

    at = S3Store(
        BUCKET,
        endpoint=environment["AWS_ENDPOINT_URL"],
        access_key_id=KEY,
        secret_access_key=SECRET,
        region=environment["AWS_REGION"],
        client_options={"allow_http": True},
    )
    url = sign(at, "PUT", "", timedelta(minutes=1))
    urllib.request.urlopen(urllib.request.Request(url, method="PUT")).close()


def main() -> int:
    """Serve until Ctrl-C, SIGTERM, or the end of who started this; return the exit code."""
    if absent := _absent():
        print(absent, file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    folder = Path(tempfile.mkdtemp(prefix="ceph-"))
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        environment = start(folder, daemons)
        print(json.dumps(environment), flush=True)
        parent = os.getppid()
        while all(one.poll() is None for one in daemons):
            time.sleep(0.2)
            if os.getppid() != parent:
                return 0  # nobody is left to use it
        print("one of Ceph's processes ended", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        for one in daemons:
            one.kill()  # all is in memory
        for one in daemons:
            one.wait()
        shutil.rmtree(folder, ignore_errors=True)


def start(folder: Path, daemons: list[subprocess.Popen[bytes]]) -> dict[str, str]:
    """Start the processes and make a user; return the environment that opens the gateway."""
    mon, gateway = _free_port(), _free_port()
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    conf = folder / "ceph.conf"
    conf.write_text(
        _CONF.format(fsid=fsid, mon=mon, gateway=gateway, folder=folder, memory=4 << 30)
    )
    (folder / "osd").mkdir()
    (folder / "keyring").write_text("")

    def run(*words: str) -> str:
        done = subprocess.run(
            [words[0], "-c", str(conf), *words[1:]], capture_output=True, text=True, timeout=40
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: {done.stderr}")
        return done.stdout

    def asked(*words: str) -> str:
        """Ask until an answer comes: monitor and store take a moment to find each other."""
        deadline = time.monotonic() + 60
        while True:
            try:
                return run(*words)
            except (SystemExit, subprocess.TimeoutExpired):
                is_dead = any(one.poll() is not None for one in daemons)
                if is_dead or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def serve(*words: str) -> None:
        log = (folder / f"{words[0]}.out").open("wb")
        daemons.append(
            subprocess.Popen(
                [words[0], "-f", "-c", str(conf), *words[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
            )
        )

    monmap = str(folder / "monmap")
    address = f"[v1:127.0.0.1:{mon}]"
    subprocess.run(
        ["monmaptool", "--create", "--addv", "a", address, "--fsid", fsid, monmap],
        check=True, capture_output=True,
    )  # fmt: skip
    run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
    serve("ceph-mon", "-i", "a")
    number = asked("ceph", "osd", "create", osd).strip()
    run("ceph-osd", "-i", number, "--mkfs", "--osd-uuid", osd)
    serve("ceph-osd", "-i", number)
    asked("ceph", "osd", "crush", "add", f"osd.{number}", "1", "root=default", "host=localhost")
    deadline = time.monotonic() + 60
    while '"num_up_osds":1' not in asked("ceph", "osd", "stat", "-f", "json"):
        if time.monotonic() > deadline:
            raise SystemExit("Ceph's store does not come up")
        time.sleep(0.2)
    admin = ("radosgw-admin", "-n", "client.rgw")  # it makes the pools: before the gateway would
    run(*admin, "user", "create", "--uid", "us", "--display-name", "us", "--access-key", KEY,
        "--secret-key", SECRET)  # fmt: skip
    serve("radosgw", "-n", "client.rgw")
    _wait_for(gateway, daemons[-1])
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{gateway}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _absent() -> str:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"no {', '.join(missing)} here: {__doc__}" if missing else ""


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
    while server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
