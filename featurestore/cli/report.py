"""report: one file that opens anywhere, with all that was found."""

from __future__ import annotations

from pathlib import Path

import click

from featurestore.cli.layout import command
from featurestore.cli.options import (
    dataset_of,
    evaluation_option,
    groups_option,
    label_option,
    metric_option,
    open_given,
    overwrite_option,
    seed_option,
    slice_option,
    store_option,
    task_option,
    trust_option,
)
from featurestore.cli.printing import say
from featurestore.cli.watching import Watch, watched


@command(epilog="Example: featurestore report photos -o photos.html")
@click.argument("dataset")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    metavar="FILE",
    help="The file to write.",
)
@overwrite_option
@label_option
@task_option
@metric_option
@evaluation_option
@groups_option
@slice_option
@seed_option
@trust_option
@store_option
@watched(within=3.0)
def report(
    dataset: str,
    output: Path,
    overwrite: bool,
    label: str | None,
    task: str | None,
    metric: str | None,
    evaluation: str,
    ignore_groups: bool,
    slice_name: str | None,
    seed: int,
    trust: bool,
    store_path: str,
    watch: Watch,
) -> None:
    """Write all that was found as one HTML file, which opens anywhere.

    What to take, leaderboard, verdict, learning curve, classes, the worst items, data quality,
    where it comes from, how to find it again. Reads what was run before, and runs what is missing.
    """
    import heads

    target = heads.report(
        open_given(store_path, trust=trust),
        dataset_of(store_path, dataset, slice_name, trust=trust),
        output,
        minutes=watch.within,
        overwrite=overwrite,
        metric=metric,
        label=label,
        task=task,
        evaluation=evaluation,
        group=not ignore_groups,
        seed=seed,
        progress=watch.fits,
    )
    watch.finish()
    say(f"written: {target} ({target.stat().st_size / 1e6:.1f} MB); open it in a browser")
