"""A bundle in words, as a page that goes with it: README.md with the keys that the Hub reads."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featurestore import __version__
from featurestore.encoders.installed import SHIPPED, WELL_KNOWN
from featurestore.terms.specs import EncoderSpec, Modality
from featurestore.terms.words import counted
from heads.estimators.knn import KnnHead
from heads.estimators.regression import KnnRegressor
from heads.labels.tasks import Task
from heads.measures.comparison import metric_of
from heads.saved.card import COLUMNS, HeadCard

if TYPE_CHECKING:
    from heads.saved.bundle import FittedHead

_SPECIAL = re.compile(r"([\\`*_\[\]|#~$:@>+!-])")
_MOST_CLASSES, _MOST_LETTERS = 40, 1000
_HUB_NAMES = {"timm": "timm/", "hf": "", "st": ""}  # family → what stands before a name there
_TASKS = {
    (Modality.IMAGE, Task.MULTICLASS): "image-classification",
    (Modality.IMAGE, Task.MULTILABEL): "image-classification",
    (Modality.TEXT, Task.MULTICLASS): "text-classification",
    (Modality.TEXT, Task.MULTILABEL): "text-classification",
}


def plain(text: object) -> str:
    """Return a text that Markdown and HTML show as it is, in one line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    line = line if len(line) <= _MOST_LETTERS else f"{line[:_MOST_LETTERS]}…"
    return _SPECIAL.sub(r"\\\1", html.escape(line, quote=False))


def model_card(head: FittedHead, place: str, *, licence: str | None = None) -> str:
    """Return README.md of a bundle: what it is, how well it does, its limits, how to load it.

    Nothing in it is invented: what nobody knows, such as the licence, is said to be unknown.

    Parameters
    ----------
    place : str
        Where the bundle will be, such as ``hf://org/name``.
    licence : str, optional
        As the Hub names it: ``mit``, ``cc-by-4.0``.
    """
    card = head.card
    parts = [
        "---", *_front_matter(card, licence), "---", "",
        f"# {plain(card.label)}: a head on {plain(card.encoder)}", "",
        _what(card), "",
        "## How well it does", "", *_scores(card), "",
        "## What it learned from", "", *_data(card), "",
        "## Limits", "", *_limits(card, head), "",
        "## How to use it", "", *_use(card, place), "",
        "## Licence", "", _licence(card, licence), "",
    ]  # fmt: skip
    return "\n".join(parts)


def tells(head: FittedHead) -> list[str]:
    """Say what a bundle holds that its owner may not want to give away."""
    card = head.card
    said = [
        f"the name of the data set ({card.dataset}), of its label column ({card.label})"
        + (f", and {len(card.classes):,} classes" if card.classes else "")
    ]
    parsed = [(str(block["spec"]), EncoderSpec.parse(block["spec"])) for block in head.blocks]
    places = [(text, spec.local_dir or spec.local_file) for text, spec in parsed]
    if kept_places := [text for text, path in places if path is not None and str(path) in text]:
        said.append(f"where the encoder lies on your machine: {', '.join(kept_places)}")
    if card.metadata_columns is not None:
        values = [v for one in card.metadata_columns.columns for v in one.values]
        said.append(
            f"columns of your items ({', '.join(card.metadata_columns.names)}) with the values "
            f"of categories: {', '.join(values[:10])}{' …' if len(values) > 10 else ''}"
        )
    if head.familiar is not None:
        said.append("means of training vectors, of three items or more where the class has them")
    if kept := training_data_in(head.estimator):
        said.append(f"of single items: {kept}")
    return said


def training_data_in(estimator: object, depth: int = 0) -> str | None:
    """Say which part of a head keeps vectors or words of training items; None where none does."""
    from sklearn.feature_extraction.text import CountVectorizer

    if isinstance(estimator, (KnnHead, KnnRegressor)):
        return (
            f"{type(estimator).__name__} keeps all training vectors, and something of each item is "
            "in its vector"
        )
    if isinstance(estimator, CountVectorizer):
        return f"{type(estimator).__name__} keeps words of the training texts"
    if depth > 6:
        return None
    held: Sequence[object] = ()
    if isinstance(estimator, Mapping):
        held = list(estimator.values())
    elif isinstance(estimator, (list, tuple)):
        held = estimator
    elif hasattr(estimator, "__dict__") and hasattr(estimator, "get_params"):
        held = list(vars(estimator).values())
    return next((said for one in held if (said := training_data_in(one, depth + 1))), None)


def _front_matter(card: HeadCard, licence: str | None) -> list[str]:
    """Return the lines between the dashes; JSON values are YAML, whatever they hold."""
    modality = Modality(card.modality or Modality.IMAGE)
    found: dict[str, Any] = {
        "license": licence or "unknown",
        "library_name": "featurestore",
        "tags": ["featurestore", "transfer-learning", str(card.task)],
    }
    if (pipeline := _TASKS.get((modality, card.task))) is not None:
        found["pipeline_tag"] = pipeline
    if (base := _on_the_hub(card.encoder)) is not None:
        found["base_model"] = base
    metrics = [
        {"type": name, "value": round(float(one.value), 4)}
        for name, one in card.metrics.items()
        if one.value == one.value
    ]
    found["model-index"] = [
        {
            "name": card.head_id,
            "results": [
                {
                    "task": {"type": pipeline or "other"},
                    "dataset": {"name": card.dataset, "type": card.dataset},
                    "metrics": metrics,
                }
            ],
        }
    ]
    return [f"{key}: {json.dumps(value)}" for key, value in found.items()]


