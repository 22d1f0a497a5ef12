"""What the overview shows: data sets and views, failures, what to do next."""

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


def next_steps(dataset: DataSet) -> list[tuple[str, tuple[str, ...]]]:
    """Return what has not been done yet, each with its command."""
    name, folder = dataset.name, dataset.folder
    specs = [str(view.spec) for view in dataset.views()]
    if not specs:
        return [("Embed it", ("embed", "--dataset", name, "-e", "ENCODER"))]
    if not dataset.label_columns:
        return [
            ("Give it labels", ("labels", name, "LABELS.csv", "--id", "ID", "--label", "COLUMN"))
        ]
    steps: list[tuple[str, tuple[str, ...]]] = []
    if not folder.runs("compare"):
        steps.append(("Compare heads and encoders", ("compare", name)))
    if not folder.runs("transfer"):
        steps.append(("Ask whether pretraining helps", ("transfer", name, "--rank")))
    if not folder.runs("curve"):
        steps.append(("Ask how many labels are enough", ("curve", name)))
    if not folder.runs("quality"):
        steps.append(("Look for wrong labels and twins", ("quality", name, "-e", specs[-1])))
    if not (dataset.path / "heads").is_dir():
        steps.append(("Train a head to keep", ("train", name, "-e", specs[-1], "--head", "best")))
    return steps
