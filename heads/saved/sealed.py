"""The files of a head, of a bundle or in a store, looked at before anything of them is used.

Their sums say that they belong together, not who wrote them: whoever edits a bundle can seal it
again. So each value is checked for what its readers expect, sizes before they are unpacked, and
the head by one prediction. All that is wrong is a `BadBundle` that names the file.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.encoders.canary import N_PROBES
from featurestore.encoders.trust import Trust, find_in_working_folder, is_trusted, not_trusted
from featurestore.errors import BadBundle, BadName, FeatureStoreError
from featurestore.storage.remote import RemotePath, StorePath
from featurestore.terms.specs import EncoderSpec, Modality
from heads.estimators.finetune import FinetuneHead, FinetuneRegressor
from heads.labels.tasks import Task
from heads.measures.json_types import check_fields
from heads.saved.archive import MOST_BYTES, check_archive
from heads.saved.card import CARD_FORMAT, HeadCard, digest_of
from heads.saved.concat import fingerprint_of
from heads.saved.mixed import BLOCKS_AND_TEXTS, READS, apart, telling
from heads.saved.tapped import READS_TAP
from heads.saved.unlike import FILE as UNLIKE_FILE
from heads.saved.unlike import Familiar

# What skops does not know of itself: its own list holds scikit-learn's and numpy's types.
OUR_TYPES = frozenset(
    {
        "heads.chosen.ChosenHead",
        "heads.estimators.finetune.FinetuneHead",
        "heads.estimators.finetune.FinetuneRegressor",
        "heads.estimators.knn.KnnHead",
        "heads.estimators.layers.LayersHead",
        "heads.estimators.layers.LayersRegressor",
        "heads.estimators.lda.LdaHead",
        "heads.estimators.logistic.LogisticHead",
        "heads.estimators.mix.MixHead",
        "heads.estimators.mix.MixRegressor",
        "heads.estimators.normaliser.Normaliser",
        "heads.estimators.per_label.PerLabel",
        "heads.estimators.propagate.PropagateHead",
        "heads.estimators.prototype.PrototypeHead",
        "heads.estimators.regression.KnnRegressor",
        "heads.estimators.regression.RidgeRegressor",
        "heads.estimators.ridge.RidgeHead",
        "heads.estimators.tfidf.CountsTfidf",
        "heads.estimators.tfidf.Lsa",
        "heads.estimators.zero_shot.ZeroShotHead",
        "heads.estimators.zero_shot.ZeroShotProbe",
        # The parts of CalibratedClassifierCV, which skops knows; what it wraps is looked at, too.
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.calibration._TemperatureScaling",
    }
)
_MOST_JSON_BYTES = 64 << 20
_MOST_UNLIKE_BYTES = 2 << 30
_MOST_TOP_BYTES = 16 << 30
TOP_FILE = "top.safetensors"  # what the runs of a head that retrains learned
_MOST_DIM = 1_000_000
_HEAD_ID = re.compile(r"[\w+-][\w.+-]{0,199}")  # the name of its folder


def card_in(folder: StorePath) -> HeadCard:
    """Read card.json of a head.

    Raises
    ------
    BadBundle
        If it is damaged, was edited, or holds what no card of ours holds.
    """
    file = folder / "card.json"
    with _named(file):
        data = _json(_content(file, _MOST_JSON_BYTES))
        number = data.get("format")
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"format is {number!r}: expected {CARD_FORMAT}")
        if number > CARD_FORMAT:
            raise BadBundle(f"{folder} was written by a newer release: format {number}")
        if "head_sha256" not in data:
            raise ValueError("it lacks head_sha256")
        if "card_sha256" in data and data["card_sha256"] != digest_of(data):
            raise BadBundle(f"{file} was edited: fit the head again")
        if missing := HeadCard.needed - data.keys():
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        check_fields(HeadCard, data, lenient=HeadCard.optional())
        card = HeadCard.from_json(data)
        _check_card(card)
        return card


def _check_card(card: HeadCard) -> None:
    """Check that a card's values are known ones."""
    if not _HEAD_ID.fullmatch(card.head_id):
        raise ValueError(f"head_id is {card.head_id[:80]!r}: expected the name of a folder")
    datetime.fromisoformat(card.created)
    if card.reads not in ("vectors", "texts", READS_TAP, *READS):
        raise ValueError(f"reads is {card.reads!r}: expected vectors, texts, blocks or a tap")
    if (card.reads == READS_TAP) != (card.cut is not None and card.cut > 0):
        raise ValueError(f"cut is {card.cut}, and the head reads {card.reads}")
    if card.modality is not None:
        Modality(card.modality)
    if card.metadata_columns is not None and card.reads != "vectors":
        raise ValueError(f"metadata_columns stand beside vectors, and the head reads {card.reads}")
    if not 1 <= card.dim <= _MOST_DIM:
        raise ValueError(f"dim is {card.dim}: expected 1 to {_MOST_DIM:,}")
    if card.task is not Task.REGRESSION and not card.classes:
        raise ValueError("classes is empty")
    if len(set(card.classes)) < len(card.classes):
        raise ValueError("classes holds one name twice")
    n = len(card.classes)
    if card.confusion is not None and {n} != {len(card.confusion), *map(len, card.confusion)}:
        raise ValueError(f"confusion is not a table of {n} × {n}")
    if (sets := card.conformal) is None:
        return
    if not (0 < sets.coverage < 1 and sets.n_calibration >= 0):
        raise ValueError("conformal has no coverage between 0 and 1, or a negative n_calibration")
    largest = math.inf if card.task is Task.REGRESSION else 1
    if sets.limit is not None and not (0 <= sets.limit <= largest and math.isfinite(sets.limit)):
        raise ValueError(f"conformal.limit is {sets.limit}: expected null or a misfit")


