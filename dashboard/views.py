"""What the pages show: a store in, tables and figures out, and no Streamlit."""

from __future__ import annotations

import base64
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dashboard.colors import NEUTRAL, colors
from featurestore.errors import FeatureStoreError, UnknownItem, nearest
from featurestore.store import DataSet, Store
from featurestore.values import EncoderSpec
from featurestore.view import Index, View

if TYPE_CHECKING:
    from heads import Comparison

Row = dict[str, Any]

NO_LABEL = "no label"
NO_SPLIT = "no split"
SPLIT_PATTERNS = {"train": "", "val": ".", "test": "/", NO_SPLIT: ""}
OTHER_SPLIT_PATTERN = "x"
N_CLASSES_DRAWN = 24

# -- words ---------------------------------------------------------------------------------


def plain(text: str) -> str:
    r"""Return Markdown that shows a text as it is; only `code` in backticks stays code.

    >>> print(plain("try `ls *` on ![x](y)"))
    try `ls *` on \!\[x\]\(y\)
    """
    parts = re.split(r"(`[^`\n]+`)", text)
    return "".join(
        part if i % 2 else re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", part)
        for i, part in enumerate(parts)
    )


def command(store: Store, *words: str) -> str:
    """Return a line to type, with this store."""
    return shlex.join(["featurestore", *words, "--store", str(store.path)])


def encoder_label(spec: str) -> str:
    """Return the short name of an encoder."""
    return EncoderSpec.parse(spec).label


# -- overview ------------------------------------------------------------------------------


def stamp(store: Store) -> tuple[Any, ...]:
    """Return a value that changes whenever the overview does."""
    found: list[Any] = []
    for name in store.datasets():
        dataset = store.dataset(name)
        snapshots = [(view.slug, view.state) for view in dataset.views()]
        n_runs = len(dataset.folder.runs("embed"))
        tables = dataset.folder.items, dataset.folder.failures
        items, failures = (table.digest(table.version()) for table in tables)
        found.append((name, items, failures, n_runs, *snapshots))
    return tuple(found)


def overview(store: Store) -> list[Row]:
    """Return one row for each view, and one for a data set that has none yet."""
    rows = []
    for name in store.datasets():
        dataset = store.dataset(name)
        about = {"data set": name, "holds": f"{dataset.modality}s", "items": dataset.n_items}
        rows += [about | _view_row(view, dataset.n_items) for view in dataset.views()] or [about]
    return rows


def _view_row(view: View, n_items: int) -> Row:
    fingerprints = view.dataset.failures().column("fingerprint").to_pylist()
    n_failed = sum(one in ("", view.fingerprint) for one in fingerprints)
    runs = view.dataset.folder.runs("embed")
    last = next((run for run in runs if run["encoder"] == str(view.spec) and run["n_encoded"]), {})
    return {
        "encoder": view.spec.label,
        "embedded": view.n_rows,
        "failed": n_failed,
        "to do": max(0, n_items - view.n_rows - n_failed),
        "dim": view.dim,
        "MB": sum(shard.size_bytes for shard in view.table.shards()) / 1e6,
        "snapshot": str(view.snapshot),
        "items/s": last.get("items_per_s"),
        "last run": last.get("when"),
    }


def failures(dataset: DataSet) -> list[Row]:
    """Return the items that have no vector, with the reason, newest first."""
    encoders = {view.fingerprint: view.spec.label for view in dataset.views()}
    found = dataset.failures().sort_by([("when", "descending"), ("item_id", "ascending")])
    return [
        {
            "item": one["item_id"],
            "file": _file_of(dataset, one["item_id"]),
            "stage": one["stage"],
            "encoder": encoders.get(
                one["fingerprint"], "any" if not one["fingerprint"] else "gone"
            ),
            "reason": one["error"],
            "when": one["when"],
        }
        for one in found.to_pylist()
    ]


def _file_of(dataset: DataSet, item_id: str) -> str | None:
    try:
        return dataset.uri(item_id)
    except FeatureStoreError:  # a text, or gone
        return None


