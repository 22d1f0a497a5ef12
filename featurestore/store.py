"""Store → DataSet → View: what users hold."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore import ingest
from featurestore.canary import check_canary
from featurestore.encoders import check_device_name, family_of, known_encoder, load_encoder
from featurestore.errors import (
    BadName,
    BadSource,
    EncoderChanged,
    EncoderMismatch,
    ModalityMismatch,
    NotAStore,
    UnknownDataset,
    UnknownItem,
    UnknownView,
    nearest,
)
from featurestore.images import decode_image, thumbnail
from featurestore.index import ExactIndex
from featurestore.ingest import EmbedOptions, EmbedReport, Progress
from featurestore.intake import Intake
from featurestore.layout import (
    DatasetFile,
    DatasetFolder,
    check_dataset_name,
    check_store,
    find_spec,
    make_store,
)
from featurestore.sources import SourceOptions
from featurestore.tables import Table, drop_equal, each_shard, row_keys, vectors_of, write_file
from featurestore.values import (
    Embeddings,
    EncoderSpec,
    Modality,
    Neighbors,
    ResolvedEncoder,
    Snapshot,
)


def open_store(path: str | Path, *, create: bool = False) -> Store:
    """Open a store.

    Parameters
    ----------
    path : str or Path
        Its folder.
    create : bool
        Accept a folder that is empty or does not exist; it becomes a store with the first
        data set that is embedded into it.

    Raises
    ------
    NotAStore
        If there is no store (and ``create`` is false), something else, or a newer format.
    """
    folder = Path(path).expanduser().absolute()
    if re.search("%[0-9A-Fa-f]{2}", str(folder)):
        raise BadName(f"{folder} holds a %-escape, which delta-rs decodes: use another folder name")
    if not check_store(folder) and not create:
        raise NotAStore(
            f"there is no store at {folder}: make one with "
            "`featurestore embed SOURCE --dataset NAME`, or name another with --store"
        )
    return Store(folder)


@dataclass(frozen=True)
class Store:
    """A folder of data sets."""

    path: Path

    def datasets(self) -> list[str]:
        """Return the names of the data sets, sorted."""
        return sorted(one.parent.name for one in self.path.glob("datasets/*/dataset.json"))

    def dataset(self, name: str) -> DataSet:
        """Return a data set by name."""
        folder = self._folder(name)
        if not folder.exists:
            raise UnknownDataset(
                f"no data set {name!r} in {self.path}: {nearest(name, self.datasets())}"
            )
        return DataSet(self, folder)

    def view(self, dataset: str, spec: str) -> View:
        """Return the vectors of a data set by an encoder: ``view("cells", "timm:resnet18")``."""
        return self.dataset(dataset).view(spec)

    def embed(
        self,
        sources: Sequence[str | Path],
        *,
        dataset: str,
        encoders: Sequence[str],
        options: SourceOptions | None = None,
        how: EmbedOptions | None = None,
        progress: Callable[[Progress], None] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> list[EmbedReport]:
        """Embed sources into a data set: only what is new or changed is encoded.

        Parameters
        ----------
        sources : sequence of path
            Image folders and tables; none means those that the data set knows already.
        dataset : str
            Its name; made if it does not exist.
        encoders : sequence of str
            Specs; each makes or updates a view.
        options : SourceOptions, optional
            Which columns hold what.
        how : EmbedOptions, optional
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
        how = how or EmbedOptions()
        folder = self._folder(check_dataset_name(dataset))
        specs = [EncoderSpec.parse(text) for text in encoders]
        for spec in specs:
            family_of(spec)
        check_device_name(how.device)
        earlier = folder.read() if folder.exists else None
        read_intake = partial(
            Intake.read, folder, locations=sources, options=options or SourceOptions()
        )
        intake = read_intake(earlier)
        loaded: dict[EncoderSpec, Any] = {}  # at most one, to be used below: memory counts
        resolved = []
        for spec in specs:
            one = known_encoder(spec)
            # For a new data set there is something to embed: then fail before it is made.
            if one is None or (earlier is None and not loaded):
                loaded = {spec: load_encoder(spec, device=how.device)}
                one = loaded[spec].resolved
            _check_modality(one, intake.modality, dataset)
            _check_unchanged(folder, one, overwrite=how.overwrite)
            resolved.append(one)

        def load(spec: EncoderSpec) -> Any:
            encoder = loaded.pop(spec, None) or load_encoder(spec, device=how.device)
            _check_unchanged(folder, encoder.resolved, overwrite=how.overwrite)
            return encoder

        make_store(self.path)
        with folder.locked("dataset"):
            now = folder.read() if folder.exists else None
            if now != earlier:  # another process was here: what we read may not fit any more
                intake = read_intake(now)
            folder.create_tables()
            folder.write(intake.described(now))
        for note in intake.notes:
            say(note)
        if len(intake.gone) and how.prune:
            drop = drop_equal({"item_id": intake.gone}, ["item_id"])
            folder.items.merge(None, drop=drop, keys=["item_id"])
            say(f"{len(intake.gone):,} items are gone from their source: dropped")
        elif len(intake.gone):
            say(
                f"{len(intake.gone):,} items are gone from their source (first: "
                f"{intake.gone[0]}): kept; --prune drops them"
            )
        reports = []
        for one in resolved:
            with folder.locked(
                one.slug,
                on_wait=lambda: say("another process embeds into this view: waiting for it"),
            ):
                reports.append(
                    ingest.run(
                        folder,
                        intake.rows,
                        intake.modality,
                        intake.roots,
                        one,
                        how,
                        load=partial(load, one.spec),
                        progress=progress,
                    )
                )
        return reports

    def _folder(self, name: str) -> DatasetFolder:
        return DatasetFolder(self.path / "datasets" / name)


