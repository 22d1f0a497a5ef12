"""export, import, publish, export-model: vectors and networks to other programs and back."""

from __future__ import annotations

import shlex

import click

from featurestore.cli.exit_codes import FAILED_ITEMS
from featurestore.cli.layout import command
from featurestore.cli.options import (
    encoder_option,
    overwrite_option,
    place_of_head,
    slice_option,
    store_option,
    trust_option,
    view_of,
)
from featurestore.cli.printing import say, say_failed
from featurestore.terms.words import counted


@command(epilog="Example: featurestore export photos vectors.parquet --split test")
@click.argument("dataset")
@click.argument("path")
@encoder_option
@click.option("--where", metavar="SQL", help="Only items that fulfill a condition.")
@click.option("--split", metavar="NAME", help="Only items of a split.")
@click.option(
    "--map",
    "map_",
    type=click.Choice(["pca", "umap"]),
    help="Points of the .atlas.parquet; as `project` makes and keeps them.",
)
@click.option(
    "--pictures",
    type=click.Choice(["path", "bytes"]),
    help="Add a column of pictures: where the files are, or what they hold.",
)
@overwrite_option
@slice_option
@store_option
def export(
    dataset: str,
    path: str,
    encoder: str | None,
    where: str | None,
    split: str | None,
    map_: str | None,
    pictures: str | None,
    overwrite: bool,
    slice_name: str | None,
    store_path: str,
) -> None:
    """Write vectors to a file that other programs read.

    PATH ends in .parquet, .arrow, .npy or .atlas.parquet, or is a folder to make, for Hugging
    Face's datasets. The folder holds one data set for each split where items have splits and none
    is named. Labels, their task and class names go along: `import` knows them again.
    """
    from featurestore.exchange.exports import check_path
    from featurestore.exchange.exports import export as write

    view = view_of(store_path, dataset, encoder, slice_name).now()
    check_path(path, has_map=map_ is not None, overwrite=overwrite)
    points = None
    if map_ is not None:
        from featurestore.maps.projection import project

        points = project(view, map_)
    n = write(
        view, path, split=split, where=where, points=points, pictures=pictures,
        overwrite=overwrite, say=say,
    )  # fmt: skip
    say(f"{view.name}: {counted(n, 'row')} in {path}")


@command(name="import", epilog="Example: featurestore store import out/ --dataset laion --name b32")
@click.argument("path")
@click.option("--dataset", required=True, metavar="NAME", help="Data set to make or to add to.")
@click.option("--name", required=True, help="What made the vectors; the view is import:NAME.")
@click.option("--id", "item_id", metavar="COLUMN", help="Column of unique ids.")
@click.option("--vector", metavar="COLUMN", help="Column of vectors; the only one by default.")
@click.option("--text", metavar="COLUMN", help="Column of texts.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="COLUMN",
    help="Label; repeatable; of a new data set, those that the file names by default.",
)
@click.option("--overwrite", is_flag=True, help="Replace vectors that the view has.")
@store_option
def import_(
    path: str,
    dataset: str,
    name: str,
    item_id: str | None,
    vector: str | None,
    text: str | None,
    labels: tuple[str, ...],
    overwrite: bool,
    store_path: str,
) -> int:
    """Take in vectors that another program made.

    PATH is a .parquet or .arrow file with a vector column, an .npy file (with .items.parquet
    beside it, as `export` writes it), or a folder that save_to_disk of Hugging Face wrote (with
    all its splits), or clip-retrieval. A row without an id, a vector of finite numbers or a text
    is named and left out (exit 3).
    """
    from featurestore.exchange.imports import import_vectors, read_vectors
    from featurestore.store.store import open_store

    store = open_store(store_path, create=True)
    incoming = read_vectors(path, item_id=item_id, vector=vector, text=text)
    view = import_vectors(
        store, incoming, dataset=dataset, name=name, origin=path, text=text, labels=labels,
        overwrite=overwrite, say=say,
    )  # fmt: skip
    say(f"{view.name}: {counted(view.n_rows, 'vector')} of dim {view.dim}")
    say_failed([f"{row}: {why}" for row, why in incoming.failed.items()])
    return FAILED_ITEMS if incoming.failed else 0


