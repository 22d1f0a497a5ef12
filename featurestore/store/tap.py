"""A tap, which is a view of whole activations: read, and made for the items that are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.encoders.loading import with_known_cut
from featurestore.encoders.named import encoder_named
from featurestore.errors import UnknownItem, UnknownView
from featurestore.pipeline.listing_run import Selection
from featurestore.pipeline.options import EmbedOptions
from featurestore.terms.activations import Activations
from featurestore.terms.specs import EncoderSpec
from featurestore.terms.taps import AUTO

if TYPE_CHECKING:
    from featurestore.pipeline.report import Progress
    from featurestore.store.dataset import DataSet
    from featurestore.store.view import View
    from featurestore.store.view_rows import ViewRows


def activations_of(view: View, rows: ViewRows, ids: Sequence[str] | None) -> Activations:
    """Return what a tap holds of items; see `View.activations`."""
    tap = view.tap
    if tap is None:
        taps = [str(one.spec) for one in view.dataset.taps()]
        raise UnknownView(
            f"{view.name} holds vectors, no activations; the taps of {view.dataset.name!r}: "
            f"{', '.join(taps) or 'none (embed -e SPEC#tap=auto makes one)'}"
        )
    items, files, places = rows.located(None if tap.is_ragged else tap.nbytes)
    there = items.column("item_id")
    if ids is not None:
        asked = pa.array(list(ids), pa.string())
        at = pc.index_in(asked, value_set=there)
        if at.null_count:
            first = asked.filter(pc.is_null(at))[0]
            raise UnknownItem(
                f"{view.name} has no activations of {at.null_count:,} of {len(asked):,} items "
                f"(first: {first}): dataset.embed_tap(spec, ids) adds them"
            )
        there, places = asked, places[at.to_numpy()]
    named = np.array(there.to_pylist(), object)
    return Activations(files, places, tap.shape, tap.variants, named)


def embed_tap(
    dataset: DataSet,
    spec: str | EncoderSpec,
    ids: Sequence[str] | None,
    *,
    device: str,
    progress: Callable[[Progress], None] | None,
    say: Callable[[str], None],
) -> View:
    """Return a tap that holds some items of a data set: those that it lacks are embedded.

    Parameters
    ----------
    spec : str or EncoderSpec
        With ``#tap=``, and ``variants=`` if there are to be any. ``tap=auto`` takes a tap of this
        encoder with these variants that is there.
    ids : sequence of str, optional
        All items with a label by default; all items where none has one.
    device, progress, say
        As of `Store.embed`. What it takes on disk is said before.

    Returns
    -------
    View
        Without the items that cannot be read or encoded: `DataSet.failures` says why.

    Raises
    ------
    NoRoom
        If the disk has no room for it.
    BadSource
        If the items' source is gone.
    """
    if isinstance(spec, str):
        spec = EncoderSpec.parse(encoder_named(spec, [str(one.spec) for one in dataset.views()]))
    tap = _there(dataset, spec)
    if ids is not None and tap is not None:
        there = set(tap.items().column("item_id").to_pylist())
        ids = [one for one in ids if one not in there]
        if not ids:
            return tap
    (report,) = dataset.store.embed(
        [],
        dataset=dataset.name,
        encoders=[str(spec if tap is None else tap.spec)],
        embed_options=EmbedOptions(
            device, trust=dataset.store.trust, all_items=ids is not None
        ),
        selection=Selection(known=True, ids=ids),
        progress=progress,
        say=say,
    )  # fmt: skip
    say(report.describe())
    return dataset.view(report.encoder)


def _there(dataset: DataSet, spec: EncoderSpec) -> View | None:
    """Return the tap of a spec, if there is one."""
    is_open = spec.option("tap", "") == AUTO
    spec = spec if is_open else with_known_cut(spec)
    for tap in dataset.taps():
        if tap.spec == spec or (is_open and tap.spec.with_option("tap", AUTO) == spec):
            return tap
    return None