def check_sums(folder: StorePath, card: HeadCard) -> None:
    """Check that the files beside a card match what it describes.

    Raises
    ------
    BadBundle
    """
    encoder = folder / "encoder.json"
    if card.encoder_sha256 is None and encoder.is_file():  # heads of 0.1 have none
        raise BadBundle(f"{folder / 'card.json'} lacks encoder_sha256, and {encoder} is there")
    parts = (
        ("head.skops", card.head_sha256, MOST_BYTES),
        ("encoder.json", card.encoder_sha256, _MOST_JSON_BYTES),
        # One that no card names is not read: in object storage it may be of a head before.
        (UNLIKE_FILE, card.unlike_sha256, _MOST_UNLIKE_BYTES),
        (TOP_FILE, card.top_sha256, _MOST_TOP_BYTES),
    )
    for name, digest, most in parts:
        file = folder / name
        if digest is None:
            continue
        with _named(file):
            content = _content(file, most)
        if sha256(content).hexdigest() != digest:
            raise BadBundle(f"{file} is not what its card describes: fit the head again")


def blocks_in(folder: StorePath, card: HeadCard) -> tuple[Mapping[str, Any], ...]:
    """Read encoder.json of a head: what makes its vectors; empty for heads of 0.1.

    Raises
    ------
    BadBundle
        If it holds something else, or encoders of another dim than the card says.
    """
    if card.encoder_sha256 is None:
        return ()
    file = folder / "encoder.json"
    with _named(file):
        blocks = _json(_content(file, _MOST_JSON_BYTES)).get("blocks")
        if not isinstance(blocks, list):
            raise ValueError("it lacks a list of blocks")
        if card.reads != "texts" and not blocks:
            raise ValueError("blocks is empty, and the head reads vectors")
        for n, block in enumerate(blocks):
            _check_block(block, f"blocks[{n}]")
        if card.reads != "texts":
            _check_fit(card, blocks)
    return tuple(blocks)


def familiar_in(
    folder: StorePath, card: HeadCard, blocks: Sequence[Mapping[str, Any]] = ()
) -> Familiar | None:
    """Read unlike.safetensors of a head: where its training items lie; None where it has none.

    Raises
    ------
    BadBundle
        If it holds something else, or vectors of another dim than the card says.
    """
    if card.unlike_sha256 is None:
        return None
    file = folder / UNLIKE_FILE
    with _named(file):
        dim = card.dim
        if card.reads in READS:
            specs = telling(blocks)
            dim = sum(block["dim"] for block in blocks if block["spec"] in specs)
        return Familiar.from_bytes(_content(file, _MOST_UNLIKE_BYTES), dim)


