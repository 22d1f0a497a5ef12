"""verify, repair, history, vacuum, compact, delete, rename, drop, relocate: care over years."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict

import click

from featurestore.cli.layout import command
from featurestore.cli.options import LIMIT, json_option, open_given, store_option, trust_option
from featurestore.cli.printing import print_json, print_table, say
from featurestore.terms.words import counted

HOUR_S = 3600


@command(epilog="Example: featurestore store verify photos")
@click.argument("datasets", nargs=-1)
@click.option("--no-canary", is_flag=True, help="Do not load encoders.")
@click.option(
    "--sample", default=100, show_default=True, help="Items to compare with their source."
)
@trust_option
@store_option
@json_option
def verify(
    datasets: tuple[str, ...],
    no_canary: bool,
    sample: int,
    trust: bool,
    store_path: str,
    as_json: bool,
) -> int:
    """Check every file of DATASETS (all by default).

    The exit code is 1 where the store is damaged.
    """
    from featurestore.upkeep.verify import verify as check

    store = open_given(store_path)
    found = {
        name: check(store.folder(name), canary=not no_canary, n_sample=sample, trust=trust)
        for name in datasets or store.folders()
    }
    is_damaged = any(one.severity == "error" for rows in found.values() for one in rows)
    if as_json:
        rows = {name: [asdict(one) for one in findings] for name, findings in found.items()}
        print_json({"ok": not is_damaged, "findings": rows})
        return int(is_damaged)
    for name, findings in found.items():
        click.echo(f"{name}: {counted(len(findings), 'finding') if findings else 'all is well'}")
        for one in findings:
            click.echo(f"  {one.severity}: {one.where}: {one.what}")
    return int(is_damaged)


@command(epilog="Example: featurestore store repair photos --dry-run")
@click.argument("datasets", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@click.option(
    "--unnamed", is_flag=True,
    help="Also take in rows of shards that no version names where the log is undamaged.",
)  # fmt: skip
@store_option
@json_option
def repair(
    datasets: tuple[str, ...], dry_run: bool, unnamed: bool, store_path: str, as_json: bool
) -> int:
    """Mend what `verify` finds in the logs of DATASETS.

    All data sets by default. Commits come back from their copies. Where one has none, the rows of
    shards that no version names are taken in, if they are valid and not there yet.
    """
    from featurestore.upkeep.repair import repair as mend

    found = open_given(store_path)
    done = {
        name: mend(found.folder(name), dry_run=dry_run, unnamed=unnamed)
        for name in datasets or found.folders()
    }
    is_whole = all(one.is_mended for rows in done.values() for one in rows)
    if as_json:
        rows = {name: [asdict(one) for one in repairs] for name, repairs in done.items()}
        print_json({"ok": is_whole, "done": not dry_run, "repairs": rows})
        return int(not is_whole)
    for name, repairs in done.items():
        click.echo(
            f"{name}: {'to do' if dry_run else 'done'}"
            if repairs
            else f"{name}: its logs are whole"
        )
        for one in repairs:
            click.echo(f"  {'' if one.is_mended else 'not mended: '}{one.where}: {one.what}")
    return int(not is_whole)


@command(epilog="Example: featurestore store history photos")
@click.argument("dataset")
@click.option(
    *LIMIT, default=20, show_default=True, type=click.IntRange(min=1), metavar="N",
    help="How many commits.",
)  # fmt: skip
@store_option
@json_option
def history(dataset: str, limit: int, store_path: str, as_json: bool) -> None:
    """Show the latest commits.

    A snapshot is ITEMS.VIEW: the version of the items and that of the view.
    """
    from featurestore.upkeep.versions import history as events_of

    events = events_of(open_given(store_path).dataset(dataset).folder, limit)
    if as_json:
        print_json([asdict(one) for one in events])
        return
    rows = [[e.when, e.table, e.version, f"{e.n_rows:,}", e.n_shards] for e in events]
    print_table(["when (UTC)", "table", "version", "rows", "files"], rows)


@command(epilog="Example: featurestore store vacuum photos --dry-run")
@click.argument("dataset")
@click.option(
    "--older-than", "hours", default=24.0, show_default=True, type=click.FloatRange(min=0),
    help="Hours for which replaced files stay; writers and readers may still need younger ones.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Count; delete nothing.")
@store_option
@json_option
def vacuum(dataset: str, hours: float, dry_run: bool, store_path: str, as_json: bool) -> None:
    """Delete files that only old versions need.

    Files of versions that heads and comparisons name stay.
    """
    from featurestore.upkeep.versions import vacuum as clean

    folder = open_given(store_path).dataset(dataset).folder
    found = clean(folder, older_than_s=hours * HOUR_S, dry_run=dry_run)
    if as_json:
        print_json({"files": [str(one) for one in found.files], "bytes": found.n_bytes,
                    "leftovers": [str(one) for one in found.leftovers],
                    "damaged": list(found.damaged), "deleted": not dry_run})  # fmt: skip
    done = "would be deleted" if dry_run else "deleted"
    say(f"{dataset}: {counted(len(found.files), 'file')}, {found.n_bytes / 1e6:,.1f} MB {done}")
    if found.leftovers:
        say(f"{len(found.leftovers):,} temporary files of writers that were killed {done}")
    if found.damaged:
        say(
            f"no shard was {done.removeprefix('would be ')} of a table whose log is damaged: "
            f"{found.damaged[0]} (`featurestore store verify {dataset}` says more)"
        )


@command(epilog="Example: featurestore store compact photos")
@click.argument("dataset")
@store_option
def compact(dataset: str, store_path: str) -> None:
    """Join small files into larger ones.

    `vacuum` deletes the small ones later.
    """
    from featurestore.upkeep.versions import compact as join

    for name, n_fewer in join(open_given(store_path).dataset(dataset).folder).items():
        say(f"{name}: {n_fewer:,} fewer file{'' if n_fewer == 1 else 's'}")


@command(epilog="Example: featurestore store delete photos cat/1.jpg --erase")
@click.argument("dataset")
@click.argument("ids", nargs=-1)
@click.option("--where", metavar="SQL", help="All items that fulfill a condition.")
@click.option(
    "--erase", is_flag=True,
    help="Also from old versions, caches, indexes, thumbnails and predictions, for ever.",
)  # fmt: skip
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@store_option
def delete(
    dataset: str, ids: tuple[str, ...], where: str | None, erase: bool, yes: bool, store_path: str
) -> None:
    """Delete items by IDS or by a condition; their files stay.

    A later embed of a source that still has them takes them in again.
    """
    from featurestore.storage.published import published
    from featurestore.store.commands import command_line
    from featurestore.upkeep import erase as erasure

    if not ids and where is None:
        raise click.UsageError("say which items: IDS or --where")
    folder = open_given(store_path).dataset(dataset).folder
    chosen = erasure.select_ids(folder, ids, where, ever=erase)
    if len(chosen) == 0:
        say("no item fulfills the condition")
        return
    items = counted(len(chosen), "item")
    if not yes:
        how = "for ever" if erase else "earlier versions keep them"
        click.confirm(f"delete {items} of {dataset} ({how})?", abort=True, err=True)
    if not erase:
        erasure.delete(folder, chosen)
        say(f"{dataset}: {items} deleted; --erase deletes them from old versions too")
        return
    gone = erasure.erase(folder, chosen)
    say(
        f"{dataset}: {items} erased, with "
        f"{counted(gone.n_files, 'file')} of old versions, "
        f"{counted(gone.n_thumbnails, 'thumbnail')}, {counted(len(gone.run_cards), 'run card')}"
    )
    if gone.n_young:
        say(
            f"{gone.n_young} files that hold some are younger than a day, and another machine may "
            "be about to commit them: run this again tomorrow"
        )
    for place in published(folder):
        words = ("store", "publish", dataset, place.target, "-e", place.encoder)
        line = command_line(*words, "--table", place.table)
        say(f"rows were published to {place.target}; `{line}` takes them out there, too")
    if gone.heads:
        say(
            "what heads learned stays in them, kNN and TF-IDF keep rows and words: delete or train "
            f"again {', '.join(gone.heads)}"
        )


@command(epilog="Example: featurestore store rename photos holiday_photos")
@click.argument("dataset")
@click.argument("new")
@store_option
def rename(dataset: str, new: str, store_path: str) -> None:
    """Give a data set another name."""
    open_given(store_path).rename(dataset, new)
    say(f"{dataset} is {new} now")


@command(epilog="Example: featurestore store relocate photos /mnt/new/photos")
@click.argument("dataset")
@click.argument("root")
@click.option("--source", metavar="NAME", help="Which one moved; the only one by default.")
@store_option
def relocate(dataset: str, root: str, source: str | None, store_path: str) -> None:
    """Say that the files of DATASET lie under ROOT now.

    Some are read to make sure.
    """
    from featurestore.upkeep.relocate import relocate as move

    found = move(open_given(store_path).dataset(dataset).folder, root, source=source)
    say(f"{found.source}: {found.root}, formerly {found.before}")
    if found.n_same < found.n_checked:
        say(
            f"{found.n_checked - found.n_same} of {found.n_checked} items drawn are not there, or "
            f"others: `featurestore embed --dataset {dataset}` brings it up to date"
        )


@command(epilog="Example: featurestore store drop photos")
@click.argument("dataset")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@store_option
def drop(dataset: str, yes: bool, store_path: str) -> None:
    """Delete a data set with its views, heads and runs.

    Its source files stay as they are.
    """
    from featurestore.errors import StoreCorrupt, UnknownDataset

    store = open_given(store_path)
    store.folder(dataset)  # says which there are
    if not yes:
        what = f"what is left of {dataset}"
        with suppress(UnknownDataset, StoreCorrupt):
            found = store.dataset(dataset)
            n_items, n_views = (found.n_items, "item"), (len(found.views(coming=True)), "view")
            what = f"{dataset} ({counted(*n_items)}, {counted(*n_views)})"
        click.confirm(f"delete {what} for ever?", abort=True, err=True)
    store.drop(dataset)
    say(f"{dataset} is gone")
