"""Print what heads found: a head, a comparison, a verdict, a curve, a quality report."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from featurestore.cli.printing import Contents, print_items, print_table, tell
from featurestore.terms.specs import Modality, encoder_label

if TYPE_CHECKING:
    from rich.table import Table

    from featurestore.store.dataset import DataSet
    from heads import Assessment, Comparison, Curve, Issues
    from heads.saved.bundle import FittedHead
    from heads.saved.card import HeadCard

FIT_S = "fit (s): the median of one fit alone on one core, with the choice of its settings."
KINDS = ("label", "leak", "duplicate", "outlier")


def show_head(card: HeadCard) -> None:
    """Print what a fitted head chose, and how well it does."""
    tell(f"{card['head']} on {card['dataset']}@{card['encoder']}, label {card['label']!r}")
    if card.members:
        _show_members(card)
    settings = dict(card["chosen"])
    retrained = settings.pop("retrained", "")
    names = {"chosen": "head"}
    if settings:
        chosen = ", ".join(f"{names.get(key, key)} {value}" for key, value in settings.items())
        tell(f"  chosen on training rows: {chosen}")
    if retrained:
        tell(f"  retrained: {retrained}")
    for metric, found in card["metrics"].items():
        interval = ""
        if found["low"] is not None:
            interval = f" ({found['low']:.3f} to {found['high']:.3f})"
        tell(f"  {metric.replace('_', ' ')}: {_score(found['value'])}{interval}")
    tell(f"  The intervals are about {card['estimand']}.")
    if again := card.get("as_reviewed"):
        said = ", ".join(
            f"{name.replace('_', ' ')} {_score(v)}" for name, v in again["metrics"].items()
        )
        tell(f"  with the labels of reviewers ({again['n_changed']} items differ): {said}")
    if card.conformal:
        tell(f"  {card.conformal.sentence()}")
    if twins := card.get("twins"):
        said = ", ".join(
            f"{name.replace('_', ' ')} {value:.3f}"
            for name, value in twins["without"].items()
            if value is not None
        )
        if twins["n"]:
            tell(f"  without the test items that have a near-duplicate: {said}")
    for note in card["notes"]:
        tell(f"  {note}")
    tell(f"  kept as {card.head_id}")


def _show_members(card: HeadCard) -> None:
    """Print how much each member of a mix counts, and what leaving it out costs."""
    is_number = card.task == "regression"
    loss = "squared error" if is_number else "log loss"
    tell(
        f"  members: weights add up to 1; beside them how much the {loss} of held-out training "
        "rows would grow without this member"
    )
    width = max(len(one.name) for one in card.members or ())
    for one in card.members or ():
        cost = "" if one.without is None else f"{one.without:+.3g}"
        said = f"left out, it failed: {one.failed}" if one.failed else f"{one.weight:.2f}   {cost}"
        tell(f"    {one.name:<{width}}  {said}")


def _score(value: float | None) -> str:
    """Write a score; one that is undefined on these rows is a dash."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def predict_line(fitted: FittedHead, folder: str) -> str:
    """Return the command that predicts for new items with a head in a folder."""
    from heads.saved.card import COLUMNS

    card = fitted.card
    known = card.columns or {}
    source = "NEW.csv" if {"text", "image"} & set(known) else "NEW_FOLDER/"
    if card.modality == Modality.TEXT and "text" not in known:
        source, known = "NEW.csv", {"text": "TEXT_COLUMN"}
    elif card.metadata_columns is not None and source != "NEW.csv":
        source, known = "NEW.csv", {"image": "IMAGE_COLUMN"}
    flags = [f"--{flag} {shlex.quote(known[flag])}" for flag in COLUMNS if flag in known]
    words = ["featurestore predict", shlex.quote(folder), source, *flags, "-o predictions.csv"]
    return " ".join(words)


