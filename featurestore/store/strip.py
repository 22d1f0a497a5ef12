"""The first items of something, as notebooks and reports show them: pictures, or texts."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import FeatureStoreError
from featurestore.terms.shown import html_strip
from featurestore.terms.specs import Modality

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet

SIZE_PX = 128  # the size that the dashboard keeps, too
N_SHOWN = 8


def picture(dataset: DataSet, item_id: str) -> tuple[str | None, str | None]:
    """Return an item's picture as a data URI, or else why there is none."""
    try:
        content = dataset.thumbnail(item_id, size_px=SIZE_PX)
    except (FeatureStoreError, OSError, ValueError) as error:
        return None, str(error)
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}", None


def texts(dataset: DataSet, item_ids: Sequence[str]) -> dict[str, str]:
    """Return the texts of items, by id."""
    table = dataset.items(["item_id", "text"])
    chosen = table.filter(
        pc.is_in(table.column("item_id"), value_set=pa.array(item_ids, pa.string()))
    )
    both = zip(*(chosen.column(name).to_pylist() for name in ("item_id", "text")), strict=True)
    return {item: text for item, text in both if text is not None}


def strip(dataset: DataSet, item_ids: Sequence[str]) -> str:
    """Return the first of some items as HTML."""
    shown = list(dict.fromkeys(map(str, item_ids)))[:N_SHOWN]
    if not shown:
        return ""
    if dataset.modality == Modality.TEXT:
        known = texts(dataset, shown)
        return html_strip([(item, None, known.get(item)) for item in shown])
    found = ((item, *picture(dataset, item)) for item in shown)
    return html_strip([(item, uri, why and f"no picture: {why}") for item, uri, why in found])
