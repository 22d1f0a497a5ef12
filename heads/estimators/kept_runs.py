"""Runs that are done, kept until the whole is: who is interrupted goes on from there."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.terms.activations import Activations

if TYPE_CHECKING:
    from heads.estimators.retrain import Answers, Run

_log = logging.getLogger(__name__)
MOST_BYTES = 2**30  # of what is kept; the oldest goes first


class KeptRuns:
    """A folder of runs, each under the hash of all that decides it.

    Parameters
    ----------
    folder : path
        May be deleted.
    identity : mapping
        What decides the activations and the network; versions of libraries.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.identity = dict(identity)
        self.is_stopped = False  # by Ctrl-C: the next call goes on
        self._used: set[Path] = set()

    def file(
        self,
        decides: Mapping[str, Any],
        X: Activations,
        answers: Answers,
        groups: NDArray[Any] | None,
    ) -> Path:
        """Return where a run is kept: by its settings, its rows and what they are taught."""
        from heads.estimators.retrain import has_gpu

        settings = {**self.identity, **decides, "kind": answers.kind, "gpu": has_gpu()}
        found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        found.update("\0".join(map(str, () if X.ids is None else X.ids)).encode())
        for one in (answers.values, answers.weights, groups):
            found.update(b"|" if one is None else np.ascontiguousarray(one).tobytes() + b"|")
        file = self.folder / f"{found.hexdigest()[:32]}.safetensors"
        self._used.add(file)
        return file

    def read(self, file: Path) -> Run | None:
        """Read a run; None where none is kept, or the file is damaged."""
        if not file.exists():
            return None
        from safetensors import SafetensorError, safe_open

        from heads.estimators.retrain import Run

        try:
            with safe_open(file, "numpy") as opened:
                loss = float(opened.metadata()["loss"])
                return Run({name: opened.get_tensor(name) for name in opened.keys()}, loss)  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            _log.info("%s is made anew: %s", file, error)
            return None

    def write(self, file: Path, run: Run) -> None:
        """Keep a run; where the store takes none, do without."""
        from safetensors.numpy import save

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(f".{os.getpid()}.part")
            part.write_bytes(save(run.weights, {"loss": repr(run.loss)}))
            part.replace(file)
            self._make_room()
        except OSError as error:
            _log.info("%s is not kept: %s", file, error)

    def _make_room(self) -> None:
        found = [(one.stat(), one) for one in self.folder.iterdir()]
        n_bytes = sum(stat.st_size for stat, _ in found)
        for stat, one in sorted(found, key=lambda pair: pair[0].st_mtime_ns):
            if n_bytes <= MOST_BYTES:
                return
            one.unlink(missing_ok=True)
            n_bytes -= stat.st_size

    def forget(self) -> None:
        """Delete what was asked for: the whole is done and kept elsewhere."""
        for one in () if self.is_stopped else self._used:
            one.unlink(missing_ok=True)
