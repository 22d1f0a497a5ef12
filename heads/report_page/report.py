"""The door: one HTML file with all that is known of a label of a data set."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from featurestore.errors import BadName
from featurestore.storage.files import make_folder, write_file
from featurestore.store.store import Store, open_store
from heads.experiments.cells import Progress
from heads.labels.options import PlanOptions, RowKeywords, options_from
from heads.report_page.blocks import Page
from heads.report_page.found import look
from heads.report_page.sections import page_of

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet

MINUTES = 3.0


def report(
    store: Store | str | Path,
    dataset: str | DataSet,
    output: str | Path,
    *,
    minutes: float = MINUTES,
    metric: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    save: bool = True,
    **rows: Unpack[RowKeywords],
) -> Path:
    """Write one HTML file that opens anywhere, without network, and says what was found.

    It holds what to take, the leaderboard, the verdict, the learning curve, classes, the worst
    items with pictures or texts, data quality, where all that comes from, and how to find it
    again. Results that are kept and still hold are read; what is missing is run as far as the
    time goes, and what did not fit is named. Nothing in the file can run: it has no script, and
    what comes from the data set is text.

    Parameters
    ----------
    store : Store or path
    dataset : str or DataSet
        Its name; a `DataSet` may be a slice.
    output : path
        The file to write, such as ``report.html``.
    minutes : float
        Time that may be used.
    metric : str, optional
        As of `heads.compare`.
    overwrite : bool
        Replace the file if it is there.
    progress : callable, optional
        As of `heads.compare`, for each step anew.
    save : bool
        Keep what is run in the store.
    label, task, evaluation, group, seed
        As of `heads.compare`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    BadName
        If the file is there and ``overwrite`` is not given, or it is a folder.
    """
    target = check_output(output, overwrite=overwrite)
    opened = store if isinstance(store, Store) else open_store(store)
    found = opened.dataset(dataset) if isinstance(dataset, str) else dataset
    options = options_from(
        PlanOptions, rows, "heads.report", "minutes", "metric", "overwrite", "progress", "save"
    )
    page = page_of(
        look(found, options, metric=metric, minutes=minutes, progress=progress, save=save)
    )
    check_output(target, overwrite=overwrite)  # it may have come meanwhile
    make_folder(target.parent)
    write_file(target, html_of(page).encode("utf-8", "replace"))
    return target


def check_output(output: str | Path, *, overwrite: bool) -> Path:
    """Return the path of a file that may be written."""
    target = Path(output)
    if target.is_dir():
        raise BadName(f"{target} is a folder: give the name of a file, such as report.html")
    if target.exists() and not overwrite:
        raise BadName(f"{target} is there already: give another name, or --overwrite")
    return target


def html_of(page: Page) -> str:
    """Return a page as HTML; everything but our own drawings is escaped."""
    from jinja2 import Environment, StrictUndefined

    text = files("heads.report_page").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text).render(page=page)
