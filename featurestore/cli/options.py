"""Options that several commands take, and the store, data set or view that they name."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.printing import say
from featurestore.store.commands import DEFAULT_STORE

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet
    from featurestore.store.store import Store
    from featurestore.store.view import View
    from heads.charts.plotted import Plotted
    from heads.saved.answer_log import AnswerLog


store_option = click.option(
    "--store",
    "store_path",
    envvar="FEATURESTORE_STORE",
    default=DEFAULT_STORE,
    show_default=True,
    metavar="PATH",
    is_eager=True,  # what featurestore.toml says is about one store
    help="Folder of the store, or s3://bucket/folder (or FEATURESTORE_STORE).",
)
LIMIT = ("-n", "--limit", "limit")  # how many, in every command
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
label_option = click.option(
    "--label", metavar="COLUMN", help="Label column; the main one by default."
)


def _split(
    _context: click.Context, _option: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    return tuple(one.strip() for given in value for one in given.split(",") if one.strip())


columns_option = click.option(
    "--columns",
    multiple=True,
    metavar="NAME,NAME",
    callback=_split,
    help="Columns of the items to read beside the vectors, such as age,site: numbers are scaled, "
    "others one-hot (site:category, age:number say which). New items need them too.",
)


def log_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a log of answers."""
    for option in (
        click.option(
            "--log-vectors", is_flag=True, help="Keep vectors in the log, too (2 bytes a number)."
        ),
        click.option(
            "--log-items",
            is_flag=True,
            help="Keep texts, paths and unlike pictures in the log, too.",
        ),
        click.option(
            "--log-to",
            metavar="FOLDER",
            help="Keep ids, predictions and unlikeness there; `featurestore drift` reads them.",
        ),
    ):
        function = option(function)
    return function


def answer_log(folder: str, *, items: bool, vectors: bool) -> AnswerLog:
    """Open a log of answers."""
    from heads.saved.answer_log import AnswerLog

    return AnswerLog(folder, items=items, vectors=vectors, say=say)


task_option = click.option(
    "--task",
    type=click.Choice(["multiclass", "multilabel", "regression"]),
    help="Kind of the label; found from its values by default.",
)
metric_option = click.option(
    "--metric", help="balanced_accuracy, macro_f1 or r2 by default, by task."
)
encoder_option = click.option(
    "-e", "--encoder", metavar="NAME",
    help="Which view: its encoder, a part of that name, or @2. By default the best one of the "
    "last comparison.",
)  # fmt: skip
encoders_option = click.option(
    "-e", "--encoder", "encoders", multiple=True, metavar="NAME",
    help="View: its encoder, a part of that name, or @2; repeatable; all by default.",
)  # fmt: skip
evaluation_option = click.option(
    "--evaluation",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "test", "folds"]),
    help="The test split, or 5 × 5 folds; auto: the test split if there is one.",
)
groups_option = click.option(
    "--ignore-groups",
    is_flag=True,
    help="Let items of one group both teach and test: shows the leak.",
)
reviews_option = click.option(
    "--apply-reviews", is_flag=True, help="Let reviewers' decisions change the training rows."
)
slice_option = click.option(
    "--slice", "slice_name", metavar="NAME", help="Only the items of a named slice."
)
seed_option = click.option(
    "--seed", default=0, show_default=True, help="Seed of everything that is drawn at random."
)
trust_option = click.option(
    "--trust",
    is_flag=True,
    help="Run code that is named by the store, the bundle or a model's folder: python: encoders "
    "and heads, types of estimators, models with code of their own.",
)


overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace what is there under that name."
)


plot_option = click.option(
    "--plot",
    "plot_file",
    metavar="FILE.png|svg",
    help="Also draw the result (needs matplotlib); --overwrite replaces a file that is there.",
)


