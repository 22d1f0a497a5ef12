"""project, slices: maps in two dimensions, and named sets of items."""

from __future__ import annotations

import sys

import click

from featurestore.cli.layout import command, option
from featurestore.cli.options import encoder_option, json_option, open_given, store_option, view_of
from featurestore.cli.printing import print_json, print_table, say
from featurestore.terms.words import counted


@command(epilog="Example: featurestore store project photos -e baseline:pixels --method pca")
@click.argument("dataset")
@encoder_option
@click.option(
    "--method",
    type=click.Choice(["pca", "umap"]),
    default="umap",
    show_default=True,
    help="pca: at once; umap: minutes for large data sets.",
)
@click.option("--seed", default=0, show_default=True, help="Of UMAP.")
@store_option
def project(dataset: str, encoder: str | None, method: str, seed: int, store_path: str) -> None:
    """Make and keep the map that the dashboard's Explore page shows."""
    from featurestore.maps.projection import project

    view = view_of(store_path, dataset, encoder)

    def count(n_done: int, n: int) -> None:
        click.echo(f"\r\033[K{n_done:,}/{n:,} neighbors", err=True, nl=n_done == n)

    shown = count if sys.stderr.isatty() else None
    xy = project(view, method, seed=seed, progress=shown, must_keep=True)
    say(f"{method} map of {counted(len(xy), 'item')} of {view.name} is kept")


@command(epilog="Example: featurestore store slices photos")
@click.argument("dataset")
@click.option("--save", "name", metavar="NAME", help="Keep the items of --where under this name.")
@click.option(
    "--where", metavar="SQL", help="Condition over the items, such as \"split = 'test'\"."
)
@option("--item", "ids", old=["--id"], multiple=True, metavar="ID", help="Item; repeatable.")
@click.option("--overwrite", is_flag=True, help="Replace a slice of that name.")
@click.option("--drop", metavar="NAME", help="Forget a slice; its items stay.")
@store_option
@json_option
def slices(
    dataset: str,
    name: str | None,
    where: str | None,
    ids: tuple[str, ...],
    overwrite: bool,
    drop: str | None,
    store_path: str,
    as_json: bool,
) -> None:
    """List, save or drop named sets of items, for --slice."""
    from featurestore.curation.slices import drop_slice, save_slice
    from featurestore.curation.slices import slices as read_slices
    from featurestore.upkeep.erase import select_ids

    folder = open_given(store_path).dataset(dataset).folder
    if drop is not None:
        drop_slice(folder, drop)
    if name is not None:
        if where is None and not ids:
            raise click.UsageError("say which items: --where SQL, or --item ID")
        chosen = select_ids(folder, ids, where).to_pylist()
        made = save_slice(folder, name, chosen, origin={"where": where}, overwrite=overwrite)
        say(f"slice {name}: {counted(len(made.item_ids), 'item')}")
    found = read_slices(folder)
    if as_json:
        print_json([vars(one) for one in found])
    elif name is None and drop is None:
        rows = [[one.name, f"{len(one.item_ids):,}", one.created] for one in found]
        print_table(["slice", "items", "made"], rows)
