"""embed, labels, split: what comes into a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from featurestore.cli.embed_parts import PartsOptions, embed_in_parts, parts_options
from featurestore.cli.exit_codes import FAILED_ITEMS
from featurestore.cli.layout import command
from featurestore.cli.next_lines import next_line
from featurestore.cli.options import (
    LIMIT,
    boxes_options,
    json_option,
    open_given,
    say_likely_groups,
    store_option,
    trust_option,
)
from featurestore.cli.printing import print_json, print_table, say, say_failed, tell
from featurestore.cli.watching import Watch, watched

if TYPE_CHECKING:
    from featurestore.pipeline.estimate import Estimate
    from featurestore.pipeline.job import EmbedRequest
    from featurestore.pipeline.report import EmbedReport
    from featurestore.store.store import Store


@command(
    epilog="Example: featurestore embed reviews.csv --dataset reviews --text body --label stars "
    "-e st:all-MiniLM-L6-v2",
    groups={
        "What to embed, and with what": ("dataset", "encoders", "name"),
        "Columns of a table, and groups": (
            "text", "image", "label", "split", "group", "group_from", "id_column", "columns",
        ),
        "Boxes as items": ("boxes", "box", "box_margin"),
        "A part of the items": ("where", "limit", "sample", "seed", "all_items"),
        "Items that are known already": ("overwrite", "retry_failed", "rehash", "prune"),
        "Speed": (
            "device", "batch_size", "num_workers", "decode_in", "compiled", "dry_run", "profile",
        ),
        "On several machines": ("on", "plan_only", "shard", "commit", "drop_plan", "part_items"),
        "What is allowed": ("max_failures", "follow_links", "trust"),
    },
)  # fmt: skip
@click.argument("sources", nargs=-1)
@click.option("--dataset", required=True, metavar="NAME", help="Data set to make or to add to.")
@click.option(
    "-e", "--encoder", "encoders", multiple=True, metavar="SPEC",
    help="Encoder, such as timm:resnet18 (see `featurestore encoders`); repeatable. "
    "Without it: the built-in one of what SOURCES hold. "
    "#layer=3+6+-1 or #layer=all keeps several layers side by side, from one pass. "
    "A short name such as tiny-image will do.",
)  # fmt: skip
@click.option("--name", metavar="NAME", help="A name of your own for the view of this encoder.")
@click.option("--text", metavar="COLUMN", help="Column of texts to embed.")
@click.option(
    "--image", metavar="COLUMN",
    help="Column of image paths, relative to the table, or of the images' bytes.",
)  # fmt: skip
@click.option("--label", multiple=True, metavar="COLUMN", help="Label column; repeatable.")
@click.option(
    "--split", metavar="COLUMN",
    help="Column of train, val, test. Of a folder of images: folders (each one named so is a "
    "split) or none.",
)  # fmt: skip
@click.option(
    "--group", metavar="EXPR",
    help="Column or SQL expression; items of one group stay together in evaluation.",
)  # fmt: skip
@click.option(
    "--group-from", metavar="REGEX",
    help="The group from an item's name: what the brackets hold, as '(exp[0-9]+)_'.",
)  # fmt: skip
@click.option("--id", "id_column", metavar="COLUMN", help="Column of unique ids.")
@click.option("--columns", metavar="A,B", help="Column names of a table without a header.")
@boxes_options
@click.option("--where", metavar="SQL", help="Only items that fulfill a condition, in this run.")
@click.option(
    *LIMIT, type=click.IntRange(min=1), metavar="N", help="Only the first N items, in this run."
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only N items, drawn at random, in this run.",
)
@click.option("--seed", default=0, show_default=True, help="Of --sample.")
@click.option(
    "--all-items", is_flag=True, help="Of a #tap=: items without a label, too; it is large."
)
@click.option(
    "--device", default="auto", show_default=True,
    help="auto, cpu, cuda, cuda:1, mps; all, or cuda:0,cuda:1, for a process a GPU.",
)  # fmt: skip
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="In items; found by measuring by default."
)
@click.option(
    "--num-workers", type=click.IntRange(min=1),
    help="Decode threads or processes; all cores by default.",
)  # fmt: skip
@click.option(
    "--decode-in", type=click.Choice(["auto", "threads", "processes"]), default="auto",
    show_default=True, help="Where images are decoded; processes pay for many images on a GPU.",
)  # fmt: skip
@click.option("--compile", "compiled", is_flag=True, help="torch.compile: for long runs on a GPU.")
@click.option("--overwrite", is_flag=True, help="Embed everything again.")
@click.option("--retry-failed", is_flag=True, help="Try unchanged items that failed before.")
@click.option(
    "--rehash", is_flag=True,
    help="Read every image: bytes may have changed under the same size and time.",
)  # fmt: skip
@click.option("--prune", is_flag=True, help="Drop items that are gone from their source.")
@click.option("--max-failures", type=click.IntRange(min=0), help="Stop when more items fail.")
@click.option("--follow-links", is_flag=True, help="Follow links that lead out of the folder.")
@trust_option
@parts_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Count, and measure on a few items how long each stage takes; write nothing.",
)
@click.option("--profile", is_flag=True, help="Print the seconds of each stage.")
@store_option
@json_option
@watched(stops=False)
def embed(
    sources: tuple[str, ...],
    dataset: str,
    encoders: tuple[str, ...],
    name: str | None,
    text: str | None,
    image: str | None,
    label: tuple[str, ...],
    split: str | None,
    group: str | None,
    group_from: str | None,
    id_column: str | None,
    columns: str | None,
    boxes: str | None,
    box: tuple[str, ...] | None,
    box_margin: float | None,
    where: str | None,
    limit: int | None,
    sample: int | None,
    seed: int,
    all_items: bool,
    device: str,
    batch_size: int | None,
    num_workers: int | None,
    decode_in: str,
    compiled: bool,
    overwrite: bool,
    retry_failed: bool,
    rehash: bool,
    prune: bool,
    max_failures: int | None,
    follow_links: bool,
    trust: bool,
    dry_run: bool,
    profile: bool,
    store_path: str,
    as_json: bool,
    watch: Watch,
) -> int:
    """Embed pictures or texts with one or several encoders.

    Each item is read once for all encoders. A source is a folder of images, a CSV, TSV, JSONL or
    Parquet table, tar shards (WebDataset), a saved Hugging Face data set or hf:NAME, or the URL of
    any of the first three. Class folders become labels; a file or folder named train, val or test
    gives the split. Only new or changed items are embedded; without SOURCES, those of earlier runs.
    """
    from featurestore.pipeline.job import EmbedRequest
    from featurestore.pipeline.listing_run import Selection
    from featurestore.pipeline.options import EmbedOptions
    from featurestore.pipeline.several_devices import devices_of
    from featurestore.sources.listing import SourceOptions
    from featurestore.store.store import open_store

    source_options = SourceOptions(
        image, text, label or None, split, _group_of(group, group_from), id_column,
        tuple(columns.split(",")) if columns else None, follow_links or None,
        boxes, box, box_margin,
    )  # fmt: skip
    devices = devices_of(device)
    if name is not None and len(encoders) > 1:
        raise click.UsageError("--name is for the view of one encoder")
    embed_options = EmbedOptions(
        devices[0], batch_size, num_workers, overwrite, retry_failed, max_failures, prune,
        trust, compiled, decode_in, rehash, all_items,
    )  # fmt: skip
    selection = Selection(where, limit, sample, seed)
    request = EmbedRequest(sources, encoders, source_options, embed_options, selection)
    store = open_store(store_path, create=True)
    if dry_run:
        estimates = store.estimate(dataset=dataset, say=say, **vars(request))
        _show_estimates(estimates, as_json, rehash)
        return 0
    reports, code = _embed(devices, store, dataset, request, watch)
    watch.finish()
    if name is not None and reports:
        store.dataset(dataset).name_view(reports[0].encoder, name)
    _show_reports(reports, as_json, profile)
    if reports and watch.is_shown and not as_json and (line := next_line(store.dataset(dataset))):
        tell(line, err=True)
    return code


def _embed(
    devices: Sequence[str], store: Store, dataset: str, request: EmbedRequest, watch: Watch
) -> tuple[list[EmbedReport], int]:
    """Embed in one process, in one for each device, or in parts; return reports and exit code."""
    from featurestore.pipeline.several_devices import embed_on

    parts = PartsOptions.asked()
    if parts.are_asked_for:
        return embed_in_parts(parts, devices, store.path, dataset, request, watch)
    if len(devices) > 1:
        reports = embed_on(devices, store.path, dataset, request, **watch.hears)
    else:
        reports = store.embed(dataset=dataset, **watch.hears, **vars(request))
    return reports, FAILED_ITEMS if any(one.n_failed for one in reports) else 0


def _show_reports(reports: Sequence[EmbedReport], as_json: bool, profile: bool) -> None:
    if as_json:
        print_json([{**vars(one), "items_per_s": one.items_per_s} for one in reports])
    for report in reports:
        say(report.describe())
    if profile and reports:
        _show_profile(reports[0])


def _group_of(group: str | None, group_from: str | None) -> str | None:
    """Return the expression of groups, whichever option gives it."""
    from featurestore.sources.name_groups import as_expression

    if group_from is None:
        return group
    if group is not None:
        raise click.UsageError("give --group or --group-from")
    return as_expression(group_from)


def _show_estimates(estimates: list[Estimate], as_json: bool, rehash: bool) -> None:
    if as_json:
        print_json([vars(one) for one in estimates])
    for one in estimates:
        say(one.describe())
    if rehash:
        say("--rehash also reads all pictures; only then is it known how many have changed")


def _show_profile(report: EmbedReport) -> None:
    rows = [
        [name, f"{seconds:.2f}", f"{n:,}" if n else "",
         f"{1e3 * seconds / n:.3f}" if n else ""]
        for name, (seconds, n) in report.stages.items()
    ]  # fmt: skip
    print_table(["stage", "seconds, all threads", "items", "ms/item"], rows, err=True)
    say(f"limit: {report.limit or 'nothing to encode'} ({report.seconds:.2f} s in all)")


@command(epilog="Example: featurestore labels photos grades.csv --id file --label grade")
@click.argument("dataset")
@click.argument("table")
@click.option(
    "--id", "id_column", default="item_id", show_default=True, metavar="COLUMN",
    help="Column of item ids.",
)  # fmt: skip
@click.option(
    "--label", multiple=True, metavar="COLUMN", help="Label column; repeatable; all by default."
)
@store_option
def labels(
    dataset: str, table: str, id_column: str, label: tuple[str, ...], store_path: str
) -> int:
    """Attach or change labels from a TABLE; nothing is embedded again.

    Later runs of embed leave these columns as they are. A row that cannot be read, or has no
    id, is named and left out (exit 3).
    """
    from featurestore.curation.labels import label_failures, label_notes, read_labels

    values = read_labels(table, item_id=id_column, columns=label)
    n_changed = open_given(store_path).dataset(dataset).attach(values)
    for note in label_notes(values, table):
        say(f"note: {note}")
    names = ", ".join(name for name in values.column_names if name != "item_id")
    say(f"{dataset}: {n_changed:,} of {len(values):,} items have new labels ({names})")
    failures = label_failures(values, table)
    say_failed(failures)
    return FAILED_ITEMS if failures else 0


@command(epilog="Example: featurestore store split photos --test 0.2 --group patient")
@click.argument("dataset")
@click.option("--test", default=0.2, show_default=True, help="Share of the items to test on.")
@click.option("--val", default=0.0, show_default=True, help="Share to validate on.")
@click.option(
    "--group", metavar="COLUMN",
    help="Items that share a value stay together; those of one --group of embed always do.",
)  # fmt: skip
@click.option("--label", metavar="COLUMN", help="Label to stratify by; the main one by default.")
@click.option("--seed", default=0, show_default=True, help="Seed of the drawing.")
@click.option("--overwrite", is_flag=True, help="Also split items that have a split already.")
@store_option
@json_option
def split(
    dataset: str,
    test: float,
    val: float,
    group: str | None,
    label: str | None,
    seed: int,
    overwrite: bool,
    store_path: str,
    as_json: bool,
) -> None:
    """Split a data set into train, val and test.

    Items of one group, and items of equal content, stay together. Items that have a split keep
    it, so that a data set may grow; --overwrite deals all anew.
    """
    from collections import Counter

    from heads.labels.splits import split_dataset

    items = open_given(store_path).dataset(dataset)
    if group is None:
        say_likely_groups(items, label)
    found = split_dataset(
        items, test=test, val=val, group=group, label=label,
        seed=seed, overwrite=overwrite,
    )  # fmt: skip
    counts = Counter(found.tolist())
    if as_json:
        print_json(counts)
    say(f"{dataset}: " + ", ".join(f"{counts[name]:,} {name}" for name in sorted(counts)))
