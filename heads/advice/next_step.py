"""What to do after a comparison, a verdict or a curve: a sentence, and the command to type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from featurestore.errors import BadName
from featurestore.store.commands import command_line
from featurestore.store.settings_file import settings_of
from featurestore.terms.specs import ALL_TOGETHER, EncoderSpec, Modality, encoder_label
from heads.catalogue.retraining import FINETUNE
from heads.catalogue.table import HEADS
from heads.experiments.inputs import MAJORITY, TFIDF
from heads.experiments.learning_curve import Curve
from heads.labels.options import PlanOptions
from heads.measures.card import WithColumns
from heads.measures.choice import choose
from heads.measures.comparison import Cell, Comparison
from heads.transfer.advice import Alternative, Way
from heads.transfer.assessment import Assessment
from heads.transfer.verdict import Kind, Verdict
from heads.transfer.views import PIXELS

if TYPE_CHECKING:
    from featurestore.store.dataset import DataSet
    from featurestore.store.view import View

FIRST_ENCODER = {Modality.IMAGE: "builtin:tiny-image", Modality.TEXT: "builtin:tiny-text"}
NEXT = "Type next: "


def costs_of(views: Sequence[View]) -> dict[str, tuple[float, ...]]:
    """Return what each encoder costs, as far as is known: its parameters, then its dim."""
    return {
        str(view.spec): (float(view.info.get("n_parameters") or np.inf), float(view.dim))
        for view in views
        if view.spec.family != "baseline"
    }


def typed(dataset: DataSet, *words: str, **options: object) -> str:
    """Return a command on a data set's store; options that are None are left out, True are flags.

    A label is left out where a command takes it without being told: the main one, unless
    featurestore.toml names another. A slice comes from the data set.
    """
    if options.get("label") == _label_untold(dataset):
        options["label"] = None
    if dataset.slice_ is not None:
        options["slice"] = dataset.slice_.name
    flags = [
        word
        for name, value in options.items()
        if value is not None
        for word in (f"--{name}", *([] if value is True else [str(value)]))
    ]
    return command_line(*words, *flags, store=dataset.store.path)


def _label_untold(dataset: DataSet) -> str | None:
    main = next(iter(dataset.label_columns), None)
    store = str(dataset.store.path)
    settings = settings_of(store)
    if settings is None or not settings.is_about(store, dataset.name):
        return main
    label = settings.values.get("label", main)
    return label if label is None or isinstance(label, str) else str(label[0])


def rows_asked(asked: PlanOptions) -> dict[str, object]:
    """Return the options of `typed` that ask for the same rows."""
    return {
        "label": asked.label,
        "task": asked.task,
        "evaluation": None if asked.evaluation == "auto" else asked.evaluation,
        "ignore-groups": None if asked.group else True,
        "seed": asked.seed or None,
    }


def train_command(
    dataset: DataSet, cell: Cell, *, inputs: Sequence[str] = (), **options: object
) -> str:
    """Return the command that trains a row of a comparison; baselines name any view to read.

    ``inputs`` are the encoders that were compared, which a mix of all reads.
    """
    encoder, head = cell
    views = [str(view.spec) for view in dataset.views()]
    if encoder == str(ALL_TOGETHER):
        named = [word for one in inputs for word in ("-e", short_name(dataset, one))]
        return typed(dataset, "train", dataset.name, *named, "--head", head, **options)
    if encoder == TFIDF:
        head = "tfidf"
    if encoder not in views:
        encoder = views[0]
    name = short_name(dataset, encoder)
    return typed(dataset, "train", dataset.name, "-e", name, "--head", head, **options)


def short_name(dataset: DataSet, spec: str) -> str:
    """Return an encoder's name in tables if it means one view alone, else its spec."""
    label = encoder_label(spec)
    try:
        return label if dataset.spec_named(label) == spec else spec
    except BadName:
        return spec


def embed_command(dataset: DataSet) -> str:
    """Return the command that embeds with a first encoder of ours."""
    words = ("embed", "--dataset", dataset.name, "-e", FIRST_ENCODER[dataset.modality])
    return command_line(*words, store=dataset.store.path)


def after_comparison(comparison: Comparison, dataset: DataSet) -> list[str]:
    """Say what to take of a comparison, and what to type."""
    choice = choose(comparison, costs_of(dataset.views()))
    said = choice.sentences()
    inputs = [view.encoder for view in comparison.card.views]
    taken, read = choice.taken, comparison.card.with_columns
    options: dict[str, object] = {"label": comparison.label}
    if read is not None and taken[0] in read.encoders:
        taken = read.encoders[taken[0]], taken[1]
        options["columns"] = ",".join(read.columns)
    if _can_be_typed(taken, dataset, inputs):
        command = train_command(dataset, taken, inputs=inputs, **options)
        said.append(NEXT + command)
    if read is not None and read.leaks and (others := _without_leaks(read)):
        command = typed(dataset, "compare", dataset.name, columns=others, label=comparison.label)
        said.append(f"To see what the other columns add: {command}")
    return said


