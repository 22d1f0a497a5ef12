"""Start the dashboard's server."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
import time
from http import HTTPStatus
from pathlib import Path
from threading import Thread
from urllib.request import urlopen

from featurestore.errors import MissingExtra
from featurestore.storage.remote import StorePath

STORE_VARIABLE = "FEATURESTORE_STORE"
TRUST_VARIABLE = "FEATURESTORE_DASHBOARD_TRUST"  # 1: code that the store names may run
SERVER = Path(__file__).with_name("server.py")
_PATIENCE_S = 60  # until pages are served
_LOCAL = {"localhost", "127.0.0.1", "::1"}


def launch(
    store_path: str | StorePath,
    *,
    port: int = 8501,
    host: str = "localhost",
    open_browser: bool = True,
    trust: bool = False,
) -> int:
    """Serve the dashboard of a store until Ctrl-C; return the exit code.

    Parameters
    ----------
    store_path : str or Path
        Its folder, or ``s3://bucket/folder``.
    port, host : int, str
        Where to listen; anything but localhost shows the store to the network.
    open_browser : bool
        Open a tab of the default browser.
    trust : bool
        Run code that the store names, to search by words or by a picture.

    Raises
    ------
    NotAStore
        If there is no store, or one of a newer format.
    MissingExtra
        If Streamlit or plotly is not installed.
    """
    missing = [name for name in ("streamlit", "plotly") if not importlib.util.find_spec(name)]
    if missing:
        raise MissingExtra(
            f"the dashboard needs {' and '.join(missing)}: pip install 'featurestore[dashboard]'"
        )
    from featurestore.store.store import open_store

    os.environ[STORE_VARIABLE] = str(open_store(store_path).path)
    os.environ[TRUST_VARIABLE] = "1" if trust else ""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if host not in _LOCAL:
        logging.getLogger(__name__).warning(
            "the dashboard has no password: everyone who reaches %s:%d sees this store", host, port
        )
    from streamlit.web import cli

    # What is not about this run is in .streamlit/config.toml, beside the app.
    options = {"server.port": port, "server.address": host, "server.headless": not open_browser}
    flags = [f"--{name}={str(value).lower()}" for name, value in options.items()]
    Thread(target=_say_when_served, args=(host, port), daemon=True).start()
    # uvicorn closes and then passes the signal on: who stops the server has it ended well.
    for sent in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sent, lambda *_: sys.exit(0))
    try:
        cli.main(["run", str(SERVER), *flags], standalone_mode=False)
    except SystemExit as stop:  # say, the port is taken: Streamlit has said so
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def _say_when_served(host: str, port: int) -> None:
    """Print the address once pages are served; nothing where another program has the port."""
    near = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # where all addresses are served
    shown, asked = (f"http://{f'[{one}]' if ':' in one else one}:{port}" for one in (host, near))
    if _answers(asked):
        return
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        if _answers(asked):
            print(f"Dashboard of {os.environ[STORE_VARIABLE]} at this URL: {shown}", flush=True)
            print("Ctrl-C ends it.", flush=True)
            return
        time.sleep(0.1)


def _answers(address: str) -> bool:
    try:
        with urlopen(f"{address}/_stcore/health", timeout=1) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except OSError:
        return False
