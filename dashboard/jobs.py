"""Work beside the server, followed by a page."""

from __future__ import annotations

import atexit
import subprocess
import sys
import tempfile

import streamlit as st


@st.fragment(run_every="2s")
def _watch(job: Job) -> None:
    if job.is_done:
        st.rerun()
    st.info("UMAP is being computed; PCA is shown until it is there.", icon=":material/timer:")


class Job:
    """A command of ours that runs beside the server, and ends with it."""

    def __init__(self, *words: str, about: str) -> None:
        self.about = about  # the state of the view that it was started for
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "featurestore.cli", *words],
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
def jobs() -> dict[str, Job]:
    """Return the jobs of this server, by their words; shared by all tabs."""
    return {}
