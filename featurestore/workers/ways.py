"""The ways to start workers: ``--on`` and what follows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from featurestore.errors import BadName, nearest
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.run_folder import RunFolder
from featurestore.workers.drive import Workers
from featurestore.workers.worker import WorkerOptions

# From a run, how each worker works, and what follows the colon, to the workers.
Way = Callable[[DatasetFolder, RunFolder, "list[WorkerOptions]", str], Workers]


def _here(
    folder: DatasetFolder, run: RunFolder, options: list[WorkerOptions], rest: str
) -> Workers:
    """Start processes on this machine: one for each device, or as many as were asked for."""
    from featurestore.workers.here import Here

    if rest and not (rest.isdecimal() and int(rest)):
        raise BadName(f"--on here:{rest}: expected a number of processes, such as here:4")
    n = int(rest or len(options))
    return Here(folder, run, [replace(options[i % len(options)]) for i in range(n)])


def _on_ray(
    folder: DatasetFolder, run: RunFolder, options: list[WorkerOptions], rest: str
) -> Workers:
    """Start actors on a Ray cluster that runs, at an address."""
    from featurestore.workers.on_ray import OnRay

    return OnRay(folder, run, options[0], rest)


WAYS: dict[str, Way] = {"here": _here, "ray": _on_ray}


def workers_on(
    way: str, folder: DatasetFolder, run: RunFolder, options: list[WorkerOptions]
) -> Workers:
    """Start the workers of a run.

    Parameters
    ----------
    way : str
        Such as ``here:4``: a name of `WAYS`, and what it takes after a colon.
    folder : DatasetFolder
    run : RunFolder
    options : list of WorkerOptions
        How they work, one for each device that was named.

    Raises
    ------
    BadName
        If there is no such way.
    """
    name, _, rest = way.partition(":")
    check_way(way)
    return WAYS[name](folder, run, options, rest)


def check_way(way: str) -> None:
    """Refuse a way that is not there, before anything is planned.

    Raises
    ------
    BadName
    """
    if (name := way.partition(":")[0]) not in WAYS:
        raise BadName(f"--on {way} is no way to start workers: {nearest(name, list(WAYS))}")
