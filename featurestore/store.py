"""Store → DataSet → View: what users hold."""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc

from featurestore import ingest
from featurestore.encoders import (
    BUILTIN,
    LoadOptions,
    check_device_name,
    family_of,
    known_encoder,
    load_encoders,
)
from featurestore.errors import (
    BadName,
    EncoderChanged,
    ModalityMismatch,
    NotAStore,
    UnknownDataset,
    UnknownItem,
    UnknownView,
    nearest,
)
from featurestore.files import json_bytes, move_folder, remove_folder, write_file
from featurestore.images import thumbnail
from featurestore.ingest import EmbedOptions, EmbedReport, Estimate, Progress
from featurestore.intake import Intake, Selection
from featurestore.labelling import attach
from featurestore.layout import (
    DatasetFile,
    DatasetFolder,
    check_dataset_name,
    check_store,
    find_spec,
    is_dataset_name,
    make_store,
    read_json,
)
from featurestore.profile import Clock
from featurestore.query import select
from featurestore.remote import ABSENT, SCHEME, RemotePath, StorePath, as_path
from featurestore.shards import read_shard
from featurestore.slices import Slice, read_slice
from featurestore.sources import SourceOptions
from featurestore.sources.contents import Reader
from featurestore.sources.places import Place
from featurestore.tables import drop_equal
from featurestore.user_cache import local_side
from featurestore.values import EncoderSpec, Modality, ResolvedEncoder, parse_specs
from featurestore.view import View

_ASK_EACH_S = 2.0
_MARK = "moving.json"  # of a data set that is being renamed, in an object store


def open_store(path: str | StorePath, *, create: bool = False) -> Store:
    """Open a store.

    Parameters
    ----------
    path : str or Path
        Its folder, or ``s3://bucket/folder``: the environment says how to get there
        (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``).
    create : bool
        Accept a folder that is empty or does not exist; it becomes a store with the first
        data set that is embedded into it.

    Raises
    ------
    NotAStore
        If there is no store (and ``create`` is false), something else, a newer format, or another
        URL.
    StoreUnreachable
        If an object store does not answer, or refuses.
    """
    folder = _place_of(path)
    if not check_store(folder) and not create:
        raise NotAStore(
            f"there is no store at {folder}: make one with "
            "`featurestore embed SOURCE --dataset NAME`, or name another with --store"
        )
    opened = Store(folder)
    if isinstance(folder, RemotePath):
        _forget_gone(opened)
    return opened


def _forget_gone(store: Store) -> None:
    """Delete what this machine keeps of data sets that were renamed or dropped elsewhere."""
    kept = {one.name for one in local_side(store.path / "datasets").iterdir()}
    for name in kept.difference(store.folders()) if kept else ():
        DatasetFolder(store.path / "datasets" / name).clear_local()


def _place_of(path: str | StorePath) -> StorePath:
    if isinstance(place := as_path(path), RemotePath):
        return place
    if re.match("[a-z][a-z0-9+.-]+:/", str(path), re.IGNORECASE):  # Path takes one of two slashes
        raise NotAStore(
            f"{path}: a store lies in a folder of this machine or at {SCHEME}BUCKET/FOLDER "
            "(sources may be other URLs): mount the bucket, or embed into a folder and copy it "
            "there, file by file"
        )
    folder = place.expanduser().absolute()
    if re.search("%[0-9A-Fa-f]{2}", str(folder)):
        raise BadName(f"{folder} holds a %-escape, which delta-rs decodes: use another folder name")
    return folder


