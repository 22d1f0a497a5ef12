"""show: what was found before, printed again from its run card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featurestore.cli.learn import show_comparison
from featurestore.cli.output import json_option, open_given, print_json, print_table, store_option
from featurestore.cli.quality import show_issues
from featurestore.cli.transfer import show_assessment, show_curve


@click.command(epilog="Example: featurestore show photos latest")
@click.argument("dataset")
@click.argument("run", required=False)
@store_option
@json_option
def show(dataset: str, run: str | None, store_path: str, as_json: bool) -> None:
    """List the runs of a data set, or print one again: its name, or latest."""
    from featurestore.layout import read_json

    folder = open_given(store_path).dataset(dataset).path / "runs"
    files = sorted(folder.glob("*.json"), reverse=True)
    if run is None:
        found = [_line(path) for path in files]
        if as_json:
            print_json([dict(zip(("run", "kind", "about"), row, strict=True)) for row in found])
        else:
            print_table(["run", "kind", "about"], found)
        return
    path = _chosen(files, run, dataset)
    card = read_json(path)
    if as_json:
        print_json(card)
    else:
        _print(card)


def _chosen(files: list[Path], run: str, dataset: str) -> Path:
    from featurestore.errors import UnknownRun, nearest

    learned = [path for path in files if not path.stem.endswith("-embed")]
    if run == "latest" and learned:
        return learned[0]
    for path in files:
        if path.stem == run.removesuffix(".json"):
            return path
    hint = nearest(run, [path.stem for path in files]) if files else "none yet"
    raise UnknownRun(f"{dataset} has no run {run!r}: {hint}")


def _line(path: Path) -> tuple[str, str, str]:
    from featurestore.layout import read_json

    card = read_json(path)
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


def _print(card: dict[str, Any]) -> None:
    from heads.comparison import Comparison
    from heads.fewshot import Curve
    from heads.quality.issues import Issues
    from heads.transfer.assessment import Assessment

    kind = card.get("kind")
    if kind == "compare":
        show_comparison(Comparison.from_json(card))
    elif kind == "curve":
        show_curve(Curve.from_json(card))
    elif kind == "transfer":
        show_assessment(Assessment.from_json(card))
    elif kind == "quality":
        show_issues(Issues.from_json(card))
    else:
        print_json(card)