def _on_the_hub(encoder: str) -> str | None:
    """Return the name of an encoder's repository there, where it follows from the spec."""
    if encoder.startswith(("concat:", "mix:")):
        return None
    spec = EncoderSpec.parse(encoder)
    if spec.local_dir is not None or spec.local_file is not None or spec.family not in _HUB_NAMES:
        return None
    name = _HUB_NAMES[spec.family] + spec.model
    return name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else None


def _what(card: HeadCard) -> str:
    kind = {
        Task.MULTICLASS: "one of the classes",
        Task.MULTILABEL: "some of the labels",
        Task.REGRESSION: "a number",
    }[card.task]
    reads = "text" if card.modality == Modality.TEXT else "picture"
    named = ", ".join(plain(one) for one in card.classes[:_MOST_CLASSES])
    more = len(card.classes) - _MOST_CLASSES
    classes = f": {named}{f' and {more:,} more' if more > 0 else ''}" if named else ""
    beside = card.metadata_columns
    columns = f", and the columns {', '.join(map(plain, beside.names))}," if beside else ""
    return (
        f"Of a {reads}{columns} it says {kind} of {plain(card.label)}{classes}. A frozen encoder "
        f"({plain(card.encoder)}) makes a vector of each item, and the head "
        f"{plain(card.head)} was trained on these by featurestore {__version__}."
    )


def _scores(card: HeadCard) -> list[str]:
    rows = ["| metric | value | 95 % interval |", "|---|---|---|"]
    for name, one in card.metrics.items():
        if one.value != one.value:
            continue
        scale, unit = (100, " %") if metric_of(name).is_share else (1, "")
        span = ""
        if one.low is not None and one.high is not None:
            span = f"{scale * one.low:.4g} to {scale * one.high:.4g}{unit}"
        rows.append(f"| {plain(name.replace('_', ' '))} | {scale * one.value:.4g}{unit} | {span} |")
    on = card.evaluation
    how = (
        f"Measured on {on.n_tested:,} items of the test split, which were held out from training."
        if on.on == "test"
        else f"Measured by {on.n_repeats} × {on.n_folds} folds: each item by heads that it did "
        "not teach."
    )
    apart = f" Items that share a value of {', '.join(map(plain, card.never_part))} stay together."
    said = [*rows, "", f"{how}{apart} The intervals are about {plain(card.estimand)}."]
    return [*said, "", f"{card.conformal.sentence()}."] if card.conformal else said


def _data(card: HeadCard) -> list[str]:
    at = card.snapshot
    state = f" Snapshot: items {at.items}, vectors {at.view}." if at else ""
    return [
        f"{card.n_items:,} items with a label of the data set {plain(card.dataset)}"
        f"{f', slice {plain(card.slice)}' if card.slice else ''}, of which "
        f"{card.evaluation.n_train:,} taught it; {card.n_unlabelled:,} had no label.{state}",
        "",
        f"Encoder: {plain(card.encoder)}, fingerprint `{card.fingerprint or 'none'}`. Loading "
        "checks that the encoder is this one.",
    ]


def _limits(card: HeadCard, head: FittedHead) -> list[str]:
    said = [
        "It was measured on items like those that it learned from. How well it does on others is "
        "not known."
    ]
    if card.evaluation.n_leaked:
        said.append(
            f"{counted(card.evaluation.n_leaked, 'test item')} also stood among the items that it "
            "learned from, so the scores may be too high."
        )
    if card.twins is not None and card.twins.n:
        said.append(
            f"{card.twins.n:,} of {card.twins.n_test:,} test items have a near-duplicate among the "
            "items that it learned from."
        )
    if card.n_blocks == card.n_items:
        said.append("No groups (patients, places, authors) were kept apart when it was measured.")
    if head.cannot_tell is None:
        said.append(
            "Each answer has `unlike_training`, the share of the training items that lie less far "
            "out: where it is 0.95 or more, look at the item yourself."
        )
    else:
        said.append(f"It cannot tell which items are unlike those: {plain(head.cannot_tell)}.")
    said += [plain(note) for note in card.notes]
    return [f"- {one}" for one in said]


def _use(card: HeadCard, place: str) -> list[str]:
    known = card.columns or {}
    is_table = card.modality == Modality.TEXT or card.metadata_columns is not None
    source = "new.csv" if is_table else "new-pictures/"
    flags = "".join(f" --{flag} COLUMN" for flag in COLUMNS[:2] if flag in known and is_table)
    raw = '["a text"]' if card.modality == Modality.TEXT else '["a.jpg"]'
    return [
        "```sh",
        "pip install featurestore",
        f"featurestore predict {place} {source}{flags}",
        "```",
        "",
        "```python",
        "import heads",
        "",
        f'head = heads.load_bundle("{place}")',
        f"print(head.ask({raw}).predicted)" if card.metadata_columns is None
        else f"head.ask({raw}, columns={{{', '.join(f'{n!r}: [...]' for n in _names(card))}}})",
        "```",
        "",
        "The files hold no code: the head is a skops file, of which known types alone are read, "
        "and arrays are safetensors.",
    ]  # fmt: skip


def _names(card: HeadCard) -> tuple[str, ...]:
    return () if card.metadata_columns is None else card.metadata_columns.names


def _licence(card: HeadCard, licence: str | None) -> str:
    own = f"The head: {plain(licence)}." if licence else "Of the head: nobody has said."
    known = {one.spec: one.licence for one in (*SHIPPED, *WELL_KNOWN)}
    found = known.get(card.encoder.partition("#")[0])
    of_encoder = plain(found) if found else "not known here"
    return (
        f"{own} The encoder {plain(card.encoder)} is not part of these files and has a licence of "
        f"its own ({of_encoder}), and so may the items that the head learned from."
    )
