"""ls, info, search, sql, encoders, dashboard, demo: look at what there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.learn import show_comparison
from featurestore.cli.options import json_option, open_given, store_option, view_of
from featurestore.cli.printing import print_json, print_table, progress_bar, say
from featurestore.cli.transfer import show_assessment

if TYPE_CHECKING:
    from featurestore.store.view import View


@click.command(name="ls", epilog="Example: featurestore ls")
@store_option
@json_option
def list_datasets(store_path: str, as_json: bool) -> None:
    """List data sets and their views."""
    store = open_given(store_path)
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
        print_json(rows)
        return
    table = [[r["dataset"], r["modality"], f"{r['items']:,}", "\n".join(r["views"])] for r in rows]
    print_table(["data set", "holds", "items", "views"], table)


@click.command(epilog="Example: featurestore info photos")
@click.argument("dataset")
@store_option
@json_option
def info(dataset: str, store_path: str, as_json: bool) -> None:
    """Show a data set: items, labels, splits, views, failures."""
    from collections import Counter

    found = open_given(store_path).dataset(dataset)
    items = found.items()
    failures = found.failures().to_pylist()
    runs = found.folder.runs("embed")
    # A run that was stopped before its first commit has named labels that no item has yet.
    columns = [one for one in (*found.label_columns, "split") if one in items.column_names]
    value = {
        "dataset": dataset,
        "modality": str(found.modality),
        "items": len(items),
        "sources": {name: record.root for name, record in found.description.sources.items()},
        "columns": items.column_names,
        "counts": {name: Counter(items.column(name).to_pylist()) for name in columns},
        "views": [_view_facts(view, runs) for view in found.views()],
        "failures": failures,
    }  # fmt: skip
    if as_json:
        value["counts"] = {
            column: {str(key): n for key, n in counts.items()}
            for column, counts in value["counts"].items()
        }
        print_json(value)
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
    rows = [
        [v["encoder"], v["dim"], f"{v['rows']:,}", f"{v['bytes'] / 1e6:,.1f}", v["snapshot"],
         f"{v['items_per_s']:,.0f}" if v["items_per_s"] else "",
         f"{v['index']['factory']}, recall {v['index']['recall']:.3f}" if v["index"] else "exact"]
        for v in value["views"]
    ]  # fmt: skip
    print_table(["view", "dim", "rows", "MB", "snapshot", "items/s", "search"], rows)
    for one in failures:
        click.echo(f"  failed ({one['stage']}): {one['item_id']}: {one['error']}")


def _view_facts(view: View, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Tell what a view is, how large, and how fast it was made last."""
    shards = view.table.shards()
    of_it = [run for run in runs if run["encoder"] == str(view.spec) and run["n_encoded"]]
    return {
        "encoder": str(view.spec),
        "dim": view.dim,
        "rows": view.n_rows,
        "bytes": sum(shard.size_bytes for shard in shards),
        "shards": len(shards),
        "snapshot": str(view.snapshot),
        "fingerprint": view.fingerprint,
        "embedded": of_it[0]["when"] if of_it else None,
        "items_per_s": of_it[0]["items_per_s"] if of_it else None,
        "index": _index_facts(view),
    }


def _index_facts(view: View) -> dict[str, Any] | None:
    """Return what index.json says; one that cannot be used is named, and none."""
    from featurestore.errors import StoreCorrupt

    try:
        return view.index_facts
    except StoreCorrupt as error:
        say(f"{error}; searches are exact meanwhile")
        return None