def _check_block(block: Any, at: str) -> None:
    """Make sure that a block names an encoder, its scale, and its vectors of the probes."""
    kinds: dict[str, Any] = {
        "spec": str, "fingerprint": str, "dim": int, "modalities": list, "canary": dict,
        "scale": (int, float),
    }  # fmt: skip
    if not isinstance(block, dict):
        raise ValueError(f"{at} is not an object")
    for name, kind in kinds.items():
        if name not in block:
            raise ValueError(f"{at} lacks {name}")
        if isinstance(block[name], bool) or not isinstance(block[name], kind):
            raise ValueError(f"{at}.{name} is {str(block[name])[:40]!r}, of another type")
    try:
        EncoderSpec.parse(block["spec"])
    except BadName as error:
        raise ValueError(f"{at}.spec: {error}") from error
    if not (math.isfinite(block["scale"]) and block["scale"] > 0):
        raise ValueError(f"{at}.scale is {block['scale']}: expected a number above 0")
    if not all(one in list(Modality) for one in block["modalities"]):
        raise ValueError(f"{at}.modalities holds something else than {', '.join(Modality)}")
    for modality, rows in block["canary"].items():
        probes = np.asarray(rows)
        shape = (N_PROBES, block["dim"])
        is_sound = probes.shape == shape and probes.dtype.kind in "fi"
        if not (is_sound and np.isfinite(probes).all()):
            raise ValueError(f"{at}.canary.{modality} is not a table of {shape} numbers")


