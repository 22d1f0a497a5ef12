"""ls, info, search, sql, encoders, dashboard, demo: look at what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featurestore.cli.learn import show_comparison
from featurestore.cli.output import (
    json_option,
    open_given,
    print_json,
    print_table,
    progress_bar,
    say,
    store_option,
    view_of,
)


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
    rows = [[v["encoder"], v["dim"], f"{v['rows']:,}", v["snapshot"]] for v in value["views"]]
    print_table(["view", "dim", "rows", "snapshot"], rows)
    for one in failures:
        click.echo(f"  failed ({one['stage']}): {one['item_id']}: {one['error']}")


@click.command(
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
    view = view_of(store_path, dataset, encoder)
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
        print_json({"view": view.name, "metric": "cosine", "neighbors": rows})
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
    print_table(["", "score", "item", *labels, "text"], table)


@click.command(epilog='Example: featurestore sql "select label, count(*) from photos group by 1"')
@click.argument("statement")
@store_option
@json_option
def sql(statement: str, store_path: str, as_json: bool) -> None:
    """Run one SELECT over the items; tables are named after the data sets."""
    from featurestore.query import select

    store = open_given(store_path)
    tables = {name: store.dataset(name).items() for name in store.datasets() if name in statement}
    result = select(statement, tables)
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
    from featurestore.encoders import families
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
    from featurestore.demo import run_demo

    run_demo(
        Path(store_path), compare=heads.compare, say=click.echo, show=show_comparison,
        progress_bar=progress_bar,
    )  # fmt: skip
