"""search, index: the nearest items, and an index that finds them sooner."""

from __future__ import annotations

from typing import Any

import click

from featurestore.cli.layout import command, option
from featurestore.cli.options import (
    LIMIT,
    encoder_option,
    json_option,
    store_option,
    trust_option,
    view_of,
)
from featurestore.cli.printing import print_json, print_table, say


@command(epilog="Example: featurestore search photos -e open_clip:ViT-B-32/openai --text 'a cat'")
@click.argument("dataset")
@encoder_option
@click.option(
    "--item", "items", multiple=True, metavar="ID", help="Search near this item; repeatable."
)
@click.option("--image", "images", multiple=True, metavar="FILE", help="Like a picture.")
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="Like a text.")
@click.option(
    "--vector", "vector_file", type=click.Path(exists=True, dir_okay=False), metavar="FILE.npy",
    help="Like vectors of the same encoder, (dim,) or (n, dim).",
)  # fmt: skip
@click.option("--unlike", multiple=True, metavar="ID", help="Search away from this item.")
@option(
    *LIMIT, old=["-k"], default=10, show_default=True, type=click.IntRange(min=1), metavar="N",
    help="How many neighbors.",
)  # fmt: skip
@click.option("--where", metavar="SQL", help="Only items that fulfill a condition.")
@click.option("--split", metavar="NAME", help="Only items of a split.")
@click.option("--metric", default="cosine", show_default=True, help="cosine, ip or l2.")
@click.option("--exact", is_flag=True, help="Search exactly, even if there is an index.")
@click.option(
    "--dedupe", type=click.FloatRange(-1, 1, min_open=True), metavar="COSINE",
    help="Show only the best of results that are this similar, such as 0.98.",
)  # fmt: skip
@trust_option
@store_option
@json_option
def search(
    dataset: str,
    encoder: str | None,
    items: tuple[str, ...],
    images: tuple[str, ...],
    texts: tuple[str, ...],
    vector_file: str | None,
    unlike: tuple[str, ...],
    limit: int,
    where: str | None,
    split: str | None,
    metric: str,
    exact: bool,
    dedupe: float | None,
    trust: bool,
    store_path: str,
    as_json: bool,
) -> None:
    """Find the nearest neighbors of items, pictures or texts.

    Several are searched together. The search is exact, unless `featurestore store index` made an
    index; scores are exact in any case.
    """
    if not (items or images or texts or vector_file):
        raise click.UsageError("give --item, --image, --text or --vector")
    view = view_of(store_path, dataset, encoder, trust=trust)
    found = view.like(
        items=items, images=images, texts=texts, unlike=unlike, k=limit, where=where, split=split,
        vectors=None if vector_file is None else _vectors(vector_file),
        metric=metric, exact=exact, dedupe=dedupe,
    )  # fmt: skip
    known = {name: found.column(name)[0] for name in ("text", *view.dataset.label_columns)}
    rows = [
        {
            "rank": rank + 1,
            "score": round(float(score), 6),
            "item_id": item_id,
            **{name: values[rank] for name, values in known.items()},
        }
        for rank, (item_id, score) in enumerate(zip(found.ids[0], found.scores[0], strict=True))
    ]
    if as_json:
        print_json({"view": view.name, "metric": metric, "neighbors": rows})
        return
    say(f"{view.name}, {metric}")
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
    print_table(["", "score", "item", *labels, "text"], table)


def _vectors(path: str) -> Any:
    """Read vectors of a query, (n, dim)."""
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
        found = np.atleast_2d(found).astype(np.float32)
    except (ValueError, EOFError) as error:
        raise click.UsageError(
            f"--vector {path}: expected an array as np.save writes it"
        ) from error
    return found


@command(epilog="Example: featurestore store index photos --recall 0.98 --memory 500M")
@click.argument("dataset")
@encoder_option
@click.option(
    "--recall", default=0.95, show_default=True, type=click.FloatRange(0, 1, min_open=True),
    help="Share of the true ten nearest that should be found.",
)  # fmt: skip
@click.option(
    "--memory", metavar="SIZE", help="Memory that the index may take, such as 500M or 2G."
)
@click.option("--metric", default="cosine", show_default=True, help="cosine, ip or l2.")
@click.option("--factory", metavar="STRING", help="A FAISS index factory string of your own.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of the drawing."
)
@store_option
@json_option
def index(
    dataset: str,
    encoder: str | None,
    recall: float,
    memory: str | None,
    metric: str,
    factory: str | None,
    seed: int,
    store_path: str,
    as_json: bool,
) -> None:
    """Build a search index for a view, tuned to a measured recall.

    Exact search stays up to some 30,000 items, where it is fast enough (and with --recall 1);
    from there on inverted lists, or a graph (HNSW) where these would be slow. Searches use the
    index from then on. When items come or go, the next search brings it up to date; above 300,000
    items, where that takes longer, `embed` does, and searches are exact until then and say so.
    """
    from featurestore.search.exact import EXACT

    view = view_of(store_path, dataset, encoder)
    built = view.build_index(
        recall=recall, memory_bytes=_bytes(memory), metric=metric, factory=factory, seed=seed
    )
    facts = built.facts
    if as_json:
        print_json(facts)
    if facts["factory"] == EXACT:
        say(
            f"{view.name}: exact search of {facts['n']:,} vectors, recall 1: an index would not "
            "be worth it (--factory builds one all the same)"
        )
        return
    say(
        f"{view.name}: {facts['factory']} over {facts['n']:,} vectors in {facts['seconds']:.1f} s; "
        f"recall@{facts['recall_at']} {facts['recall']:.3f} (at least {facts['recall_low']:.3f}, "
        f"{facts['n_queries']} queries that it was not tuned on)"
    )
    if facts["recall"] < recall:
        say(f"that is below {recall}: ask for more (--recall), or search with --exact")


def _bytes(text: str | None) -> int | None:
    """Read 500M, 2G or a number of bytes."""
    if text is None:
        return None
    units = {"K": 1e3, "M": 1e6, "G": 1e9}
    number, unit = (text[:-1], units.get(text[-1:].upper())) if text[-1:].isalpha() else (text, 1)
    try:
        return int(float(number) * unit) if unit else int("")
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected a size such as 500M or 2G") from None