def _check_fit(card: HeadCard, blocks: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that blocks side by side are the vectors that the card says."""
    columns = card.metadata_columns
    dim = sum(block["dim"] for block in blocks) + (0 if columns is None else columns.dim)
    if dim != card.dim:
        raise ValueError(f"its encoders and columns give {dim} numbers, the head reads {card.dim}")
    is_one = len(blocks) == 1 and columns is None
    found = blocks[0]["fingerprint"] if is_one else fingerprint_of(blocks, columns)
    if found != card.fingerprint or (is_one and blocks[0]["scale"] != 1):
        raise ValueError("its fingerprint and scale are not those of card.json")
    modality = card.modality or Modality.IMAGE
    if not all(modality in block["modalities"] for block in blocks):
        raise ValueError(f"its encoders do not all read {modality}s, as card.json says")


def estimator_in(
    folder: StorePath, card: HeadCard, blocks: Sequence[Mapping[str, Any]], trust: Trust
) -> Any:
    """Read head.skops, and ask it for one prediction.

    Raises
    ------
    BadBundle
        If it is no head, or none that predicts what the card says.
    NotTrusted
        If it is made of types that nobody trusts.
    """
    import skops.io

    file = folder / "head.skops"
    with _named(file):
        raw = _content(file, MOST_BYTES)
        check_archive(raw)
        others = set(skops.io.get_untrusted_types(data=raw)) - OUR_TYPES
        if foreign := sorted(one for one in others if not is_trusted(one, trust)):
            raise not_trusted(str(file), f"the type {', '.join(foreign)}")
        if others:
            find_in_working_folder()
        estimator = skops.io.loads(raw, trusted=sorted(OUR_TYPES | others))
        if card.reads == READS_TAP:
            _add_top(estimator, folder, card)
            return estimator  # it predicts with the encoder, which is opened when it is used
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            _check_prediction(estimator, card, blocks)
    return estimator


def write_top(file: Path, learned: Mapping[str, NDArray[Any]]) -> None:
    """Write what the runs of a head learned, by name."""
    from safetensors.numpy import save

    # Not `save_file`, whose files nobody else may read.
    file.write_bytes(save({name: np.ascontiguousarray(one) for name, one in learned.items()}))


def _add_top(estimator: Any, folder: StorePath, card: HeadCard) -> None:
    """Give a head what its runs learned, from a file beside it."""
    from safetensors.numpy import load

    kind = FinetuneRegressor if card.task is Task.REGRESSION else FinetuneHead
    if type(estimator) is not kind or estimator.cut != card.cut:
        raise ValueError(f"it is no {kind.__name__} of cut {card.cut}, as card.json says")
    if card.task is Task.MULTICLASS:
        names = {str(one) for one in estimator.classes_}
        if not names <= set(card.classes):
            raise ValueError("its classes are not those of card.json")
    if card.top_sha256 is None:
        raise ValueError(f"card.json lacks top_sha256, and the head reads {READS_TAP}")
    with _named(folder / TOP_FILE):
        learned = load(_content(folder / TOP_FILE, _MOST_TOP_BYTES))
        if not all(one.dtype == np.float32 and np.isfinite(one).all() for one in learned.values()):
            raise ValueError("it holds something else than finite float32 numbers")
        estimator.whole(learned)
        _check_runs(estimator)


def _check_runs(estimator: FinetuneHead | FinetuneRegressor) -> None:
    """Make sure that all runs changed the same parameters, and the layer of the head.

    Those of the network are compared with it when it is opened, before they are put into it.
    """
    layer, shapes = estimator._layer(), []
    for run in estimator.runs_:
        shapes.append({name: one.shape for name, one in run.items()})
        wanted = {"linear.weight": layer.weights.T.shape, "linear.bias": layer.bias.shape}
        for name, shape in wanted.items():
            if shapes[-1].get(name) != shape:
                raise ValueError(f"a run has no {name} of shape {shape}")
        if shapes[-1] != shapes[0]:
            raise ValueError("its runs hold parameters of other names or shapes")


def _check_prediction(estimator: Any, card: HeadCard, blocks: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that a head predicts what its card says, of what its card says."""
    row: Any = ["a probe"]
    if card.reads != "texts":
        vector = np.full((1, card.dim), card.dim**-0.5, dtype=np.float32)
        texts = row if card.reads == BLOCKS_AND_TEXTS else None
        row = apart(blocks, vector, texts) if card.reads in READS else vector
    said = np.asarray(estimator.predict(row))
    n = len(card.classes)
    if said.shape != ((1, n) if card.task is Task.MULTILABEL else (1,)):
        raise ValueError(f"it predicts an array of shape {said.shape} for one {card.task} item")
    if card.task is Task.REGRESSION:
        if not np.isfinite(said.astype(np.float64)).all():
            raise ValueError("it predicts no finite number")
        return
    if card.task is Task.MULTICLASS:
        names = [str(one) for one in estimator.classes_]
        if str(said[0]) not in names or not set(names) <= set(card.classes):
            raise ValueError("its classes are not those of card.json")
        n = len(names)
    if hasattr(estimator, "predict_proba"):
        shape = np.asarray(estimator.predict_proba(row), dtype=np.float64).shape
        if shape != (1, n):
            raise ValueError(f"its probabilities have shape {shape}, expected {(1, n)}")


# -- files -------------------------------------------------------------------------------------


def _content(file: StorePath, most: int) -> bytes:
    """Return the bytes of a plain file of bounded size."""
    if isinstance(file, Path) and file.is_symlink():
        raise ValueError("it is a link: a head's files are files of its own folder (cp -L)")
    if not file.is_file():
        raise ValueError("there is no such file")
    if (size := file.stat().st_size) > most:
        raise ValueError(f"it has {size / 1e6:,.0f} MB, expected {most / 1e6:,.0f} at most")
    return b"".join(file.blocks()) if isinstance(file, RemotePath) else file.read_bytes()


def _json(raw: bytes) -> dict[str, Any]:
    data = json.loads(raw)
    if not isinstance(data, dict):
        raise ValueError("it holds no JSON object")
    return data


@contextmanager
def _named(file: StorePath) -> Iterator[None]:
    """Turn what reading an odd file raises into one line that names it."""
    try:
        yield
    except FeatureStoreError:
        raise
    except Exception as error:  # other people's parsers raise what they like
        reason = " ".join(str(error).split())[:200]
        if not isinstance(error, (ValueError, OSError)) or not reason:
            reason = f"{type(error).__name__}: {reason}".rstrip(": ")
        raise BadBundle(
            f"{file} is not a file that featurestore wrote for a head ({reason}): fit the head "
            "again, or copy the bundle again"
        ) from error