def _without_leaks(read: WithColumns) -> str:
    """Return the columns that do not tell the label, as `--columns` takes them."""
    kept = [
        one
        for one in read.columns
        if one.removesuffix(":number").removesuffix(":category") not in read.leaks
    ]
    return ",".join(kept)


def _can_be_typed(cell: Cell, dataset: DataSet, inputs: Sequence[str] = ()) -> bool:
    """Whether a command trains a row: not views side by side, nor estimators without a name."""
    encoder, head = cell
    views = {str(view.spec) for view in dataset.views()}
    is_named = head in HEADS or head == "best" or ":" in head
    if encoder == str(ALL_TOGETHER):
        return is_named and views >= set(inputs)
    return is_named and bool(views) and (encoder in views or encoder in (TFIDF, MAJORITY))


def after_assessment(assessment: Assessment, dataset: DataSet) -> list[str]:
    """Say what to take after verdicts, and what to type."""
    best = max(assessment.verdicts, key=lambda one: one.value)
    encoder, head = _of_verdict(best, dataset), "best"
    what = f"the best head on {encoder_label(encoder)}"
    winner = assessment.evidence(best.encoder).best
    if encoder == TFIDF:
        what, head = "TF-IDF of the texts", "tfidf"
    inputs: list[str] = []
    if winner is not None and winner.way is Way.MIX:
        encoder, head = str(ALL_TOGETHER), winner.over_encoder.first[1]
        inputs = [best.encoder, *_reference_view(best, dataset)]
        what = f"a mix of {encoder_label(best.encoder)} and {best.reference}"
    elif winner is not None and best.kind is not Kind.NEGATIVE and encoder != TFIDF:
        encoder, head, what = _of_alternative(winner, encoder, what)
    said = [f"Take {what}. {best.sentence()}."]
    if _can_be_typed((encoder, head), dataset, inputs):
        cell = encoder, head
        command = train_command(dataset, cell, inputs=inputs, label=assessment.label)
        said.append(NEXT + command)
    return said


def _of_verdict(best: Verdict, dataset: DataSet) -> str:
    """Return the encoder to take: the reference where it is better, or as good and known."""
    if best.kind is Kind.NEGATIVE or (best.kind is Kind.INCONCLUSIVE and best.value < 0):
        if best.reference == "TF-IDF":
            return TFIDF
        for spec in _reference_view(best, dataset):
            return spec
    return best.encoder


def _reference_view(verdict: Verdict, dataset: DataSet) -> list[str]:
    """Return the encoder that a verdict is against; none for texts and where it is no view."""
    if verdict.reference == "raw pixels":
        return [PIXELS]
    return [str(one.spec) for one in dataset.views() if one.spec.label == verdict.reference][:1]


def _of_alternative(winner: Alternative, encoder: str, what: str) -> tuple[str, str, str]:
    if winner.way is Way.LAYER:
        spec = winner.over_encoder.first[0]
        return spec, "best", f"the best head on {EncoderSpec.parse(spec).label}"
    if winner.way is Way.WORDS:
        return encoder, "zero-shot+probe", f"zero-shot+probe on {encoder_label(encoder)}"
    if winner.way is Way.RETRAINED:
        return encoder, FINETUNE, f"{encoder_label(encoder)} with its upper blocks retrained"
    return encoder, "best", what


def after_curve(curve: Curve, dataset: DataSet, targets: Sequence[float] = ()) -> list[str]:
    """Say what to type after a curve: train where the labels are enough, else label more."""
    last = {spec: curve.of(spec)[-1] for spec in curve.encoders}
    sign = 1 if curve.higher_is_better else -1
    best = max(last.values(), key=lambda one: sign * one.mean)
    enough = [t for t in targets if curve.reached(best.encoder, t) is not None]
    if not targets or len(enough) == len(targets):
        cell = best.encoder, best.head
        if not _can_be_typed(cell, dataset):
            return []
        return [NEXT + train_command(dataset, cell, label=curve.label)]
    specs = [str(view.spec) for view in dataset.views()]
    if specs and _has_unlabelled(dataset, curve.label):
        name = short_name(dataset, best.encoder if best.encoder in specs else specs[0])
        return [NEXT + typed(dataset, "suggest", dataset.name, "-e", name, label=curve.label)]
    return [NEXT + typed(dataset, "compare", dataset.name, label=curve.label)]


def _has_unlabelled(dataset: DataSet, label: str) -> bool:
    return bool(dataset.items([label]).column(label).null_count)
