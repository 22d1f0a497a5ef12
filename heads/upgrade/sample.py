"""Some items of a data set by two encoders: one that it has, one that it may get."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.encoders import encode_now
from featurestore.encoders.loading import load_encoder
from featurestore.encoders.trust import Trust, asked_for, either
from featurestore.errors import FeatureStoreError, NotEnoughData
from featurestore.storage.files import make_folder
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.labels import is_missing
from featurestore.terms.snapshots import Snapshot
from featurestore.terms.specs import EncoderSpec, Modality
from heads.labels.folds import blocks, numbered
from heads.labels.sampling import fair_rows
from heads.saved.common_items import positions_in

if TYPE_CHECKING:
    from featurestore.curation.slices import Slice
    from featurestore.encoders.base import Encoder
    from featurestore.store.dataset import DataSet
    from featurestore.store.view import View

LEAST_ITEMS = 80
_AT_ONCE = 32  # items between two looks at the clock


@dataclass(frozen=True, eq=False)
class SampleView:
    """Vectors of a sample under an encoder's name: what heads ask of a view, not stored."""

    dataset: DataSet
    spec: EncoderSpec
    info: dict[str, Any]
    table: Embeddings = field(repr=False)
    trust: Trust = False
    slice_: Slice | None = None

    @property
    def name(self) -> str:
        """``dataset@encoder``."""
        return f"{self.dataset.name}@{self.spec}"

    @property
    def fingerprint(self) -> str:
        """Of the encoder."""
        return self.table.encoder

    @property
    def snapshot(self) -> Snapshot:
        """Of the old encoder's view: what the items were when the sample was drawn."""
        assert self.table.snapshot is not None, "drawn from a stored view"
        return self.table.snapshot

    @property
    def state(self) -> str:
        """What tells two samples apart."""
        return hashlib.sha256(self.table.vectors.tobytes()).hexdigest()

    def load(self) -> Embeddings:
        """Return the vectors with what is known of their items."""
        return self.table


@dataclass(frozen=True, eq=False)
class Sample:
    """The same n items by two encoders."""

    old: SampleView
    new: SampleView
    n_failed: int  # items that the new encoder could not read
    seconds: float | None  # an item, of encoding them here one after another; None: not encoded


