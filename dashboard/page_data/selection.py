"""What is said of a selection of items, and the files that it can be kept in."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from dashboard.page_data.wording import NO_LABEL
from featurestore.curation.slices import Slice
from featurestore.store.view import View


def label_breakdown(labels: pa.ChunkedArray, most: int = 6) -> str:
    """Say which labels a selection has: ``cat: 12 · dog: 3``."""
    found = pc.value_counts(labels.cast(pa.string())).to_pylist()
    counts = sorted(((one["counts"], one["values"] or NO_LABEL) for one in found),
                    key=lambda one: (-one[0], one[1]))  # fmt: skip
    said = [f"{name}: {n:,}" for n, name in counts[:most]]
    more = len(counts) - most
    return " · ".join(said) + (f" · {more} more" if more > 0 else "")


def exported(view: View, ids: Sequence[str], kind: str, extra: pa.Table | None = None) -> bytes:
    """Return chosen items as a file: ``csv`` (item columns), or ``parquet`` (vectors as well).

    Parameters
    ----------
    ids : sequence of str
        In the order of the file; deleted items are left out.
    extra : Table, optional
        Further columns by item_id, such as predictions or scores.
    """
    selected = view.within(Slice("selection", tuple(ids), ""))
    items = selected.to_arrow() if kind == "parquet" else selected.items()
    rows = pc.index_in(pa.array(ids, pa.string()), value_set=items.column("item_id")).drop_null()
    items = items.take(rows)
    if extra is not None:
        beside = extra.take(pc.index_in(items.column("item_id"), value_set=extra.column("item_id")))
        for name in beside.column_names:
            if name != "item_id":
                free = name if name not in items.column_names else f"head {name}"
                items = items.append_column(free, beside.column(name))
    sink = io.BytesIO()
    if kind == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(items, sink)
    else:
        from pyarrow import csv

        flat = [f.name for f in items.schema if not pa.types.is_nested(f.type)]
        csv.write_csv(items.select(flat), sink)
    return sink.getvalue()
