"""Run the notebooks of examples/ and store their outputs in them.

Run: python -m tools.notebooks   (half a minute; needs nbclient, ipykernel and matplotlib)
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))


def run(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook in a folder; return it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.clear()
    where = {"metadata": {"path": str(folder)}}
    # Streamlit sets it in a process that ran a page, and plots would not be shown.
    env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    NotebookClient(
        notebook, timeout=300, startup_timeout=300, resources=where, record_timing=False
    ).execute(env=env)
    return notebook


def main() -> int:
    """Run all, write them anew."""
    for path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(run(path, Path(folder)), path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
