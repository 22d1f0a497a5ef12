"""The command line: arguments, output, exit codes. Data to stdout, messages to stderr.

Exit codes: 0 success, 1 error, 2 usage, 3 finished with failed items, 130 interrupted.
Everything heavy is imported inside the commands, so that ``--help`` starts at once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore import __version__
from featurestore.errors import FeatureStoreError

if TYPE_CHECKING:
    from featurestore.ingest import Progress
    from featurestore.store import Store, View

DEFAULT_STORE = "featurestore-data"

EXIT_FAILED_ITEMS = 3
EXIT_INTERRUPTED = 130

store_option = click.option(
    "--store",
    "store_path",
    envvar="FEATURESTORE_STORE",
    default=DEFAULT_STORE,
    show_default=True,
    metavar="PATH",
    help="Folder of the store (or FEATURESTORE_STORE).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
label_option = click.option(
    "--label", metavar="COLUMN", help="Label column; the main one by default."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    try:
        code = cli.main(args=arguments, standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except FeatureStoreError as error:
        say(f"error: {error}")
        return 1
    except OSError as error:  # a full disk, a read-only folder: what was committed is kept
        say(f"error: {error.strerror or error}{_at(error)}; what was committed before is kept")
        return 1
    except (KeyboardInterrupt, click.Abort):
        say("interrupted; what was done is kept, and the next run goes on from there")
        return EXIT_INTERRUPTED
    return code if isinstance(code, int) else 0


def say(message: str) -> None:
    """Tell the user, beside the data."""
    click.echo(message, err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def cli() -> None:
    r"""Embed data sets once with frozen encoders; train and compare light heads in seconds.

    \b
    featurestore embed photos/ --dataset photos -e timm:mobilenetv3_small_100.lamb_in1k
    featurestore compare photos
    featurestore dashboard
    """


@cli.command(
    epilog="Example: featurestore embed reviews.csv --dataset reviews --text body --label stars "
    "-e st:all-MiniLM-L6-v2"
)
@click.argument("sources", nargs=-1, type=click.Path(path_type=Path))
@click.option("--dataset", required=True, metavar="NAME", help="Data set to make or to add to.")
@click.option(
    "-e",
    "--encoder",
    "encoders",
    multiple=True,
    required=True,
    metavar="SPEC",
    help="Encoder, such as timm:resnet18 (see `featurestore encoders`); repeatable.",
)
@click.option("--text", metavar="COLUMN", help="Column of texts to embed.")
@click.option("--image", metavar="COLUMN", help="Column of image paths, relative to the table.")
@click.option("--label", multiple=True, metavar="COLUMN", help="Label column; repeatable.")
@click.option("--split", metavar="COLUMN", help="Column of train, val, test.")
@click.option(
    "--group",
    metavar="EXPR",
    help="Column or SQL expression; items of one group never part in evaluation.",
)
@click.option("--id", "id_column", metavar="COLUMN", help="Column of unique ids.")
@click.option("--columns", metavar="A,B", help="Column names of a table without a header.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Found by measuring by default.")
@click.option(
    "--num-workers", type=click.IntRange(min=1), help="Decode threads; all cores by default."
)
@click.option("--overwrite", is_flag=True, help="Embed everything again.")
@click.option("--retry-failed", is_flag=True, help="Try unchanged items that failed before.")
@click.option("--prune", is_flag=True, help="Drop items that are gone from their source.")
@click.option("--max-failures", type=click.IntRange(min=0), help="Stop when more items fail.")
@store_option
@json_option
def embed(
    sources: tuple[Path, ...],
    dataset: str,
    encoders: tuple[str, ...],
    text: str | None,
    image: str | None,
    label: tuple[str, ...],
    split: str | None,
    group: str | None,
    id_column: str | None,
    columns: str | None,
    device: str,
    batch_size: int | None,
    num_workers: int | None,
    overwrite: bool,
    retry_failed: bool,
    prune: bool,
    max_failures: int | None,
    store_path: str,
    as_json: bool,
) -> int:
    """Embed SOURCES (image folders, CSV/TSV/JSONL/Parquet tables) into a data set.

    Class folders become labels; a file or folder named train, val or test gives the split.
    Only new or changed items are embedded; without SOURCES, those known from earlier runs.
    """
    from featurestore.ingest import EmbedOptions
    from featurestore.sources import SourceOptions
    from featurestore.store import open_store

    options = SourceOptions(
        image, text, label or None, split, group, id_column,
        tuple(columns.split(",")) if columns else None,
    )  # fmt: skip
    how = EmbedOptions(
        device, batch_size, num_workers, overwrite, retry_failed, max_failures, prune
    )
    store = open_store(store_path, create=True)
    with _progress_bar() as progress:
        reports = store.embed(
            sources, dataset=dataset, encoders=encoders, options=options, how=how,
            progress=progress, say=say,
        )  # fmt: skip
    if as_json:
        _print_json([{**vars(one), "items_per_s": one.items_per_s} for one in reports])
    for report in reports:
        say(report.describe())
    return EXIT_FAILED_ITEMS if any(one.n_failed for one in reports) else 0


@cli.command(name="ls", epilog="Example: featurestore ls")
@store_option
@json_option
def list_datasets(store_path: str, as_json: bool) -> None:
    """List data sets and their views."""
    store = _open(store_path)
    rows: list[dict[str, Any]] = []
    for name in store.datasets():
        dataset = store.dataset(name)
        views = [str(view.spec) for view in dataset.views()]
        rows.append(
            {
                "dataset": name,
                "modality": str(dataset.modality),
                "items": dataset.n_items,
                "views": views,
            }
        )
    if as_json:
        _print_json(rows)
        return
    table = [[r["dataset"], r["modality"], f"{r['items']:,}", "\n".join(r["views"])] for r in rows]
    _print_table(["data set", "holds", "items", "views"], table)


@cli.command(epilog="Example: featurestore info photos")
@click.argument("dataset")
@store_option
@json_option
def info(dataset: str, store_path: str, as_json: bool) -> None:
    """Show a data set: items, labels, splits, views, failures."""
    from collections import Counter

    found = _open(store_path).dataset(dataset)
    items = found.items()
    failures = found.failures().to_pylist()
    columns = [*found.label_columns, "split"]
    value = {
        "dataset": dataset,
        "modality": str(found.modality),
        "items": len(items),
        "sources": {name: record.root for name, record in found.description.sources.items()},
        "columns": items.column_names,
        "counts": {name: Counter(items.column(name).to_pylist()) for name in columns},
        "views": [
            {"encoder": str(v.spec), "dim": v.dim, "rows": v.n_rows, "snapshot": str(v.snapshot),
             "fingerprint": v.fingerprint}
            for v in found.views()
        ],
        "failures": failures,
    }  # fmt: skip
    if as_json:
        value["counts"] = {
            column: {str(key): n for key, n in counts.items()}
            for column, counts in value["counts"].items()
        }
        _print_json(value)
        return
    click.echo(f"{dataset}: {len(items):,} {found.modality}s")
    for name, root in value["sources"].items():
        click.echo(f"  source {name}: {root}")
    for column, counts in value["counts"].items():
        shown = (
            ", ".join(f"{key}: {n:,}" for key, n in counts.most_common(12)) if counts else "none"
        )
        more = f" and {len(counts) - 12} more" if len(counts) > 12 else ""
        click.echo(f"  {column}: {shown}{more}")
    rows = [[v["encoder"], v["dim"], f"{v['rows']:,}", v["snapshot"]] for v in value["views"]]
    _print_table(["view", "dim", "rows", "snapshot"], rows)
    for one in failures:
        click.echo(f"  failed ({one['stage']}): {one['item_id']}: {one['error']}")


@cli.command(
    epilog="Example: featurestore search photos -e open_clip:ViT-B-32/openai --text 'a cat'"
)
@click.argument("dataset")
@click.option("-e", "--encoder", metavar="SPEC", help="Encoder; the only view's by default.")
@click.option("--item", metavar="ID", help="Neighbours of an item of the data set.")
@click.option("--image", metavar="FILE", help="Neighbours of a picture.")
@click.option("--text", metavar="TEXT", help="Neighbours of a text.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(min=1), help="How many.")
@store_option
@json_option
def search(
    dataset: str,
    encoder: str | None,
    item: str | None,
    image: str | None,
    text: str | None,
    k: int,
    store_path: str,
    as_json: bool,
) -> None:
    """Find the nearest neighbours of an item, a picture or a text: exact, by cosine."""
    asked = [one for one in (item, image, text) if one is not None]
    if len(asked) != 1:
        raise click.UsageError("give one of --item, --image, --text")
    view = _view(store_path, dataset, encoder)
    if item is not None:
        found = view.neighbors(item, k=k)
    elif image is not None:
        found = view.search_image(image, k=k)
    else:
        found = view.search_text(str(text), k=k)
    columns = ["item_id", "text", *view.dataset.label_columns]
    known = {row["item_id"]: row for row in view.dataset.items(columns).to_pylist()}
    rows = [
        {"rank": rank, "score": round(float(score), 6), **known[item_id]}
        for rank, (item_id, score) in enumerate(zip(found.ids[0], found.scores[0], strict=True), 1)
    ]
    if as_json:
        _print_json({"view": view.name, "metric": "cosine", "neighbors": rows})
        return
    say(f"{view.name}, cosine")
    labels = view.dataset.label_columns
    table = [
        [
            r["rank"],
            f"{r['score']:.4f}",
            r["item_id"],
            *(r[c] for c in labels),
            (r["text"] or "")[:60],
        ]
        for r in rows
    ]
    _print_table(["", "score", "item", *labels, "text"], table)


@cli.command(epilog="Example: featurestore train photos -e baseline:pixels --head ridge")
@click.argument("dataset")
@click.option("-e", "--encoder", metavar="SPEC", help="Encoder; the only view's by default.")
@click.option("--head", default="logistic", show_default=True, help="Which head.")
@label_option
@click.option("--seed", default=0, show_default=True)
@store_option
@json_option
def train(
    dataset: str,
    encoder: str | None,
    head: str,
    label: str | None,
    seed: int,
    store_path: str,
    as_json: bool,
) -> None:
    """Train one head on a view, evaluate it, and keep it in the store."""
    import heads

    fitted = heads.fit(_view(store_path, dataset, encoder), head, label=label, seed=seed)
    if as_json:
        _print_json(fitted.card)
    else:
        show_head(fitted)


@cli.command(
    epilog="Example: featurestore compare photos -e baseline:pixels -e timm:resnet18.a1_in1k"
)
@click.argument("dataset")
@click.option(
    "-e",
    "--encoder",
    "encoders",
    multiple=True,
    metavar="SPEC",
    help="Encoder; repeatable; all views by default.",
)
@click.option(
    "--head",
    "head_names",
    multiple=True,
    metavar="NAME",
    help="Head; repeatable; logistic, ridge, prototype and knn by default.",
)
@label_option
@click.option("--metric", default="balanced_accuracy", show_default=True)
@click.option(
    "--evaluation",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "test", "folds"]),
    help="The test split, or 5 × 5 folds; auto: the test split if there is one.",
)
@click.option("--ignore-groups", is_flag=True, help="Let items of one group part: shows the leak.")
@click.option("--seed", default=0, show_default=True)
@store_option
@json_option
def compare(
    dataset: str,
    encoders: tuple[str, ...],
    head_names: tuple[str, ...],
    label: str | None,
    metric: str,
    evaluation: str,
    ignore_groups: bool,
    seed: int,
    store_path: str,
    as_json: bool,
) -> None:
    """Compare encoders × heads on the same folds, beside the baselines without pretraining."""
    import heads

    found = _open(store_path).dataset(dataset)
    views = [found.view(spec) for spec in encoders] or found.views()
    chosen: dict[str, Any] = {"heads": head_names} if head_names else {}
    comparison = heads.compare(
        views, label=label, metric=metric, evaluation=evaluation, seed=seed,
        group=not ignore_groups, progress=_say_fits if sys.stderr.isatty() else None, **chosen,
    )  # fmt: skip
    if as_json:
        _print_json(comparison.rows())
        return
    show_comparison(comparison)


def _say_fits(n_done: int, n_fits: int, what: str) -> None:
    click.echo(f"\r\033[K{n_done}/{n_fits} fits: {what}", err=True, nl=n_done == n_fits)


def show_head(fitted: Any) -> None:
    """Print what a fitted head chose, and how well it does."""
    card = fitted.card
    click.echo(f"{card['head']} on {card['dataset']}@{card['encoder']}, label {card['label']!r}")
    chosen = ", ".join(f"{key} {value}" for key, value in card["chosen"].items())
    click.echo(f"  chosen on training rows: {chosen or 'nothing'}")
    for metric, found in card["metrics"].items():
        interval = ""
        if found["low"] is not None:
            interval = f" ({found['low']:.3f} to {found['high']:.3f}; {card['estimand']})"
        click.echo(f"  {metric.replace('_', ' ')}: {found['value']:.3f}{interval}")
    for note in card["notes"]:
        click.echo(f"  {note}")
    click.echo(f"  kept as {fitted.head_id}")


def show_comparison(comparison: Any) -> None:
    """Print a comparison as a table, best first, with what its intervals mean."""
    from featurestore.values import EncoderSpec

    rows = sorted(comparison.rows(), key=lambda row: -row["value"])
    table = [
        [EncoderSpec.parse(r["encoder"]).label, r["head"], f"{r['value']:.3f}",
         f"{r['low']:.3f} – {r['high']:.3f}", f"{r['seconds']:.2f}"]
        for r in rows
    ]  # fmt: skip
    metric = rows[0]["metric"].replace("_", " ")
    _print_table(["encoder", "head", metric, "95 % interval", "fit (s)"], table)
    click.echo(f"Intervals: {comparison.estimand}.")
    for claim in comparison.claims():
        click.echo(f"{claim.sentence()}.")
    if comparison.n_pairs > 1:
        click.echo(f"These sentences hold for all {comparison.n_pairs} pairs at once (Bonferroni).")
    for note in comparison.notes:
        click.echo(note)


@cli.command(epilog='Example: featurestore sql "select label, count(*) from photos group by 1"')
@click.argument("statement")
@store_option
@json_option
def sql(statement: str, store_path: str, as_json: bool) -> None:
    """Run one SELECT over the items; tables are named after the data sets."""
    from featurestore.query import select

    store = _open(store_path)
    tables = {name: store.dataset(name).items() for name in store.datasets() if name in statement}
    result = select(statement, tables)
    if as_json:
        _print_json(result.to_pylist())
    else:
        _print_table(result.column_names, [list(row.values()) for row in result.to_pylist()])


@cli.command(name="encoders", epilog="Example: featurestore encoders")
@json_option
def list_encoders(as_json: bool) -> None:
    """List the families of encoders and how to write their names."""
    from featurestore.encoders import FAMILIES

    rows = [
        {"family": name, "example": family.example, "about": family.about,
         "options": sorted(family.options)}
        for name, family in FAMILIES.items()
    ]  # fmt: skip
    if as_json:
        _print_json(rows)
        return
    table = [[r["family"], r["example"], r["about"], " ".join(r["options"])] for r in rows]
    _print_table(["family", "example", "what it is", "#options"], table)


@cli.command(epilog="Example: featurestore dashboard --port 8501")
@click.option("--host", default="localhost", show_default=True)
@click.option("--port", default=8501, show_default=True)
@click.option("--no-browser", is_flag=True, help="Do not open a browser.")
@store_option
def dashboard(host: str, port: int, no_browser: bool, store_path: str) -> int:
    """Browse data sets, heads and neighbours in the browser."""
    from dashboard.launch import launch

    return launch(_open(store_path).path, host=host, port=port, open_browser=not no_browser)


@cli.command(epilog="Example: featurestore demo --store /tmp/demo-store")
@click.option(
    "--store", "store_path", default="featurestore-demo", show_default=True, metavar="PATH"
)
def demo(store_path: str) -> None:
    """Run the main job on data that the installed packages bring: no network, no account."""
    import heads
    from featurestore.demo import run_demo

    run_demo(
        Path(store_path), compare=heads.compare, say=click.echo, show=show_comparison,
        progress_bar=_progress_bar,
    )  # fmt: skip


def _open(store_path: str) -> Store:
    from featurestore.store import open_store

    return open_store(store_path)


def _view(store_path: str, dataset: str, encoder: str | None) -> View:
    """Return the view of ``DATASET -e SPEC``, of ``DATASET@SPEC``, or the only one there is."""
    name, at, spec = dataset.partition("@")
    found = _open(store_path).dataset(name)
    if encoder is None and at:
        encoder = spec
    if encoder is not None:
        return found.view(encoder)
    views = found.views()
    if len(views) != 1:
        known = ", ".join(str(view.spec) for view in views) or "none"
        raise click.UsageError(f"say which encoder with -e SPEC; {name} has views by: {known}")
    return views[0]


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def _print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row), style=None)
    width = None if sys.stdout.isatty() else 160
    Console(markup=False, highlight=False, width=width).print(table)


@contextmanager
def _progress_bar() -> Iterator[Callable[[Progress], None] | None]:
    """Draw a bar with rate, remaining time and limiting stage on stderr, if a person looks."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[limit]}"),
        console=Console(stderr=True),
    )
    tasks: dict[str, Any] = {}

    drawn = 0.0

    def show(now: Progress) -> None:
        nonlocal drawn
        if time.monotonic() - drawn < 0.1 and now.n_done < now.n_total:
            return  # drawing costs more than some encoders do
        drawn = time.monotonic()
        if now.encoder not in tasks:
            tasks[now.encoder] = bar.add_task(now.encoder, total=now.n_total, rate="", limit="")
        speed = bar.tasks[tasks[now.encoder]].speed
        failed = f", {now.n_failed} failed" if now.n_failed else ""
        bar.update(
            tasks[now.encoder],
            completed=now.n_done,
            rate=f"{speed:,.0f} items/s" if speed else "",
            limit=f"limit: {now.limit}{failed}",
        )

    with bar:
        yield show


def _at(error: OSError) -> str:
    return f": {error.filename}" if error.filename else ""


if __name__ == "__main__":
    main()
