"""The item under the mouse: a map asks for it by number, without a run of the page."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256

import pyarrow as pa

from dashboard.page_data import item_rows
from dashboard.page_data.wording import Row
from featurestore.store.view import View

_MOST_KEPT = 16  # maps
_MOST_LETTERS = 300
# View, items, and whether any were erased since.
_kept: OrderedDict[str, tuple[View, pa.Table, Callable[[], bool]]] = OrderedDict()


def keep(view: View, items: pa.Table) -> str:
    """Keep the items of a map at hand; return the name by which the browser asks for them.

    Parameters
    ----------
    items : Table of n rows
        Those of the view, with ``item_id`` and ``text``.
    """
    name = sha256(f"{view.dataset.path} {view.slug} {view.state}".encode()).hexdigest()[:24]
    _kept[name] = view, items, view.dataset.folder.watch_erasures()
    _kept.move_to_end(name)
    while len(_kept) > _MOST_KEPT:
        _kept.popitem(last=False)
    return name


def item(name: str, row: int) -> Row | None:
    """Return an item's id with its thumbnail or text; None where no such map or row is kept."""
    if (found := _kept.get(name)) is None:
        return None
    view, items, is_erased = found
    if is_erased():
        _kept.pop(name, None)  # the page keeps what is left, when it runs again
        return None
    if not 0 <= row < len(items):
        return None
    one = items.slice(row, 1).select(["item_id", "text"]).to_pylist()[0]
    if one["text"] is not None:
        return {"id": one["item_id"], "text": one["text"][:_MOST_LETTERS]}
    return {"id": one["item_id"], **item_rows.picture(view.dataset, one["item_id"])}
