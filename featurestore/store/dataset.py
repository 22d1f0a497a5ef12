"""A data set: its items and their files, its views."""

from __future__ import annotations

import hashlib
import math
import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.curation.labels import attach
from featurestore.curation.reviews import Review, add_reviews, read_reviews, undo
from featurestore.curation.slices import Slice, drop_slice, read_slice, save_slice, slices
from featurestore.encoders.images import as_file, thumbnail
from featurestore.encoders.trust import Trust, either
from featurestore.errors import BadName, UnknownItem, UnknownView, nearest
from featurestore.sources.locations import Location
from featurestore.sources.reading import Reader, reason_of
from featurestore.storage.dataset_file import DatasetFile, SourceRecord
from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.files import write_file
from featurestore.storage.remote import RemotePath, StorePath
from featurestore.storage.run_folder import Unfinished, open_runs
from featurestore.storage.tables import rows_of
from featurestore.store.default_view import default_view
from featurestore.store.strip import strip
from featurestore.store.tap import embed_tap
from featurestore.store.upgrading import Upgrade, progress_of, read_upgrade
from featurestore.store.view import View
from featurestore.terms.names import meant_by
from featurestore.terms.shown import Shown
from featurestore.terms.specs import EncoderSpec, Modality, encoder_label
from featurestore.terms.taps import TapShape

if TYPE_CHECKING:
    from featurestore.pipeline.report import Progress
    from featurestore.store.store import Store

_ASK_EACH_S = 2.0  # asking an object store costs requests


