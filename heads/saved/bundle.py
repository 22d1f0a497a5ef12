"""Heads on disk: skops for the estimator, JSON for its card, Parquet for its predictions.

Never pickle, and of a skops file only the types that our own heads are made of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from featurestore.encoders.trust import Trust, either
from featurestore.errors import (
    BadSource,
    EncoderMismatch,
    NotEnoughData,
    ShapeMismatch,
    StoreCorrupt,
    UnknownHead,
    nearest,
)
from featurestore.storage.files import make_folder, sha256_of, written_beside
from featurestore.storage.remote import RemotePath, StorePath, as_path
from featurestore.storage.shards import read_shard
from featurestore.terms.activations import Activations
from featurestore.terms.embeddings import Embeddings
from heads.labels.blocks import Blocks
from heads.labels.tasks import Target, Task, texts_of
from heads.labels.views import AnyDataset, folder_of, trust_of
from heads.measures.confusion import Calibration, Confusion
from heads.saved import hub, sealed
from heads.saved.card import HeadCard, digest_of
from heads.saved.mixed import BLOCKS_AND_TEXTS, READS, apart, told
from heads.saved.raw_items import is_raw
from heads.saved.tapped import READS_TAP
from heads.saved.unlike import FILE as UNLIKE_FILE
from heads.saved.unlike import Familiar, Unlike, why_not

if TYPE_CHECKING:
    import pyarrow as pa

    from heads.saved.answers import Answers
    from heads.saved.frames import FrameOptions
    from heads.saved.serve import AskOptions


# What a head predicts for: vectors of shape (n, dim), or n texts, or n pictures; or several inputs.
Items: TypeAlias = Embeddings | Blocks | Activations | NDArray[Any] | Sequence[Any]


@dataclass(frozen=True, eq=False)
class FittedHead:
    """A fitted head, and the card that says what it learned from."""

    head_id: str
    estimator: Any
    card: HeadCard
    blocks: tuple[Mapping[str, Any], ...] = ()  # encoder.json of each encoder, and its scale
    path: StorePath | None = None  # None until registered
    trust: Trust = False  # which code that the bundle names may run, to encode raw items
    familiar: Familiar | None = None  # where its training items lie; None: it cannot tell

    def __repr__(self) -> str:
        """Return it in a line."""
        name, metric = next(iter(self.card.metrics.items()), ("", None))
        score = "" if metric is None or metric.value is None else f", {name} {metric.value:.3f}"
        return f"<FittedHead {self.head_id}: {self.card.head} on {self.card.encoder}{score}>"

    def predict(self, items: Items) -> NDArray[Any]:
        """Return the label of each item, shape (n,): str, a list of str, or a number.

        Parameters
        ----------
        items : Embeddings, ndarray of shape (n, dim), or sequence of raw items
            Texts where the head's encoder reads texts, else images: paths, bytes or PIL images.

        Raises
        ------
        EncoderMismatch
            If the embeddings come from another encoder than the head learned from.
        ShapeMismatch
            If vectors have another dim.
        BadSource
            If an item is of another type, or an image is not there.
        NotTrusted
            If raw items need an encoder that is code of its own, and nobody asked for that.
        """
        return self._named(np.asarray(self.estimator.predict(self._inputs(items))))

    def answered(
        self, inputs: Items
    ) -> tuple[NDArray[Any], NDArray[np.float64] | None, Unlike | None]:
        """Return what `predict`, `predict_proba` and `unlike_training` do, from the same passes.

        Probabilities are None where the head gives none.
        """
        if isinstance(inputs, Activations):
            said, proba, vectors = self.estimator.at_once(self._checked_activations(inputs))
            unlike = None if self.familiar is None else self.familiar(vectors)
            return self._named(said), proba, unlike
        gives_proba = hasattr(self.estimator, "predict_proba")
        proba = self.predict_proba(inputs) if gives_proba else None
        return self.predict(inputs), proba, self.unlike_training(inputs)

    def _named(self, said: NDArray[Any]) -> NDArray[Any]:
        if self.task is not Task.MULTILABEL:
            return said
        names = np.array(self.classes)
        labels = np.empty(len(said), dtype=object)
        labels[:] = [names[row].tolist() for row in said.astype(bool)]
        return labels

    def predict_proba(self, items: Items) -> NDArray[np.float64]:
        """Return probabilities, shape (n, n_classes), columns in the order of ``classes``."""
        return np.asarray(self.estimator.predict_proba(self._inputs(items)))

    def unlike_training(self, items: Items) -> Unlike | None:
        """Return how far out each item lies, as ``shares`` of the training items.

        None where the head cannot tell: ``cannot_tell`` says why.
        """
        if self.familiar is None:
            return None
        inputs = self._inputs(items)
        if isinstance(inputs, Activations):
            return self.familiar(self.estimator.vectors(inputs))
        return self.familiar(
            told(inputs, self.blocks) if isinstance(inputs, Blocks) else np.asarray(inputs)
        )

    @property
    def cannot_tell(self) -> str | None:
        """Why the head cannot tell which items are unlike its training items; None: it can."""
        return why_not(self.familiar, self.card.reads)

    def predict_frame(self, frame: Any, **options: Unpack[FrameOptions]) -> Any:
        """Predict for the rows of a data frame: the frame with further columns is returned.

        A row that has nothing to read has no prediction, and its reason in ``failed``; see
        `heads.saved.frames.predict_frame`.
        """
        from heads.saved.frames import predict_frame

        return predict_frame(self, frame, **options)

    def to_mlflow(self, folder: str | Path) -> Path:
        """Write it as a model that MLflow serves; see `heads.saved.on_mlflow.to_mlflow`."""
        from heads.saved.on_mlflow import to_mlflow

        return to_mlflow(self, folder)

    def ask(self, items: Sequence[Any], **options: Unpack[AskOptions]) -> Answers:
        """Predict for raw items, with confidence and sets; see `serve.predict_items`."""
        from heads.saved.serve import predict_items

        return predict_items(self, items, **options)

    def confusion(self) -> Confusion:
        """Return what the head takes for what, on the rows that it was tested on.

        Raises
        ------
        NotEnoughData
            If it is not kept in a store, or predicts something else than one class.
        """
        table = self._tested()
        return Confusion.of(*(table.column(name).to_pylist() for name in ("label", "predicted")))

    def calibration(self) -> Calibration:
        """Return how often the head is right at each confidence, on the rows it was tested on.

        Raises
        ------
        NotEnoughData
            As of `confusion`, or if it gives no confidence.
        """
        table = self._tested()
        if "confidence" not in table.column_names:
            raise NotEnoughData(f"{self.card.head} gives no confidence: `logistic` does")
        label, said = (table.column(name).to_numpy() for name in ("label", "predicted"))
        return Calibration.of(table.column("confidence").to_numpy(), label == said)

    def _tested(self) -> pa.Table:
        if self.task is not Task.MULTICLASS:
            raise NotEnoughData(
                f"head {self.head_id} is {self.task}: this is for one class an item"
            )
        file = None if self.path is None else self.path / "predictions.parquet"
        if file is None or not file.is_file():
            raise NotEnoughData(
                f"head {self.head_id} has no predictions here: a bundle holds none; "
                "heads.load_head reads it from the store"
            )
        return read_shard(file)

    def save(self, folder: str | StorePath) -> StorePath:
        """Write a bundle: head, card and encoder, but no items.

        Raises
        ------
        FileExistsError
            If the folder is there and holds something else than a bundle.
        """
        target = as_path(folder)
        if target.exists() and not _is_bundle(target):
            raise FileExistsError(f"{target} is something else than a bundle")
        make_folder(target.parent)
        with written_beside(target, last="card.json") as temporary:
            _write(self, temporary)
        return target

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.card.task

    @property
    def classes(self) -> list[str]:
        """Labels that can be predicted; none where it is a number."""
        if self.task is Task.MULTICLASS:
            return [str(label) for label in self.estimator.classes_]
        return list(self.card.classes)

    def _checked_blocks(self, items: Blocks) -> Blocks:
        """Return blocks as they are, if the encoders and their widths are those of the head."""
        have = {name: block.shape[1] for name, block in items.items() if block.ndim == 2}
        for block in self.blocks:
            if have.get(block["spec"]) != block["dim"]:
                held = ", ".join(f"{name} ({dim:,} numbers)" for name, dim in have.items())
                raise EncoderMismatch(
                    f"{self.head_id} reads {block['spec']} ({block['dim']:,} numbers), and these "
                    f"blocks hold {held or 'no vectors'}"
                )
        return items

    def _checked_activations(self, items: Activations) -> Activations:
        """Return activations as they are, with the blocks above them in the head's hands."""
        if self.card.reads != READS_TAP:
            raise BadSource(f"head {self.head_id} reads {self.card.reads}, these are activations")
        if self.estimator.upper is None:
            from heads.saved.serve import opened_top

            opened_top(self)
        return items

    def _inputs(self, items: Items) -> NDArray[Any] | list[str] | Blocks | Activations:
        if isinstance(items, Activations):
            return self._checked_activations(items)
        if isinstance(items, Blocks):
            return self._checked_blocks(items)
        if not isinstance(items, Embeddings) and is_raw(items):
            from heads.saved.serve import encoded_items

            return encoded_items(self, items)
        reads, texts = self.card.reads, None
        if reads == READS_TAP:
            raise BadSource(
                f"head {self.head_id} reads activations after block {self.card.cut}, and these "
                "are vectors: give it the items themselves, or tap.activations(ids) of a view "
                f"{self.card.encoder}#tap={self.card.cut}"
            )
        if reads in ("texts", BLOCKS_AND_TEXTS):
            if not isinstance(items, Embeddings):
                what = "texts (str)" + ("" if reads == "texts" else " beside vectors")
                raise BadSource(f"head {self.head_id} reads {what}, these are vectors alone")
            texts = texts_of(items)
        if reads == "texts":
            return cast("NDArray[Any]", texts)
        if isinstance(items, Embeddings):
            if items.encoder != self.card.fingerprint:
                several = "heads.mix(views)" if reads in READS else "heads.concat(views, like=head)"
                raise EncoderMismatch(
                    f"head {self.head_id} learned from {self.card.encoder} "
                    f"({self.card.fingerprint[:8]}), these vectors come from "
                    f"{items.encoder[:8]}: load the view of the head's own encoder"
                    + (f", {several}" if len(self.blocks) > 1 or self.card.metadata_columns else "")
                )
            items = items.vectors
        vectors = np.asarray(items)
        if vectors.ndim != 2 or vectors.shape[1] != self.card.dim:
            raise ShapeMismatch(
                f"head {self.head_id} reads vectors of shape (n, {self.card.dim}), "
                f"these have shape {vectors.shape}: same encoder?"
            )
        return apart(self.blocks, vectors, texts) if reads in READS else vectors


