"""Workers on this machine: a process for each, begun again when it dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from featurestore.errors import FeatureStoreError
from featurestore.storage import stopping
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.remote import as_path
from featurestore.storage.run_folder import RunFolder
from featurestore.workers.drive import Died
from featurestore.workers.worker import Ended, Worker, WorkerOptions

_LAST_S = 5.0  # that a worker without a part may take to end


@dataclass(eq=False)
class _Process:
    options: WorkerOptions
    process: BaseProcess
    line: Connection  # to it
    part: str | None = None  # that it does


class Here:
    """Worker processes of this machine; see `drive.Workers`.

    Parameters
    ----------
    folder : DatasetFolder
    run : RunFolder
    options : sequence of WorkerOptions
        Of each worker.
    """

    def __init__(
        self, folder: DatasetFolder, run: RunFolder, options: Sequence[WorkerOptions]
    ) -> None:
        self._folder, self._run = folder, run
        n_cores = max(1, (os.cpu_count() or 1) // len(options))
        self._options = [replace(one, n_workers=one.n_workers or n_cores) for one in options]
        self._workers: list[_Process] = []
        for one in self._options:
            self._workers.append(self._start(one))

    def _start(self, options: WorkerOptions) -> _Process:
        from joblib.externals.loky.backend import get_context

        # Not fork, which delta-rs and CUDA do not survive; not spawn, which runs the caller's
        # script again.
        context = get_context("loky")
        ours, theirs = context.Pipe()
        n_threads = str(options.n_workers)
        arguments = (str(self._folder.path), str(self._run.path), options, theirs, n_threads)
        process = context.Process(target=_work, args=arguments, daemon=True)
        before = [signal.signal(one, signal.SIG_IGN) for one in stopping.SIGNALS]  # inherited
        try:
            process.start()
        finally:
            for one, handler in zip(stopping.SIGNALS, before, strict=True):
                signal.signal(one, handler)
        theirs.close()
        return _Process(options, process, ours)

    @property
    def n_free(self) -> int:
        """How many have nothing to do."""
        return sum(one.part is None for one in self._workers)

    def give(self, part: str) -> None:
        """Let a free worker begin a part."""
        worker = next(one for one in self._workers if one.part is None)
        worker.part = part
        with suppress(OSError):  # it has just died: `wait` says so
            worker.line.send(part)

    def wait(self, timeout_s: float) -> Sequence[Ended | Died]:
        """Return what ended, after some time at most."""
        busy = {one.line: one for one in self._workers if one.part is not None}
        ended: list[Ended | Died] = []
        for line in wait(list(busy), timeout_s):
            worker = busy[line]  # type: ignore[index]  # only ours were asked
            part, worker.part = worker.part or "", None
            try:
                said = worker.line.recv()
            except (EOFError, OSError):
                worker.process.join()
                ended.append(Died(part, f" (exit code {worker.process.exitcode})"))
                self._workers[self._workers.index(worker)] = self._start(worker.options)
                continue
            if isinstance(said, BaseException):
                raise said
            ended.append(said)
        return ended

    def close(self) -> None:
        """End all workers: those that have nothing to do by themselves."""
        for worker in self._workers:
            worker.line.close()
            if worker.part is not None:
                _kill(worker.process)
        for worker in self._workers:
            worker.process.join(_LAST_S)
            if worker.process.is_alive():
                _kill(worker.process)
                worker.process.join()
            if worker.part is not None:  # we ended it: the part is not to blame
                self._run.forget_last_attempt(worker.part)


def _kill(process: BaseProcess) -> None:
    """End a process, also one that stands still; those of loky have no `kill`."""
    if process.is_alive() and process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)


def _work(store: str, run: str, options: WorkerOptions, line: Connection, n_threads: str) -> None:
    """Do the parts that come, in a process of its own, until no more can come."""
    os.environ.setdefault("OMP_NUM_THREADS", n_threads)
    folder = DatasetFolder(as_path(store))
    try:
        worker = Worker(folder, RunFolder(as_path(run)), options)
        while True:
            try:
                part = line.recv()
            except (EOFError, OSError):  # the driver has ended
                worker.close()
                return
            line.send(worker.embed(part))
    except (FeatureStoreError, OSError, MemoryError) as error:
        with suppress(OSError, ValueError, TypeError):
            line.send(error)