def _leaderboard(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a comparison, best first."""
    rows = comparison.rows()
    table = [
        [encoder_label(r["encoder"]), r["head"], _score(r["value"]),
         "" if r["low"] is None else f"{r['low']:.3f} – {r['high']:.3f}", f"{r['seconds']:.2f}"]
        for r in rows
    ]  # fmt: skip
    metric = rows[0]["metric"].replace("_", " ")
    header = ["encoder", "head", metric, "95 % interval", "fit (s)"]
    if any("as_reviewed" in row for row in rows):
        header.append(f"{metric} as reviewed")
        for line, row in zip(table, rows, strict=True):
            line.append(_score(row["as_reviewed"]) if "as_reviewed" in row else "")
    if any("without_twins" in row for row in rows):
        header.append("without twins")
        for line, row in zip(table, rows, strict=True):
            line.append(_score(row["without_twins"]) if "without_twins" in row else "")
    return header, table


def leaderboard(comparison: Comparison) -> Table:
    """Return a comparison that is not at its end as a table; rows that lie far behind are grey.

    Grey are those whose difference from the first lies below zero, as wide as for all pairs at
    once. They go on to the last fold like the others: this is for the eye alone.
    """
    from rich import box
    from rich.table import Table

    header, lines = _leaderboard(comparison)
    table = Table(*header, box=box.SIMPLE_HEAD, pad_edge=False)
    best, *others = [(row["encoder"], row["head"]) for row in comparison.rows()]
    table.add_row(*lines[0])
    for row, line in zip(others, lines[1:], strict=True):
        low = comparison.difference(best, row, n_claims=comparison.n_claims).gain[1]
        table.add_row(*line, style="dim" if low > 0 else None)
    table.caption = f"so far: {comparison.estimand}"
    return table


def show_comparison(comparison: Comparison, dataset: DataSet | None = None) -> None:
    """Print a comparison as a table, best first, what its intervals mean, and what to take."""
    from heads.advice.next_step import after_comparison
    from heads.measures.choice import MAJORITY, MARGIN

    print_table(*_leaderboard(comparison))
    tell(f"Intervals: {comparison.estimand}. {FIT_S}")
    # That a head is better than always giving one answer is no news, unless it is close.
    claims = comparison.claims()
    said = [one for one in claims if one.second[1] != MAJORITY or one.gain[1] <= MARGIN]
    for claim in said:
        tell(f"{claim.sentence()}.")
    if said and comparison.n_pairs > 1:
        tell(
            f"These intervals are wide enough to compare all {comparison.n_pairs} pairs of rows "
            f"({comparison.allowance})."
        )
    for note in comparison.notes:
        tell(note)
    if dataset is not None:
        _show_next(after_comparison(comparison, dataset))


def _show_next(lines: Sequence[str]) -> None:
    """Print what to take, and the command to type."""
    if lines:
        tell("")
    for line in lines:
        tell(line)


def show_twins(without: Comparison, as_split: Comparison) -> None:
    """Say what each row scores where near-duplicates may part, beside the honest figure."""
    parted = {(row["encoder"], row["head"]): row["value"] for row in as_split.rows()}
    table = []
    for row in without.rows():
        easy = parted[row["encoder"], row["head"]]
        label = encoder_label(row["encoder"])
        table.append([label, row["head"], f"{row['value']:.3f}", f"{easy:.3f}",
                      f"{easy - row['value']:+.3f}"])  # fmt: skip
    print_table(["encoder", "head", "twins together", "twins parted", "difference"], table)


def show_assessment(assessment: Assessment, dataset: DataSet | None = None) -> None:
    """Print verdicts, their evidence, and what to do."""
    from heads.advice.next_step import after_assessment
    from heads.measures.comparison import metric_of, number

    metric = assessment.metric
    scale = " × 100" if metric_of(metric).is_share else ""

    def said(x: float, sign: str = "+") -> str:
        return number(x, metric, sign)

    tell(
        f"Transfer to {assessment.dataset}, label {assessment.label!r}: "
        f"{metric.replace('_', ' ')} on {assessment.n_items:,} items"
    )
    first = assessment.verdicts[0]
    rows = [
        [encoder_label(v.encoder), v.kind.upper(), f"{v.encoder_value:.3f}",
         f"{v.reference_value:.3f}", said(v.value), f"{said(v.low)} – {said(v.high)}"]
        for v in assessment.verdicts
    ]  # fmt: skip
    header = ["encoder", "verdict", "encoder's", first.reference, f"Δ{scale}", "95 % interval"]
    if any(v.kind == "inconclusive" for v in assessment.verdicts):
        header += ["smallest difference that would show", first.rows_needed_for]
        for row, v in zip(rows, assessment.verdicts, strict=True):
            is_open = v.kind == "inconclusive"
            needed = f"{v.rows_needed:,}" if v.rows_needed >= 0 else "no number is enough"
            row += [said(v.detectable, ""), needed] if is_open else ["", ""]
    print_table(header, rows)
    tell(f"Intervals: {assessment.estimand}.")
    for line in assessment.sentences():
        tell(line)
    _show_slices(assessment)
    for spec, shift in assessment.shifts.items():
        tell(assessment.shift_sentence(spec))
        worst = sorted(shift.beyond_of_class.items(), key=lambda one: -one[1])[:5]
        if worst and (shift.is_shifted or shift.far_classes):
            tell(
                "  by class (* more than chance): "
                + ", ".join(
                    f"{name} {share:.0%}{'*' if name in shift.far_classes else ''}"
                    for name, share in worst
                )
            )
    if assessment.ranking:
        _show_ranking(assessment)
    for spec, lines in assessment.advice.items():
        tell(f"\nWhat to do with {encoder_label(spec)}:")
        for line in lines:
            tell(f"  • {line}")
    tell("")
    for note in assessment.notes:
        tell(note)
    if dataset is not None:
        _show_next(after_assessment(assessment, dataset))


def _show_slices(assessment: Assessment) -> None:
    is_error = assessment.task == "regression"
    for spec, found in assessment.slices.items():
        worse = [one for one in found if one.is_found and one.value < 0]
        for one in worse[:5]:
            scale, unit = (1, "mean absolute error saved") if is_error else (100, "points")
            tell(
                f"{encoder_label(spec)} is worse on {one.name}: {scale * one.value:+.3g} {unit} "
                f"({scale * one.low:+.3g} to {scale * one.high:+.3g}), {one.n_rows} items "
                "(exploration, Benjamini-Hochberg)."
            )


def _show_ranking(assessment: Assessment) -> None:
    names = list(assessment.ranking[0].scores)
    rows = [
        [r.rank, f"{r.rank_low} – {r.rank_high}", encoder_label(r.encoder), r.dim,
         "" if r.n_parameters is None else f"{r.n_parameters / 1e6:.1f} M",
         *(f"{r.scores[name]:.3f}" for name in names),
         "" if r.head_value is None else f"{r.head_value:.3f}"]
        for r in assessment.ranking
    ]  # fmt: skip
    _show_depths(assessment)
    tell("\nScores without training, ranked by ridge_loo:")
    print_table(["rank", "95 %", "encoder", "dim", "parameters", *names, "head"], rows)
    if assessment.agreement:
        taus = ", ".join(f"{name} {tau:+.2f}" for name, tau in assessment.agreement.items())
        tell(f"Kendall's τ with the heads: {taus}.")


def _show_depths(assessment: Assessment) -> None:
    """Print the primary score and the head's value by depth, for networks of several layers."""
    from heads.transfer.cast import by_depth

    for network, found in by_depth(assessment.ranking).items():
        highest = max(max(one.scores["ridge_loo"] for _, one in found), 1e-9)
        rows = [
            [layer, one.dim, f"{one.scores['ridge_loo']:.3f}", f"{one.head_value:.3f}",
             "█" * max(0, round(20 * one.scores["ridge_loo"] / highest))]
            for layer, one in found
        ]  # fmt: skip
        tell(f"\n{encoder_label(network)} by depth:")
        print_table(["layer", "dim", "ridge_loo", "head", ""], rows)


def show_curve(drawn: Curve, dataset: DataSet, targets: Sequence[float] = ()) -> None:
    """Print a learning curve, and how many labels reach the targets (percentages)."""
    from heads.advice.next_step import after_curve

    rows = [
        [encoder_label(r["encoder"]), r["head"], f"{r['n_labels']:,}", _score(r["value"]),
         f"{r['low']:.3f} – {r['high']:.3f}"]
        for r in drawn.rows()
    ]  # fmt: skip
    name = drawn.metric.replace("_", " ")
    print_table(["encoder", "head", "labels in all", name, "95 % of new draws"], rows)
    _show_gains(drawn)
    for target in targets:
        for encoder in drawn.encoders:
            needed = drawn.labels_needed(encoder, target / 100)
            tell(f"{drawn.name_of(encoder)}: {needed}.")
    for encoder in () if targets else drawn.encoders:
        if said := drawn.enough(encoder):
            tell(f"{drawn.name_of(encoder)}: {said}.")
    for note in drawn.notes:
        tell(note)
    _show_next(after_curve(drawn, dataset, [target / 100 for target in targets]))


def _show_gains(drawn: Curve) -> None:
    """Say at which budgets an encoder is better than what needs no pretraining."""
    from heads.measures.comparison import number, unit_of

    baselines = [one for one in drawn.encoders if one in ("baseline:pixels", "baseline:tfidf")]
    for encoder in drawn.encoders:
        for reference in baselines if not encoder.startswith(("baseline:", "random:")) else ():
            gains = drawn.gains(encoder, reference)
            said = ", ".join(
                f"{g.n_labels:,}: {number(g.value, drawn.metric, '+')}{'*' if g.is_found else ''} "
                f"({number(g.low, drawn.metric, '+')} to {number(g.high, drawn.metric, '+')})"
                for g in gains
            )
            tell(
                f"{encoder_label(encoder)} minus {reference} by number of labels, "
                f"{unit_of(drawn.metric)}: {said} (95 % over draws of labels from these items; "
                "* differs from 0, "
                "Benjamini-Hochberg at 5 %; exploration)."
            )


def show_issues(
    found: Issues,
    kinds: Sequence[str] = KINDS,
    limit: int = 10,
    contents: Contents = lambda _: {},
) -> None:
    """Print a quality report: the worst of each kind, and what there is to say.

    ``contents`` gives texts or files of items by their ids.
    """
    tell(f"{found.dataset}@{found.encoder}: " + ", ".join(found.summary()))
    for kind in kinds:
        worst = found.of(kind)[:limit]
        if worst:
            rows = [[one.item_id, f"{one.score:.2f}", one.reason] for one in worst]
            print_items([kind, "score", "why"], rows, contents([one.item_id for one in worst]))
    for note in found.notes:
        tell(note)
