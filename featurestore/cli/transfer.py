"""transfer, curve: does an encoder help, what to do, and how many labels are enough."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from featurestore.cli.learn import say_fits
from featurestore.cli.options import (
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
)
from featurestore.cli.printing import print_json, print_table, progress_bar, say

PIXELS = "baseline:pixels"


@click.command(epilog="Example: featurestore transfer photos -e timm:resnet18.a1_in1k --rank")
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
    "--shift-to", metavar="DATASET[:SLICE]", help="How far another data set, or a slice, lies."
)
@click.option(
    "--budgets", metavar="K,K,…", help="The verdict with so few labels a class, too: 4,16,64."
)
@click.option("--by", metavar="COLUMN", help="Look at the values of a column, not at classes.")
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
@click.option("--no-blend", is_flag=True, help="Do not try raw pixels or class names beside it.")
@slice_option
@seed_option
@store_option
@json_option
def transfer(
    dataset: str,
    encoders: tuple[str, ...],
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
    no_blend: bool,
    part: str | None,
    seed: int,
    store_path: str,
    as_json: bool,
) -> None:
    """Say whether an encoder helps, against the best baseline without pretraining."""
    import heads

    store = open_given(store_path)
    found = dataset_of(store_path, dataset, part)
    specs = list(encoders) or [
        str(view.spec) for view in found.views() if view.spec.family not in ("baseline", "random")
    ]
    wanted = [
        f"{spec}{',' if '#' in spec else '#'}layer={'+'.join(layers.split(','))}"
        for spec in specs
        if layers
    ]
    judged = _with_layers(specs, wanted)
    lacking = list(wanted)
    if against is None and found.modality == "image" and not _is_imported(found):
        lacking.append(PIXELS)
    _embed_lacking(store, found, lacking, _random_specs(judged, n_random))
    views = [found.view(spec) for spec in judged] or found.views()
    assessment = heads.assess_transfer(
        views,
        reference=found.view(against) if against else None,
        heads=head_names or None,
        label=label,
        task=task,
        metric=metric,
        margin=margin / 100,
        evaluation=evaluation,
        group=not ignore_groups,
        by=by,
        shift_to=_elsewhere(store, shift_to) if shift_to else (),
        budgets=_numbers("--budgets", budgets) if budgets else (),
        blend=not no_blend,
        rank=rank,
        seed=seed,
        progress=say_fits if sys.stderr.isatty() else None,
    )
    if as_json:
        print_json(assessment.to_json())
    else:
        show_assessment(assessment)


@click.command(epilog="Example: featurestore curve photos --target 95")
@click.argument("dataset")
@encoders_option
@click.option("--head", default="logistic", show_default=True)
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
@click.option("--draws", default=10, show_default=True, type=click.IntRange(2))
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=click.FloatRange(0, 100),
    help="Say how many labels reach this percentage; repeatable.",
)
@slice_option
@seed_option
@store_option
@json_option
def curve(
    dataset: str,
    encoders: tuple[str, ...],
    head: str,
    label: str | None,
    task: str | None,
    metric: str | None,
    per_class: str,
    draws: int,
    targets: tuple[float, ...],
    part: str | None,
    seed: int,
    store_path: str,
    as_json: bool,
) -> None:
    """Train on few labels, again and again: how good with k, and how many are enough."""
    import heads

    budgets = _numbers("--per-class", per_class)
    found = dataset_of(store_path, dataset, part)
    views = [found.view(spec) for spec in encoders] or found.views()
    drawn = heads.curve(
        views,
        head,
        label=label,
        task=task,
        metric=metric,
        per_class=budgets,
        n_draws=draws,
        seed=seed,
        progress=say_fits if sys.stderr.isatty() else None,
    )
    if as_json:
        print_json(drawn.rows())
        return
    show_curve(drawn, targets)


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(one) for one in text.split(",")]
    except ValueError:
        raise click.UsageError(f"{option} {text}: expected numbers, as 1,2,4") from None


def show_curve(drawn: Any, targets: Sequence[float] = ()) -> None:
    """Print a learning curve, and how many labels reach the targets (percentages)."""
    rows = [
        [_label(r["encoder"]), r["head"], f"{r['n_labels']:,}", f"{r['value']:.3f}",
         f"{r['low']:.3f} – {r['high']:.3f}"]
        for r in drawn.rows()
    ]  # fmt: skip
    name = drawn.metric.replace("_", " ")
    print_table(["encoder", "head", "labels in all", name, "one new draw, 95 %"], rows)
    _show_gains(drawn)
    for target in targets:
        for encoder in drawn.encoders:
            click.echo(f"{_label(encoder)}: {drawn.labels_needed(encoder, target / 100)}.")
    for note in drawn.notes:
        click.echo(note)


def _show_gains(drawn: Any) -> None:
    """Say at which budgets an encoder is better than what needs no pretraining."""
    from heads.measures.comparison import number, unit_of

    baselines = [one for one in drawn.encoders if one in (PIXELS, "baseline:tfidf")]
    for encoder in drawn.encoders:
        for reference in baselines if not encoder.startswith(("baseline:", "random:")) else ():
            gains = drawn.gains(encoder, reference)
            said = ", ".join(
                f"{g.n_labels:,}: {number(g.value, drawn.metric, '+')}{'*' if g.is_found else ''} "
                f"({number(g.low, drawn.metric, '+')} to {number(g.high, drawn.metric, '+')})"
                for g in gains
            )
            click.echo(
                f"{_label(encoder)} less {reference} by labels, {unit_of(drawn.metric)}: {said} "
                "(95 % over draws of labels from these items; * told from 0, Benjamini-Hochberg at "
                "5 %; exploration)."
            )


def show_assessment(assessment: Any) -> None:
    """Print verdicts, their evidence, and what to do."""
    from heads.measures.comparison import metric_of, number, unit_of

    metric = assessment.metric
    unit = unit_of(metric)
    scale = " × 100" if metric_of(metric).is_share else ""

    def said(x: float, sign: str = "+") -> str:
        return number(x, metric, sign)

    click.echo(
        f"Transfer to {assessment.dataset}, label {assessment.label!r}: "
        f"{metric.replace('_', ' ')} on {assessment.n_items:,} items"
    )
    first = assessment.verdicts[0]
    rows = [
        [_label(v.encoder), v.kind.upper(), f"{v.encoder_value:.3f}", f"{v.reference_value:.3f}",
         said(v.value), f"{said(v.low)} – {said(v.high)}", said(v.detectable, ""),
         f"{v.rows_needed:,}" if v.rows_needed >= 0 else "no end"]
        for v in assessment.verdicts
    ]  # fmt: skip
    print_table(
        ["encoder", "verdict", "encoder's", first.reference, f"Δ{scale}", "95 % interval",
         "would be seen", first.rows_needed_for],
        rows,
    )  # fmt: skip
    click.echo(f"Intervals: {assessment.estimand}.")
    for spec, (value, low, high) in assessment.pretraining.items():
        click.echo(
            f"{_label(spec)} less random weights of its architecture: {said(value)} {unit} "
            f"({said(low)} to {said(high)}): what pretraining adds."
        )
    for tried in assessment.alternatives.values():
        for one in tried:
            click.echo(f"{one.over_encoder.sentence()}.")
    for line in assessment.budget_sentences():
        click.echo(line)
    _show_slices(assessment)
    for spec, shift in assessment.shifts.items():
        click.echo(
            f"Shift in {_label(spec)} between {shift.between}: A-distance {shift.a_distance:.2f} "
            f"of 2 (chance stays below {shift.floor:.2f}); {shift.beyond:.0%} lie farther out than "
            "95 % of the others."
        )
        worst = sorted(shift.beyond_of_class.items(), key=lambda one: -one[1])[:5]
        if worst and (shift.is_shifted or shift.far_classes):
            click.echo(
                "  by class (* more than chance): "
                + ", ".join(
                    f"{name} {share:.0%}{'*' if name in shift.far_classes else ''}"
                    for name, share in worst
                )
            )
    if assessment.ranking:
        _show_ranking(assessment)
    for spec, lines in assessment.advice.items():
        click.echo(f"\nWhat to do with {_label(spec)}:")
        for line in lines:
            click.echo(f"  • {line}")
    click.echo("")
    for note in assessment.notes:
        click.echo(note)


def _show_slices(assessment: Any) -> None:
    is_error = assessment.task == "regression"
    for spec, found in assessment.slices.items():
        worse = [one for one in found if one.is_found and one.value < 0]
        for one in worse[:5]:
            scale, unit = (1, "mean absolute error saved") if is_error else (100, "points")
            click.echo(
                f"{_label(spec)} is worse on {one.name}: {scale * one.value:+.3g} {unit} "
                f"({scale * one.low:+.3g} to {scale * one.high:+.3g}), {one.n_rows} items "
                "(exploration, Benjamini-Hochberg)."
            )


def _show_ranking(assessment: Any) -> None:
    names = list(assessment.ranking[0].scores)
    rows = [
        [r.rank, f"{r.rank_low} – {r.rank_high}", _label(r.encoder), r.dim,
         "" if r.n_parameters is None else f"{r.n_parameters / 1e6:.1f} M",
         *(f"{r.scores[name]:.3f}" for name in names),
         "" if r.head_value is None else f"{r.head_value:.3f}"]
        for r in assessment.ranking
    ]  # fmt: skip
    _show_depths(assessment)
    click.echo("\nScores without training, ranked by ridge_loo:")
    print_table(["rank", "95 %", "encoder", "dim", "parameters", *names, "head"], rows)
    if assessment.agreement:
        taus = ", ".join(f"{name} {tau:+.2f}" for name, tau in assessment.agreement.items())
        click.echo(f"Kendall's τ with the heads: {taus}.")


def _show_depths(assessment: Any) -> None:
    """Print the primary score and the head's value by depth, for networks of several layers."""
    from featurestore.terms.specs import EncoderSpec
    from heads.transfer.evidence import depth_of

    networks: dict[str, list[Any]] = {}
    for one in assessment.ranking:
        spec = EncoderSpec.parse(one.encoder)
        if one.head_value is not None and spec.family not in ("baseline", "random"):
            networks.setdefault(str(spec.network), []).append((depth_of(spec), one))
    for network, found in networks.items():
        if len(found) < 2:
            continue
        highest = max(max(one.scores["ridge_loo"] for _, one in found), 1e-9)
        rows = [
            [EncoderSpec.parse(one.encoder).option("layer", "the last"), one.dim,
             f"{one.scores['ridge_loo']:.3f}", f"{one.head_value:.3f}",
             "█" * max(0, round(20 * one.scores["ridge_loo"] / highest))]
            for _, one in sorted(found, key=lambda pair: pair[0])
        ]  # fmt: skip
        click.echo(f"\n{_label(network)} by depth:")
        print_table(["layer", "dim", "ridge_loo", "head", ""], rows)


