"""One head on one input, evaluated; results are kept, so that none is computed twice."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from featurestore.errors import StoreCorrupt
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.files import read_sealed, write_sealed
from featurestore.storage.remote import StorePath
from heads.catalogue.entry import HeadEntry
from heads.experiments.inputs import Material
from heads.labels.plan import Plan
from heads.labels.views import AnyDataset, folder_of
from heads.measures.comparison import ComparedHead
from heads.measures.evaluate import evaluate
from heads.saved.provenance import library_versions

_log = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]  # fits done, fits in all, what is fitted

CACHE_FORMAT = 8  # a change to how heads learn or are scored makes it one more


def run_folder(dataset: AnyDataset) -> DatasetFolder:
    """Return the folder that keeps a data set's runs."""
    return DatasetFolder(folder_of(dataset))


def cell_cache(dataset: AnyDataset) -> Path:
    """Return the folder of the cells that were run before; it may be deleted."""
    return run_folder(dataset).local / "cache" / "heads"


@dataclass(eq=False)
class Runner:
    """Runs one cell after the other, and counts the fits."""

    seed: int
    cache_in: Path | None  # folder of earlier results; None: nothing is kept
    progress: Progress | None = None
    intervals_of: tuple[str, ...] = ()  # metrics, see `run_cell`
    n_fits: int = 0  # in all
    n_done: int = 0

    def cell(self, material: Material, head: str, entry: HeadEntry, plan: Plan) -> ComparedHead:
        """Evaluate one head on one material, or read what was found before."""
        return run_cell(
            material,
            head,
            entry,
            plan,
            seed=self.seed,
            intervals_of=self.intervals_of,
            on_fit=partial(self.count, f"{head} on {material.encoder}"),
            cache_in=self.cache_in,
        )

    def count(self, what: str, n: int = 1) -> None:
        """Note that so many fits are done, and say so."""
        self.n_done += n
        if self.progress is not None:
            self.progress(self.n_done, self.n_fits, what)


def run_cell(
    material: Material,
    head: str,
    entry: HeadEntry,
    plan: Plan,
    *,
    seed: int = 0,
    intervals_of: Sequence[str] = (),
    on_fit: Callable[[], None] | None = None,
    cache_in: Path | None = None,
) -> ComparedHead:
    """Evaluate one head on one material, or read the result of an equal run.

    Parameters
    ----------
    intervals_of : sequence of str
        Metrics without a closed form that are to have an interval on a test split.
    cache_in : path, optional
        Folder of earlier results; a file's name is a hash of all that decides the numbers.
    """
    decides = {
        "format": CACHE_FORMAT,
        "encoder": material.encoder,
        "identity": dict(material.identity),
        "head": head,
        "search_space": entry.search_space,
        "plan": plan.digest,
        "seed": seed,
        "intervals_of": sorted(intervals_of),
        "versions": library_versions(),
    }
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    # Not for estimators of users: what decides their results is not known in full.
    file = None if cache_in is None or not entry.is_known else cache_in / f"{key[:32]}.json"
    if file is not None and file.exists():
        kept = _read(file, decides, plan)
        if kept is not None:
            for _ in plan.parts if on_fit else ():
                on_fit()  # type: ignore[misc]
            return kept
    X, more_seconds = material.read()
    build = material.build(entry)
    done = evaluate(
        lambda: build(seed),
        X,
        plan.target,
        plan.parts,
        estimand=plan.estimand,
        groups=plan.block,
        on_fit=on_fit,
        intervals_of=intervals_of,
        seed=seed,
        reviewed=plan.reviewed,
    )
    cell = ComparedHead(
        material.encoder, head, done.report, done.seconds + more_seconds, done.chosen
    )
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_sealed(file, {"decides": decides, "cell": cell.to_json(repeats=True)})
        except OSError as error:  # a full disk, a read-only store: it is run again the next time
            _log.info("%s is not kept: %s", file, error)
    return cell


def keep_run(dataset: AnyDataset, kind: str, card: Mapping[str, Any]) -> StorePath | None:
    """Write a run card; where the store takes none, say so, as the answer is still right."""
    try:
        return run_folder(dataset).write_run(kind, card)
    except OSError as error:
        said = error.strerror or error
        _log.warning(
            "this run is not kept, so `featurestore store show` does not know it: %s", said
        )
        return None


def _read(file: Path, decides: Mapping[str, Any], plan: Plan) -> ComparedHead | None:
    try:
        kept = read_sealed(file)
        if kept["decides"] != json.loads(json.dumps(decides)):
            return None
        truth = plan.target.values[plan.tested]
        return ComparedHead.from_json(kept["cell"], truth, plan.task, plan.estimand)
    except (StoreCorrupt, KeyError, TypeError, ValueError) as error:
        _log.info("%s is made anew: %s", file, error)
        return None