@command(epilog="Example: featurestore store publish photos lancedb:vectors/")
@click.argument("dataset")
@click.argument("target")
@encoder_option
@click.option("--table", metavar="NAME", help="The table's name; the data set's by default.")
@click.option(
    "--columns",
    metavar="A,B",
    help="Columns of items to write; by default all but sizes, times and sources of files.",
)
@click.option(
    "--purge",
    is_flag=True,
    help="Take deleted rows out of the database's files, too; done after an erasure in any case.",
)
@store_option
def publish(
    dataset: str,
    target: str,
    encoder: str | None,
    table: str | None,
    columns: str | None,
    purge: bool,
    store_path: str,
) -> None:
    """Bring a table of a vector database to the state of a view.

    TARGET is lancedb:FOLDER, pgvector:postgresql://USER@HOST/DATABASE or qdrant:http://HOST:6333.
    The first time all rows are written; later those that are new or changed, and those that are
    gone are deleted. A run that was killed is finished by the next. A table that holds vectors of
    another encoder or data set is refused.
    """
    from featurestore.publish.publish import publish as bring

    view = view_of(store_path, dataset, encoder)
    names = None if columns is None else [one.strip() for one in columns.split(",") if one.strip()]
    done = bring(view, target, table=table, columns=names, purge=purge, say=say)
    say(done.sentence())
    say(f"Search it in Python: {done.type_next}")


@command(name="export-model", epilog="Example: featurestore store export-model bundle/ -o network/")
@click.argument("bundle")
@click.option("-o", "--output", metavar="FOLDER", required=True, help="Folder to make.")
@click.option(
    "--run",
    type=click.IntRange(1),
    metavar="N",
    help="Which of the head's runs; by default the last, whose rate is the smallest.",
)
@click.option("-e", "--encoder", metavar="PATH|SPEC", help="Where the head's encoder is now.")
@overwrite_option
@trust_option
@store_option
def export_model(
    bundle: str,
    output: str,
    run: int | None,
    encoder: str | None,
    overwrite: bool,
    trust: bool,
    store_path: str,
) -> None:
    """Write the network that a head retrained, for other programs.

    BUNDLE is a folder that `train --head finetune --save` wrote, or such a head in the store by
    its name. FOLDER is then what timm, sentence-transformers or transformers load, whichever the
    encoder is of. In timm it ends in the classifier where the head's layer can be one; else it
    gives vectors, and the first line printed says so. README.md in FOLDER shows the lines of
    Python that turn its vectors into answers. `embed -e timm:local-dir:FOLDER` takes it as an
    encoder.
    """
    from heads.saved.bundle import load_bundle
    from heads.saved.export_model import export_model as write

    head = load_bundle(place_of_head(bundle, store_path), trust=trust)
    made = write(head, output, run=run, encoder=encoder, overwrite=overwrite)
    for line in made.sentences():
        say(line)
    say(f"Type next: featurestore embed SOURCE --dataset NAME -e {shlex.quote(str(made.spec))}")


@command(name="export-onnx", epilog="Example: featurestore store export-onnx bundle/ -o onnx/")
@click.argument("bundle")
@click.option("-o", "--output", metavar="FOLDER", required=True, help="Folder to make.")
@click.option("--head-only", is_flag=True, help="Leave the encoder out: vectors go in.")
@click.option("-e", "--encoder", metavar="PATH|SPEC", help="Where the head's encoder is now.")
@overwrite_option
@trust_option
@store_option
def export_onnx(
    bundle: str,
    output: str,
    head_only: bool,
    encoder: str | None,
    overwrite: bool,
    trust: bool,
    store_path: str,
) -> None:
    """Write a head and its encoder as one ONNX graph.

    BUNDLE is a folder that `train --save` wrote, or a head in the store by its name. FOLDER is
    there only if onnxruntime gives the same answers. Its README.md has the lines that run
    it without featurestore.
    """
    from heads.saved.bundle import load_bundle
    from heads.saved.export_onnx import export_onnx as write

    head = load_bundle(place_of_head(bundle, store_path), trust=trust)
    made = write(head, output, encoder=encoder, head_only=head_only, overwrite=overwrite)
    for line in made.sentences():
        say(line)
