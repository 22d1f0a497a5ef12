"""Workers on a Ray cluster, and featurestore in pipelines of Ray Data: only this file knows Ray.

Ray starts workers, carries names of parts to them and says who died. Vectors never pass through
it: workers write them into the store. An actor that died is replaced here, not by Ray, which
would begin an item that kills its process again without end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyarrow as pa

from featurestore.errors import FeatureStoreError, MissingExtra
from featurestore.pipeline.report import EmbedReport
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.remote import RemotePath, as_path
from featurestore.storage.run_folder import RunFolder
from featurestore.workers.batches import RowSink
from featurestore.workers.drive import Died
from featurestore.workers.worker import Ended, Worker, WorkerOptions

# Read when Ray is imported; who wants it otherwise says so in the environment.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")
try:
    import ray
    import ray.data
    from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError:
    raise MissingExtra("--on ray needs Ray: pip install 'featurestore[ray]'") from None

_LOOK_S = 5.0  # between two looks at which nodes there are


class _Actor:
    """A worker in a process of Ray's, which loads its encoders with the first part."""

    def __init__(self, store: str, run: str, options: WorkerOptions) -> None:
        self._given = store, run, options
        self._worker: Worker | None = None

    def embed(self, part: str) -> tuple[str, ...]:
        """Do a part; return what it was cut into, if it was."""
        if self._worker is None:
            store, run, options = self._given
            self._worker = Worker(DatasetFolder(as_path(store)), RunFolder(as_path(run)), options)
        return self._worker.embed(part).halves


@dataclass(frozen=True)
class _Slot:
    """A place for a worker: a GPU of a node, or a node without one."""

    node: str
    number: int
    n_cpus: int
    n_gpus: int


@dataclass(eq=False)
class _Running:
    slot: _Slot
    actor: Any
    part: str | None = None


class OnRay:
    """A worker on each GPU of a cluster, on each node where there is none; see `drive.Workers`.

    Nodes that join are used, nodes that are lost are done without.

    Parameters
    ----------
    folder : DatasetFolder
    run : RunFolder
    options : WorkerOptions
    address : str
        Of a cluster that runs; "" is that of this machine, or RAY_ADDRESS.
    """

    def __init__(
        self, folder: DatasetFolder, run: RunFolder, options: WorkerOptions, address: str
    ) -> None:
        self._folder, self._run, self._options = folder, run, options
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            try:  # never one of our own: it would listen on all addresses
                ray.init(address or "auto", log_to_driver=False, configure_logging=False)
            except (ConnectionError, RuntimeError, ValueError, RayError) as error:
                said = str(error).strip().splitlines() or ["no answer"]
                raise FeatureStoreError(
                    f"no Ray cluster at {address or 'this machine'}: {said[0]}; "
                    "docs/scale.md shows how to start one"
                ) from None
        self._workers: dict[_Slot, _Running] = {}
        self._calls: dict[object, _Running] = {}  # what Ray promised → who does it
        self._looked = 0.0
        self._look()

    def _look(self) -> None:
        """Start workers on nodes that are new, and forget idle ones of nodes that are lost."""
        if time.monotonic() - self._looked < _LOOK_S:
            return
        self._looked = time.monotonic()
        slots = set(_slots(ray.nodes()))
        for slot in slots - self._workers.keys():
            self._workers[slot] = self._start(slot)
        for slot in [*self._workers]:
            if slot not in slots and self._workers[slot].part is None:
                del self._workers[slot]

    def _start(self, slot: _Slot) -> _Running:
        options = replace(self._options, n_workers=self._options.n_workers or slot.n_cpus)
        kind = ray.remote(_Actor).options(
            num_cpus=slot.n_cpus,
            num_gpus=slot.n_gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(slot.node, soft=False),
        )
        return _Running(slot, kind.remote(str(self._folder.path), str(self._run.path), options))

    @property
    def n_free(self) -> int:
        """How many have nothing to do."""
        return sum(one.part is None for one in self._workers.values())

    def give(self, part: str) -> None:
        """Let a free worker begin a part."""
        worker = next(one for one in self._workers.values() if one.part is None)
        worker.part = part
        self._calls[worker.actor.embed.remote(part)] = worker

    def wait(self, timeout_s: float) -> Sequence[Ended | Died]:
        """Return what ended, after some time at most."""
        self._look()
        if not self._calls:
            time.sleep(timeout_s)  # no node is there just now
            return []
        ready, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=timeout_s / 10)
        if not ready:
            ready, _ = ray.wait(list(self._calls), timeout=timeout_s)
        return [self._heard(call) for call in ready]

    def _heard(self, call: object) -> Ended | Died:
        worker = self._calls.pop(call)
        part, worker.part = worker.part or "", None
        try:
            return Ended(part, tuple(ray.get(call, timeout=60)))
        except (RayActorError, GetTimeoutError) as error:
            del self._workers[worker.slot]
            self._looked = 0.0  # is its node still there?
            self._look()
            return Died(part, f" on node {worker.slot.node[:8]} ({type(error).__name__})")
        except RayTaskError as error:
            raise FeatureStoreError(f"a worker stopped: {error.cause}") from None

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers.values():
            ray.kill(worker.actor, no_restart=True)
            if worker.part is not None:  # we ended it: the part is not to blame
                self._run.forget_last_attempt(worker.part)
        if self._is_ours:
            ray.shutdown()