@click.command(
    epilog="Example: featurestore search photos -e open_clip:ViT-B-32/openai --text 'a cat'"
)
@click.argument("dataset")
@click.option("-e", "--encoder", metavar="SPEC", help="Encoder; the only view's by default.")
@click.option("--item", "items", multiple=True, metavar="ID", help="Like an item; repeatable.")
@click.option("--image", "images", multiple=True, metavar="FILE", help="Like a picture.")
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="Like a text.")
@click.option(
    "--vector", "vector_file", type=click.Path(exists=True, dir_okay=False), metavar="FILE.npy",
    help="Like vectors of the same encoder, (dim,) or (n, dim).",
)  # fmt: skip
@click.option("--unlike", multiple=True, metavar="ID", help="But not like this item.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(min=1), help="How many.")
@click.option("--where", metavar="SQL", help="Only items that fulfil a condition.")
@click.option("--split", metavar="NAME", help="Only items of a split.")
@click.option("--metric", default="cosine", show_default=True, help="cosine, ip or l2.")
@click.option("--exact", is_flag=True, help="Even where there is an index.")
@click.option(
    "--dedupe", type=click.FloatRange(-1, 1, min_open=True), metavar="COSINE",
    help="Of results so alike, only the best one: 0.98.",
)  # fmt: skip
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
    k: int,
    where: str | None,
    split: str | None,
    metric: str,
    exact: bool,
    dedupe: float | None,
    store_path: str,
    as_json: bool,
) -> None:
    """Find the nearest neighbours of items, pictures or texts, or of several together.

    Exact, unless `featurestore index` made an index; scores are exact in any case.
    """
    if not (items or images or texts or vector_file):
        raise click.UsageError("give --item, --image, --text or --vector")
    view = view_of(store_path, dataset, encoder)
    found = view.like(
        items=items, images=images, texts=texts, unlike=unlike, k=k, where=where, split=split,
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


@click.command(epilog="Example: featurestore index photos --recall 0.98 --memory 500M")
@click.argument("dataset")
@click.option("-e", "--encoder", metavar="SPEC", help="Encoder; the only view's by default.")
@click.option(
    "--recall", default=0.95, show_default=True, type=click.FloatRange(0, 1, min_open=True),
    help="Wanted share of the true ten nearest among the ten found.",
)  # fmt: skip
@click.option("--memory", metavar="SIZE", help="What it may take, such as 500M or 2G.")
@click.option("--metric", default="cosine", show_default=True, help="cosine, ip or l2.")
@click.option("--factory", metavar="STRING", help="A FAISS index factory string of your own.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
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
    """Choose an index of a view, and tune it to a recall that is measured.

    Exact search stays up to some 30,000 items, where it is fast enough (and with --recall 1);
    from there on inverted lists, or a graph (HNSW) where these would be slow. Searches use the
    index from then on, and bring it up to date when items come or go.
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


@click.command(epilog='Example: featurestore sql "select label, count(*) from photos group by 1"')
@click.argument("statement")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
    help="Stop it after so long.",
)  # fmt: skip
@store_option
@json_option
def sql(statement: str, timeout: float | None, store_path: str, as_json: bool) -> None:
    """Run one SELECT over data sets, views and predictions.

    photos is a table of items, "photos@SPEC" of vectors, "photos/HEAD-ID" of predictions.
    """
    result = open_given(store_path).sql(statement, limit_s=timeout)
    if as_json:
        print_json(result.to_pylist())
    else:
        print_table(result.column_names, [list(row.values()) for row in result.to_pylist()])


@click.command(name="encoders", epilog="Example: featurestore encoders")
@json_option
def list_encoders(as_json: bool) -> None:
    """List the families of encoders, and models: cached here, used here, and well-known ones.

    Any model that the libraries know can be named; a name with local-dir:/path needs no network.
    """
    from featurestore.encoders.families import families
    from featurestore.encoders.installed import known_encoders, missing_packages

    rows = [
        {"family": name, "example": family.example, "about": family.about,
         "options": sorted(family.options), "missing": missing_packages(name)}
        for name, family in families().items()
    ]  # fmt: skip
    encoders = known_encoders()
    if as_json:
        print_json({"families": rows, "encoders": [vars(one) for one in encoders]})
        return
    table = [
        [r["family"], r["example"], r["about"], " ".join(r["options"]),
         f"pip install {' '.join(r['missing'])}" if r["missing"] else "installed"]
        for r in rows
    ]  # fmt: skip
    print_table(["family", "example", "what it is", "#options", ""], table)
    models = [
        [one.spec, one.reads, one.dim, one.licence, one.where or "fetched at first use"]
        for one in encoders
    ]
    print_table(["encoder", "reads", "dim", "licence", "here"], models)


@click.command(epilog="Example: featurestore dashboard --port 8501")
@click.option("--host", default="localhost", show_default=True)
@click.option("--port", default=8501, show_default=True)
@click.option("--no-browser", is_flag=True, help="Do not open a browser.")
@store_option
def dashboard(host: str, port: int, no_browser: bool, store_path: str) -> int:
    """Browse data sets, heads and neighbours in the browser."""
    from dashboard.launch import launch

    return launch(open_given(store_path).path, host=host, port=port, open_browser=not no_browser)


@click.command(epilog="Example: featurestore demo --store /tmp/demo-store")
@click.option(
    "--store", "store_path", default="featurestore-demo", show_default=True, metavar="PATH"
)
def demo(store_path: str) -> None:
    """Run the main job on data that the installed packages bring: no network, no account."""
    import heads
    from featurestore.demo.run import run_demo

    run_demo(
        Path(store_path), compare=heads.compare, assess=heads.assess_transfer, say=click.echo,
        show=show_comparison, show_verdict=show_assessment, progress_bar=progress_bar,
    )  # fmt: skip
