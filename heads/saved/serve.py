"""Ask a head about raw items: encode them with the head's own encoder, then predict."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from featurestore.encoders import encode_now
from featurestore.encoders.canary import check_probes
from featurestore.errors import BadName, BadSource, EncoderMismatch
from featurestore.terms.specs import LOCAL_DIR, EncoderSpec, Modality
from heads.labels.tasks import Task, texts_of
from heads.measures.conformal import sets

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.pipeline.report import Progress
    from featurestore.sources.listing import SourceOptions
    from heads.saved.bundle import FittedHead


@dataclass(frozen=True, eq=False)
class Answers:
    """What a head says of n items; ``None`` where it has nothing of the kind."""

    ids: NDArray[Any]  # (n,), str
    predicted: NDArray[Any]  # (n,): str, a list of str, or a number; None where it abstains
    classes: tuple[str, ...]
    probabilities: NDArray[np.float64] | None = None  # (n, n_classes)
    confidence: NDArray[np.float64] | None = None  # (n,), of the one class
    in_set: NDArray[np.bool_] | None = None  # (n, n_classes), of the conformal set
    interval: NDArray[np.float64] | None = None  # (n, 2), for numbers
    failures: tuple[str, ...] = ()  # items that could not be read, with the reason

    def to_arrow(self) -> pa.Table:
        """Return a table: item_id, predicted, confidence, set or low and high, p of each class."""
        import pyarrow as pa

        columns: dict[str, Any] = {
            "item_id": pa.array(self.ids.tolist(), pa.string()),
            "predicted": pa.array(self.predicted.tolist()),
        }
        if self.in_set is not None:
            names = np.array(self.classes)
            columns["set"] = pa.array([names[row].tolist() for row in self.in_set])
        if self.interval is not None:
            columns["low"], columns["high"] = self.interval.T
        if self.confidence is not None:
            columns["confidence"] = self.confidence
        if self.probabilities is not None:
            for name, p in zip(self.classes, self.probabilities.T, strict=True):
                columns[f"p:{name}"] = p
        return pa.table(columns)


class AskOptions(TypedDict, total=False):
    """Keywords of `predict_items`."""

    encoder: str | None
    least_confidence: float


def predict_items(
    head: FittedHead,
    items: Sequence[str | Path | bytes],
    *,
    encoder: str | None = None,
    least_confidence: float = 0.0,
) -> Answers:
    """Predict for texts, or for images given as paths or bytes.

    Parameters
    ----------
    items : sequence
        Texts where the head's encoder reads texts, else paths or bytes of images.
    encoder : str, optional
        Where the head's encoder is now: a folder, or a spec. Its fingerprint must be the same.
    least_confidence : float
        Below it the head abstains: ``predicted`` is None.

    Raises
    ------
    EncoderMismatch, EncoderDrift
        If the encoder is not the one that the head learned from.
    BadSource, Undecodable
        If an image is not there, or cannot be read.
    """
    if isinstance(items, (str, bytes, Path)):
        raise BadSource("expected a sequence of items: put the one into a list")
    ids = np.empty(len(items), dtype=object)
    ids[:] = [str(i if isinstance(one, bytes) else one) for i, one in enumerate(items)]
    if head.card.reads == "texts":
        return answer(head, ids, list(map(str, items)), least_confidence)
    parts = []
    contents = [_content(one, head.card.modality or Modality.IMAGE) for one in items]
    for block in _blocks(head):
        loaded = encode_now.open_encoder(block, moved(block, encoder))
        parts.append(encode_now.encode(loaded, contents) * np.float32(block["scale"]))
    return answer(head, ids, np.hstack(parts), least_confidence)


def _content(item: str | Path | bytes, modality: str) -> str | bytes:
    if isinstance(item, bytes) or modality == Modality.TEXT:
        return item if isinstance(item, bytes) else str(item)
    path = Path(item)
    if not path.is_file():
        raise BadSource(f"there is no file {path}: this head reads images, as paths or bytes")
    return path.read_bytes()


def predict_source(
    head: FittedHead,
    source: str | Path,
    *,
    options: SourceOptions | None = None,
    encoder: str | None = None,
    least_confidence: float = 0.0,
    progress: Callable[[Progress], None] | None = None,
) -> Answers:
    """Predict for every item of a source: a folder, a table, tar shards, a URL.

    It runs the embedding pipeline into a store that is thrown away afterwards, so that
    everything that can be embedded can be predicted, and one bad file stops nothing.

    Raises
    ------
    EncoderMismatch, EncoderDrift
        If the encoder is not the one that the head learned from.
    BadSource
        If there is nothing to read.
    """
    from featurestore.store.store import open_store
    from heads.saved.common_items import load_shared

    with tempfile.TemporaryDirectory(prefix="featurestore-predict-") as folder:
        store = open_store(Path(folder), create=True)
        blocks = _blocks(head) if head.card.reads == "vectors" else []
        specs = [moved(block, encoder) or EncoderSpec.parse(block["spec"]) for block in blocks]
        for block, spec in zip(blocks, specs, strict=True):
            encode_now.open_encoder(block, spec)  # refused before anything is embedded
        reports = store.embed(
            [source],
            dataset="items",
            encoders=[str(spec) for spec in specs] or ["baseline:hashing"],
            source_options=options,
            progress=progress,
        )
        dataset = store.dataset("items")
        views = [dataset.view(str(spec)) for spec in specs] or dataset.views()
        for block, view in zip(blocks, views, strict=False):
            if view.fingerprint != block["fingerprint"]:
                raise EncoderMismatch(
                    f"{view.spec} is another encoder than the one that {head.head_id} learned "
                    f"from: fingerprint {view.fingerprint[:8]}, expected "
                    f"{block['fingerprint'][:8]}; --encoder PATH says where that one is"
                )
            check_probes(view.info["canary"], block["canary"], str(view.spec))
        failures = tuple(
            f"{row['item_id']}: {row['error']}" for row in dataset.failures().to_pylist()
        )
        if not sum(report.n_encoded + report.n_copied for report in reports):
            return answer(head, np.empty(0, dtype=object), _nothing(head), 0.0, failures)
        tables, _ = load_shared(views)
        ids = tables[0].ids
        if not blocks:
            return answer(head, ids, texts_of(tables[0]).tolist(), least_confidence, failures)
        scaled = [
            table.vectors * np.float32(block["scale"])
            for table, block in zip(tables, blocks, strict=True)
        ]
        return answer(head, ids, np.hstack(scaled), least_confidence, failures)


def answer(
    head: FittedHead,
    ids: NDArray[Any],
    inputs: NDArray[Any] | Sequence[str],
    least_confidence: float = 0.0,
    failures: tuple[str, ...] = (),
) -> Answers:
    """Predict for n ids what is encoded already: vectors (n, dim), or texts for ``tfidf``."""
    if len(ids) == 0:
        return Answers(ids, np.empty(0, dtype=object), tuple(head.classes), failures=failures)
    predicted = np.empty(len(ids), dtype=object)
    predicted[:] = head.predict(inputs).tolist()
    conformal = head.card.conformal
    if least_confidence > 0 and head.task is not Task.MULTICLASS:
        raise BadName(f"abstention is for one class an item; this head's task is {head.task}")
    if head.task is Task.REGRESSION:
        interval = None
        if conformal:
            centre = predicted.astype(np.float64)
            interval = np.column_stack([centre - conformal.most, centre + conformal.most])
        return Answers(ids, predicted, (), interval=interval, failures=failures)
    proba, confidence, in_set = None, None, None
    if hasattr(head.estimator, "predict_proba"):
        proba = head.predict_proba(inputs)
        if conformal:
            in_set = sets(proba, conformal.most)
        if head.task is Task.MULTICLASS:
            confidence = proba.max(axis=1)
            predicted[confidence < least_confidence] = None
    elif least_confidence > 0:
        raise BadName(f"{head.card.head} gives no probabilities: it cannot abstain")
    return Answers(
        ids, predicted, tuple(head.classes), proba, confidence, in_set, failures=failures
    )


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


def _blocks(head: FittedHead) -> list[Mapping[str, Any]]:
    if not head.blocks:
        raise EncoderMismatch(
            f"{head.head_id} does not say which encoder it learned from: fit it again"
        )
    return list(head.blocks)


def _nothing(head: FittedHead) -> NDArray[np.float32]:
    return np.empty((0, head.card.dim), dtype=np.float32)
