"""A head with its encoder as one ONNX file that needs nothing of ours, and how to run it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.encoders import encode_now
from featurestore.encoders.canary import PROBE_TEXTS, probe_pictures
from featurestore.encoders.images import decode_image
from featurestore.errors import BadName, EncoderMismatch, MissingExtra
from featurestore.storage.files import written_beside
from featurestore.terms.specs import Modality
from heads.labels.tasks import Task
from heads.saved.onnx_head import graph_of
from heads.saved.serve import blocks_of, modality_of, places_of

if TYPE_CHECKING:
    from featurestore.encoders.base import Encoder
    from featurestore.encoders.onnx_graph import GraphInput
    from heads.saved.bundle import FittedHead

MODEL, TOKENIZER, README = "model.onnx", "tokenizer.json", "README.md"
MOST_OFF = 1e-4  # of a probability; of a number in parts of the largest
_FILES = {MODEL, TOKENIZER, README}
ABOUT = "featurestore"  # the key of the metadata
_PACKAGES = ("onnx", "onnxruntime")


@dataclass(frozen=True)
class ExportedOnnx:
    """A folder with a graph."""

    folder: Path
    off: float  # how far its answers to the probes are from the head's
    has_encoder: bool
    why_not: str = ""  # the encoder is not in it

    def sentences(self) -> list[str]:
        """Say what was written."""
        what = "the head and its encoder" if self.has_encoder else "the head alone, on vectors"
        said = [
            f"written to {self.folder}: {what}; onnxruntime gives the same answers (off by "
            f"{self.off:.1g}); {README} shows the lines that run it"
        ]
        return [*said, f"the encoder is not in it: {self.why_not}"] if self.why_not else said


def export_onnx(
    head: FittedHead,
    folder: str | Path,
    *,
    encoder: str | None = None,
    head_only: bool = False,
    overwrite: bool = False,
) -> ExportedOnnx:
    """Write a head, and its encoder where it can be, as one ONNX graph.

    The folder holds model.onnx, whose metadata say what goes in and what comes out, README.md
    with the lines of Python that run it and, where texts go in, tokenizer.json. It is there only
    if onnxruntime gives the head's answers to the probes, to 1e-4.

    Parameters
    ----------
    encoder : str, optional
        Where the head's encoder is now: a folder, or a spec.
    head_only : bool
        Leave the encoder out: vectors go in.

    Raises
    ------
    MissingExtra
        If onnx or onnxruntime is not installed.
    BadName
        If the head is of a kind that cannot be written so.
    EncoderMismatch, EncoderDrift
        If the encoder is not the one that the head learned from, or the graph answers otherwise.
    FileExistsError
        If the folder holds something.
    """
    if missing := [name for name in _PACKAGES if not importlib.util.find_spec(name)]:
        raise MissingExtra(
            f"export-onnx needs {' and '.join(missing)}: pip install 'featurestore[onnx]'"
        )
    target = Path(folder)
    there = {one.name for one in target.iterdir()} if target.is_dir() else set()
    is_ours = overwrite and MODEL in there and there <= _FILES
    if target.is_file() or (there and not is_ours):
        raise FileExistsError(f"{target} holds something: name another folder")
    if head.card.reads != "vectors":
        raise BadName(f"a head that reads {head.card.reads} cannot be written as a graph")
    if head.card.metadata_columns is not None:
        raise BadName(
            "a head that reads columns beside vectors cannot be written as a graph: train one "
            "without --columns, or serve it (featurestore serve)"
        )
    from featurestore.encoders.onnx_graph import export_graph

    blocks = blocks_of(head)
    is_one = len(blocks) == 1
    graph = graph_of(head.estimator, head.card.head, float(blocks[0]["scale"]) if is_one else 1.0)
    opened: Encoder | None = None
    why = "" if is_one else "there are several"
    if is_one and not head_only:
        (place,) = places_of(blocks, encoder)
        opened = encode_now.open_encoder(blocks[0], place, trust=head.trust)
    target.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(target) as temporary:
        temporary.mkdir(exist_ok=True)
        file = temporary / MODEL
        try:
            about = export_graph(opened, modality_of(head), graph, file)
        except ValueError as error:
            if opened is None:
                raise BadName(f"the head cannot be written as a graph: {error}") from error
            why, opened = str(error), None
            about = export_graph(None, modality_of(head), graph, file)
        _describe(file, head, about)
        if about.tokenizer is not None:
            (temporary / TOKENIZER).write_text(about.tokenizer, encoding="utf-8")
        (temporary / README).write_text(_readme(head, about), encoding="utf-8")
        off = _off(head, opened, about, temporary)
        if not off <= MOST_OFF:
            raise EncoderMismatch(
                f"the graph answers otherwise than head {head.head_id}: off by {off:.1g}, "
                f"{MOST_OFF:g} at most is expected"
            )
    return ExportedOnnx(target, off, opened is not None, why)


def _describe(file: Path, head: FittedHead, about: GraphInput) -> None:
    """Write what the graph is into its metadata."""
    import onnx

    card, conformal = head.card, head.card.conformal
    value = {
        "head": head.head_id,
        "head_sha256": card.head_sha256,
        "task": str(head.task),
        "label": card.label,
        "classes": list(head.classes),
        "encoder": card.encoder,
        "fingerprint": card.fingerprint,
        "reads": about.reads,
        "preprocessing": about.preprocessing,
        "largest_misfit_of_a_set": conformal.limit if conformal else None,
    }
    model = onnx.load(file)
    onnx.helper.set_model_props(model, {ABOUT: json.dumps(value, ensure_ascii=False)})
    onnx.checker.check_model(model)
    onnx.save(model, file)


def _off(head: FittedHead, encoder: Encoder | None, about: GraphInput, folder: Path) -> float:
    """Return how far onnxruntime's answers to the probes are from the head's."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        folder / MODEL, options, providers=["CPUExecutionProvider"]
    )
    scale = 1.0
    if encoder is None:
        rng = np.random.default_rng(0)
        vectors = rng.normal(size=(8, head.card.dim)).astype(np.float32)
        given: Mapping[str, NDArray[Any]] = {"vectors": vectors}
        blocks = blocks_of(head)
        scale = float(blocks[0]["scale"]) if len(blocks) == 1 else 1.0
    elif about.reads == Modality.IMAGE:
        contents = probe_pictures()
        images = [decode_image(one, at_least_px=encoder.decode_px) for one in contents]
        given = {"pixels": np.stack([encoder.prepare_image(one) for one in images])}
        vectors = encode_now.encode(encoder, contents)
        scale = float(blocks_of(head)[0]["scale"])
    else:
        texts = [*PROBE_TEXTS, "", "a"]
        given = _tokens(
            folder, texts, about.preprocessing, [one.name for one in session.get_inputs()]
        )
        vectors = encode_now.encode(encoder, texts)
        scale = float(blocks_of(head)[0]["scale"])
    found = session.run(None, dict(given))[0]
    alone = session.run(None, {name: value[:1] for name, value in given.items()})[0]
    apart = float(np.abs(found[:1] - alone).max())  # a graph may have kept the size of its example
    vectors = vectors * np.float32(scale)
    if head.task is Task.REGRESSION:
        expected = np.asarray(head.estimator.predict(vectors)).reshape(-1, 1)
        most = max(1.0, float(np.abs(expected).max()))
        return max(apart, float(np.abs(found - expected).max())) / most
    return max(apart, float(np.abs(found - head.estimator.predict_proba(vectors)).max()))