@dataclass(frozen=True)
class Store:
    """A folder of data sets."""

    path: StorePath

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

    def view(self, dataset: str, spec: str) -> View:
        """Return the vectors of a data set by an encoder: ``view("cells", "timm:resnet18")``."""
        return self.dataset(dataset).view(spec)

    def embed(
        self,
        sources: Sequence[str | Path],
        *,
        dataset: str,
        encoders: Sequence[Any] = (),
        options: SourceOptions | None = None,
        how: EmbedOptions | None = None,
        select: Selection | None = None,
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
        options : SourceOptions, optional
            Which columns hold what.
        how : EmbedOptions, optional
        select : Selection, optional
            Which of the items; the others stay as they are.
        progress, say : callable, optional
            Hear of each item, and of what a person should know.

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
        job = _Job.make(self, sources, dataset, encoders, options, how, select)
        make_store(self.path)
        job.write_description(say)
        if not encoders:
            say(_what_is_built_in(job.intake.modality))
        folder, how = job.folder, job.how
        suffix = "" if how.part is None else f".{how.part[0]}-of-{how.part[1]}"
        with ExitStack() as locks:
            for slug in sorted({one.slug for one in job.resolved}):  # one order: no deadlock
                locks.enter_context(
                    folder.locked(
                        slug + suffix,
                        on_wait=lambda: say(
                            "another process embeds into this view: waiting for it"
                        ),
                    )
                )
            return ingest.run(
                folder,
                job.intake.rows,
                job.intake.modality,
                job.readers,
                job.resolved,
                how,
                load=job.load,
                is_whole=job.is_whole,
                progress=progress,
                clock=job.clock,
            )

    def estimate(
        self,
        sources: Sequence[str | Path],
        *,
        dataset: str,
        encoders: Sequence[Any] = (),
        options: SourceOptions | None = None,
        how: EmbedOptions | None = None,
        select: Selection | None = None,
    ) -> list[Estimate]:
        """Count what `embed` would do, and time it on a few items; nothing is written."""
        job = _Job.make(self, sources, dataset, encoders, options, how, select)
        return ingest.estimate(
            job.folder,
            job.intake.rows,
            job.intake.modality,
            job.readers,
            job.resolved,
            job.how,
            load=job.load,
        )

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
        tables = {}
        for name in self.datasets():
            if name not in statement:
                continue
            dataset = self.dataset(name)
            tables[name] = dataset.items()
            for view in dataset.views():
                if view.name in statement:
                    tables[view.name] = view.to_arrow(columns=[])
            for path in dataset.path.glob("heads/*/predictions.parquet"):
                if (key := f"{name}/{path.parent.name}") in statement:
                    tables[key] = read_shard(path)
        return select(statement, tables, limit_s=limit_s)

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
        _whereabouts.cache_clear()
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
        _whereabouts.cache_clear()
        remove_folder(doomed)

    def _folder(self, name: str) -> DatasetFolder:
        return DatasetFolder(self.path / "datasets" / name)


@dataclass(frozen=True)
class DataSet:
    """A named collection of items with labels, splits, groups and free columns."""

    store: Store
    folder: DatasetFolder
    part: Slice | None = None  # what its views read; None: all items

    def within(self, name: str) -> DataSet:
        """Return this data set with views of a slice's items alone.

        Raises
        ------
        UnknownSlice
            If there is no slice of that name.
        """
        return replace(self, part=read_slice(self.folder, name))

    @property
    def name(self) -> str:
        """Its name."""
        return self.folder.name

    @property
    def path(self) -> StorePath:
        """Its folder."""
        return self.folder.path

    @cached_property
    def description(self) -> DatasetFile:
        """What dataset.json said when first asked."""
        return self.folder.read()

    @property
    def modality(self) -> Modality:
        """Images or texts."""
        return self.description.modality

    @property
    def label_columns(self) -> list[str]:
        """Names of the label columns; the first is the main one."""
        return list(self.description.labels)

    @property
    def n_items(self) -> int:
        """How many items it has now."""
        return len(self.items(["item_id"]))

    def items(self, columns: list[str] | None = None, *, version: int | None = None) -> pa.Table:
        """Return the items, one row each, with the given columns or all."""
        return self.folder.items.read(columns, version)

    def attach(self, values: pa.Table, *, are_labels: bool = True) -> int:
        """Write labels (or other columns) of known items; see `featurestore.labelling.attach`."""
        self.__dict__.pop("description", None)  # it changes
        return attach(self.folder, values, are_labels=are_labels)

    def failures(self) -> pa.Table:
        """Return the items that have no vector, with the reason."""
        return self.folder.failures.read()

    def views(self) -> list[View]:
        """Return the views, sorted by encoder."""
        encoders = self.folder.encoders().items()
        found = [View(self, slug, info, part=self.part) for slug, info in encoders]
        return sorted(found, key=lambda view: str(view.spec))

    def view(self, spec: str) -> View:
        """Return the vectors by one encoder."""
        wanted = str(EncoderSpec.parse(spec))
        encoders = self.folder.encoders()
        for slug, info in encoders.items():
            if info["spec"] == wanted:
                return View(self, slug, info, part=self.part)
        known = [info["spec"] for info in encoders.values()]
        raise UnknownView(
            f"data set {self.name!r} was not embedded by {wanted}: {nearest(wanted, known)}; "
            f"embed it with `featurestore embed --dataset {self.name} -e {wanted}`"
        )

    def uri(self, item_id: str) -> str:
        """Return where an image item is: a path or a URL, with its place in a larger file."""
        return self._uri(item_id, self._item(item_id))

    def _uri(self, item_id: str, row: dict[str, Any]) -> str:
        if row["uri"] is None:
            raise UnknownItem(f"item {item_id!r} is a text: it has no file")
        return Place(self.description.sources[row["source"]].root).join(row["uri"]).text

    def read_bytes(self, item_id: str) -> bytes:
        """Return the bytes of an image item, from its source."""
        row = self._item(item_id)
        place = self._uri(item_id, row)
        record = self.description.sources[row["source"]]
        try:
            return Reader(record.kind, record.root)(row["uri"])
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UnknownItem(f"the file of item {item_id!r} is gone: {place} ({reason})") from None

    def thumbnail(self, item_id: str, *, size_px: int = 128) -> bytes:
        """Return a small JPEG of an image item, kept in the store by content."""
        content_hash = self._item(item_id)["content_hash"]
        path = self.folder.local / "thumbnails" / f"{content_hash}-{size_px}.jpg"
        if content_hash is not None and path.exists():
            return path.read_bytes()
        content = self.read_bytes(item_id)
        made = thumbnail(content, size_px)
        if hashlib.sha256(content).hexdigest() == content_hash:  # the file may have changed
            path.parent.mkdir(exist_ok=True)
            write_file(path, made)
        return made

    def _items_version(self) -> int:
        """Return the version of the items: elsewhere, where asking costs requests, of just now."""
        if not isinstance(self.folder.path, RemotePath):
            return self.folder.items.version()
        when, version = self.__dict__.get("_asked", (-math.inf, 0))
        if time.monotonic() - when > _ASK_EACH_S:
            version = self.folder.items.version()
            self.__dict__["_asked"] = time.monotonic(), version
        return int(version)

    def _item(self, item_id: str) -> dict[str, Any]:
        items = _whereabouts(self.folder, self._items_version())
        row = pc.index(items.column("item_id"), item_id).as_py()
        if row < 0 and self.__dict__.pop("_asked", None) is not None:  # it may have come since
            return self._item(item_id)
        if row < 0:
            raise UnknownItem(
                f"data set {self.name!r} has no item {item_id!r}: "
                f"{nearest(item_id, items.column('item_id').to_pylist()[:10_000])}"
            )
        item: dict[str, Any] = items.slice(row, 1).to_pylist()[0]
        return item


@dataclass(eq=False)
class _Job:
    """What one call of `Store.embed` is about; nothing is written yet."""

    folder: DatasetFolder
    earlier: DatasetFile | None
    intake: Intake
    read_intake: Callable[[DatasetFile | None], Intake]
    selects_all: bool
    resolved: list[ResolvedEncoder]
    loaded: dict[EncoderSpec, Any]
    how: EmbedOptions
    clock: Clock

    @classmethod
    def make(
        cls,
        store: Store,
        sources: Sequence[str | Path],
        dataset: str,
        encoders: Sequence[Any],
        options: SourceOptions | None,
        how: EmbedOptions | None,
        select: Selection | None,
    ) -> _Job:
        how, clock = how or EmbedOptions(), Clock()
        folder = store._folder(check_dataset_name(dataset))
        loaded = _own(encoders)
        specs = [*parse_specs(one for one in encoders if isinstance(one, str)), *loaded]
        for spec in specs:
            family_of(spec)
        check_device_name(how.device)
        earlier = folder.read() if folder.exists else None
        read_intake = partial(
            Intake.read,
            folder,
            locations=sources,
            options=options or SourceOptions(),
            selection=select,
        )
        with clock.stage("list"):
            intake = read_intake(earlier)
        specs = specs or [EncoderSpec.parse(BUILTIN[intake.modality])]
        selects_all = select is None or select.is_all
        job = cls(folder, earlier, intake, read_intake, selects_all, [], loaded, how, clock)
        # For a new data set there is something to embed: then fail before it is made.
        known = {} if earlier is None else {spec: known_encoder(spec) for spec in specs}
        known |= {spec: encoder.resolved for spec, encoder in loaded.items()}
        networks = {spec.network for spec in specs if known.get(spec) is None}
        to_load = [spec for spec in specs if spec.network in networks and spec not in loaded]
        with clock.stage("load", len(to_load)):
            known |= {one.resolved.spec: one.resolved for one in job.load(to_load, keep=True)}
        for spec in specs:
            one = known[spec]
            assert one is not None, "remembered, or loaded just now"
            _check_modality(one, intake.modality, dataset)
            _check_unchanged(folder, one, overwrite=job.may_replace)
            job.resolved.append(one)
        return job

    @property
    def is_whole(self) -> bool:
        """Whether this run looks at all items that the data set has."""
        return self.how.part is None and self.selects_all and self.intake.is_whole

    @property
    def may_replace(self) -> bool:
        """Whether vectors of other weights may take a view's place."""
        return self.how.overwrite and self.is_whole

    def load(self, specs: Sequence[EncoderSpec], *, keep: bool = False) -> list[Any]:
        """Load encoders, or hand out those that were loaded before (once: memory counts)."""
        how = LoadOptions(self.how.device, self.how.trust_remote_code, self.how.compile)
        absent = [spec for spec in specs if spec not in self.loaded]
        if absent:
            self.loaded |= dict(zip(absent, load_encoders(absent, how), strict=True))
        found = [self.loaded[spec] for spec in specs]
        for encoder in found:
            _check_unchanged(self.folder, encoder.resolved, overwrite=self.may_replace)
        if not keep:
            for spec in specs:
                self.loaded.pop(spec, None)
        return found

    @property
    def readers(self) -> dict[str, Callable[[str], bytes]]:
        """For each source, uri → bytes."""
        records = self.intake.sources.items()
        return {name: Reader(record.kind, record.root) for name, record in records}

    def write_description(self, say: Callable[[str], None]) -> None:
        """Make the data set, or add to what it knows; drop what is gone where asked."""
        folder = self.folder

        def described(now: DatasetFile | None) -> DatasetFile:
            if now != self.earlier:  # another process was here: what we read may not fit any more
                self.intake, self.earlier = self.read_intake(now), now
            if now is None:
                folder.check_new()
            folder.create_tables()
            return self.intake.described(now)

        with folder.locked("dataset"):
            folder.update(described)
        for note in self.intake.notes:
            say(note)
        gone = self.intake.gone
        # A folder or shard that could not be read stood for what is in it; now it can.
        stood_in = pc.is_in(gone, value_set=self.intake.stand_ins)
        dropped, gone = gone.filter(stood_in), gone.filter(pc.invert(stood_in))
        if len(gone) and self.how.prune:
            dropped = pa.concat_arrays([dropped, gone])
            say(f"{len(gone):,} items are gone from their source: dropped")
        elif len(gone):
            say(
                f"{len(gone):,} items are gone from their source (first: "
                f"{gone[0]}): kept; --prune drops them"
            )
        if len(dropped):
            drop = drop_equal({"item_id": dropped}, ["item_id"])
            folder.items.merge(None, drop=drop, keys=["item_id"])
            folder.failures.merge(None, drop=drop, keys=["item_id"])


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


def _own(encoders: Sequence[Any]) -> dict[EncoderSpec, Any]:
    """Return a user's objects as encoders of ours, by name; specs are left out."""
    objects = [one for one in encoders if not isinstance(one, str)]
    if not objects:
        return {}
    from featurestore.encoders.custom import adopt

    found = {one.resolved.spec: one for one in map(adopt, objects)}
    if len(found) < len(objects):
        raise BadName("two encoders of one class are one name: run them one after the other")
    return found


def _what_is_built_in(modality: Modality) -> str:
    larger = {
        Modality.IMAGE: "-e timm:vit_small_patch14_dinov2.lvd142m",
        Modality.TEXT: "-e st:all-MiniLM-L6-v2",
    }
    return (
        f"no encoder named: using {BUILTIN[modality]}, small and fast; a larger one, such as "
        f"{larger[modality]}, often tells more (featurestore encoders lists them)"
    )


@lru_cache(maxsize=2)
def _whereabouts(folder: DatasetFolder, version: int) -> pa.Table:
    """Where each item is; kept, since a page of thumbnails asks for one after another."""
    return folder.items.read(["item_id", "source", "uri", "content_hash"], version)


def _check_modality(resolved: ResolvedEncoder, modality: Modality, dataset: str) -> None:
    if modality not in resolved.modalities:
        reads = " and ".join(sorted(resolved.modalities))
        hint = (
            "builtin:tiny-text, st:… or open_clip:…"
            if modality is Modality.TEXT
            else "builtin:tiny-image, timm:… or open_clip:…"
        )
        raise ModalityMismatch(
            f"{resolved.spec} reads {reads}s, but data set {dataset!r} holds {modality}s: "
            f"use {hint}"
        )


def _check_unchanged(folder: DatasetFolder, resolved: ResolvedEncoder, *, overwrite: bool) -> None:
    encoders = folder.encoders() if folder.exists else {}
    slug = find_spec(encoders, resolved.spec)
    if slug is None or overwrite:
        return
    stored = encoders[slug]
    if stored["fingerprint"] != resolved.fingerprint:
        changed = [
            key for key, value in resolved.chosen.items() if stored["chosen"].get(key) != value
        ]
        raise EncoderChanged(
            f"{resolved.spec} is another encoder now than the one that made its view of "
            f"{folder.name!r} (changed: {', '.join(changed)}): give the new one another name or "
            "folder for a view of its own, or embed again with --overwrite"
        )