def boxes_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of boxes as items."""
    for option in (
        click.option(
            "--box-margin", type=float, metavar="SHARE",
            help="Let each box grow by this share of its sides, at each side, such as 0.1.",
        ),
        click.option(
            "--box", metavar="X,Y,W,H", callback=_four,
            help="Columns of a table that hold a box in pixels: each row is a part of its --image.",
        ),
        click.option(
            "--boxes", metavar="PATH",
            help="Annotations of a folder's pictures, whose boxes become items: a COCO .json file, "
            "or a folder of Pascal VOC's .xml or YOLO's .txt files.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def _four(_context: click.Context, _option: click.Parameter, value: str | None) -> object:
    return None if value is None else tuple(one.strip() for one in value.split(","))


def check_free(path: str | None, *, overwrite: bool) -> None:
    """Refuse to replace a file or folder that nobody offered."""
    from featurestore.errors import BadName
    from featurestore.storage.remote import as_path

    if path is not None and not overwrite and as_path(path).exists():
        raise BadName(f"{path} is there already: give another name, or --overwrite to replace it")


def open_given(store_path: str, *, trust: bool = False) -> Store:
    """Open the store that ``--store`` names."""
    from featurestore.store.store import open_store

    return open_store(store_path, trust=trust)


def dataset_of(
    store_path: str, dataset: str, slice_name: str | None, *, trust: bool = False
) -> DataSet:
    """Return a data set, or a slice of it."""
    found = open_given(store_path, trust=trust).dataset(dataset)
    return found if slice_name is None else found.within(slice_name)


def say_likely_groups(dataset: DataSet, label: str | None, evaluation: str = "auto") -> None:
    """Before rows are dealt at random: say where their names look like groups."""
    from featurestore.pipeline.understood import named_groups

    label = label or next(iter(dataset.label_columns), None)
    if label is None or label not in dataset.folder.items.schema().names:
        return
    rows = dataset.items([label, "item_id", "uri", "split", "group"])
    is_given = evaluation != "folds" and rows.column("split").null_count < len(rows)
    if is_given or (found := named_groups(rows, label)) is None:
        return
    encoders = (f"-e {shlex.quote(str(view.spec))}" for view in dataset.views()[:1])
    say(found.sentence(" ".join(["featurestore embed --dataset", dataset.name, *encoders])))


def at_view(dataset: str, encoders: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return data set and encoders of ``DATASET``, or of ``DATASET@VIEW``, which names one."""
    name, at, encoder = dataset.partition("@")
    return name, (encoder, *encoders) if at else encoders


def views_of(dataset: DataSet, encoders: Sequence[str]) -> list[View]:
    """Return the views that were typed, whose code is asked for by that, or else all."""
    from featurestore.encoders.trust import asked_for

    return [dataset.view(spec, trust=asked_for(spec)) for spec in encoders] or dataset.views()


def view_of(
    store_path: str,
    dataset: str,
    encoder: str | None,
    slice_name: str | None = None,
    *,
    label: str | None = None,
    trust: bool = False,
) -> View:
    """Return the view of ``DATASET -e NAME`` or ``DATASET@NAME``; else the one to take."""
    named = [] if encoder is None else [encoder]
    return chosen_views(store_path, dataset, named, slice_name, label=label, trust=trust)[-1]


def chosen_views(
    store_path: str,
    dataset: str,
    encoders: Sequence[str],
    slice_name: str | None = None,
    *,
    label: str | None = None,
    trust: bool = False,
) -> list[View]:
    """Return the views that are named, as `view_of` does; where none is, the one to take."""
    from featurestore.store.default_view import default_view

    name, encoders = at_view(dataset, encoders)
    found = dataset_of(store_path, name, slice_name, trust=trust)
    if encoders:
        return views_of(found, encoders)
    view, why = default_view(found, label)
    if view is None:
        listed = ", ".join(found.listed_views())
        raise click.UsageError(
            f"say which view with -e: {name} has {listed}; or run `featurestore compare {name}`: "
            "from then on its best encoder is taken"
            if listed
            else f"{name} has no vectors yet: `featurestore embed --dataset {name}` makes some"
        )
    if why:
        say(f"{why}; -e names another")
    return [view]


def plotter(plot_file: str | None, *, overwrite: bool) -> Callable[[Plotted], None]:
    """Return what draws a result to a file; that it can is checked before anything is run."""
    if plot_file is None:
        return lambda result: None
    from heads.charts.axes import check_plot_file, save_plot

    target = check_plot_file(plot_file)
    check_free(plot_file, overwrite=overwrite)
    return lambda result: say(f"drawn: {save_plot(result.chart(), target)}")


def place_of_head(bundle: str, store_path: str) -> str:
    """Return the folder of a bundle, or that of a head in the store that has this name.

    One on the Hub (hf://org/name) is fetched first.
    """
    if bundle.startswith("hf://"):
        from heads.saved.hub import cached

        return str(cached(bundle, say))
    from featurestore.errors import BadName
    from featurestore.storage.remote import as_path
    from featurestore.storage.store_marker import check_store

    if as_path(bundle).exists() or not check_store(as_path(store_path)):
        return bundle
    dataset, _, head = bundle.rpartition("/")
    found = [
        str(card.parent)
        for card in open_given(store_path).path.glob("datasets/*/heads/*/card.json")
        if card.parent.name.startswith(head) and dataset in ("", card.parent.parent.parent.name)
    ]
    if len(found) > 1:
        raise BadName(f"{bundle!r} may mean {', '.join(found)}: write more of the one you mean")
    return found[0] if found else bundle
