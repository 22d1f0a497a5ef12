"""Commands that run beside the server, and the page that waits for one."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import streamlit as st

import featurestore
from dashboard.page_data import wording
from featurestore.store.view import View


class Job:
    """A command of ours that runs beside the server, and ends with it."""

    def __init__(self, *words: str, about: str) -> None:
        self.about = about  # the state of the view that it was started for
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        # -P: a module of the working folder is not taken for one of ours, or of a library.
        ours = [str(Path(featurestore.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "featurestore.cli", *words],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, ours))},
            stdout=subprocess.DEVNULL,
            stderr=self._said,
        )
        atexit.register(self._process.terminate)

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    @property
    def error(self) -> str | None:
        """The last line of what it said, where it failed."""
        if self._process.poll() in (None, 0):
            return None
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.returncode}"


@st.cache_resource(show_spinner=False)
def running_jobs() -> dict[str, Job]:
    """Return the jobs of this server, by their words; shared by all tabs."""
    return {}


def wait_for_map(view: View) -> str:
    """Make the UMAP map beside the server, one at a time, and name the map to show meanwhile."""
    store, name, spec = view.dataset.store.path, view.dataset.name, str(view.spec)
    words = ("project", name, "-e", spec, "--method", "umap", "--store", str(store))
    running, key = running_jobs(), "\0".join(words)
    job = running.get(key)
    if job is None or (job.is_done and job.error is None and job.about != view.state):
        job = running[key] = Job(*words, about=view.state)
    if job.is_done:
        why = job.error or "it was made, but could not be kept: is the store read-only?"
        st.error(wording.plain(f"No UMAP map: {why}"), icon=":material/error:")
        st.button("Try again", on_click=_forget, args=(key,))
    else:
        _watch(job)
    return "pca"


def _forget(key: str) -> None:
    running_jobs().pop(key, None)


@st.fragment(run_every="2s")
def _watch(job: Job) -> None:
    if job.is_done:
        st.rerun()
    st.info("UMAP is being computed; PCA is shown until it is there.", icon=":material/timer:")