def _slots(nodes: Sequence[Mapping[str, Any]]) -> list[_Slot]:
    """Return the places for workers: one a GPU, with its share of the cores, or one a node."""
    slots = []
    for node in nodes:
        has = node["Resources"]
        n_cpus, n_gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
        if not node["Alive"] or not n_cpus:
            continue
        n = max(1, n_gpus)
        slots += [_Slot(node["NodeID"], i, max(1, n_cpus // n), min(1, n_gpus)) for i in range(n)]
    return slots


class _Task(Protocol):
    task_idx: int


class Datasink(ray.data.Datasink):  # type: ignore[misc]  # Ray ships types that mypy cannot follow
    """Writes a data set of Ray Data, with vectors of an `Encoder`, into a store.

    ``dataset.write_datasink(Datasink("store", "photos", SPEC))``. Tasks write shards and
    manifests; a task that Ray runs twice counts once; the driver commits. If the driver dies,
    ``featurestore embed --dataset photos --commit`` brings in what was written.

    Parameters
    ----------
    store, dataset, spec : str
        The spec of the `Encoder` that made the vectors.
    labels : sequence of str
        Label columns.
    root : str, optional
        Folder or URL that a column ``uri`` is relative to, so that pictures can be shown.
    """

    def __init__(
        self,
        store: str,
        dataset: str,
        spec: str,
        *,
        labels: Sequence[str] = (),
        root: str | None = None,
    ) -> None:
        path = as_path(store)
        where = path if isinstance(path, RemotePath) else path.absolute()
        self._rows = RowSink(str(where), dataset, spec, tuple(labels), root)
        self._run: RunFolder | None = None
        self._began = 0.0
        self.reports: list[EmbedReport] = []

    def on_write_start(self, schema: pa.Schema | None = None) -> None:
        """Make data set, view and run."""
        self._began = time.monotonic()
        self._run = self._rows.begin([] if schema is None else schema.names)

    def write(self, blocks: Iterable[pa.Table], ctx: _Task) -> int:
        """Write the rows of a task."""
        assert self._run is not None, "begun"
        tables = [ray.data.block.BlockAccessor.for_block(one).to_arrow() for one in blocks]
        rows = pa.concat_tables([one for one in tables if len(one)] or tables[:1])
        if len(rows):
            self._rows.write(self._run, f"{ctx.task_idx:06d}", rows)
        return len(rows)

    def on_write_complete(self, write_result: object) -> None:
        """Bring all in; what was done stands in ``reports``."""
        assert self._run is not None, "begun"
        self.reports = self._rows.complete(self._run, time.monotonic() - self._began)
