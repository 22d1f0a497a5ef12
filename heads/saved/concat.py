"""Several views of one data set side by side, as one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from featurestore.encoders.trust import Trust, either
from featurestore.errors import BadSource, EncoderMismatch
from featurestore.terms.embeddings import Embeddings, LazyColumns
from featurestore.terms.snapshots import Snapshot
from featurestore.terms.specs import LOCAL_DIR, EncoderSpec
from heads.labels.views import AnyView
from heads.saved.common_items import load_shared

if TYPE_CHECKING:
    from featurestore.curation.slices import Slice
    from featurestore.store.dataset import DataSet
    from featurestore.store.view import View
    from heads.saved.bundle import FittedHead


def blocks_of(view: AnyView) -> list[dict[str, Any]]:
    """Return what makes a view's vectors: encoder.json of each encoder, and its scale."""
    if isinstance(view, ConcatView):
        return [dict(block) for block in view.blocks]
    info = cast("View", view).info
    kept = ("spec", "fingerprint", "dim", "modalities", "canary")
    return [{**{key: info[key] for key in kept}, "scale": 1.0}]


def stored(view: AnyView) -> list[View]:
    """Return the stored views that a view is made of: itself, or those of several inputs."""
    return list(view.views) if isinstance(view, ConcatView) else [cast("View", view)]


def fingerprint_of(blocks: Sequence[Mapping[str, Any]]) -> str:
    """Return the SHA-256 (hex) of the fingerprints and scales of blocks side by side."""
    decides = [[block["fingerprint"], block["scale"]] for block in blocks]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()


@dataclass(frozen=True)
class ConcatView:
    """The vectors of several encoders side by side, each block scaled to one mean length.

    It has what heads ask of a view; it is made anew when it is loaded, and not stored.
    """

    views: tuple[View, ...]
    scales: tuple[float, ...] | None = None  # of the blocks; None: as the vectors ask for

    @property
    def dataset(self) -> DataSet:
        """The data set of all of them."""
        return self.views[0].dataset

    @property
    def spec(self) -> EncoderSpec:
        """A spec such as ``concat:timm:resnet18[layer=3]+baseline:pixels``."""
        return EncoderSpec("concat", self.names)

    @property
    def names(self) -> str:
        """The encoders, joined by ``+``."""
        names = []
        for view in self.views:
            # A local folder by its name alone; `blocks` has the whole of it.
            name, _, options = view.spec.label.replace(LOCAL_DIR, "").partition("#")
            names.append(f"{name}[{options}]" if options else name)
        return "+".join(names)

    @property
    def name(self) -> str:
        """``dataset@spec``."""
        return f"{self.dataset.name}@{self.spec}"

    @property
    def slice_(self) -> Slice | None:
        """The slice that is read; None: all items."""
        return self.views[0].slice_

    @property
    def trust(self) -> Trust:
        """What the views allow, together."""
        return reduce(either, (view.trust for view in self.views))

    @property
    def snapshot(self) -> Snapshot:
        """The items' snapshot; ``blocks`` has those of the views."""
        return self.views[0].snapshot

    @property
    def state(self) -> str:
        """The states of all views."""
        return " ".join(view.state for view in self.views)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the encoders' fingerprints and scales."""
        return fingerprint_of(self.blocks)

    @property
    def blocks(self) -> list[Mapping[str, Any]]:
        """What each block is: encoder, scale, snapshot."""
        return self._loaded[1]

    @property
    def n_apart(self) -> int:
        """Items that some view has no vector of."""
        return self._loaded[2]

    @cached_property
    def _loaded(self) -> tuple[Embeddings, list[Mapping[str, Any]], int]:
        tables, n_apart = load_shared(self.views)
        parts, blocks = [], []
        given = self.scales or (None,) * len(self.views)
        for view, table, scale in zip(self.views, tables, given, strict=True):
            if scale is None:
                variance = float(table.vectors.var(axis=0, dtype=np.float64).sum())
                scale = 1 / np.sqrt(variance) if variance > 0 else 1.0
            parts.append(table.vectors * np.float32(scale))
            at = None if table.snapshot is None else str(table.snapshot)
            blocks.append({**blocks_of(view)[0], "scale": float(scale), "snapshot": at})
        first = tables[0]
        return (
            Embeddings(
                first.ids,
                np.hstack(parts),
                "",
                LazyColumns(first.columns, first.column),
                first.label_column,
                first.snapshot,
            ),
            list(blocks),
            n_apart,
        )

    def load(self) -> Embeddings:
        """Load all views on the items that they share, each scaled to mean squared length 1."""
        found = self._loaded[0]
        return Embeddings(
            found.ids,
            found.vectors,
            self.fingerprint,
            found.columns,
            found.label_column,
            found.snapshot,
        )


def concat(views: Sequence[View], *, like: FittedHead | None = None) -> ConcatView:
    """Put several views of one data set side by side: ``heads.fit(heads.concat([a, b]))``.

    Each block is scaled to a mean squared length of 1 about its mean, so that none drowns the
    others; the scales look at no label. `heads.fit`, `heads.compare` and bundles take it as
    they take a view.

    Parameters
    ----------
    like : FittedHead, optional
        Take the scales that this head learned with, which those of a data set that has changed
        since would not be: ``head.predict(heads.concat(views, like=head).load())``.

    Raises
    ------
    BadSource
        If the views are of different data sets, or fewer than two.
    EncoderMismatch
        If ``like`` learned from other encoders, or in another order.
    """
    if len(views) < 2:
        raise BadSource(f"concat needs two views or more, got {len(views)}")
    check_one_dataset(views, "concat")
    if like is None:
        return ConcatView(tuple(views))
    if [block["fingerprint"] for block in like.blocks] != [view.fingerprint for view in views]:
        raise EncoderMismatch(
            f"{like.head_id} learned from {', '.join(block['spec'] for block in like.blocks)}, "
            f"not from {', '.join(str(view.spec) for view in views)}"
        )
    return ConcatView(tuple(views), tuple(float(block["scale"]) for block in like.blocks))


def check_one_dataset(views: Sequence[AnyView], what: str) -> None:
    """Make sure that views are of one data set.

    Raises
    ------
    BadSource
    """
    if len({str(view.dataset.path) for view in views}) > 1:
        raise BadSource(f"{what} needs views of one data set: {', '.join(v.name for v in views)}")
