"""show: what was found before, printed again from its card, or run again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.layout import command
from featurestore.cli.options import json_option, open_given, store_option, trust_option
from featurestore.cli.printing import contents_of, print_json, print_table, tell
from featurestore.cli.show_results import (
    show_assessment,
    show_comparison,
    show_curve,
    show_head,
    show_issues,
)
from featurestore.cli.watching import Watch

if TYPE_CHECKING:
    from featurestore.storage.remote import StorePath
    from featurestore.store.dataset import DataSet


@command(epilog="Example: featurestore store show photos latest")
@click.argument("dataset")
@click.argument("run", required=False)
@store_option
@click.option(
    "--again", is_flag=True, help="Run a comparison or a curve again, and say whether it holds."
)
@trust_option
@json_option
def show(
    dataset: str, run: str | None, store_path: str, again: bool, trust: bool, as_json: bool
) -> int:
    """List earlier runs and heads, or print one again.

    RUN is its name, or latest.
    """
    from featurestore.storage.files import matching, read_sealed
    from heads.saved.bundle import list_heads

    if again and run is None:
        raise click.UsageError("--again needs a RUN: its name, or latest")
    kept = open_given(store_path, trust=trust).dataset(dataset)
    folder = kept.path / "runs"
    files = matching(folder, "*.json")[::-1]
    trained = {} if run == "latest" else {card.head_id: card for card in list_heads(kept)}
    if run is None:
        found = [_line(path) for path in files]
        found += [
            (name, "train", f"{card.head} on {card.encoder}") for name, card in trained.items()
        ]
        if as_json:
            print_json([dict(zip(("run", "kind", "about"), row, strict=True)) for row in found])
        else:
            print_table(["run", "kind", "about"], found)
        return 0
    if run in trained and not again:
        print_json(trained[run].to_json()) if as_json else show_head(trained[run])
        return 0
    path = _chosen(files, run, dataset)
    card = read_sealed(path)
    if again:
        return _run_again(kept, card, as_json)
    if as_json:
        print_json(card)
    else:
        _print(card, kept)
    return 0


def _run_again(dataset: DataSet, card: dict[str, Any], as_json: bool) -> int:
    """Print what a run gives today, and say what differs from its card; return 1 if any does."""
    from featurestore.errors import BadName
    from heads import run_again
    from heads.experiments.learning_curve import Curve
    from heads.measures.comparison import Comparison

    kind = card.get("kind")
    if kind not in ("compare", "curve"):
        raise BadName(f"a run of kind {kind}: comparisons and curves can be run again")
    stored: Any = (Comparison if kind == "compare" else Curve).from_json(card)
    with Watch() as watch:
        found = run_again(dataset, stored, progress=watch.fits)
    before, now = _by_cell(stored.rows()), _by_cell(found.rows())
    differ = [
        f"{' '.join(cell)}: {_value(before, cell)}, now {_value(now, cell)}"
        for cell in {**before, **now}
        if before.get(cell) != now.get(cell)
    ]
    if as_json:
        print_json({**found.to_json(), "differ": differ})
    else:
        _print(found.to_json(), dataset)
        tell(_holds(differ, stored.card.versions, found.card.versions))
    return int(bool(differ))


def _by_cell(rows: list[dict[str, Any]]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the rows of a table by encoder, head and budget, without the seconds."""
    found = {}
    for row in rows:
        budget = [f"({row['per_class']} a class)"] if "per_class" in row else []
        found[row["encoder"], row["head"], *budget] = {**row, "seconds": 0}
    return found


def _value(rows: dict[tuple[str, ...], dict[str, Any]], cell: tuple[str, ...]) -> str:
    return f"{rows[cell]['value']:.6g}" if cell in rows else "none"


def _holds(differ: list[str], before: dict[str, str], now: dict[str, str]) -> str:
    if not differ:
        return "Run again: every row of the table is as it was."
    others = [f"{name} {was} → {now.get(name)}" for name, was in before.items()
              if now.get(name) != was]  # fmt: skip
    about = f" (other libraries: {', '.join(others)})" if others else ""
    return f"Run again: rows that differ: {len(differ)}{about}: {'; '.join(differ)}."


def _chosen(files: Sequence[StorePath], run: str, dataset: str) -> StorePath:
    from featurestore.errors import UnknownRun, nearest

    learned = [path for path in files if not path.stem.endswith("-embed")]
    if run == "latest" and learned:
        return learned[0]
    for path in files:
        if path.stem == run.removesuffix(".json"):
            return path
    hint = nearest(run, [path.stem for path in files]) if files else "none yet"
    raise UnknownRun(f"{dataset} has no run {run!r}: {hint}")


def _line(path: StorePath) -> tuple[str, str, str]:
    from featurestore.storage.files import read_sealed

    card = read_sealed(path)
    kind = str(card.get("kind", ""))
    if kind == "transfer":
        about = ", ".join(f"{one['encoder']}: {one['kind']}" for one in card["verdicts"])
    elif kind in ("compare", "curve"):
        rows = card["heads" if kind == "compare" else "budgets"]
        about = f"{card['label']}, {len(rows)} rows by {card['metric']}"
    elif kind == "quality":
        about = ", ".join(f"{n:,} {name}" for name, n in card["found"].items())
    else:
        about = ""
    return path.stem, kind, about


def _print(card: dict[str, Any], dataset: DataSet) -> None:
    from heads.experiments.learning_curve import Curve
    from heads.measures.comparison import Comparison
    from heads.quality.issues import Issues
    from heads.transfer.assessment import Assessment

    kind = card.get("kind")
    if kind == "compare":
        show_comparison(Comparison.from_json(card), dataset)
    elif kind == "curve":
        show_curve(Curve.from_json(card), dataset)
    elif kind == "transfer":
        show_assessment(Assessment.from_json(card), dataset)
    elif kind == "quality":
        show_issues(Issues.from_json(card), contents=contents_of(dataset))
    else:
        print_json(card)
