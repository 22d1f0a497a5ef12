"""train, compare: heads on what is embedded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.layout import command
from featurestore.cli.options import (
    at_view,
    check_free,
    chosen_views,
    columns_option,
    dataset_of,
    encoders_option,
    evaluation_option,
    groups_option,
    json_option,
    label_option,
    metric_option,
    overwrite_option,
    plot_option,
    plotter,
    reviews_option,
    say_likely_groups,
    seed_option,
    slice_option,
    store_option,
    task_option,
    trust_option,
    views_of,
)
from featurestore.cli.printing import print_json, say, tell
from featurestore.cli.show_results import (
    leaderboard,
    predict_line,
    show_comparison,
    show_head,
    show_twins,
)
from featurestore.cli.watching import Watch, watched
from featurestore.storage.stopping import finishing

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet
    from heads.saved.bundle import FittedHead


@command(epilog="Example: featurestore train photos -e baseline:pixels --head ridge")
@click.argument("dataset")
@click.option(
    "-e", "--encoder", "encoders", multiple=True, metavar="NAME",
    help="Which view: its encoder, a part of that name, or @2. By default the best one of the "
    "last comparison. Repeatable for --head mix.",
)  # fmt: skip
@click.option(
    "--head",
    help="logistic (the default), logistic-balanced, ridge, lda, prototype, knn, best (of these), "
    "layers (of a view of several layers), mix (weighs heads on several encoders, and TF-IDF of "
    "texts; mix:HEAD,HEAD), finetune (retrains the upper blocks of the network; finetune:blocks=2, "
    "finetune:plain without mirrored pictures), propagate and propagate:strict (unlabelled items "
    "teach too), majority, tfidf, zero-shot, zero-shot+probe (both :TEMPLATE with {}, or "
    ":@prompts.json), or python:module:estimator.",
)
@columns_option
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
@click.option(
    "--mlflow",
    "mlflow_uri",
    metavar="URI",
    help="Also log it to MLflow, such as sqlite:///mlflow.db or http://localhost:5000.",
)
@overwrite_option
@reviews_option
@slice_option
@seed_option
@trust_option
@store_option
@json_option
@watched()
def train(
    dataset: str,
    encoders: Sequence[str],
    head: str | None,
    columns: tuple[str, ...],
    label: str | None,
    task: str | None,
    coverage: float | None,
    bundle: str | None,
    mlflow_uri: str | None,
    overwrite: bool,
    apply_reviews: bool,
    slice_name: str | None,
    seed: int,
    trust: bool,
    store_path: str,
    as_json: bool,
    watch: Watch,
) -> None:
    """Train one head, evaluate it, keep it in the store."""
    import heads
    from heads.catalogue.retraining import retrains

    check_free(bundle, overwrite=overwrite)
    views = chosen_views(store_path, dataset, encoders, slice_name, label=label, trust=trust)
    say_likely_groups(views[0].dataset, label)
    # Where Ctrl-C ends training with what was done, the rest still runs.
    with finishing() if retrains(head) else nullcontext():
        fitted = heads.fit(
            heads.concat(views, columns=columns) if columns else views,
            head,
            label=label,
            task=task,
            coverage=coverage,
            seed=seed,
            apply_reviews=apply_reviews,
            progress=watch.fits,
            minutes=watch.minutes,
        )
        watch.finish()
        _show_trained(fitted, bundle, as_json=as_json)
        if mlflow_uri is not None:
            _log(fitted, views[0].dataset, mlflow_uri)


def _log(fitted: FittedHead, dataset: DataSet, uri: str) -> None:
    """Log a head to MLflow, with a report of what the store knows by now."""
    import heads

    with TemporaryDirectory() as folder:
        report = heads.report(
            dataset.store, dataset, Path(folder) / "report.html",
            label=fitted.card.label, minutes=0.0, save=False,
        )  # fmt: skip
        run = heads.log_to_mlflow(fitted, uri, report=report)
    say(f"logged to {uri} as run {run}, with the model under `model` and a report")


def _show_trained(fitted: FittedHead, bundle: str | None, *, as_json: bool) -> None:
    if bundle is not None:
        say(f"bundle written to {fitted.save(bundle)}")
    if as_json:
        print_json(fitted.card)
    else:
        show_head(fitted.card)
    where = bundle or (None if fitted.path is None else str(fitted.path))
    if where is not None:
        line = f"Type next, to predict new items: {predict_line(fitted, where)}"
        tell(line, err=as_json)


@command(epilog="Example: featurestore compare photos -e baseline:pixels -e timm:resnet18.a1_in1k")
@click.argument("dataset")
@encoders_option
@click.option(
    "--head",
    "head_names",
    multiple=True,
    metavar="NAME",
    help="Head; repeatable; all that do the task by default.",
)
@columns_option
@label_option
@task_option
@metric_option
@evaluation_option
@groups_option
@click.option(
    "--twins-together",
    is_flag=True,
    help="Keep near-duplicates in the same fold, and show how the scores differ.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1, 100),
    help="How often the folds are dealt anew: 5, or 1 with --head finetune.",
)
@click.option(
    "--rows", type=click.IntRange(min=2), metavar="N",
    help="Look at N labelled items, drawn evenly over groups, labels and splits.",
)  # fmt: skip
@reviews_option
@plot_option
@overwrite_option
@slice_option
@seed_option
@trust_option
@store_option
@json_option
@watched()
def compare(
    dataset: str,
    encoders: Sequence[str],
    head_names: tuple[str, ...],
    columns: tuple[str, ...],
    label: str | None,
    task: str | None,
    metric: str | None,
    evaluation: str,
    ignore_groups: bool,
    twins_together: bool,
    repeats: int | None,
    rows: int | None,
    apply_reviews: bool,
    plot_file: str | None,
    overwrite: bool,
    slice_name: str | None,
    seed: int,
    trust: bool,
    store_path: str,
    as_json: bool,
    watch: Watch,
) -> None:
    """Compare encoders × heads on the same folds, beside baselines."""
    import heads

    draw = plotter(plot_file, overwrite=overwrite)
    dataset, encoders = at_view(dataset, encoders)
    found = dataset_of(store_path, dataset, slice_name, trust=trust)
    views = views_of(found, encoders)
    if not ignore_groups:
        say_likely_groups(found, label, evaluation)
    chosen: dict[str, Any] = {"heads": head_names} if head_names else {}
    run = partial(
        heads.compare, views, label=label, task=task, metric=metric, evaluation=evaluation,
        seed=seed, group=not ignore_groups, apply_reviews=apply_reviews, repeats=repeats,
        progress=watch.fits, minutes=watch.minutes, rows=rows, columns=columns,
        preview=(lambda now: watch.show(leaderboard(now))) if watch.has_bar else None, **chosen,
    )  # fmt: skip
    comparison = run(twins_together=twins_together)
    as_split = run() if twins_together and not as_json else None
    watch.finish()
    draw(comparison)
    if as_json:
        print_json(comparison.rows())
        return
    show_comparison(comparison, found)
    if as_split is not None:
        show_twins(comparison, as_split)
