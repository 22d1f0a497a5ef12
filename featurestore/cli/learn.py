"""train, compare: heads on what is embedded."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import click

from featurestore.cli.options import (
    dataset_of,
    encoders_option,
    evaluation_option,
    groups_option,
    json_option,
    label_option,
    metric_option,
    reviews_option,
    seed_option,
    slice_option,
    store_option,
    task_option,
    view_of,
)
from featurestore.cli.printing import print_json, print_table, say


@click.command(epilog="Example: featurestore train photos -e baseline:pixels --head ridge")
@click.argument("dataset")
@click.option("-e", "--encoder", metavar="SPEC", help="Encoder; the only view's by default.")
@click.option(
    "--head",
    default="logistic",
    show_default=True,
    help="logistic, logistic-balanced, ridge, lda, prototype, knn, best (of these), majority, "
    "tfidf, zero-shot, zero-shot+probe (both :TEMPLATE with {}, or :@prompts.json), or "
    "python:module:estimator.",
)
@label_option
@task_option
@click.option(
    "--coverage",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Also calibrate prediction sets that hold the truth this often, such as 0.9.",
)
@click.option(
    "--save",
    "bundle",
    metavar="FOLDER",
    help="Also write a bundle that predict takes, apart from the store.",
)
@reviews_option
@slice_option
@seed_option
@store_option
@json_option
def train(
    dataset: str,
    encoder: str | None,
    head: str,
    label: str | None,
    task: str | None,
    coverage: float | None,
    bundle: str | None,
    apply_reviews: bool,
    part: str | None,
    seed: int,
    store_path: str,
    as_json: bool,
) -> None:
    """Train one head on a view, evaluate it, and keep it in the store."""
    import heads

    view = view_of(store_path, dataset, encoder, part)
    fitted = heads.fit(
        view,
        head,
        label=label,
        task=task,
        coverage=coverage,
        seed=seed,
        apply_reviews=apply_reviews,
    )
    if bundle is not None:
        say(f"bundle written to {fitted.save(bundle)}")
    if as_json:
        print_json(fitted.card)
    else:
        show_head(fitted)


@click.command(
    epilog="Example: featurestore compare photos -e baseline:pixels -e timm:resnet18.a1_in1k"
)
@click.argument("dataset")
@encoders_option
@click.option(
    "--head",
    "head_names",
    multiple=True,
    metavar="NAME",
    help="Head; repeatable; all that do the task by default.",
)
@label_option
@task_option
@metric_option
@evaluation_option
@groups_option
@click.option(
    "--twins-together",
    is_flag=True,
    help="Let near-duplicates never part, and show what they were worth.",
)
@reviews_option
@slice_option
@seed_option
@store_option
@json_option
def compare(
    dataset: str,
    encoders: tuple[str, ...],
    head_names: tuple[str, ...],
    label: str | None,
    task: str | None,
    metric: str | None,
    evaluation: str,
    ignore_groups: bool,
    twins_together: bool,
    apply_reviews: bool,
    part: str | None,
    seed: int,
    store_path: str,
    as_json: bool,
) -> None:
    """Compare encoders × heads on the same folds, beside the baselines without pretraining."""
    import heads

    found = dataset_of(store_path, dataset, part)
    views = [found.view(spec) for spec in encoders] or found.views()
    chosen: dict[str, Any] = {"heads": head_names} if head_names else {}
    run = partial(
        heads.compare, views, label=label, task=task, metric=metric, evaluation=evaluation,
        seed=seed, group=not ignore_groups, apply_reviews=apply_reviews,
        progress=say_fits if sys.stderr.isatty() else None, **chosen,
    )  # fmt: skip
    comparison = run(twins_together=twins_together)
    if as_json:
        print_json(comparison.rows())
        return
    show_comparison(comparison)
    if twins_together:
        show_twins(comparison, run())


def show_twins(without: Any, as_split: Any) -> None:
    """Say what each row scores where near-duplicates may part, beside the honest figure."""
    from featurestore.terms.specs import EncoderSpec

    parted = {(row["encoder"], row["head"]): row["value"] for row in as_split.rows()}
    table = []
    for row in without.rows():
        easy = parted[row["encoder"], row["head"]]
        label = EncoderSpec.parse(row["encoder"]).label
        table.append([label, row["head"], f"{row['value']:.3f}", f"{easy:.3f}",
                      f"{easy - row['value']:+.3f}"])  # fmt: skip
    print_table(["encoder", "head", "twins together", "twins parted", "difference"], table)


def say_fits(n_done: int, n_fits: int, what: str) -> None:
    """Count fits on one line."""
    click.echo(f"\r\033[K{n_done}/{n_fits} fits: {what}", err=True, nl=n_done == n_fits)


def show_head(fitted: Any) -> None:
    """Print what a fitted head chose, and how well it does."""
    card = fitted.card
    click.echo(f"{card['head']} on {card['dataset']}@{card['encoder']}, label {card['label']!r}")
    chosen = ", ".join(f"{key} {value}" for key, value in card["chosen"].items())
    click.echo(f"  chosen on training rows: {chosen or 'nothing'}")
    for metric, found in card["metrics"].items():
        interval = ""
        if found["low"] is not None:
            interval = f" ({found['low']:.3f} to {found['high']:.3f}; {card['estimand']})"
        click.echo(f"  {metric.replace('_', ' ')}: {found['value']:.3f}{interval}")
    if again := card.get("as_reviewed"):
        said = ", ".join(
            f"{name.replace('_', ' ')} {v:.3f}" for name, v in again["metrics"].items()
        )
        click.echo(f"  against what reviewers say ({again['n_changed']} items differ): {said}")
    if conformal := card["conformal"]:
        said = (
            f"  prediction sets hold the truth in {conformal['coverage']:.0%} of new items or more "
            f"(calibrated on {conformal['n_calibration']:,} items that were held out from training)"
        )
        if conformal["limit"] is None:
            said += ", but so few can only promise it by putting everything into each set"
        click.echo(said)
    if twins := card.get("twins"):
        said = ", ".join(
            f"{name.replace('_', ' ')} {value:.3f}"
            for name, value in twins["without"].items()
            if value is not None
        )
        if twins["n"]:
            click.echo(f"  without those test items that have one: {said}")
    for note in card["notes"]:
        click.echo(f"  {note}")
    click.echo(f"  kept as {fitted.head_id}")
    if fitted.path is not None:
        say(f"predict new items with: featurestore predict {fitted.path} SOURCE")


def show_comparison(comparison: Any) -> None:
    """Print a comparison as a table, best first, with what its intervals mean."""
    from featurestore.terms.specs import EncoderSpec

    rows = comparison.rows()
    table = [
        [EncoderSpec.parse(r["encoder"]).label, r["head"], f"{r['value']:.3f}",
         "" if r["low"] is None else f"{r['low']:.3f} – {r['high']:.3f}", f"{r['seconds']:.2f}"]
        for r in rows
    ]  # fmt: skip
    metric = rows[0]["metric"].replace("_", " ")
    header = ["encoder", "head", metric, "95 % interval", "fit (s)"]
    if any("as_reviewed" in row for row in rows):
        header.append(f"{metric} as reviewed")
        for line, row in zip(table, rows, strict=True):
            line.append(f"{row['as_reviewed']:.3f}" if "as_reviewed" in row else "")
    if any("without_twins" in row for row in rows):
        header.append("without twins")
        for line, row in zip(table, rows, strict=True):
            line.append(f"{row['without_twins']:.3f}" if "without_twins" in row else "")
    print_table(header, table)
    click.echo(f"Intervals: {comparison.estimand}.")
    for claim in comparison.claims():
        click.echo(f"{claim.sentence()}.")
    if comparison.n_pairs > 1:
        click.echo(
            f"These sentences hold for all {comparison.n_pairs} pairs at once "
            f"({comparison.allowance})."
        )
    for note in comparison.notes:
        click.echo(note)
