"""The tables of a data set: items, failures and one a view."""

from __future__ import annotations

from collections.abc import Iterator

from featurestore.storage.dataset_folder import DatasetFolder, view_folders
from featurestore.storage.log_files import has_commits
from featurestore.storage.tables import Table


def tables_of(folder: DatasetFolder, *, replaced: bool = False) -> Iterator[tuple[str, Table]]:
    """Yield the tables by name; replaced views only if asked for."""
    yield "items", folder.items
    yield "failures", folder.failures
    if not replaced:
        for slug, info in folder.encoders().items():
            yield info["spec"], folder.view(slug)
        return
    for name in view_folders(folder):
        path = folder.path / "views" / name
        if has_commits(path):  # else a writer was killed before it had made the table
            yield name, Table(path)