def said_of(target: Target, values: NDArray[Any]) -> pa.Array:
    """Return values of a target, of its shape, as class names, lists of labels, or numbers."""
    import pyarrow as pa

    if target.task is Task.REGRESSION:
        return pa.array(values, pa.float64())
    names = np.array(target.classes)
    if target.task is Task.MULTILABEL:
        return pa.array([names[row].tolist() for row in values], pa.list_(pa.string()))
    return pa.array(names[values])


def save_head(head: FittedHead, predictions: pa.Table, folder: StorePath) -> FittedHead:
    """Register a head as ``folder/<head-id>``, all of it or nothing."""
    import pyarrow.parquet as pq

    target = folder / head.head_id
    make_folder(folder)
    with written_beside(target, last="card.json", over=False) as temporary:
        card = _write(head, temporary)
        pq.write_table(predictions, temporary / "predictions.parquet")
    return replace(head, card=card, path=target)


_BUNDLE = frozenset({"card.json", "encoder.json", "head.skops"})
_MAY_HOLD = _BUNDLE | {UNLIKE_FILE, sealed.TOP_FILE, hub.README}


def _is_bundle(folder: StorePath) -> bool:
    """Tell whether a folder holds a bundle, or nothing; a registered head holds more."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    # In an object store one that was cut off lacks files.
    is_whole = _BUNDLE <= names <= _MAY_HOLD
    return is_whole or not names or (isinstance(folder, RemotePath) and names <= _MAY_HOLD)


def _write(head: FittedHead, folder: Path) -> HeadCard:
    import skops.io

    folder.mkdir()
    estimator, learned = head.estimator, None
    if head.card.reads == READS_TAP:
        estimator, learned = estimator.apart()
        sealed.write_top(folder / sealed.TOP_FILE, learned)
    skops.io.dump(estimator, folder / "head.skops")
    _write_json(folder / "encoder.json", {"blocks": [dict(block) for block in head.blocks]})
    if head.familiar is not None:
        (folder / UNLIKE_FILE).write_bytes(head.familiar.to_bytes())
    card = replace(
        head.card,
        unlike_sha256=sha256_of(folder / UNLIKE_FILE) if head.familiar else None,
        head_sha256=sha256_of(folder / "head.skops"),
        top_sha256=None if learned is None else sha256_of(folder / sealed.TOP_FILE),
        encoder_sha256=sha256_of(folder / "encoder.json"),
    )
    card = replace(card, card_sha256=digest_of(card))
    _write_json(folder / "card.json", card.to_json())
    return card


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def load_head(dataset: AnyDataset, head_id: str, *, trust: Trust = False) -> FittedHead:
    """Load a registered head.

    Parameters
    ----------
    dataset : DataSet or path
        The data set, or its folder.
    trust : bool or names
        As of `load_bundle`; besides, what the data set's store was opened with counts.

    Raises
    ------
    UnknownHead
        With the nearest ids.
    BadBundle, NotTrusted
        As `load_bundle`.
    """
    folder = heads_folder(dataset)
    path = folder / head_id
    if "/" in head_id or not (path / "card.json").is_file():
        known = [card.head_id for card in list_heads(dataset)]
        raise UnknownHead(f"no head {head_id!r} in {folder}: {nearest(head_id, known)}")
    return load_bundle(path, trust=either(trust_of(dataset), trust))


def load_bundle(folder: str | StorePath, *, trust: Trust = False) -> FittedHead:
    """Load a bundle that `FittedHead.save` wrote, or the folder of a registered head.

    Parameters
    ----------
    folder : path
        Also ``s3://…``, or ``hf://org/name[@revision]``, which is fetched (`heads.saved.hub`).
    trust : bool or names
        Which code that the bundle names may run: all of it, or types such as
        ``my_module.MyHead`` (those of scikit-learn, numpy and our own heads are known) and
        encoders such as ``python:module:object``.

    Raises
    ------
    UnknownHead
        If there is no bundle.
    BadBundle
        If its files are damaged, were edited, or hold what no head of ours holds.
    NotTrusted
        If the head is made of types that nobody trusts. An encoder is refused when it is used.
    """
    is_there = str(folder).startswith(hub.SCHEME)
    path = hub.cached(str(folder)) if is_there else as_path(folder)
    if not (path / "card.json").is_file():
        raise UnknownHead(f"{path} is not a bundle: it has no card.json")
    card = sealed.card_in(path)
    sealed.check_sums(path, card)
    blocks = sealed.blocks_in(path, card)
    familiar = sealed.familiar_in(path, card, blocks)
    estimator = sealed.estimator_in(path, card, blocks, trust)
    return FittedHead(card.head_id, estimator, card, blocks, path, trust, familiar)


def list_heads(dataset: AnyDataset) -> list[HeadCard]:
    """Return the cards of all registered heads, newest first."""
    folder = heads_folder(dataset)
    cards = [sealed.card_in(file.parent) for file in folder.glob("[!.]*/card.json")]
    return sorted(cards, key=lambda card: (card.created, card.head_id), reverse=True)


def read_predictions(dataset: AnyDataset, head_id: str) -> pa.Table:
    """Return what a registered head predicted of the rows that it was tested on.

    Columns: item_id, label, predicted, confidence and probabilities where it gives them, fold,
    split.

    Raises
    ------
    UnknownHead
        If there is no such head.
    StoreCorrupt
        If the file is damaged.
    """
    path = heads_folder(dataset) / head_id / "predictions.parquet"
    if not path.is_file():
        raise UnknownHead(f"{path.parent} holds no predictions: train the head again")
    try:
        return read_shard(path)
    except StoreCorrupt as error:
        raise StoreCorrupt(f"{path} is damaged: train the head again") from error


def heads_folder(dataset: AnyDataset) -> StorePath:
    """Return where a data set's heads are."""
    return folder_of(dataset) / "heads"