def _label(spec: str) -> str:
    from featurestore.terms.specs import EncoderSpec

    return EncoderSpec.parse(spec).label


def _elsewhere(store: Any, place: str) -> list[Any]:
    """Return the views of a data set, or of one of its slices: ``other``, ``other:slice``."""
    name, _, part = place.partition(":")
    views = store.dataset(name).views()
    return [view.within(part) for view in views] if part else list(views)


def _with_layers(specs: list[str], wanted: list[str]) -> list[str]:
    from featurestore.terms.specs import parse_specs

    return [str(spec) for spec in parse_specs([*specs, *wanted])]


def _random_specs(specs: list[str], n: int) -> list[str]:
    return [
        f"random:{spec}{',' if '#' in spec else '#'}seed={seed}"
        for spec in specs
        for seed in range(n)
    ]


def _is_imported(dataset: Any) -> bool:
    return all(view.spec.family == "import" for view in dataset.views())


def _embed_lacking(store: Any, dataset: Any, specs: list[str], optional: list[str]) -> None:
    """Embed what the verdict needs and the store has not; what is optional may be impossible."""
    from featurestore.errors import FeatureStoreError
    from featurestore.terms.specs import parse_specs

    known = {str(view.spec) for view in dataset.views()}

    def embed(wanted: list[str]) -> None:
        lacking = [str(spec) for spec in parse_specs(wanted) if str(spec) not in known]
        if not lacking:
            return
        say(f"embedding what the verdict needs: {', '.join(_label(one) for one in lacking)}")
        with progress_bar() as progress:
            reports = store.embed([], dataset=dataset.name, encoders=lacking, progress=progress)
        for report in reports:
            say(report.describe())

    embed(specs)
    try:
        embed(optional)  # in one pass over the data
    except FeatureStoreError:
        for one in optional:
            try:
                embed([one])
            except FeatureStoreError as error:
                say(f"not embedded: {error}")
