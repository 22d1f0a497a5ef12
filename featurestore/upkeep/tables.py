"""The tables of a data set: items, failures and one a view."""

from __future__ import annotations

from collections.abc import Iterator

from featurestore.storage.dataset_folder import DatasetFolder
from featurestore.storage.files import matching
from featurestore.storage.tables import Table


def tables_of(folder: DatasetFolder, *, replaced: bool = False) -> Iterator[tuple[str, Table]]:
    """Yield the tables by name; replaced views only if asked for."""
    yield "items", folder.items
    yield "failures", folder.failures
    if not replaced:
        for slug, info in folder.encoders().items():
            yield info["spec"], folder.view(slug)
        return
    for path in matching(folder.path / "views", "*/_delta_log"):
        yield path.parent.name, Table(path.parent)
