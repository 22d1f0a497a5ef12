"""The line to type once a data set is in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurestore.store.commands import command_line
from featurestore.store.default_view import default_view

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet


def next_line(dataset: DataSet) -> str | None:
    """Return what leads on: advice where there are labels, else what to label first."""
    views = dataset.views()
    if not views:
        return None
    if dataset.label_columns:
        what, words = "which encoder and head to take", ["advise", dataset.name]
    else:
        what, words = "what to label first", ["suggest", dataset.name, "-o", "todo.csv"]
        if len(views) > 1:
            words += ["-e", str((default_view(dataset)[0] or views[0]).spec)]
    return f"Type next, to see {what}: {command_line(*words, store=dataset.store.path)}"