@dataclass(frozen=True)
class DataSet:
    """A named collection of items with labels, splits, groups and free columns."""

    store: Store
    folder: DatasetFolder

    @property
    def name(self) -> str:
        """Its name."""
        return self.folder.name

    @property
    def path(self) -> Path:
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

    def failures(self) -> pa.Table:
        """Return the items that have no vector, with the reason."""
        return self.folder.failures.read()

    def views(self) -> list[View]:
        """Return the views, sorted by encoder."""
        found = [View(self, slug, info) for slug, info in self.folder.encoders().items()]
        return sorted(found, key=lambda view: str(view.spec))

    def view(self, spec: str) -> View:
        """Return the vectors by one encoder."""
        wanted = str(EncoderSpec.parse(spec))
        encoders = self.folder.encoders()
        for slug, info in encoders.items():
            if info["spec"] == wanted:
                return View(self, slug, info)
        known = [info["spec"] for info in encoders.values()]
        raise UnknownView(
            f"data set {self.name!r} was not embedded by {wanted}: {nearest(wanted, known)}; "
            f"embed it with `featurestore embed --dataset {self.name} -e {wanted}`"
        )

    def uri(self, item_id: str) -> Path:
        """Return where the file of an image item is."""
        row = self._item(item_id)
        if row["uri"] is None:
            raise UnknownItem(f"item {item_id!r} is a text: it has no file")
        return Path(self.description.sources[row["source"]].root, row["uri"])

    def read_bytes(self, item_id: str) -> bytes:
        """Return the bytes of an image item, from its source."""
        path = self.uri(item_id)
        try:
            return path.read_bytes()
        except OSError as error:
            raise UnknownItem(
                f"the file of item {item_id!r} is gone: {path} ({error.strerror})"
            ) from None

    def thumbnail(self, item_id: str, *, size_px: int = 128) -> bytes:
        """Return a small JPEG of an image item, kept in the store by content."""
        content_hash = self._item(item_id)["content_hash"]
        path = self.path / "thumbnails" / f"{content_hash}-{size_px}.jpg"
        if content_hash is not None and path.exists():
            return path.read_bytes()
        content = self.read_bytes(item_id)
        made = thumbnail(content, size_px)
        if hashlib.sha256(content).hexdigest() == content_hash:  # the file may have changed
            path.parent.mkdir(exist_ok=True)
            write_file(path, made)
        return made

    def _item(self, item_id: str) -> dict[str, Any]:
        items = _whereabouts(self.folder, self.folder.items.version())
        row = pc.index(items.column("item_id"), item_id).as_py()
        if row < 0:
            raise UnknownItem(
                f"data set {self.name!r} has no item {item_id!r}: "
                f"{nearest(item_id, items.column('item_id').to_pylist()[:10_000])}"
            )
        item: dict[str, Any] = items.slice(row, 1).to_pylist()[0]
        return item