def next_steps(dataset: DataSet) -> list[tuple[str, tuple[str, ...]]]:
    """Say what nobody did yet, each with its command."""
    name, folder = dataset.name, dataset.folder
    specs = [str(view.spec) for view in dataset.views()]
    if not specs:
        return [("Embed it", ("embed", "--dataset", name, "-e", "ENCODER"))]
    if not dataset.label_columns:
        return [
            ("Give it labels", ("labels", name, "LABELS.csv", "--id", "ID", "--label", "COLUMN"))
        ]
    steps: list[tuple[str, tuple[str, ...]]] = []
    if not folder.runs("compare"):
        steps.append(("Compare heads and encoders", ("compare", name)))
    if not folder.runs("transfer"):
        steps.append(("Ask whether pretraining helps", ("transfer", name, "--rank")))
    if not folder.runs("curve"):
        steps.append(("Ask how many labels are enough", ("curve", name)))
    if not folder.runs("quality"):
        steps.append(("Look for wrong labels and twins", ("quality", name, "-e", specs[-1])))
    if not (dataset.path / "heads").is_dir():
        steps.append(("Train a head to keep", ("train", name, "-e", specs[-1], "--head", "best")))
    return steps


def class_column(dataset: DataSet) -> str | None:
    """Return the first label column that holds classes."""
    labels = dataset.description.labels.items()
    return next((name for name, facts in labels if facts["task"] != "regression"), None)


def browse(dataset: DataSet) -> pa.Table:
    """Return what pages show of the items, sorted by id.

    Columns: item_id, content_hash, text, split and label, the class in words, all strings.
    """
    column = class_column(dataset)
    names = ["item_id", "content_hash", "text", "split"]
    table = dataset.items([*names, column] if column else names)
    label = table.column(column).cast(pa.string()) if column else pa.nulls(len(table), pa.string())
    return table.select(names).append_column("label", label).sort_by("item_id")


def _split_order(split: str) -> tuple[int, str]:
    """Order splits as they are used; names of the user's own stand between."""
    known = list(SPLIT_PATTERNS)
    return (2 * known.index(split) if split in known else 2 * len(known) - 3), split


def class_counts(items: pa.Table) -> list[Row]:
    """Count items by class and split, largest class first; items of no class come last."""
    pairs = zip(items.column("label").to_pylist(), items.column("split").to_pylist(), strict=True)
    counts = Counter(pairs)
    totals: Counter[str | None] = Counter()
    for (label, _), n in counts.items():
        totals[label] += n
    ordered = sorted(
        counts.items(),
        key=lambda one: (
            one[0][0] is None,
            -totals[one[0][0]],
            str(one[0][0]),
            _split_order(one[0][1] or NO_SPLIT),
        ),
    )
    return [
        {"label": label or NO_LABEL, "split": split or NO_SPLIT, "items": n}
        for (label, split), n in ordered
    ]


def class_colors(items: pa.Table) -> Mapping[str, str]:
    """Return the colour of each class of a data set; items of no class are grey."""
    labels = pc.unique(items.column("label").drop_null()).to_pylist()
    return {**colors(labels), NO_LABEL: NEUTRAL}


def class_figure(counts: Sequence[Row], palette: Mapping[str, str]) -> go.Figure:
    """Draw the class balance: a bar for each of the largest classes, splits by pattern."""
    shown = list(dict.fromkeys(row["label"] for row in counts))[:N_CLASSES_DRAWN]
    splits = sorted({row["split"] for row in counts}, key=_split_order)
    items = {(row["label"], row["split"]): row["items"] for row in counts}
    figure = go.Figure()
    for split in splits:
        figure.add_bar(
            name=escape(split),
            y=[escape(label) for label in shown],
            x=[items.get((label, split), 0) for label in shown],
            orientation="h",
            marker={
                "color": [palette[label] for label in shown],
                "pattern": {"shape": SPLIT_PATTERNS.get(split, OTHER_SPLIT_PATTERN)},
            },
            hovertemplate="%{y}: %{x:,} items (" + escape(split) + ")<extra></extra>",
        )
    figure.update_layout(
        barmode="stack",
        height=90 + 24 * len(shown),
        margin={"l": 0, "r": 0, "t": 10, "b": 40},
        showlegend=splits != [NO_SPLIT],
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        xaxis={"title": "items"},
        yaxis={"autorange": "reversed", "automargin": True, "type": "category"},
    )
    return figure


