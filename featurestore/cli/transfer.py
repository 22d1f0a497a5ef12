"""transfer, curve: does an encoder help, what to do, and how many labels are enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from featurestore.cli.layout import command, option
from featurestore.cli.options import (
    at_view,
    dataset_of,
    encoders_option,
    evaluation_option,
    groups_option,
    json_option,
    label_option,
    metric_option,
    open_given,
    overwrite_option,
    plot_option,
    plotter,
    say_likely_groups,
    seed_option,
    slice_option,
    store_option,
    task_option,
    trust_option,
    views_of,
)
from featurestore.cli.printing import print_json
from featurestore.cli.show_results import show_assessment, show_curve
from featurestore.cli.watching import Watch, watched

if TYPE_CHECKING:
    from featurestore.store.store import Store
    from featurestore.store.view import View


@command(epilog="Example: featurestore transfer photos -e timm:resnet18.a1_in1k --rank")
@click.argument("dataset")
@encoders_option
@click.option(
    "--layers",
    metavar="A,B,…",
    help="Embed these layers of each encoder, in one pass, and compare them with the last.",
)
@click.option(
    "--random",
    "n_random",
    type=click.IntRange(0, 20),
    default=0,
    metavar="N",
    help="Embed N seeds of random weights of each architecture: is it the pretraining? 3 or more.",
)
@click.option("--against", metavar="SPEC", help="Judge against this view, not the baselines.")
@click.option("--rank", is_flag=True, help="Also score all views without training a head.")
@click.option(
    "--shift-to",
    metavar="DATASET[:SLICE]",
    help="Measure how different another data set, or a slice, is.",
)
@option(
    "--per-class",
    "budgets",
    old=["--budgets"],
    metavar="K,K,…",
    help="Also give the verdict with few labels a class, such as 4,16,64.",
)
@click.option(
    "--by", metavar="COLUMN", help="Compare by the values of a column instead of by class."
)
@label_option
@task_option
@metric_option
@click.option(
    "--margin",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Smallest difference that matters, in points; of errors, in hundredths of the label's "
    "standard deviation.",
)
@click.option(
    "--head",
    "head_names",
    multiple=True,
    metavar="NAME",
    help="Heads to choose among, on both sides; repeatable; all that do the task by default.",
)
@evaluation_option
@groups_option
@click.option(
    "--finetune", is_flag=True,
    help="Also retrain the upper blocks of each network (minutes), and say what it gains.",
)  # fmt: skip
@click.option("--no-blend", is_flag=True, help="Do not try raw pixels or class names as well.")
@plot_option
@overwrite_option
@slice_option
@seed_option
@trust_option
@store_option
@json_option
@watched()
def transfer(
    dataset: str,
    encoders: Sequence[str],
    layers: str | None,
    n_random: int,
    against: str | None,
    rank: bool,
    shift_to: str | None,
    budgets: str | None,
    by: str | None,
    label: str | None,
    task: str | None,
    metric: str | None,
    margin: float,
    head_names: tuple[str, ...],
    evaluation: str,
    ignore_groups: bool,
    finetune: bool,
    no_blend: bool,
    plot_file: str | None,
    overwrite: bool,
    slice_name: str | None,
    seed: int,
    trust: bool,
    store_path: str,
    as_json: bool,
    watch: Watch,
) -> None:
    """Say whether an encoder beats the baselines without pretraining."""
    import heads
    from heads.transfer.views import embed_views

    draw = plotter(plot_file, overwrite=overwrite)
    store = open_given(store_path, trust=trust)
    dataset, encoders = at_view(dataset, encoders)
    found = dataset_of(store_path, dataset, slice_name, trust=trust)
    views = embed_views(
        found, encoders, layers=layers.split(",") if layers else (), n_random=n_random,
        pixels=against is None, progress_bar=watch.bar, say=watch.say,
    )  # fmt: skip
    if not ignore_groups:
        say_likely_groups(found, label, evaluation)
    assessment = heads.assess_transfer(
        views,
        reference=views_of(found, [against])[0] if against else None,
        heads=head_names or None,
        label=label,
        task=task,
        metric=metric,
        margin=margin / 100,
        evaluation=evaluation,
        group=not ignore_groups,
        by=by,
        shift_to=_views_of(store, shift_to) if shift_to else (),
        per_class=_numbers("--per-class", budgets) if budgets else (),
        blend=not no_blend,
        rank=rank,
        finetune=finetune,
        seed=seed,
        progress=watch.fits,
        minutes=watch.minutes,
    )
    watch.finish()
    draw(assessment)
    if as_json:
        print_json(assessment.to_json())
    else:
        show_assessment(assessment, found)


@command(epilog="Example: featurestore curve photos --target 95")
@click.argument("dataset")
@encoders_option
@click.option("--head", default="logistic", show_default=True, help="As for `train`.")
@label_option
@task_option
@metric_option
@click.option(
    "--per-class",
    default="1,2,4,8,16,32,64,128",
    show_default=True,
    metavar="K,K,…",
    help="Labels per class.",
)
@click.option(
    "--draws", default=10, show_default=True, type=click.IntRange(2),
    help="How often labels are drawn.",
)  # fmt: skip
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=click.FloatRange(0, 100),
    help="Say how many labels reach this percentage; repeatable.",
)
@plot_option
@overwrite_option
@slice_option
@seed_option
@trust_option
@store_option
@json_option
@watched()
def curve(
    dataset: str,
    encoders: Sequence[str],
    head: str,
    label: str | None,
    task: str | None,
    metric: str | None,
    per_class: str,
    draws: int,
    targets: tuple[float, ...],
    plot_file: str | None,
    overwrite: bool,
    slice_name: str | None,
    seed: int,
    trust: bool,
    store_path: str,
    as_json: bool,
    watch: Watch,
) -> None:
    """Show how good a head is with few labels, and how many suffice."""
    import heads

    draw, budgets = plotter(plot_file, overwrite=overwrite), _numbers("--per-class", per_class)
    dataset, encoders = at_view(dataset, encoders)
    found = dataset_of(store_path, dataset, slice_name, trust=trust)
    views = views_of(found, encoders)
    say_likely_groups(found, label, "folds")
    drawn = heads.curve(
        views,
        head,
        label=label,
        task=task,
        metric=metric,
        per_class=budgets,
        n_draws=draws,
        seed=seed,
        progress=watch.fits,
        minutes=watch.minutes,
    )
    watch.finish()
    draw(drawn)
    if as_json:
        print_json(drawn.rows())
        return
    show_curve(drawn, found, targets)


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(one) for one in text.split(",")]
    except ValueError:
        raise click.UsageError(f"{option} {text}: expected numbers, as 1,2,4") from None


def _views_of(store: Store, target: str) -> list[View]:
    """Return the views of a data set, or of one of its slices: ``other``, ``other:slice``."""
    name, _, slice_name = target.partition(":")
    views = store.dataset(name).views()
    return [view.within(slice_name) for view in views] if slice_name else list(views)
