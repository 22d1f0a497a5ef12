"""Tables of Home: data sets and views, failures."""

from __future__ import annotations

from dashboard.page_data.wording import Row
from featurestore.errors import FeatureStoreError
from featurestore.store.dataset import DataSet
from featurestore.store.store import Store
from featurestore.store.view import View


def overview(store: Store) -> list[Row]:
    """Return one row for each view, and one for a data set that has none yet."""
    rows = []
    for name in store.datasets():
        dataset = store.dataset(name)
        about = {"data set": name, "holds": f"{dataset.modality}s", "items": dataset.n_items}
        rows += [about | _view_row(view, dataset.n_items) for view in dataset.views()] or [about]
    return rows


def stamp(store: Store) -> object:
    """Return a value that changes whenever the overview does."""
    found = []
    for name in store.datasets():
        dataset = store.dataset(name)
        tables = dataset.folder.items, dataset.folder.failures
        digests = [table.digest(table.version()) for table in tables]
        views = [(view.slug, view.state) for view in dataset.views()]
        found.append((name, digests, len(dataset.folder.runs("embed")), views))
    return found


def _view_row(view: View, n_items: int) -> Row:
    facts = view.facts()
    return {
        "encoder": view.spec.label,
        "embedded": facts.n_rows,
        "failed": facts.n_failed,
        "to do": max(0, n_items - facts.n_rows - facts.n_failed),
        "dim": facts.dim,
        "MB": facts.n_bytes / 1e6,
        "snapshot": facts.snapshot,
        "items/s": facts.items_per_s,
        "last run": facts.embedded,
    }


def failures(dataset: DataSet) -> list[Row]:
    """Return the items that have no vector, with the reason, newest first."""
    encoders = {view.fingerprint: view.spec.label for view in dataset.views()}
    found = dataset.failures().sort_by([("when", "descending"), ("item_id", "ascending")])
    return [
        {
            "item": one["item_id"],
            "file": _file_of(dataset, one["item_id"]),
            "stage": one["stage"],
            "encoder": encoders.get(
                one["fingerprint"], "any" if not one["fingerprint"] else "gone"
            ),
            "reason": one["error"],
            "when": one["when"],
        }
        for one in found.to_pylist()
    ]


def _file_of(dataset: DataSet, item_id: str) -> str | None:
    try:
        return dataset.uri(item_id)
    except FeatureStoreError:  # a text, or gone
        return None
