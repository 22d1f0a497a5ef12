"""serve: heads behind an address."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from featurestore.cli.layout import command
from featurestore.cli.options import (
    answer_log,
    log_options,
    open_given,
    place_of_head,
    store_option,
    trust_option,
)
from featurestore.cli.printing import say
from featurestore.storage import stopping

if TYPE_CHECKING:
    from featurestore.store.store import Store

_TOKEN_VARIABLE = "FEATURESTORE_SERVE_TOKEN"


@command(epilog="Example: featurestore serve bundle/ --port 8600")
@click.argument("bundles", nargs=-1, metavar="[BUNDLE]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Who may connect.")
@click.option(
    "--port", default=8600, show_default=True, type=click.IntRange(0, 65535),
    help="Where to listen; 0 takes one that is free.",
)  # fmt: skip
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help=f"File with a token that clients must send (or {_TOKEN_VARIABLE}); needed where --host "
    "is not this machine alone.",
)
@click.option(
    "--allow-folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Clients may name files in it.",
)
@click.option(
    "--max-mb", default=32, show_default=True, type=click.IntRange(1, 4096),
    help="Size of one request.",
)  # fmt: skip
@click.option(
    "--queue", default=512, show_default=True, type=click.IntRange(1),
    help="Items that may wait; beyond that a client is told to come again (429).",
)  # fmt: skip
@click.option(
    "--timeout", default=30.0, show_default=True, type=click.FloatRange(0, min_open=True),
    metavar="SECONDS", help="To answer one request.",
)  # fmt: skip
@click.option(
    "--batch-size", default=32, show_default=True, type=click.IntRange(1),
    help="Items that go through the encoder together.",
)  # fmt: skip
@click.option(
    "--label-studio", metavar="DATASET",
    help="Be the ML backend of Label Studio at /label-studio; labels go to this data set.",
)  # fmt: skip
@click.option(
    "--retrain-after", default=1, show_default=True, type=click.IntRange(0), metavar="N",
    help="Train the head again after so many labels from Label Studio; 0: when it asks.",
)  # fmt: skip
@click.option("-e", "--encoder", metavar="PATH|SPEC", help="Where the heads' encoder is now.")
@log_options
@trust_option
@store_option
@click.pass_context
def serve(
    context: click.Context,
    bundles: tuple[str, ...],
    host: str,
    port: int,
    token_file: Path | None,
    allow_folder: Path | None,
    max_mb: int,
    queue: int,
    timeout: float,
    batch_size: int,
    label_studio: str | None,
    retrain_after: int,
    encoder: str | None,
    log_to: str | None,
    log_items: bool,
    log_vectors: bool,
    trust: bool,
    store_path: str,
) -> None:
    """Answer over HTTP: predictions, vectors, neighbors.

    BUNDLE is a folder that `train --save` wrote, or a head in the store by its name. With --store
    data sets can be searched, too. POST /predict, /embed and /search take JSON, forms with files,
    a picture or a text; /docs shows how. SIGTERM and Ctrl-C let every request that was taken
    have its answer.
    """
    from heads.saved.bundle import load_bundle
    from heads.serving.limits import Limits
    from heads.serving.served import named
    from heads.serving.server import ServeOptions
    from heads.serving.server import serve as run

    limits = Limits(
        body_bytes=max_mb << 20, held_bytes=max(256, 2 * max_mb) << 20, waiting=queue,
        answer_s=timeout, batch_items=batch_size, items=min(queue, Limits.items),
    )  # fmt: skip
    options = ServeOptions(
        host,
        port,
        _token(token_file),
        allow_folder,
        encoder,
        trust,
        limits,
        label_studio,
        retrain_after,
        None if log_to is None else answer_log(log_to, items=log_items, vectors=log_vectors),
    )
    is_default = context.get_parameter_source("store_path") is ParameterSource.DEFAULT
    store: Store | None = None if is_default else open_given(store_path, trust=trust)
    places = [place_of_head(one, store_path) for one in bundles]
    heads = named([load_bundle(one, trust=trust) for one in places], places)
    stopping.leave_to_others()  # this server stops by itself
    run(heads, options, store=store, say=say)


def _token(file: Path | None) -> str | None:
    """Return the token of a file, or of the environment; a command line is seen by everyone."""
    import os

    if file is not None:
        return file.read_text(encoding="utf-8").strip()
    return os.environ.get(_TOKEN_VARIABLE) or None