@dataclass(frozen=True, eq=False)
class View:
    """The vectors of one data set by one encoder."""

    dataset: DataSet
    slug: str
    info: dict[str, Any]  # encoder.json

    @property
    def name(self) -> str:
        """``dataset@encoder``."""
        return f"{self.dataset.name}@{self.spec}"

    @property
    def spec(self) -> EncoderSpec:
        """The encoder."""
        return EncoderSpec.parse(self.info["spec"])

    @property
    def fingerprint(self) -> str:
        """The encoder's fingerprint."""
        return str(self.info["fingerprint"])

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.info["dim"])

    @property
    def modalities(self) -> frozenset[Modality]:
        """What the encoder embeds: two-tower encoders can be asked in words."""
        return frozenset(map(Modality, self.info["modalities"]))

    @property
    def table(self) -> Table:
        """The table of vectors."""
        return self.dataset.folder.view(self.slug)

    @property
    def snapshot(self) -> Snapshot:
        """The present versions of items and vectors."""
        return Snapshot(self.dataset.folder.items.version(), self.table.version())

    @property
    def n_rows(self) -> int:
        """How many items have a valid vector now."""
        items = self.dataset.items(["item_id", "content_hash"])
        pairs = self.table.read(["item_id", "content_hash"])
        return int((_resolve(items, pairs) >= 0).sum())

    def load(
        self,
        *,
        split: str | None = None,
        columns: Sequence[str] | None = None,
        snapshot: Snapshot | None = None,
    ) -> Embeddings:
        """Load vectors with what is known of their items, joined by id.

        Parameters
        ----------
        split : str, optional
            Only items of this split.
        columns : sequence of str, optional
            Item columns to bring along; all by default.
        snapshot : Snapshot, optional
            The state to read; the present one by default.

        Returns
        -------
        Embeddings
            Sorted by id; vectors (n, dim) float32.
        """
        snapshot = snapshot or self.snapshot
        items = self.dataset.items(
            None if columns is None else sorted({"item_id", "content_hash", "split", *columns}),
            version=snapshot.items,
        )
        if split is not None:
            items = items.filter(pc.equal(items.column("split"), split))
        items = items.sort_by("item_id")
        shards = self.table.shards(snapshot.view)
        pairs = self.table.read(["item_id", "content_hash"], snapshot.view)
        place = _resolve(items, pairs)
        items = items.filter(pa.array(place >= 0))
        vectors = np.empty((len(items), self.dim), np.float32)
        target = np.full(len(pairs), -1)  # where in the result a row of the view goes
        target[place[place >= 0]] = np.arange(len(items))
        start = 0
        for part in each_shard(shards, ["vector"]):
            rows = target[start : start + len(part)]
            start += len(part)
            block = vectors_of(part.column("vector"), self.dim)
            vectors[rows[rows >= 0]] = block[rows >= 0]
        table = {name: _objects(items.column(name)) for name in items.column_names}
        ids = table.pop("item_id")
        labels = self.dataset.label_columns
        main_label = labels[0] if labels else None
        return Embeddings(ids, vectors, self.fingerprint, table, main_label, snapshot)

    def index(self) -> ExactIndex:
        """Return an exact index over the present vectors."""
        embeddings = self.load(columns=[])
        return ExactIndex.build(embeddings.ids, embeddings.vectors)

    def search(self, queries: NDArray[np.float32], *, k: int = 10) -> Neighbors:
        """Find the items closest to each query vector; see `ExactIndex.search`."""
        return self.index().search(queries, k=k)

    def neighbors(self, item_id: str, *, k: int = 10) -> Neighbors:
        """Find the items closest to one of the view's own, itself left out."""
        return self.index().neighbors(item_id, k=k)

    def search_text(self, text: str, *, k: int = 10) -> Neighbors:
        """Find the items closest to a text, for encoders that read texts."""
        return self.search(self.encode([text]), k=k)

    def search_image(self, image: str | Path | bytes, *, k: int = 10) -> Neighbors:
        """Find the items closest to a picture, given as a file or its bytes."""
        if not isinstance(image, bytes):
            path = Path(image)
            try:
                image = path.read_bytes()
            except OSError as error:
                raise BadSource(f"cannot read {path}: {error.strerror}") from None
        return self.search(self.encode([image]), k=k)

    def encode(self, contents: Sequence[str | bytes]) -> NDArray[np.float32]:
        """Encode new texts or image bytes with this view's encoder, checked to be the same."""
        modality = Modality.TEXT if isinstance(contents[0], str) else Modality.IMAGE
        if modality not in self.modalities:
            raise ModalityMismatch(
                f"{self.spec} cannot read {modality}s: it reads "
                f"{' and '.join(sorted(self.modalities))}s; use an open_clip encoder"
            )
        encoder = self._encoder
        if modality is Modality.TEXT:
            vectors = encoder.encode_texts(list(contents))
        else:
            pictures = [decode_image(one) for one in contents if isinstance(one, bytes)]
            vectors = encoder.encode_images([encoder.prepare_image(one) for one in pictures])
        return np.asarray(vectors, np.float32)

    @cached_property
    def _encoder(self) -> Any:
        encoder = load_encoder(self.spec)
        if encoder.resolved.fingerprint != self.fingerprint:
            raise EncoderMismatch(
                f"{self.spec} is another encoder now than the one that made {self.name}: "
                f"fingerprint {encoder.resolved.fingerprint[:8]}, expected {self.fingerprint[:8]}"
            )
        check_canary(encoder, self.info["canary"])
        return encoder


