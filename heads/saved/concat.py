"""Several views of one data set side by side, as one."""

from __future__ import annotations

import hashlib
import json
import re
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
from heads.labels.metadata import MetadataCoding, learned
from heads.labels.views import AnyView
from heads.saved.common_items import load_shared

if TYPE_CHECKING:
    from featurestore.curation.slices import Slice
    from featurestore.store.dataset import DataSet
    from featurestore.store.view import View
    from heads.saved.bundle import FittedHead


_NOT_IN_A_SPEC = re.compile(r"[^\w .:-]")


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


def fingerprint_of(
    blocks: Sequence[Mapping[str, Any]], columns: MetadataCoding | None = None
) -> str:
    """Return the SHA-256 (hex) of fingerprints and scales of blocks, and of columns beside them."""
    decides: list[Any] = [[block["fingerprint"], block["scale"]] for block in blocks]
    if columns is not None:
        decides.append(columns.digest)
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()


@dataclass(frozen=True)
class ConcatView:
    """Vectors of encoders, and columns of the items, side by side, each scaled to one mean length.

    It has what heads ask of a view; it is made anew when it is loaded, and not stored.
    """

    views: tuple[View, ...]
    scales: tuple[float, ...] | None = None  # of the blocks; None: as the vectors ask for
    columns: tuple[str, ...] = ()  # as they were asked for: age, site:category
    known: MetadataCoding | None = None  # how a head reads the columns; None: learned from them

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
        if self.columns:
            names.append(columns_name(self.columns))
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
        """SHA-256 (hex) of the encoders' fingerprints and scales, and of how columns are read."""
        return fingerprint_of(self.blocks, self.coding)

    @property
    def blocks(self) -> list[Mapping[str, Any]]:
        """What each block is: encoder, scale, snapshot."""
        return self._loaded[1]

    @property
    def n_apart(self) -> int:
        """Items that some view has no vector of."""
        return self._loaded[2]

    @cached_property
    def coding(self) -> MetadataCoding | None:
        """How the columns become numbers; None where there are none."""
        if not self.columns or self.known is not None:
            return self.known
        table = self._loaded[0]
        labels = [
            *self.dataset.label_columns,
            *([table.label_column] if table.label_column else []),
        ]
        return learned(self.columns, table.column, labels=labels)

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
        found, vectors = self._loaded[0], self._loaded[0].vectors
        if self.coding is not None:
            beside, _ = self.coding.coded({name: found.column(name) for name in self.coding.names})
            vectors = np.hstack([vectors, beside])
        return Embeddings(
            found.ids,
            vectors,
            self.fingerprint,
            found.columns,
            found.label_column,
            found.snapshot,
        )


def concat(
    views: View | Sequence[View],
    *,
    columns: Sequence[str] = (),
    like: FittedHead | None = None,
) -> ConcatView:
    """Put views of one data set side by side, and columns: ``heads.fit(heads.concat([a, b]))``.

    Each block is scaled to a mean squared length of 1 about its mean, so that none drowns the
    others; the scales look at no label. `heads.fit`, `heads.compare` and bundles take it as
    they take a view.

    Parameters
    ----------
    views : View or sequence of View
        Two or more, or one with columns.
    columns : sequence of str, optional
        Of the items, such as ``["age", "site:category"]``. Numbers (and dates, in days) are
        standardised, others one-hot; where some items lack a value, one more number says so.
        The kind is seen from the values, unless ``:number`` or ``:category`` tells it.
    like : FittedHead, optional
        Take the scales and columns that this head learned with, which those of a data set that
        has changed since would not be: ``head.predict(heads.concat(views, like=head).load())``.

    Raises
    ------
    BadSource
        If the views are of different data sets, or there is one view and nothing beside it.
    BadName
        If a column is a label, or says nothing.
    EncoderMismatch
        If ``like`` learned from other encoders, or in another order.
    """
    views = list(views) if isinstance(views, Sequence) else [views]
    if isinstance(columns, str):
        columns = [columns]
    known = None if like is None else like.card.metadata_columns
    if not views or (len(views) < 2 and not columns and known is None):
        raise BadSource(f"concat needs two views or more, or columns; got {len(views)}")
    check_one_dataset(views, "concat")
    if like is None:
        return ConcatView(tuple(views), columns=tuple(columns))
    if [block["fingerprint"] for block in like.blocks] != [view.fingerprint for view in views]:
        raise EncoderMismatch(
            f"{like.head_id} learned from {', '.join(block['spec'] for block in like.blocks)}, "
            f"not from {', '.join(str(view.spec) for view in views)}"
        )
    scales = tuple(float(block["scale"]) for block in like.blocks)
    return ConcatView(tuple(views), scales, known.names if known else (), known)


def columns_name(columns: Sequence[str]) -> str:
    """Return what stands for columns in the names of views: ``columns[age,site]``."""
    return f"columns[{','.join(_NOT_IN_A_SPEC.sub('_', one) for one in columns)}]"


def check_one_dataset(views: Sequence[AnyView], what: str) -> None:
    """Make sure that views are of one data set.

    Raises
    ------
    BadSource
    """
    if len({str(view.dataset.path) for view in views}) > 1:
        raise BadSource(f"{what} needs views of one data set: {', '.join(v.name for v in views)}")