def split_sentence(items: pa.Table) -> str:
    """Say how many items each split has."""
    counts = Counter(split or NO_SPLIT for split in items.column("split").to_pylist())
    known = [f"{counts[name]:,} {name}" for name in sorted(counts, key=_split_order)]
    return " · ".join(known)


# -- neighbours ----------------------------------------------------------------------------


def rows_of(items: pa.Table, ids: Sequence[str]) -> list[Row]:
    """Return the rows of some items, in the order of the ids.

    Raises
    ------
    UnknownItem
        If there is no such item.
    """
    place = pc.index_in(pa.array(ids, pa.string()), value_set=items.column("item_id"))
    if place.null_count:
        missing = ids[place.is_null().to_pylist().index(True)]
        known = items.column("item_id").slice(0, 10_000).to_pylist()
        raise UnknownItem(f"there is no item {missing!r}: {nearest(missing, known)}")
    rows: list[Row] = items.take(place).to_pylist()
    return rows


def found(
    index: Index,
    query: NDArray[np.float32] | None,
    item_id: str | None,
    *,
    k: int,
    among: NDArray[np.bool_] | None = None,
) -> list[tuple[str, float]]:
    """Return the items closest to a query, (1, dim), or to an item, with their cosines."""
    if query is None:
        assert item_id is not None, "one of the two is asked for"
        result = index.neighbors(item_id, k=k, among=among)
    else:
        result = index.search(query, k=k, among=among)
    return list(zip(result.ids[0].tolist(), result.scores[0].tolist(), strict=True))


def scores_table(found: Sequence[tuple[str, float]]) -> pa.Table:
    """Return results as a table: item_id, rank, score."""
    ids, scores = [one for one, _ in found], [score for _, score in found]
    return pa.table({"item_id": ids, "rank": list(range(1, len(ids) + 1)), "score": scores})


def neighbors(index: Index, item_id: str, *, k: int) -> list[tuple[str, float]]:
    """Return the closest other items with their cosines, as pairs.

    The index is the caller's, so that it can be kept between clicks.

    Raises
    ------
    UnknownItem
        If the index holds no vector of the item.
    """
    return found(index, None, item_id, k=k)


def agreement(label: str | None, others: Sequence[str | None]) -> str | None:
    """Say how many neighbours share an item's label; None where it has none."""
    if label is None or not others:
        return None
    n_same = sum(other == label for other in others)
    return f"{n_same} of {len(others)} neighbours have the same label ({n_same / len(others):.0%})"


def card(row: Row, picture: Row, palette: Mapping[str, str], score: float | None = None) -> Row:
    """Return what the gallery draws of an item; the picture is that of `picture`."""
    label = row["label"] or NO_LABEL
    return {
        "id": row["item_id"],
        "text": row["text"],
        "label": label,
        "color": palette[label],
        "score": None if score is None else f"{score:.3f}",
        **picture,
    }


def picture(dataset: DataSet, item_id: str, *, size_px: int = 128) -> Row:
    """Return an image item's thumbnail as a data URI, or the reason why there is none."""
    try:
        content = dataset.thumbnail(item_id, size_px=size_px)
    except FeatureStoreError as error:  # gone, or bytes that are no picture
        return {"image": None, "reason": str(error)}
    return {"image": f"data:image/jpeg;base64,{base64.b64encode(content).decode()}", "reason": None}


def head_title(card: Mapping[str, Any]) -> str:
    """Name a registered head in a list: ``logistic · 2026-11-26 10:30 UTC · 0.93``."""
    when = str(card["created"])[:16].replace("T", " ")
    metric, found = next(iter(card["metrics"].items()))
    return f"{card['head']} · {when} UTC · {metric.replace('_', ' ')} {found['value']:.3f}"


# -- leaderboard ---------------------------------------------------------------------------


def run_title(run: Comparison) -> str:
    """Name a stored comparison in a list."""
    when = str(run.card["created"])[:16].replace("T", " ")
    return f"{when} UTC · {run.label} · {run.metric.replace('_', ' ')} · {len(run.heads)} rows"


