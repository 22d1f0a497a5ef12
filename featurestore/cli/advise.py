"""advise: what to take, and the command to type."""

from __future__ import annotations

import click

from featurestore.cli.layout import command
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
    seed_option,
    slice_option,
    store_option,
    task_option,
    trust_option,
)
from featurestore.cli.printing import print_json, tell
from featurestore.cli.watching import Watch, watched


@command(epilog="Example: featurestore advise photos --minutes 3")
@click.argument("dataset")
@encoders_option
@label_option
@task_option
@metric_option
@evaluation_option
@groups_option
@slice_option
@seed_option
@trust_option
@store_option
@json_option
@watched(within=3.0)
def advise(
    dataset: str,
    encoders: tuple[str, ...],
    label: str | None,
    task: str | None,
    metric: str | None,
    evaluation: str,
    ignore_groups: bool,
    slice_name: str | None,
    seed: int,
    trust: bool,
    store_path: str,
    as_json: bool,
    watch: Watch,
) -> None:
    """Say in five lines what to take, and what to type next.

    Encoder and head, whether the encoder helps, labels, cost, and the command. Runs what is
    missing within some minutes (the reference without pretraining, a comparison, the verdict,
    more labels), and reads what was run before.
    """
    import heads

    dataset, chosen = at_view(dataset, encoders)
    advice = heads.advise(
        open_given(store_path, trust=trust),
        dataset_of(store_path, dataset, slice_name, trust=trust),
        minutes=watch.within,
        encoders=chosen,
        metric=metric,
        label=label,
        task=task,
        evaluation=evaluation,
        group=not ignore_groups,
        seed=seed,
        progress=watch.fits,
    )
    watch.finish()
    if as_json:
        print_json(advice.to_json())
        return
    for sentence in advice.sentences():
        tell(sentence)
