"""The sections of a report, each made of what was found; none where nothing was."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import featurestore
from featurestore.sources.name_groups import said_of_group
from featurestore.storage.dataset_file import SourceRecord
from featurestore.store.commands import command_line
from featurestore.terms.specs import encoder_label
from heads.advice.next_step import rows_asked, typed
from heads.catalogue.table import default_heads
from heads.charts.charts import Chart
from heads.charts.results import axis_of
from heads.charts.svg import svg
from heads.experiments.compare import check_metric
from heads.experiments.learning_curve import Curve
from heads.labels.tasks import Task
from heads.measures.card import RunCard
from heads.measures.comparison import Cell, Comparison, metric_of, number
from heads.measures.confusion import MOST_DRAWN
from heads.quality.issues import TITLES
from heads.report_page.blocks import (
    Block,
    Bullets,
    Command,
    Drawing,
    Page,
    Section,
    Table,
    Text,
)
from heads.report_page.found import Found
from heads.report_page.items import cards, worst_items
from heads.saved.provenance import library_versions, machine
from heads.transfer.assessment import Assessment

N_WORST, N_EACH, N_FIRST = 24, 8, 12  # items that are shown
MOST_CLASSES = 30  # in a table


def page_of(found: Found) -> Page:
    """Return the whole report."""
    dataset = found.dataset
    part = "" if dataset.slice_ is None else f", slice {dataset.slice_.name}"
    about = f"{dataset.n_items:,} {dataset.modality}s{part}"
    if found.label is not None:
        about += f", label column {found.label!r}"
    makers = (_leaderboard, _verdict, _curve, _classes, _worst, _quality, _provenance, _again)
    sections = [_summary(found), *(one for make in makers if (one := make(found)) is not None)]
    now = datetime.now(UTC)
    made = f"Made by featurestore {featurestore.__version__} on {now:%Y-%m-%d %H:%M} UTC."
    return Page(f"Report on {dataset.name}", about, sections, made)


def _drawing(chart: Chart, about: str) -> Drawing:
    return Drawing(svg(chart, about))


def _quiet(said: str) -> Text:
    return Text(said, is_quiet=True)


def _taken(found: Found) -> Cell | None:
    return None if found.advice.choice is None else found.advice.choice.taken


def _summary(found: Found) -> Section:
    *said, command = found.advice.sentences()
    blocks: list[Block] = [*map(Text, said), Text("Type next:"), Command([command])]
    if found.left_out:
        blocks.append(Text(f"There was no time for {'; '.join(found.left_out)}."))
    blocks += [Text(f"Not in this report: {one}.") for one in found.not_made]
    if found.comparison is None:
        ids = found.dataset.items(["item_id"]).column("item_id").slice(0, N_FIRST).to_pylist()
        if ids:
            blocks += [_quiet("The first items:"), cards(found.dataset, {one: [] for one in ids})]
    return Section("Summary", blocks)


def _leaderboard(found: Found) -> Section | None:
    comparison = found.comparison
    if comparison is None:
        return None
    rows = comparison.rows()
    metric = comparison.metric
    table = [
        [encoder_label(r["encoder"]), r["head"], *_values(r, metric), f"{r['seconds']:.2f}"]
        for r in rows
    ]
    header = [
        "encoder",
        "head",
        axis_of(metric, comparison.is_share),
        "95 % interval",
        "one fit (s)",
    ]
    return Section(
        "Leaderboard",
        [
            _drawing(comparison.chart(), "heads by score, with intervals"),
            Table(header, table, first=2),
            _quiet(
                f"{comparison.n_items:,} items were tested. Intervals: {comparison.estimand}, "
                f"each row for itself; that in the summary holds for all {len(rows)} rows at once, "
                "so it is wider."
            ),
            *map(_quiet, comparison.notes),
        ],
    )


def _values(row: Mapping[str, Any], metric: str) -> list[str]:
    """Return a value and its interval as cells."""
    if row["value"] is None or row["value"] != row["value"]:
        return ["–", "–"]
    if row["low"] is None:
        return [number(row["value"], metric), "–"]
    span = f"{number(row['low'], metric)} to {number(row['high'], metric)}"
    return [number(row["value"], metric), span]


def _verdict(found: Found) -> Section | None:
    assessment = found.assessment
    if assessment is None:
        return None
    blocks: list[Block] = [
        *(Text(f"{one.sentence()}.") for one in assessment.verdicts),
        _drawing(assessment.chart(), "verdicts, with intervals"),
    ]
    for spec, lines in assessment.advice.items():
        if lines:
            blocks += [Text(f"What to do with {encoder_label(spec)}:"), Bullets(lines)]
    more = assessment.sentences() + [assessment.shift_sentence(one) for one in assessment.shifts]
    notes = [f"Intervals: {assessment.estimand}.", *more, *assessment.notes]
    return Section("Does the encoder help?", [*blocks, *map(_quiet, notes)])


def _curve(found: Found) -> Section | None:
    curve = found.curve
    if curve is None:
        return None
    rows = curve.rows()
    counts = sorted({row["n_labels"] for row in rows})
    axis = axis_of(curve.metric, metric_of(curve.metric).is_share)
    values = {(row["encoder"], row["n_labels"]): number(row["value"], curve.metric) for row in rows}
    table = [
        [encoder_label(one), *(values.get((one, n), "–") for n in counts)] for one in curve.encoders
    ]
    return Section(
        "Learning curve",
        [
            _drawing(curve.chart(), "score over the number of labels"),
            Table([axis, *(f"{n:,} labels" for n in counts)], table),
            _quiet(f"Head: {curve.card.head}."),
            *map(_quiet, curve.notes),
        ],
    )


def _classes(found: Found) -> Section | None:
    comparison, cell = found.comparison, _taken(found)
    if comparison is None or cell is None or comparison.task is not Task.MULTICLASS:
        return None
    confusion = comparison.confusion(*cell)
    rows = confusion.rows()
    table = [
        [row["class"], f"{row['items']:,}", *_share(row, "recall"), _span(row),
         *_share(row, "precision"), *_share(row, "f1")]
        for row in rows[:MOST_CLASSES]
    ]  # fmt: skip
    header = ["class", "items", "recall (%)", "95 % interval", "precision (%)", "F1 (%)"]
    blocks: list[Block] = [Text(f"{cell[1]} on {encoder_label(cell[0])}, the worst class first.")]
    blocks.append(Table(header, table))
    if len(rows) > MOST_CLASSES:
        blocks.append(_quiet(f"The worst {MOST_CLASSES} of {len(rows)} classes are listed."))
    about = "A row is what the label says, a column what the head says."
    if len(rows) > MOST_DRAWN:
        about += f" The {MOST_DRAWN} classes with the most confusions are drawn."
    blocks += [_drawing(confusion.chart(), "true against predicted classes"), _quiet(about)]
    blocks.append(
        _quiet("Intervals of single classes are exploration: some differ by chance alone.")
    )
    return Section("Classes", blocks)


def _share(row: Mapping[str, Any], name: str) -> list[str]:
    return ["–" if row[name] is None else f"{100 * row[name]:.1f}"]


def _span(row: Mapping[str, Any]) -> str:
    return "–" if row["low"] is None else f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"


def _worst(found: Found) -> Section | None:
    comparison, cell = found.comparison, _taken(found)
    if comparison is None or cell is None:
        return None
    shown = worst_items(comparison, cell, N_WORST)
    if not shown:
        return Section("Worst items", [Text("No tested item was predicted wrongly.")])
    title = f"Predicted wrongly by {cell[1]} on {encoder_label(cell[0])}"
    if comparison.task is Task.REGRESSION:
        title += ", the largest errors first."
    else:
        title += "; what most other heads get wrong, too, comes first."
    return Section(
        "Worst items", [Text(f"{title} Look at their labels."), cards(found.dataset, shown)]
    )


def _quality(found: Found) -> Section | None:
    issues = found.issues
    if issues is None:
        return None
    blocks: list[Block] = [Bullets(issues.summary()), *map(_quiet, issues.notes)]
    for kind, title in TITLES.items():
        own = issues.of(kind)[:N_EACH]
        if own:
            n = issues.found.get(kind, len(own))
            more = f"{title}: the worst {len(own)} of {n:,}." if n > len(own) else f"{title}."
            shown = {one.item_id: [one.reason] for one in own}
            blocks += [Text(more), cards(found.dataset, shown)]
    if issues.counts:
        table = [[name, f"{n:,}"] for name, n in list(issues.counts.items())[:MOST_CLASSES]]
        blocks += [Text("Items of each class:"), Table(["class", "items"], table)]
        if len(issues.counts) > MOST_CLASSES:
            blocks.append(_quiet(f"{len(issues.counts) - MOST_CLASSES} more classes are smaller."))
    command = command_line("dashboard", store=found.dataset.store.path)
    blocks += [_quiet("To decide about these items, item by item, type:"), Command([command])]
    return Section("Data quality", blocks)


# -- where it comes from -------------------------------------------------------------------


def _cards(found: Found) -> dict[str, RunCard]:
    """Return the cards of the results that are shown, by command."""
    results = {
        "compare": found.comparison,
        "transfer": found.assessment,
        "curve": found.curve,
        "quality": found.issues,
    }
    return {name: one.card for name, one in results.items() if one is not None}


def _provenance(found: Found) -> Section:
    dataset = found.dataset
    facts = [view.facts() for view in dataset.views()]
    sources = [
        [name, one.kind, ", ".join(one.locations) or one.root, _groups_of(one)]
        for name, one in dataset.description.sources.items()
    ]
    views = [
        [one.encoder, one.fingerprint, one.snapshot, f"{one.dim:,}", f"{one.n_rows:,}"]
        for one in facts
    ]
    results = [
        [name, card.created[:16].replace("T", " "), str(card.seed),
         ", ".join(f"{encoder_label(one.encoder)} at {one.snapshot}" for one in card.views)]
        for name, card in _cards(found).items()
    ]  # fmt: skip
    made_with: dict[str, str] = {}
    for card in _cards(found).values():
        made_with |= dict(card.versions)
    now = {"featurestore": featurestore.__version__, "python": platform.python_version()}
    versions = {**now, **library_versions(), **made_with}
    blocks: list[Block] = [Text(f"Store: {dataset.store.path}")]
    if sources:
        blocks.append(Table(["source", "kind", "where", "groups by"], sources, first=4))
    if views:
        header = ["encoder", "fingerprint", "snapshot", "dim", "vectors"]
        blocks.append(Table(header, views, first=3))
    if results:
        blocks.append(Table(["result", "made (UTC)", "seed", "read"], results, first=4))
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    where = machine()
    blocks += [
        _quiet(f"Versions: {said}."),
        _quiet(f"Machine: {where['system']}, {where['cores']} cores."),
        _quiet(
            "Equal fingerprints mean equal encoders: all that decides a vector is in them. "
            "A snapshot is the pair of versions of items and vectors."
        ),
    ]
    return Section("Where this comes from", blocks)


def _groups_of(source: SourceRecord) -> str:
    """Return what items of one group have in common: they are never torn apart."""
    expression = source.options.get("group")
    return said_of_group(str(expression)) if expression else "–"


def _again(found: Found) -> Section:
    dataset = found.dataset
    lines: list[str] = []
    at: dict[str, object] = {"label": found.label}
    rows = rows_asked(found.options) | at
    for name, one in (("compare", found.comparison), ("transfer", found.assessment)):
        if one is not None:
            heads = [] if one.card.heads == list(default_heads(one.task)) else one.card.heads or []
            named = [word for head in heads for word in ("--head", head)]
            is_ungrouped = "group" not in (one.card.never_part or ["group"]) or None
            of_one: dict[str, object] = {
                "ignore-groups": is_ungrouped,
                "seed": one.card.seed or None,
            }
            of_one["metric"] = _unusual(one)
            lines.append(typed(dataset, name, dataset.name, *named, **rows | of_one))
    if found.curve is not None:
        seed = found.curve.card.seed or None
        words = ("curve", dataset.name, "--head", found.curve.card.head)
        lines.append(typed(dataset, *words, **at, metric=_unusual(found.curve), seed=seed))
    if found.issues is not None:
        words = ("quality", dataset.name, "-e", found.issues.encoder)
        lines.append(typed(dataset, *words, **at, seed=found.issues.card.seed or None))
    rows["metric"] = found.metric
    lines.append(typed(dataset, "report", dataset.name, "-o", "report.html", **rows))
    lines.append(typed(dataset, "store", "show", dataset.name))
    said = (
        "The same store and the same versions give the same numbers; "
        "the last line lists all results that are kept"
    )
    return Section("How to find it again", [Command(lines), _quiet(f"{said}.")])


def _unusual(result: Comparison | Assessment | Curve) -> str | None:
    """Return the metric where it is not the one that commands take by themselves."""
    return None if result.metric == check_metric(None, result.task) else result.metric