def row_name(row: Row) -> str:
    """Name a row of a comparison: ``logistic on timm:resnet18``."""
    return f"{row['head']} on {encoder_label(row['encoder'])}"


def leaderboard(run: Comparison) -> list[Row]:
    """Return a comparison's table, best first, shares as percentages."""
    tied = tied_with_best(run)
    return [
        {
            "head": row["head"],
            "encoder": encoder_label(row["encoder"]),
            "value": _shown(run, row["value"]),
            "low": _shown(run, row["low"]),
            "high": _shown(run, row["high"]),
            "tied": row_name(row) in tied,
            "seconds": row["seconds"],
            **({"as reviewed": _shown(run, row["as_reviewed"])} if "as_reviewed" in row else {}),
            **(
                {"without twins": _shown(run, row["without_twins"])}
                if "without_twins" in row
                else {}
            ),
        }
        for row in run.rows()
    ]


def tied_with_best(run: Comparison) -> set[str]:
    """Return the rows that cannot be told from the best one, itself left out.

    Each difference is as wide as it takes for all of them to hold at once (Bonferroni).
    """
    best, *others = [(row["encoder"], row["head"]) for row in run.rows()]
    claims = [run.difference(best, other, n_claims=max(1, len(others))) for other in others]
    return {
        row_name({"encoder": one.second[0], "head": one.second[1]})
        for one in claims
        if one.gain[1] <= 0
    }


def _shown(run: Comparison, value: float | None) -> float | None:
    return None if value is None else 100 * value if run.is_share else value


def metric_name(run: Comparison) -> str:
    """Name a comparison's metric with its unit: ``balanced accuracy (%)``."""
    return f"{run.metric.replace('_', ' ')}{' (%)' if run.is_share else ''}"


def encoder_colors(dataset: DataSet, run: Comparison) -> Mapping[str, str]:
    """Return the colour of each encoder of a comparison; what is no view is grey."""
    views = colors(str(view.spec) for view in dataset.views())
    return {cell.encoder: views.get(cell.encoder, NEUTRAL) for cell in run.heads}


def interval_figure(run: Comparison, palette: Mapping[str, str]) -> go.Figure:
    """Draw each row's value with its 95 % interval, best on top, coloured by encoder."""
    rows = run.rows()
    order = [escape(row_name(row)) for row in rows]  # plotly reads tags in names
    figure = go.Figure()
    for encoder in dict.fromkeys(row["encoder"] for row in rows):
        own = [row for row in rows if row["encoder"] == encoder]
        value = [_shown(run, row["value"]) or 0.0 for row in own]
        low = [_shown(run, row["low"]) for row in own]
        high = [_shown(run, row["high"]) for row in own]
        figure.add_scatter(
            name=encoder_label(encoder),
            mode="markers",
            x=value,
            y=[escape(row_name(row)) for row in own],
            error_x={
                "array": [0 if h is None else h - v for h, v in zip(high, value, strict=True)],
                "arrayminus": [0 if w is None else v - w for w, v in zip(low, value, strict=True)],
                "thickness": 2,
                "width": 5,
            },
            marker={"color": palette[encoder], "size": 10},
            customdata=list(zip(low, high, strict=True)),
            hovertemplate="%{y}<br>%{x:.3g} (%{customdata[0]:.3g} to %{customdata[1]:.3g})"
            "<extra></extra>",
        )
    figure.update_layout(
        height=110 + 28 * len(rows),
        margin={"l": 0, "r": 0, "t": 10, "b": 40},
        showlegend=False,  # the rows name their encoder
        xaxis={"title": f"{metric_name(run)}, with 95 % interval"},
        yaxis={
            "categoryorder": "array",
            "categoryarray": order,
            "autorange": "reversed",
            "automargin": True,
        },
    )
    return figure


def is_outdated(dataset: DataSet, run: Comparison) -> bool:
    """Tell whether the data set or its vectors changed since a comparison."""
    now = {view.fingerprint: view.snapshot for view in dataset.views()}
    return any(
        one["fingerprint"] not in now
        or (one["snapshot"]["items"], one["snapshot"]["view"])
        != (now[one["fingerprint"]].items, now[one["fingerprint"]].view)
        for one in run.card["views"]
    )
