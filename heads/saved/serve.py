"""Ask a head about raw items: encode them with the head's own encoder, then predict."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from featurestore.encoders import encode_now
from featurestore.encoders.canary import check_probes
from featurestore.errors import BadName, EncoderMismatch
from featurestore.sources.listing import SourceOptions
from featurestore.sources.locations import Location
from featurestore.terms.activations import Activations
from featurestore.terms.specs import LOCAL_DIR, EncoderSpec, Modality
from heads.catalogue.members import TEXTS
from heads.labels.blocks import Blocks
from heads.labels.tasks import Task, texts_of
from heads.measures.conformal import sets
from heads.saved.answer_log import About
from heads.saved.answered import AnsweredRows
from heads.saved.answers import Answers
from heads.saved.beside import check_beside, numbers_of, values_beside
from heads.saved.mixed import BLOCKS_AND_TEXTS, READS
from heads.saved.raw_items import contents_of
from heads.saved.tapped import READS_TAP, upper_from

if TYPE_CHECKING:
    from featurestore.encoders.torch_network import TorchEncoder
    from featurestore.pipeline.report import Progress
    from featurestore.sources.listing import Source
    from featurestore.sources.written import InputRows
    from featurestore.store.dataset import DataSet
    from featurestore.store.view import View
    from heads.saved.bundle import FittedHead
    from heads.saved.unlike import Unlike


Inputs: TypeAlias = "NDArray[Any] | list[str] | Blocks | Activations"  # what heads read of n items


class _Lies(TypedDict):
    unlike: Unlike | None
    cannot_tell: str | None
    vectors: NDArray[np.float32] | None


class HowOptions(TypedDict, total=False):
    """Keywords that `predict_items` and `predict_rows` share."""

    encoder: str | None
    least_confidence: float
    allow_empty: bool


class AskOptions(HowOptions, total=False):
    """Keywords of `predict_items`."""

    columns: Mapping[str, Sequence[Any]] | None


def predict_items(
    head: FittedHead,
    items: Sequence[Any],
    *,
    columns: Mapping[str, Sequence[Any]] | None = None,
    encoder: str | None = None,
    least_confidence: float = 0.0,
    allow_empty: bool = False,
) -> Answers:
    """Predict for texts, or for images given as paths, bytes or PIL images.

    Parameters
    ----------
    items : sequence
        Texts where the head's encoder reads texts, else images: paths, bytes or PIL images.
    columns : mapping of str to sequence, optional
        Where the head reads columns beside vectors: the values of the items, by column.
    encoder : str, optional
        Where the head's encoder is now: a folder, or a spec. Its fingerprint must be the same.
    least_confidence : float
        Below it the head abstains: ``predicted`` is None.
    allow_empty : bool
        Whether a prediction set may be empty: of an item that fits no class.

    Raises
    ------
    EncoderMismatch, EncoderDrift
        If the encoder is not the one that the head learned from.
    BadSource, Undecodable
        If an item is of another type, or an image is not there, or cannot be read.
    """
    beside, notes = numbers_of(head, columns, len(items))
    inputs = encoded(head, contents_of(items, modality_of(head)), encoder, beside)
    ids = np.empty(len(items), dtype=object)
    ids[:] = [str(one if isinstance(one, (str, Path)) else i) for i, one in enumerate(items)]
    found = answer(head, ids, inputs, least_confidence, allow_empty=allow_empty)
    return replace(found, notes=tuple(notes))


def encoded_items(
    head: FittedHead, items: Sequence[Any] | NDArray[Any], encoder: str | None = None
) -> Inputs:
    """Return what a head reads of n raw items, in their order: vectors (n, dim), or texts."""
    beside, _ = numbers_of(head, None, len(items))
    return encoded(head, contents_of(items, modality_of(head)), encoder, beside)


def encoded(
    head: FittedHead,
    contents: Sequence[str | bytes],
    encoder: str | None = None,
    beside: NDArray[np.float32] | None = None,
) -> Inputs:
    """Return what a head reads of texts or bytes: vectors (n, dim), or the texts themselves.

    Every item is decoded once, whatever the number of encoders. ``beside`` are the numbers of
    columns, (n, ·), of a head that reads them.
    """
    if head.card.reads == "texts":
        return [str(one) for one in contents]
    if head.card.reads == READS_TAP:
        return encode_now.activations(opened_top(head, encoder), contents)
    blocks = blocks_of(head)
    loaded = [
        encode_now.open_encoder(block, place, trust=head.trust)
        for block, place in zip(blocks, places_of(blocks, encoder), strict=True)
    ]
    texts = [str(one) for one in contents]
    return as_read(head, encode_now.encode_each(loaded, contents), texts, beside)


def opened_top(head: FittedHead, encoder: str | None = None) -> TorchEncoder:
    """Open the encoder of a head that retrains, and give the head its blocks above the cut."""
    block, cut = blocks_of(head)[0], head.card.cut
    assert cut is not None, "checked when the card was read"
    opened = encode_now.open_tap(block, cut, moved(block, encoder), trust=head.trust)
    head.estimator.set_params(upper=upper_from(opened))
    return opened


def as_read(
    head: FittedHead,
    vectors: Sequence[NDArray[np.float32]],
    texts: Sequence[str],
    beside: NDArray[np.float32] | None = None,
) -> Inputs:
    """Return vectors of each encoder, (n, dim), columns and texts as a head reads them."""
    blocks = blocks_of(head)
    scaled = [one * np.float32(block["scale"]) for one, block in zip(vectors, blocks, strict=True)]
    if head.card.reads not in READS:
        return np.hstack(scaled if beside is None else [*scaled, beside])
    found: dict[str, Any] = {block["spec"]: one for block, one in zip(blocks, scaled, strict=True)}
    if head.card.reads == BLOCKS_AND_TEXTS:
        found[TEXTS] = np.array(texts, dtype=object)
    return Blocks(found)


def modality_of(head: FittedHead) -> Modality:
    """Return what a head reads; cards of 0.1 do not say it, and are of images if not of texts."""
    if head.card.reads == "texts":
        return Modality.TEXT
    return Modality(head.card.modality or Modality.IMAGE)


def predict_source(
    head: FittedHead,
    source: str | Path,
    *,
    options: SourceOptions | None = None,
    encoder: str | None = None,
    least_confidence: float = 0.0,
    progress: Callable[[Progress], None] | None = None,
) -> Answers:
    """Predict for every item of a source; see `predict_rows`. In the order of its listing."""
    return predict_rows(
        head, source, options=options, encoder=encoder, least_confidence=least_confidence,
        progress=progress,
    ).answers  # fmt: skip


def predict_rows(
    head: FittedHead,
    source: str | Path,
    *,
    options: SourceOptions | None = None,
    encoder: str | None = None,
    least_confidence: float = 0.0,
    allow_empty: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> AnsweredRows:
    """Predict for every row of a source: a folder, a table, tar shards, a URL.

    It runs the embedding pipeline into a store that is thrown away afterwards, so that
    everything that can be embedded can be predicted, and one bad file stops nothing.

    Raises
    ------
    EncoderMismatch, EncoderDrift
        If the encoder is not the one that the head learned from.
    BadSource
        If there is nothing to read.
    """
    from featurestore.pipeline.job import EmbedRequest, Job
    from featurestore.pipeline.options import EmbedOptions
    from featurestore.sources.opening import open_source
    from featurestore.sources.written import input_rows
    from featurestore.storage.cache import wait_until_written
    from featurestore.store.store import open_store

    opened = open_source(source)
    options, notes = with_columns(head, opened, options or SourceOptions())
    with tempfile.TemporaryDirectory(prefix="featurestore-predict-") as folder:
        store = open_store(Path(folder), create=True)
        blocks = [] if head.card.reads == "texts" else blocks_of(head)
        places = places_of(blocks, encoder)
        is_tap = head.card.reads == READS_TAP
        if is_tap:
            opened_top(head, encoder)  # refused before it embeds anything
        else:
            for block, place in zip(blocks, places, strict=True):
                encode_now.open_encoder(block, place, trust=head.trust)
        pairs = zip(blocks, places, strict=True)
        specs = [place or EncoderSpec.parse(block["spec"]) for block, place in pairs]
        names = [str(spec) for spec in specs] or ["baseline:hashing"]
        how = EmbedOptions(trust=head.trust)
        if is_tap:
            names = [str(spec.with_option("tap", head.card.cut)) for spec in specs]
            how = EmbedOptions(trust=head.trust, all_items=True)
        made = {spec: str(one["fingerprint"]) for spec, one in zip(specs, blocks, strict=True)}
        job = Job.make(store.path, "items", EmbedRequest([source], names, options, how), made)
        rows = input_rows(opened, options, job.intake.listed.table().drop_columns(["source"]))
        check_beside(head, rows)
        reports = job.run(progress, lambda _: None)
        dataset = store.dataset("items")
        views = [dataset.view(name) for name in names] if specs else dataset.views()
        if not is_tap:  # the probes went through its blocks above
            _check_views(head, views, blocks)
        failed = {row["item_id"]: row["error"] for row in dataset.failures().to_pylist()}
        failures = tuple(f"{one}: {reason}" for one, reason in failed.items())
        if not sum(report.n_encoded + report.n_copied for report in reports):
            found = answer(head, np.empty(0, dtype=object), _nothing(head), 0.0, failures)
        else:
            ids, inputs, said = _inputs(head, views, rows)
            found = answer(head, ids, inputs, least_confidence, failures, allow_empty=allow_empty)
            notes += said
        wait_until_written()
        notes += _worth_saying(job.intake.notes)
        return AnsweredRows(rows, found, failed, notes, _about(dataset))


def _about(dataset: DataSet) -> dict[str, About]:
    """Return what a log of answers may keep of each item: its hash, its text, or where it is."""
    sources = {name: Location(one.root) for name, one in dataset.description.sources.items()}
    rows = dataset.items(["item_id", "content_hash", "text", "uri", "source"]).to_pylist()
    return {
        row["item_id"]: About(
            row["content_hash"],
            row["text"],
            row["uri"] and sources[row["source"]].join(row["uri"]).text,
        )
        for row in rows
    }


def with_columns(
    head: FittedHead, source: Source, options: SourceOptions
) -> tuple[SourceOptions, list[str]]:
    """Fill in the columns that the training table had, where a table has columns of those names.

    Returns
    -------
    options : SourceOptions
    notes : list of str
        What was filled in.
    """
    from featurestore.sources.table import TableFile
    from featurestore.sources.written import table_columns

    known = head.card.columns or {}
    if not known or not isinstance(source, TableFile):
        return options, []
    there = table_columns(source.location)
    is_open = {"id": options.id is None}
    is_open["text"] = is_open["image"] = options.text is None and options.image is None
    found = {
        flag: name for flag, name in known.items() if name in there and is_open.get(flag, False)
    }
    if not found:
        return options, []
    said = " ".join(f"--{flag} {name}" for flag, name in found.items())
    options = replace(
        options,
        text=found.get("text", options.text),
        image=found.get("image", options.image),
        id=found.get("id", options.id),
    )
    return options, [f"columns as in the training table: {said}"]


def _check_views(
    head: FittedHead, views: Sequence[View], blocks: Sequence[Mapping[str, Any]]
) -> None:
    """Check that items were embedded as the training items were."""
    for block, view in zip(blocks, views, strict=False):
        if view.fingerprint != block["fingerprint"]:
            raise EncoderMismatch(
                f"{view.spec} is another encoder than the one that {head.head_id} learned "
                f"from: fingerprint {view.fingerprint[:8]}, expected "
                f"{block['fingerprint'][:8]}; --encoder PATH says where that one is"
            )
        check_probes(view.info["canary"], block["canary"], str(view.spec))


def _inputs(
    head: FittedHead, views: Sequence[View], rows: InputRows
) -> tuple[NDArray[Any], Inputs, list[str]]:
    """Return the ids of items with a vector, in the order given, what the head reads, and notes."""
    from heads.saved.common_items import load_shared, positions_in

    order = rows.ids.to_pylist()
    if head.card.reads == READS_TAP:
        (tap,) = views
        there = set(tap.items().column("item_id").to_pylist())
        known = [one for one in order if one in there]
        return np.array(known, dtype=object), tap.activations(known), []
    tables, _ = load_shared(views)
    positions = positions_in(tables[0], np.array(order, dtype=object))
    tables = [table.take(positions[positions >= 0]) for table in tables]
    reads_texts = head.card.reads in ("texts", BLOCKS_AND_TEXTS)
    texts = texts_of(tables[0]).tolist() if reads_texts else []
    ids = tables[0].ids
    if head.card.reads == "texts":
        return ids, texts, []
    beside, notes = numbers_of(head, values_beside(head, rows, ids), len(ids))
    return ids, as_read(head, [table.vectors for table in tables], texts, beside), notes


def _worth_saying(notes: Sequence[str]) -> tuple[str, ...]:
    """Return notes of a listing without what concerns later runs only."""
    return tuple(note for note in notes if not note.startswith("no --id"))


def answer(
    head: FittedHead,
    ids: NDArray[Any],
    inputs: Inputs | Sequence[str],
    least_confidence: float = 0.0,
    failures: tuple[str, ...] = (),
    *,
    allow_empty: bool = False,
) -> Answers:
    """Predict for n ids what is encoded already: vectors (n, dim), or texts for ``tfidf``."""
    if len(ids) == 0:
        return Answers(ids, np.empty(0, dtype=object), tuple(head.classes), failures=failures)
    if least_confidence > 0 and head.task is not Task.MULTICLASS:
        raise BadName(f"abstention is for one class an item; this head's task is {head.task}")
    said, proba, unlike = head.answered(inputs)
    vectors = inputs if isinstance(inputs, np.ndarray) and inputs.ndim == 2 else None
    predicted = np.empty(len(ids), dtype=object)
    predicted[:] = said.tolist()
    conformal = head.card.conformal
    lies: _Lies = {"unlike": unlike, "cannot_tell": head.cannot_tell, "vectors": vectors}
    if head.task is Task.REGRESSION:
        interval = None
        if conformal:
            centre = predicted.astype(np.float64)
            interval = np.column_stack([centre - conformal.most, centre + conformal.most])
        return Answers(ids, predicted, (), interval=interval, failures=failures, **lies)
    confidence, in_set = None, None
    if proba is not None:
        if conformal:
            in_set = sets(proba, conformal.most, allow_empty=allow_empty)
        if head.task is Task.MULTICLASS:
            confidence = proba.max(axis=1)
            predicted[confidence < least_confidence] = None
    elif least_confidence > 0:
        raise BadName(f"{head.card.head} gives no probabilities: it cannot abstain")
    classes = tuple(head.classes)
    return Answers(ids, predicted, classes, proba, confidence, in_set, failures=failures, **lies)


def moved(block: Mapping[str, Any], encoder: str | None) -> EncoderSpec | None:
    """Return where a block's encoder is now, given a folder or a spec; None where it was."""
    if encoder is None:
        return None
    old = EncoderSpec.parse(block["spec"])
    if not Path(encoder).is_dir():
        return EncoderSpec.parse(encoder)
    _, hash_, options = str(old).partition("#")
    before, _, _ = old.model.partition(LOCAL_DIR)  # what stands before it, as in random:timm:
    if old.local_dir is None:
        before = ""
    return EncoderSpec.parse(f"{old.family}:{before}{LOCAL_DIR}{encoder}{hash_}{options}")


def places_of(blocks: Sequence[Mapping[str, Any]], encoder: str | None) -> list[EncoderSpec | None]:
    """Return where the encoders are now; of several, those that were folders have moved."""
    specs = [EncoderSpec.parse(block["spec"]) for block in blocks]
    may_move = [len(blocks) == 1 or spec.local_dir is not None for spec in specs]
    return [
        moved(block, encoder if may else None) for block, may in zip(blocks, may_move, strict=True)
    ]


def blocks_of(head: FittedHead) -> list[Mapping[str, Any]]:
    """Return what the bundle says of each encoder that the head learned from."""
    if not head.blocks:
        raise EncoderMismatch(
            f"{head.head_id} does not say which encoder it learned from: fit it again"
        )
    return list(head.blocks)


def _nothing(head: FittedHead) -> NDArray[np.float32]:
    return np.empty((0, head.card.dim), dtype=np.float32)