@dataclass(frozen=True, repr=False)
class DataSet(Shown):
    """A named collection of items with labels, splits, groups and free columns."""

    store: Store
    folder: DatasetFolder
    slice_: Slice | None = None  # what its views read; None: all items

    def within(self, name: str) -> DataSet:
        """Return this data set with views of a slice's items alone.

        Raises
        ------
        UnknownSlice
            If there is no slice of that name.
        """
        return replace(self, slice_=read_slice(self.folder, name))

    @property
    def name(self) -> str:
        """Its name."""
        return self.folder.name

    def about(self) -> str:
        """Name it and its store; of a slice, the slice."""
        part = "" if self.slice_ is None else f", slice {self.slice_.name}"
        return f"{self.name}{part} in {self.store.path}"

    def to_arrow(self) -> pa.Table:
        """Return the items, one row each, as `items` does."""
        return self.items()

    def strip(self) -> str:
        """Return the first items as HTML."""
        return strip(self, self.items(["item_id"]).column("item_id").slice(0, 8).to_pylist())

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
        """How many items it has now, as the log says."""
        return rows_of(self.folder.items.shards())

    def items(self, columns: list[str] | None = None, *, version: int | None = None) -> pa.Table:
        """Return the items, one row each, with the given columns or all."""
        return self.folder.items.read(columns, version)

    def attach(self, values: pa.Table, *, are_labels: bool = True) -> int:
        """Write labels (or other columns) of known items; see `curation.labels.attach`."""
        self.__dict__.pop("description", None)  # it changes
        return attach(self.folder, values, are_labels=are_labels)

    def failures(self) -> pa.Table:
        """Return the items that have no vector, with the reason."""
        return self.folder.failures.read()

    def views(self, *, coming: bool = False) -> list[View]:
        """Return the views of vectors, sorted by encoder.

        One that an upgrade has begun and not finished (`store.upgrading`) only if ``coming``.
        """
        upgrade = None if coming else self.upgrade
        hidden = None if upgrade is None else upgrade.hidden
        return [one for one in self._all_views() if one.tap is None and str(one.spec) != hidden]

    @property
    def upgrade(self) -> Upgrade | None:
        """The upgrade from one encoder to another that was begun last, as it stands now."""
        return read_upgrade(self.folder)

    def taps(self) -> list[View]:
        """Return the taps: views of whole activations, which heads alone read that retrain."""
        return [view for view in self._all_views() if view.tap is not None]

    def embed_tap(
        self,
        spec: str | EncoderSpec,
        ids: Sequence[str] | None = None,
        *,
        device: str = "auto",
        progress: Callable[[Progress], None] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> View:
        """Return the tap of an encoder, made or completed for some items; see `store.tap`."""
        return embed_tap(self, spec, ids, device=device, progress=progress, say=say)

    def _all_views(self) -> list[View]:
        encoders = self.folder.encoders().items()
        trust = self.store.trust
        found = [View(self, slug, info, slice_=self.slice_, trust=trust) for slug, info in encoders]
        return sorted(found, key=lambda view: str(view.spec))

    def view(self, spec: str | None = None, *, trust: Trust = False) -> View:
        """Return the vectors by one encoder, whose code may run where ``trust`` allows it.

        Parameters
        ----------
        spec : str, optional
            The encoder's spec, or any name that means one view alone; see `terms.names.meant_by`.
            Without it: the view that `default_view` chooses.

        Raises
        ------
        UnknownView
            If there is no such view, or, without ``spec``, nothing tells several apart.
        BadName
            If the name may mean several.
        """
        if spec is None:
            return self._default_view()
        encoders = self.folder.encoders()
        wanted = self._meant(spec, encoders)
        for slug, info in encoders.items():
            if info["spec"] == wanted:
                trust = either(self.store.trust, trust)
                return View(self, slug, info, slice_=self.slice_, trust=trust)
        known = [encoder_label(info["spec"]) for info in encoders.values()]
        raise UnknownView(
            f"data set {self.name!r} was not embedded by {spec}: {nearest(spec, known)}; "
            f"embed it with `featurestore embed --dataset {self.name} -e {shlex.quote(spec)}`"
        )

    def _default_view(self) -> View:
        view, _ = default_view(self)
        if view is None:
            raise UnknownView(
                f"say which view of {self.name!r}: {', '.join(self.listed_views()) or 'none yet'}"
            )
        return view

    def spec_named(self, text: str) -> str:
        """Return the spec of the view that a name means; the text where it means none."""
        return self._meant(text, self.folder.encoders())

    def _meant(self, text: str, encoders: Mapping[str, Mapping[str, Any]]) -> str:
        text = text.removeprefix(f"{self.name}@")
        taps = sorted(one["spec"] for one in encoders.values() if TapShape.of(one["chosen"]))
        specs = sorted({one["spec"] for one in encoders.values()}.difference(taps))  # as `views`
        names = {info["name"]: info["spec"] for info in encoders.values() if info.get("name")}
        return meant_by(text, specs, names) or meant_by(text, taps) or text

    def listed_views(self) -> list[str]:
        """Return the views with number and name, as ``ls`` prints: ``@1 tiny (builtin:…)``."""
        upgrade = self.upgrade
        hidden = None if upgrade is None else upgrade.hidden
        listed = []
        for n, view in enumerate(self.views(coming=True), start=1):
            spec, name = str(view.spec), view.info.get("name")
            shown = f"@{n} {name} ({spec})" if name else f"@{n} {spec}"
            if upgrade is not None and spec == hidden:
                shown += f" ({upgrade.state}: {progress_of(self, upgrade).share:.0%} is there)"
            listed.append(shown)
        return listed

    def name_view(self, view: str, name: str) -> None:
        """Give a view a name of its own, which then means it in all commands.

        Raises
        ------
        BadName
            If it cannot be a name, or another view has it.
        """
        spec = str(self.view(view).spec)
        if not re.fullmatch(r"[a-z][a-z0-9._-]*", name):
            raise BadName(f"{name!r} cannot be the name of a view: a-z, 0-9, ., _ and - can")
        for slug, info in self.folder.encoders().items():
            if info["spec"] == spec:
                self.folder.note(slug, name=name)
            elif info.get("name") == name:
                raise BadName(f"{name!r} is {info['spec']} already: give another name")

    def slices(self) -> list[Slice]:
        """Return the named slices, sorted by name."""
        return slices(self.folder)

    def save_slice(
        self,
        name: str,
        item_ids: Sequence[str],
        *,
        origin: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> Slice:
        """Keep a set of items under a name; see `curation.slices.save_slice`."""
        return save_slice(self.folder, name, item_ids, origin=origin, overwrite=overwrite)

    def drop_slice(self, name: str) -> None:
        """Forget a slice; its items stay."""
        drop_slice(self.folder, name)

    def reviews(self) -> list[Review]:
        """Return all decisions about items, undone ones included, oldest first."""
        return read_reviews(self.folder)

    def add_reviews(self, reviews: Iterable[Review], *, who: str | None = None) -> list[Review]:
        """Append decisions; return them with time and id. See `curation.reviews.add_reviews`."""
        return add_reviews(self.folder, reviews, who=who)

    def undo_review(self, review_id: str, *, who: str | None = None) -> Review:
        """Take a decision back: the one before it counts again."""
        return undo(self.folder, review_id, who=who)

    def runs(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the cards of runs, newest first: embed, compare, curve, transfer, quality."""
        return self.folder.runs(kind or "*")

    def unfinished(self) -> list[Unfinished]:
        """Return the runs that were planned in parts and are not done, the oldest first."""
        return [run.state for run in open_runs(self.folder.path)]

    def uri(self, item_id: str) -> str:
        """Return the path or URL of an image item, with its position in a larger file."""
        return self._uri(item_id, self._item(item_id))

    def _uri(self, item_id: str, row: dict[str, Any]) -> str:
        if row["uri"] is None:
            raise UnknownItem(f"item {item_id!r} is a text: it has no file")
        return Location(self.description.sources[row["source"]].root).join(row["uri"]).text

    def read_bytes(self, item_id: str) -> bytes:
        """Return the bytes of an image item, from its source; of a box, a PNG of its pixels."""
        return as_file(self._content(item_id))

    def _content(self, item_id: str) -> bytes:
        """Return what the content hash of an image item is of."""
        row = self._item(item_id)
        uri = self._uri(item_id, row)
        record = self.description.sources[row["source"]]
        try:
            return Reader(record.kind, record.root)(row["uri"])
        except (OSError, ValueError) as error:
            raise UnknownItem(
                f"the file of item {item_id!r} is gone: {uri} ({reason_of(error)})"
            ) from None

    def thumbnail(self, item_id: str, *, size_px: int = 128) -> bytes:
        """Return a small JPEG of an image item, kept in the store by content."""
        content_hash = self._item(item_id)["content_hash"]
        path = self.folder.local / "thumbnails" / f"{content_hash}-{size_px}.jpg"
        if content_hash is not None and path.exists():
            return path.read_bytes()
        content = self._content(item_id)
        made = thumbnail(content, size_px)
        if hashlib.sha256(content).hexdigest() == content_hash:  # the file may have changed
            path.parent.mkdir(exist_ok=True)
            write_file(path, made)
        return made

    def _items_version(self) -> int:
        """Return the version of the items; of an object store, one read within `_ASK_EACH_S`."""
        if not isinstance(self.folder.path, RemotePath):
            return self.folder.items.version()
        when, version = self.__dict__.get("_asked", (-math.inf, 0))
        if time.monotonic() - when > _ASK_EACH_S:
            version = self.folder.items.version()
            self.__dict__["_asked"] = time.monotonic(), version
        return int(version)

    def _item(self, item_id: str) -> dict[str, Any]:
        items = whereabouts(self.folder, self._items_version())
        row = pc.index(items.column("item_id"), item_id).as_py()
        if row < 0 and self.__dict__.pop("_asked", None) is not None:  # it may be new
            return self._item(item_id)
        if row < 0:
            raise UnknownItem(
                f"data set {self.name!r} has no item {item_id!r}: "
                f"{nearest(item_id, items.column('item_id').to_pylist()[:10_000])}"
            )
        item: dict[str, Any] = items.slice(row, 1).to_pylist()[0]
        return item


@lru_cache(maxsize=2)
def whereabouts(folder: DatasetFolder, version: int) -> pa.Table:
    """Return source and uri of each item; cached, since a page asks for many thumbnails."""
    return folder.items.read(["item_id", "source", "uri", "content_hash"], version)


def picture_file(record: SourceRecord, uri: str) -> bytes:
    """Return the bytes of a picture of a source; of a box, a PNG of its pixels.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or has no such box.
    """
    return as_file(Reader(record.kind, record.root)(uri))