def draw(
    view: View,
    spec: str,
    n_items: int,
    *,
    label: str | None = None,
    seed: int = 0,
    trust: Trust = False,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> Sample:
    """Draw items of a view, and encode them by another encoder where the store has no vector.

    Labeled items come first, with the shares of their labels; groups stay whole. What was encoded
    is kept in the data set's cache, so that it is done once.

    Raises
    ------
    NotEnoughData
        If fewer than 80 items have vectors by both.
    UnknownEncoder, ModalityMismatch, NotTrusted
        As of the encoder.
    """
    items = view.load()
    table = items.take(_chosen(items, label or items.label_column, n_items, seed))
    encoder = load_encoder(EncoderSpec.parse(spec), trust=either(trust, asked_for(spec)))
    known = encoder.resolved
    encode_now.check_reads(known.spec, known.modalities, view.dataset.modality)
    vectors, seconds = _encoded(view.dataset, table, encoder, progress)
    is_there = np.isfinite(vectors).all(axis=1)
    if is_there.sum() < LEAST_ITEMS:
        raise NotEnoughData(
            f"{int(is_there.sum())} items have vectors by both encoders: a trial needs "
            f"{LEAST_ITEMS}"
        )
    kept = table.take(np.flatnonzero(is_there))
    info = {
        "spec": str(known.spec), "fingerprint": known.fingerprint, "dim": known.dim,
        "modalities": sorted(map(str, known.modalities)), "canary": {},
        "chosen": dict(known.chosen), "n_parameters": known.n_parameters,
    }  # fmt: skip
    return Sample(
        SampleView(view.dataset, view.spec, view.info, kept, view.trust),
        SampleView(
            view.dataset, known.spec, info, _with(kept, vectors[is_there], known.fingerprint)
        ),
        int((~is_there).sum()),
        seconds,
    )


def _with(table: Embeddings, vectors: NDArray[np.float32], fingerprint: str) -> Embeddings:
    return Embeddings(
        table.ids, vectors, fingerprint, table.columns, table.label_column, table.snapshot
    )


def _chosen(items: Embeddings, label: str | None, n: int, seed: int) -> NDArray[np.intp]:
    """Return the rows of a sample, ascending."""
    if len(items) <= n:
        return np.arange(len(items))
    rng = np.random.default_rng(seed)
    is_known = np.zeros(len(items), bool) if label is None else ~is_missing(items.column(label))
    known = np.flatnonzero(is_known)
    if len(known) > n and label is not None:
        block = blocks(items.column("content_hash")[known], items.column("group")[known])
        codes, n_codes = numbered(items.column(label)[known])
        strata = codes if n_codes <= n / 2 else np.zeros(len(known), np.intp)
        return known[fair_rows(strata, block, n, seed)]
    others = rng.permutation(np.flatnonzero(~is_known))[: n - len(known)]
    return np.sort(np.concatenate([known, others]))


def _encoded(
    dataset: DataSet,
    table: Embeddings,
    encoder: Encoder,
    progress: Callable[[int, int, str], None],
) -> tuple[NDArray[np.float32], float | None]:
    """Return vectors (n, dim), NaN where an item could not be read, and the seconds of one.

    From the store, from an earlier trial, or by the encoder.
    """
    found = np.full((len(table), encoder.resolved.dim), np.nan, dtype=np.float32)
    for view in dataset.views(coming=True):
        if view.fingerprint == encoder.resolved.fingerprint:
            stored = view.load()
            at = positions_in(stored, table.ids)
            found[at >= 0] = stored.vectors[at[at >= 0]]
    file = dataset.folder.local / "cache" / "upgrade" / f"{encoder.resolved.fingerprint[:16]}.npz"
    contents = table.column("content_hash").astype(str)
    kept = _kept(file)
    for n, content in enumerate(contents.tolist()):
        if np.isnan(found[n, 0]) and content in kept:
            found[n] = kept[content]
    todo = np.flatnonzero(np.isnan(found[:, 0]))
    if not len(todo):
        return found, None
    begin, n_done = time.perf_counter(), 0
    for start in range(0, len(todo), _AT_ONCE):
        rows = todo[start : start + _AT_ONCE]
        n_done += _encode_rows(dataset, table, encoder, rows, found)
        progress(start + len(rows), len(todo), f"encoded by {encoder.resolved.spec.label}")
    seconds = (time.perf_counter() - begin) / max(n_done, 1)
    make_folder(file.parent)
    whole = {**kept, **{contents[n]: found[n] for n in todo if np.isfinite(found[n]).all()}}
    with file.with_suffix(".tmp").open("wb") as sink:
        np.savez(sink, names=np.array(list(whole)), vectors=np.stack(list(whole.values())))
    file.with_suffix(".tmp").replace(file)
    return found, seconds


def _encode_rows(
    dataset: DataSet,
    table: Embeddings,
    encoder: Encoder,
    rows: NDArray[np.intp],
    found: NDArray[np.float32],
) -> int:
    """Encode some rows into ``found``, (n, dim); return how many could be read."""
    contents: dict[int, str | bytes] = {}
    for n in rows.tolist():
        try:
            is_text = dataset.modality is Modality.TEXT
            item = str(table.ids[n])
            contents[n] = str(table.column("text")[n]) if is_text else dataset.read_bytes(item)
        except FeatureStoreError:
            continue  # counted: it has no vector
    if not contents:
        return 0
    try:
        found[list(contents)] = encode_now.encode(encoder, list(contents.values()))
    except FeatureStoreError:  # one of them cannot be read: which?
        for n, content in contents.items():
            try:
                found[n] = encode_now.encode(encoder, [content])[0]
            except FeatureStoreError:
                continue
    return len(contents)


def _kept(file: Path) -> dict[str, NDArray[np.float32]]:
    """Return what an earlier trial encoded, by content hash; nothing of a damaged file."""
    try:
        with np.load(file, allow_pickle=False) as held:
            return dict(zip(held["names"].tolist(), held["vectors"], strict=True))
    except (OSError, ValueError, KeyError, EOFError):
        return {}
