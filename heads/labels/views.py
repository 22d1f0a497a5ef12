"""What heads ask of views and data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from featurestore.storage.remote import RemotePath, StorePath, as_path

if TYPE_CHECKING:
    from featurestore.curation.slices import Slice
    from featurestore.encoders.trust import Trust
    from featurestore.store.dataset import DataSet
    from featurestore.terms.embeddings import Embeddings
    from featurestore.terms.snapshots import Snapshot
    from featurestore.terms.specs import EncoderSpec


AnyDataset: TypeAlias = "DataSet | StorePath | str"  # a data set, or its folder


class AnyView(Protocol):
    """A stored view (`featurestore`'s ``View``), or several side by side (`heads.concat`)."""

    @property
    def dataset(self) -> DataSet:
        """The data set of its items."""

    @property
    def spec(self) -> EncoderSpec:
        """The encoder."""

    @property
    def name(self) -> str:
        """``dataset@encoder``."""

    @property
    def fingerprint(self) -> str:
        """What tells the encoder from others."""

    @property
    def snapshot(self) -> Snapshot:
        """The versions that are read."""

    @property
    def slice_(self) -> Slice | None:
        """The items that are read; None: all."""

    @property
    def state(self) -> str:
        """What tells two states of its vectors apart, also of versions with one number."""

    @property
    def trust(self) -> Trust:
        """Which code that the store names may run, to encode new contents."""

    def load(self) -> Embeddings:
        """Load items and vectors."""


def folder_of(dataset: AnyDataset) -> StorePath:
    """Return the folder of a data set, which may be given as that folder."""
    if isinstance(dataset, (str, Path, RemotePath)):
        return as_path(dataset)
    return dataset.path


def trust_of(dataset: AnyDataset) -> Trust:
    """Return which code of a data set may run, as its store was opened."""
    return getattr(getattr(dataset, "store", None), "trust", False)  # a folder says nothing


def slice_facts(view: AnyView) -> dict[str, str]:
    """Return what cards say of the slice that a view reads; nothing if it reads all items."""
    if view.slice_ is None:
        return {}
    return {"slice": view.slice_.name, "slice_digest": view.slice_.digest}