@lru_cache(maxsize=2)
def _whereabouts(folder: DatasetFolder, version: int) -> pa.Table:
    """Where each item is; kept, since a page of thumbnails asks for one after another."""
    return folder.items.read(["item_id", "source", "uri", "content_hash"], version)


def _resolve(items: pa.Table, pairs: pa.Table) -> NDArray[np.intp]:
    """Return, for each item, the row of the view that is valid for it, or -1.

    A row is valid when its id and content are the item's; among equals the last one counts.
    """
    wanted = row_keys([items.column("item_id"), items.column("content_hash")])
    have = row_keys([pairs.column("item_id"), pairs.column("content_hash")])
    found = np.asarray(pc.fill_null(pc.index_in(have, value_set=wanted), -1))
    place = np.full(len(items), -1, np.intp)
    rows = np.flatnonzero(found >= 0)
    place[found[rows]] = rows
    return place


def _objects(column: pa.ChunkedArray) -> NDArray[Any]:
    values = np.empty(len(column), object)
    values[:] = column.to_pylist()
    return values


def _check_modality(resolved: ResolvedEncoder, modality: Modality, dataset: str) -> None:
    if modality not in resolved.modalities:
        reads = " and ".join(sorted(resolved.modalities))
        hint = (
            "st:… or open_clip:…"
            if modality is Modality.TEXT
            else "timm:…, open_clip:… or baseline:pixels"
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