def _tokens(
    folder: Path, texts: list[str], how: Mapping[str, Any], names: list[str]
) -> dict[str, NDArray[np.int64]]:
    """Return what goes in for texts, as README.md makes it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    prompted = [how["prompt"] + text for text in texts]
    tokenizer.enable_padding(**(tokenizer.padding or {}))
    found = tokenizer.encode_batch(prompted, add_special_tokens=how["special_tokens"])
    columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return {name: np.array([getattr(one, columns[name]) for one in found]) for name in names}


_BEGIN = """import json
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
about = json.loads(session.get_modelmeta().custom_metadata_map["featurestore"])
how = about["preprocessing"]
"""
_IMAGE = """from PIL import Image, ImageOps

image = ImageOps.exif_transpose(Image.open("picture.png")).convert(how["mode"])
{resize}given = {{"pixels": np.asarray(image).reshape(1, *image.size[::-1], -1)}}
"""
_CROP = """shorter = how["shorter_side"] / min(image.size)
size = [how["shorter_side"] if a == min(image.size) else int(a * shorter) for a in image.size]
image = image.resize(size, Image.Resampling[how["interpolation"]])
left, top = (round((a - b) / 2) for a, b in zip(size, how["size"][::-1]))
image = image.crop((left, top, left + how["size"][1], top + how["size"][0]))
"""
_SQUASH = """image = image.resize(how["squash"], Image.Resampling[how["interpolation"]])
"""
_OWN = """# pixels (1, …) as about["preprocessing"]["description"] says
"""
_TEXT = """from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_padding(**(tokenizer.padding or {}))
found = tokenizer.encode_batch([how["prompt"] + "a text"], add_special_tokens=how["special_tokens"])
names = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
given = {one.name: np.array([getattr(text, names[one.name]) for text in found])
         for one in session.get_inputs()}
"""
_VECTORS = """given = {"vectors": np.load("vectors.npy")}  # (n, dim) float32, of the head's encoder
"""
_ANSWERS = {
    Task.MULTICLASS: 'print([about["classes"][row.argmax()] for row in answer])',
    Task.MULTILABEL: 'print([[c for c, p in zip(about["classes"], row) if p > 0.5] '
    "for row in answer])",
    Task.REGRESSION: "print(answer[:, 0].tolist())",
}


def lines_of(head: FittedHead, about: GraphInput) -> str:
    """Return the lines of Python that run the graph without featurestore."""
    if about.reads == Modality.TEXT:
        middle = _TEXT
    elif about.reads == Modality.IMAGE:
        how = about.preprocessing
        resize = _CROP if "shorter_side" in how else _SQUASH if "squash" in how else _OWN
        middle = _IMAGE.format(resize=resize)
    else:
        middle = _VECTORS
    return f"{_BEGIN}{middle}answer = session.run(None, given)[0]\n{_ANSWERS[head.task]}\n"


def _readme(head: FittedHead, about: GraphInput) -> str:
    out = "values" if head.task is Task.REGRESSION else "probabilities"
    return (
        f"# A head of featurestore as an ONNX graph\n\nHead `{head.head_id}` (label: "
        f"{head.card.label}; encoder: `{head.card.encoder}`), written by `featurestore "
        f"export-onnx`. The first output is `{out}`, the second the vectors. The metadata "
        "of model.onnx (key `featurestore`) name the classes and say how an item becomes the "
        "input.\n\n```python\n" + lines_of(head, about) + "```\n"
    )
