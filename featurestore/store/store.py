"""Store → DataSet → View: what users hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa

from featurestore.encoders.trust import Trust
from featurestore.errors import BadName, FeatureStoreError, NotAStore, UnknownDataset, nearest
from featurestore.pipeline.estimate import Estimate, estimate
from featurestore.pipeline.job import EmbedRequest, Job, embed
from featurestore.pipeline.listing_run import Selection
from featurestore.pipeline.options import EmbedOptions
from featurestore.pipeline.report import EmbedReport, Progress
from featurestore.sources.listing import SourceOptions
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.files import json_bytes, move_folder, read_json, remove_folder
from featurestore.storage.query import select, select_values
from featurestore.storage.remote import ABSENT, SCHEME, RemotePath, StorePath, as_path
from featurestore.storage.scan import scan
from featurestore.storage.shards import read_shard
from featurestore.storage.store_marker import (
    check_dataset_name,
    check_store,
    is_dataset_name,
)
from featurestore.storage.user_cache import local_side
from featurestore.store.dataset import DataSet, whereabouts
from featurestore.store.renamed import renamed
from featurestore.store.view import View
from featurestore.store.view_index import SOON_ROWS

_RENAMED = {"options": "source_options", "how": "embed_options", "select": "selection"}
_MARK = "moving.json"  # of a data set that is being renamed, in an object store


def open_store(path: str | StorePath, *, create: bool = False, trust: Trust = False) -> Store:
    """Open a store.

    Parameters
    ----------
    path : str or Path
        Its folder, or ``s3://bucket/folder``: the environment says how to get there
        (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``).
    create : bool
        Accept a folder that is empty or does not exist; it becomes a store with the first
        data set that is embedded into it.
    trust : bool or names
        Which code that the store names may run (``python:`` encoders and heads, models with code
        of their own); see `featurestore.encoders.trust`.

    Raises
    ------
    NotAStore
        If there is no store (and ``create`` is false), something else, a newer format, or another
        URL.
    StoreUnreachable
        If an object store does not answer, or refuses.
    """
    folder = _store_path(path)
    if not check_store(folder) and not create:
        raise NotAStore(
            f"there is not a store at {folder}: make one with "
            "`featurestore embed SOURCE --dataset NAME`, or name another with --store"
        )
    opened = Store(folder, trust)
    if isinstance(folder, RemotePath):
        _forget_gone(opened)
    return opened


def _forget_gone(store: Store) -> None:
    """Delete what this machine keeps of data sets that were renamed or dropped elsewhere."""
    kept = {one.name for one in local_side(store.path / "datasets").iterdir()}
    for name in kept.difference(store.folders()) if kept else ():
        DatasetFolder(store.path / "datasets" / name).clear_local()


def _store_path(path: str | StorePath) -> StorePath:
    given = as_path(path)
    if isinstance(given, RemotePath):
        return given
    if re.match("[a-z][a-z0-9+.-]+:/", str(path), re.IGNORECASE):  # Path takes one of two slashes
        raise NotAStore(
            f"{path}: a store lies in a folder of this machine or at {SCHEME}BUCKET/FOLDER "
            "(sources may be other URLs): mount the bucket, or embed into a folder and copy it "
            "there, file by file"
        )
    folder = given.expanduser().absolute()
    if re.search("%[0-9A-Fa-f]{2}", str(folder)):
        raise BadName(f"{folder} holds a %-escape, which delta-rs decodes: use another folder name")
    return folder


@dataclass(frozen=True)
class Store:
    """A folder of data sets."""

    path: StorePath
    trust: Trust = False  # which code that it names may run

    def datasets(self) -> list[str]:
        """Return the names of the data sets, sorted."""
        found = (one.parent.name for one in self.path.glob("datasets/*/dataset.json"))
        return sorted(name for name in found if is_dataset_name(name))

    def folders(self) -> list[str]:
        """Return the names of what should be data sets, damaged ones included, sorted."""
        found = (one.name for one in self.path.glob("datasets/*"))
        return sorted(name for name in found if is_dataset_name(name))

    def folder(self, name: str) -> DatasetFolder:
        """Return the folder of a data set, which may be damaged."""
        if name not in self.folders():
            raise UnknownDataset(
                f"no data set {name!r} in {self.path}: {nearest(name, self.folders())}"
            )
        return self._folder(name)

    def dataset(self, name: str) -> DataSet:
        """Return a data set by name."""
        folder = self._folder(name)
        if not is_dataset_name(name) or not folder.exists:
            raise UnknownDataset(
                f"no data set {name!r} in {self.path}: {nearest(name, self.datasets())}"
            )
        folder.forget_erased()
        return DataSet(self, folder)

    def view(self, dataset: str, spec: str | None = None, *, trust: Trust = False) -> View:
        """Return the vectors of a data set by an encoder: ``view("cells", "resnet18")``.

        Any name that means one view alone will do, ``"cells@resnet18"`` too; see `DataSet.view`.
        """
        name, at, after = dataset.partition("@")
        return self.dataset(name).view(after if at and spec is None else spec, trust=trust)

    @renamed(**_RENAMED)
    def embed(
        self,
        sources: Sequence[str | Path],
        *,
        dataset: str,
        encoders: Sequence[Any] = (),
        source_options: SourceOptions | None = None,
        embed_options: EmbedOptions | None = None,
        selection: Selection | None = None,
        progress: Callable[[Progress], None] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> list[EmbedReport]:
        """Embed sources into a data set: only what is new or changed is encoded.

        Each item is read and decoded once for all encoders; layers of one network share its
        forward pass. All encoders are in memory at once.

        Parameters
        ----------
        sources : sequence of path or URL
            Image folders, tables, tar shards, Hugging Face data sets; none means those that
            the data set knows already.
        dataset : str
            Its name; made if it does not exist.
        encoders : sequence of str or object
            Specs, or encoders of your own (see `featurestore.encoders.custom`); each makes or
            updates a view. None means the built-in encoder of what the sources hold.
        source_options : SourceOptions, optional
            Which columns hold what.
        embed_options : EmbedOptions, optional
            Device, batch size, and what is done with items that are known already.
        selection : Selection, optional
            Which of the items; the others stay as they are.
        progress, say : callable, optional
            Called as items are done, and with lines for a person to read.

        Returns
        -------
        list of EmbedReport
            One for each encoder.

        Raises
        ------
        BadSource, ModalityMismatch, UnknownEncoder, EncoderChanged, EncoderDrift
            The data set is as it was (of a drift, its labels and metadata are new).
        TooManyFailures
            If the caller set a limit.
        """
        request = EmbedRequest(
            sources,
            encoders,
            source_options or SourceOptions(),
            embed_options or EmbedOptions(),
            selection or Selection(),
        )
        reports = embed(self.path, dataset, request, progress=progress, say=say)
        for view in self.dataset(dataset).views():
            with suppress(FeatureStoreError):  # a damaged index: who searches is told
                if (note := _caught_up(view)) is not None:
                    say(note)
        return reports

    @renamed(**_RENAMED)
    def estimate(
        self,
        sources: Sequence[str | Path],
        *,
        dataset: str,
        encoders: Sequence[Any] = (),
        source_options: SourceOptions | None = None,
        embed_options: EmbedOptions | None = None,
        selection: Selection | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> list[Estimate]:
        """Count what `embed` would do, and time it on a few items; nothing is written."""
        request = EmbedRequest(
            sources,
            encoders,
            source_options or SourceOptions(),
            embed_options or EmbedOptions(),
            selection or Selection(),
        )
        job = Job.make(self.path, dataset, request)
        for note in job.intake.notes:
            say(note)
        job.say_understood(say)
        for one, why in islice(job.intake.failed.items(), 1):
            say(f"{len(job.intake.failed):,} rows cannot be taken (first: {one}: {why})")
        return estimate(job.run_input)

    def sql(self, statement: str, *, limit_s: float | None = None) -> pa.Table:
        """Run one SELECT; what it may name are the data sets, their views and predictions.

        ``photos`` holds the items, ``"photos@timm:resnet18"`` ids and vectors (FLOAT[dim]) of a
        view, ``"photos/<head id>"`` what a head predicted out of fold or on the test split. Each
        is read only where the statement names it. After ``limit_s`` seconds it is stopped.

        Raises
        ------
        BadQuery
            If it is not one SELECT, or names anything else (files, settings, other databases), or
            takes too long.
        """
        return select(statement, self._tables_named_in(statement), limit_s=limit_s)

    def sql_values(
        self,
        statement: str,
        write: str,
        *,
        limit_s: float | None = None,
        limit_bytes: int | None = None,
    ) -> tuple[list[str], list[tuple[str | None, ...]]]:
        """Run one SELECT as `sql` does; values as DuckDB writes them, `select_values` says how."""
        tables = self._tables_named_in(statement)
        return select_values(statement, tables, write, limit_s=limit_s, limit_bytes=limit_bytes)

    def _tables_named_in(self, statement: str) -> dict[str, Any]:
        tables: dict[str, Any] = {}
        for name in self.datasets():
            if name not in statement:
                continue
            dataset = self.dataset(name)
            tables[name] = scan(dataset.folder.items)
            for view in dataset.views(coming=True):
                if view.name in statement:
                    tables[view.name] = view.to_arrow(columns=[])
            for tap in dataset.taps():
                if tap.name in statement:
                    tap.check_vectors()  # says what a tap is for
            for path in dataset.path.glob("heads/*/predictions.parquet"):
                if (key := f"{name}/{path.parent.name}") in statement:
                    tables[key] = read_shard(path)
        return tables

    def rename(self, name: str, new: str) -> DataSet:
        """Give a data set another name; heads and cards keep the name that they were made under.

        Raises
        ------
        BadName
            If there is one of that name, or it cannot be a name.
        """
        folder, target = self.folder(name), self._folder(check_dataset_name(new))
        is_half_moved = _is_half_moved(folder, target)  # an earlier call was cut short
        if name == new or (target.exists and not is_half_moved):
            raise BadName(f"there is a data set {new!r} in {self.path}: give another name")
        if not (folder.exists or is_half_moved):
            self.dataset(name)  # says which there are
        with folder.locked("dataset"):
            if isinstance(mark := target.path / _MARK, RemotePath) and not target.exists:
                if is_half_moved:
                    remove_folder(target.path)
                target.check_new()
                mark.write_bytes(json_bytes({"from": name}), over=ABSENT)
            move_folder(folder.path, target.path, last="dataset.json")
            if isinstance(mark, RemotePath):
                mark.unlink(missing_ok=True)
            folder.clear_local()
        whereabouts.cache_clear()
        return self.dataset(new)

    def drop(self, name: str) -> None:
        """Delete a data set with its views, heads and cards; its sources stay as they are.

        What an interrupted drop, or a damaged data set, left is deleted, too.
        """
        folder = self.folder(name)
        doomed: StorePath = folder.path
        if isinstance(doomed, Path):  # gone at once; what a kill leaves is no data set
            doomed = doomed.rename(doomed.with_name(f".dropped-{name}-{uuid4().hex[:8]}"))
        else:
            (doomed / "dataset.json").unlink(missing_ok=True)
            remove_folder(folder.local)
        whereabouts.cache_clear()
        remove_folder(doomed)

    def _folder(self, name: str) -> DatasetFolder:
        return DatasetFolder(self.path / "datasets" / name)


def _caught_up(view: View) -> str | None:
    """Bring an index of many items up to date; say so where there was something to do."""
    facts = view.index_facts
    if facts is None or facts.get("state") == view.state or facts["n"] <= SOON_ROWS:
        return None  # a search does it
    index = view.index(metric=facts["metric"])
    return f"{view.name}: the index is up to date: {index.facts['n']:,} vectors"


def _is_half_moved(folder: DatasetFolder, target: DatasetFolder) -> bool:
    """Whether a call of `Store.rename` was cut short, in an object store.

    A table's first log entry holds an id that no other table has.
    """
    mark = target.path / _MARK
    if not isinstance(mark, RemotePath) or not mark.is_file():
        return False
    if read_json(mark) != {"from": folder.name}:
        return False
    if not (folder.exists and target.exists):
        return True
    first = "00000000000000000000.json"
    logs = (one.items.path / "_delta_log" / first for one in (folder, target))
    return len({log.read_bytes() for log in logs}) == 1
