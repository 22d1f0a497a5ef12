"""ls, info, sql, encoders: what there is."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.layout import command
from featurestore.cli.next_lines import next_line
from featurestore.cli.options import at_view, json_option, open_given, store_option
from featurestore.cli.printing import print_json, print_table, say, tell
from featurestore.store.commands import command_line
from featurestore.terms.words import counted

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.store.view import View


@command(name="ls", epilog="Example: featurestore ls")
@store_option
@json_option
def list_datasets(store_path: str, as_json: bool) -> int:
    """List data sets and their views.

    A damaged one is named; the others are listed all the same (exit 1).
    """
    from featurestore.errors import StoreCorrupt

    store = open_given(store_path)
    rows: list[dict[str, Any]] = []
    table = []
    damaged = {}
    for name in store.datasets():
        try:
            dataset = store.dataset(name)
            views, taps = (
                [str(view.spec) for view in found]
                for found in (dataset.views(coming=True), dataset.taps())
            )
            planned = dataset.unfinished()
            rows.append({"dataset": name, "modality": str(dataset.modality),
                         "items": dataset.n_items, "views": views, "taps": taps,
                         "unfinished": [asdict(one) for one in planned]})  # fmt: skip
            named = [*dataset.listed_views(), *(f"tap {one}" for one in taps)]
            listed = "\n".join([*named, *map(str, planned)])
        except StoreCorrupt as error:
            damaged[name] = str(error)
            rows.append({"dataset": name, "damaged": str(error)})
            table.append([name, "damaged", "", ""])
        else:
            table.append([name, dataset.modality, f"{dataset.n_items:,}", listed])
    for name, why in damaged.items():
        say(f"{name} is damaged: {why} (`featurestore store verify {name}` says more)")
    if as_json:
        print_json(rows)
        return int(bool(damaged))
    print_table(["data set", "holds", "items", "views"], table)
    return int(bool(damaged))


@command(epilog="Example: featurestore info photos")
@click.argument("dataset")
@store_option
@json_option
def info(dataset: str, store_path: str, as_json: bool) -> None:
    """Show a data set: items, labels, splits, views, failures."""
    from featurestore.pipeline.understood import describe_groups, group_sizes
    from featurestore.storage.counts import value_counts
    from featurestore.storage.tables import rows_of

    found = open_given(store_path).dataset(at_view(dataset, ())[0])
    version = found.folder.items.version()
    shards = found.folder.items.shards(version)
    names = found.folder.items.schema(version).names
    failures, runs = found.failures().to_pylist(), found.runs("embed")
    unfinished = found.unfinished()
    # A run that was stopped before its first commit has named labels that no item has yet.
    columns = [one for one in (*found.label_columns, "split") if one in names]
    groups = ["group"] if "group" in names else []
    counts = value_counts(found.folder, [*columns, *groups], shards, version)
    value = {
        "dataset": dataset,
        "modality": str(found.modality),
        "items": rows_of(shards),
        "sources": {name: record.root for name, record in found.description.sources.items()},
        "columns": names,
        "counts": {name: _counter(counts[name]) for name in columns},
        "groups": group_sizes(counts["group"]) if groups else None,
        "views": [_view_facts(view, runs) for view in found.views(coming=True)],
        "taps": [_tap_facts(tap, runs) for tap in found.taps()],
        "failures": failures,
        "unfinished": [asdict(one) for one in unfinished],
    }  # fmt: skip
    if as_json:
        value["counts"] = {
            column: {str(key): n for key, n in counts.items()}
            for column, counts in value["counts"].items()
        }
        print_json(value)
        return
    click.echo(f"{dataset}: {counted(rows_of(shards), str(found.modality))}")
    for name, root in value["sources"].items():
        click.echo(f"  source {name}: {root}")
    for column, counts in value["counts"].items():
        n_without = counts.pop(None, 0)
        shown = [f"{key}: {n:,}" for key, n in counts.most_common(12)]
        shown += [f"{len(counts) - 12} more"] if len(counts) > 12 else []
        shown += [f"{n_without:,} without"] if counts and n_without else []
        click.echo(f"  {column}: {', '.join(shown) or 'none'}")
    if value["groups"]:
        click.echo(f"  group: {describe_groups(value['groups'])}")
    rows = [
        [title, v["dim"], *_figures(v),
         f"{v['index']['factory']}, recall {v['index']['recall']:.3f}" if v["index"] else "exact"]
        for title, v in zip(found.listed_views(), value["views"], strict=True)
    ]  # fmt: skip
    rows += [[f"tap {v['encoder']}", v["holds"], *_figures(v), ""] for v in value["taps"]]
    print_table(["view", "dim", "rows", "MB", "snapshot", "items/s", "search"], rows)
    for one in failures:
        click.echo(f"  failed ({one['stage']}): {one['item_id']}: {one['error']}")
    for run in unfinished:
        words, store = ("embed", "--dataset", dataset), found.store.path
        go_on = command_line(*words, "--shard", "0/1", "--commit", store=store)
        give_up = command_line(*words, "--drop-plan", store=store)
        tell(f"{run}. To go on: `{go_on}`; to give it up: `{give_up}`")
    if not unfinished and (line := next_line(found)):
        tell(line)


def _counter(counts: pa.Table) -> Counter[Any]:
    return Counter(dict(zip(*(column.to_pylist() for column in counts.columns), strict=True)))


def _figures(facts: dict[str, Any]) -> list[str]:
    speed = f"{facts['items_per_s']:,.0f}" if facts["items_per_s"] else ""
    return [f"{facts['rows']:,}", f"{facts['bytes'] / 1e6:,.1f}", facts["snapshot"], speed]


def _tap_facts(view: View, runs: list[dict[str, Any]]) -> dict[str, Any]:
    tap = view.tap
    assert tap is not None, "one of the taps"
    holds = "x".join(map(str, tap.shape[tap.is_ragged :]))
    facts = {key: value for key, value in _view_facts(view, runs).items() if key != "index"}
    return facts | {
        "cut": tap.cut, "shape": tap.shape, "variants": tap.variants,
        "holds": f"{holds} a token" if tap.is_ragged else holds,
    }  # fmt: skip


def _view_facts(view: View, runs: list[dict[str, Any]]) -> dict[str, Any]:
    facts = view.facts(runs)
    return {
        "encoder": facts.encoder,
        "dim": facts.dim,
        "rows": facts.n_rows,
        "bytes": facts.n_bytes,
        "shards": facts.n_shards,
        "snapshot": facts.snapshot,
        "fingerprint": facts.fingerprint,
        "embedded": facts.embedded,
        "items_per_s": facts.items_per_s,
        "index": _index_facts(view),
    }


def _index_facts(view: View) -> dict[str, Any] | None:
    """Return what index.json says; None, with a message, if it cannot be used."""
    from featurestore.errors import StoreCorrupt

    try:
        return view.index_facts
    except StoreCorrupt as error:
        say(f"{error}; searches are exact meanwhile")
        return None


@command(epilog='Example: featurestore store sql "select label, count(*) from photos group by 1"')
@click.argument("statement")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
    help="Stop the query after this time.",
)  # fmt: skip
@click.option(
    "--memory", type=click.FloatRange(min=0, min_open=True), metavar="GB",
    help="Memory that the query may use; at most 80 % of this machine's, the default.",
)  # fmt: skip
@store_option
@json_option
def sql(
    statement: str, timeout: float | None, memory: float | None, store_path: str, as_json: bool
) -> None:
    """Run one SELECT over data sets, views and predictions.

    photos is a table of items, "photos@SPEC" of vectors, "photos/HEAD-ID" of predictions. Of two
    columns called label, the second is label_1.
    """
    from featurestore.storage.memory import memory_bytes
    from featurestore.storage.query import AS_JSON, AS_TEXT

    most = memory_bytes() * 4 // 5
    if memory is not None and memory * 1e9 < most:
        most = int(memory * 1e9)
    names, rows = open_given(store_path).sql_values(
        statement, AS_JSON if as_json else AS_TEXT, limit_s=timeout, limit_bytes=most
    )
    if as_json:
        plain = [[None if value is None else json.loads(value) for value in row] for row in rows]
        print_json([dict(zip(names, row, strict=True)) for row in plain])
    else:
        print_table(names, rows)


@command(name="encoders", epilog="Example: featurestore encoders")
@json_option
def list_encoders(as_json: bool) -> None:
    """List encoders: built in, cached here, used here, well known.

    Any model that the libraries know can be named; a name with local-dir:/path needs no network.
    """
    from featurestore.encoders.families import families
    from featurestore.encoders.installed import known_encoders, missing_packages

    rows = [
        {"family": name, "example": family.example, "about": family.about,
         "options": sorted(family.options), "missing": missing_packages(name),
         "install": family.to_install}
        for name, family in families().items()
    ]  # fmt: skip
    encoders = known_encoders()
    if as_json:
        print_json({"families": rows, "encoders": [vars(one) for one in encoders]})
        return
    table = [
        [r["family"], r["example"], r["about"], " ".join(r["options"]),
         r["install"] if r["missing"] else "installed"]
        for r in rows
    ]  # fmt: skip
    print_table(["family", "example", "what it is", "#options", ""], table)
    have_layers, have_blocks = (
        ", ".join(name for name, one in families().items() if key in one.options)
        for key in ("layer", "tap")
    )
    click.echo(
        "Several layers of a network, for `--head layers`: NAME#layer=3+6+-1 or NAME#layer=all "
        f"({have_layers})\nActivations, for `--head finetune`: NAME#tap=auto or NAME#tap=5 "
        f"({have_blocks})\n"
    )
    models = [
        [one.spec, one.reads, one.dim, one.licence, one.where or "fetched at first use"]
        for one in encoders
    ]
    print_table(["encoder", "reads", "dim", "licence", "here"], models)
