"""A network that a head retrained, as a folder that needs nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import BadName, NotEnoughData
from featurestore.storage.files import written_beside
from featurestore.terms.specs import LOCAL_DIR, EncoderSpec
from heads.estimators.finetune import FinetuneRegressor
from heads.labels.tasks import Task
from heads.saved.tapped import READS_TAP

if TYPE_CHECKING:
    from featurestore.encoders.exported import Classifier
    from heads.saved.bundle import FittedHead

_UPPER = "upper.network."  # how names of what a run learned of the network begin
LINEAR_FILE = "linear.safetensors"
README = "README.md"
Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class ExportedModel:
    """A folder that another library loads."""

    folder: Path
    spec: EncoderSpec  # as an encoder of ours
    run: int  # of n_runs, counted from 1
    n_runs: int
    off: float  # between vectors of the probes before and after, in parts of the largest number
    has_classifier: bool  # within the network
    dataset: str  # that taught it
    why_vectors: str = ""  # why a network of timm has none

    def sentences(self) -> list[str]:
        """Say what is in the folder, and what is not."""
        of = f"run {self.run} of {self.n_runs}" if self.n_runs > 1 else "its one run"
        layer = f"its classifier is in the network and in {LINEAR_FILE}"
        if not self.has_classifier:
            layer = f"its linear layer is in {LINEAR_FILE}"
        vectors = (
            f"the network in {self.folder} gives vectors, not the head's answers: "
            f"{self.why_vectors}; {README} there holds the few lines of Python that turn its "
            "vectors into answers"
        )
        return [
            *([vectors] if self.why_vectors else []),
            f"{self.folder}: the network as {of} left it; read again with {self.spec.family}, it "
            f"gives the same vectors (largest difference {self.off:.1g}); {layer}",
            "the head answers with the mean of its frozen part and all runs, which no one network "
            "gives: this one alone may do better or worse",
            f"it has seen the labels of {self.dataset}: a head on its vectors looks better there "
            "than it is; compare encoders on items that did not teach it",
        ]


def export_model(
    head: FittedHead,
    folder: str | Path,
    *,
    run: int | None = None,
    encoder: str | None = None,
    overwrite: bool = False,
) -> ExportedModel:
    """Write the network that a head retrained as its own library writes it.

    A head of ``finetune`` holds what one or several runs learned above the cut. One of them is
    put into the whole network: timm gets a folder for ``timm.create_model("local-dir:…")``,
    with the head's linear layer as its classifier where it is one; sentence-transformers and
    transformers their own; the linear layer stands beside it, in ``linear.safetensors``, and
    README.md says how vectors become answers.
    ``featurestore embed -e timm:local-dir:FOLDER`` takes the folder as an encoder.

    Parameters
    ----------
    run : int, optional
        From 1. By default the last, whose rate is the smallest.
    encoder : str, optional
        Where the head's encoder is now: a folder, or a spec.

    Raises
    ------
    BadName
        If the head retrains nothing, has no such run, or its encoder is of no other library.
    NotEnoughData
        If all runs collapsed: there is nothing to export.
    FileExistsError
        If the folder holds something.
    EncoderMismatch, EncoderDrift
        If the encoder is not the one that the head learned from, or the folder, once written,
        gives other vectors.
    """
    from featurestore.encoders.exported import export_network
    from heads.saved.serve import opened_top

    n_runs, run = _checked(head, run)
    target = Path(folder)
    is_ours = not target.exists() or ((target / LINEAR_FILE).is_file() and overwrite)
    if not is_ours and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{target} holds something: name another folder")
    opened = opened_top(head, encoder)
    weights: Mapping[str, Numbers] = head.estimator.runs_[run - 1]
    learned = {k.removeprefix(_UPPER): v for k, v in weights.items() if k.startswith(_UPPER)}
    linear = _linear(head, weights)
    classifier = _classifier(head, linear)
    target.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(target) as temporary:
        spec, off, has_classifier = export_network(opened, learned, temporary, classifier)
        _write(temporary, linear, head, run)
        readme = temporary / README
        readme.write_text(_readme(head, spec, run, linear, has_classifier), encoding="utf-8")
        for one in temporary.rglob("*"):
            if one.is_file():  # safetensors lets nobody else read what it writes
                one.chmod(readme.stat().st_mode)
    why = ""
    if spec.family == "timm" and not has_classifier:
        why = "timm's classifier would not get the vectors that the head reads"
        if "length" in linear:
            why = "the head scales each vector to one length, which no classifier of timm does"
        elif pool := spec.option("pool", ""):
            why = f"the head reads vectors of pool={pool}, and timm's classifier those of its own"
    spec = replace(spec, model=f"{LOCAL_DIR}{target.absolute()}")
    taught_by = head.card.dataset
    return ExportedModel(target, spec, run, n_runs, off, has_classifier, taught_by, why)


def _checked(head: FittedHead, run: int | None) -> tuple[int, int]:
    """Return how many runs a head has, and which is meant."""
    if head.card.reads != READS_TAP:
        raise BadName(
            f"head {head.head_id} ({head.card.head}) retrains no network: only heads of finetune "
            "can be exported as one"
        )
    n_runs = len(head.estimator.runs_)
    if not n_runs:
        raise NotEnoughData(
            f"head {head.head_id} kept nothing that it retrained: it answers as a frozen head"
        )
    if run is not None and not 1 <= run <= n_runs:
        raise BadName(f"run {run}: head {head.head_id} has {n_runs}, counted from 1")
    return n_runs, run or n_runs


def _linear(head: FittedHead, weights: Mapping[str, Numbers]) -> dict[str, Numbers]:
    """Return the layer on vectors: ``weight`` (n_out, dim) and ``bias``.

    With ``shift`` and ``length`` where the frozen head scales vectors less a shift to a length.
    """
    layer = head.estimator._layer()
    weight, bias = weights["linear.weight"], weights["linear.bias"]
    shift = layer.shift.astype(np.float32)
    if layer.length is not None:
        length = np.array([layer.length], np.float32)
        return {"weight": weight, "bias": bias, "shift": shift, "length": length}
    bias = bias - weight @ shift
    if isinstance(head.estimator, FinetuneRegressor):  # in the units of the labels
        std = np.float32(head.estimator.std_)
        weight, bias = weight * std, bias * std + np.float32(head.estimator.mean_)
    return {"weight": weight, "bias": bias}


def _classifier(head: FittedHead, linear: Mapping[str, Numbers]) -> Classifier | None:
    from featurestore.encoders.exported import Classifier

    if "length" in linear:
        return None
    names = [head.card.label] if head.task is Task.REGRESSION else head.classes
    return Classifier(names, linear["weight"], linear["bias"])


def _write(folder: Path, linear: Mapping[str, Numbers], head: FittedHead, run: int) -> None:
    """Write the linear layer, and what it is."""
    from safetensors.numpy import save_file

    about = {
        "head": head.head_id,
        "run": str(run),
        "label": head.card.label,
        "classes": "\n".join(head.classes),
        "encoder": head.card.encoder,
        "fingerprint": head.card.fingerprint,
    }
    save_file({k: np.ascontiguousarray(v) for k, v in linear.items()}, folder / LINEAR_FILE, about)


_VECTORS = {
    "timm": """import timm
import torch
from PIL import Image

network = timm.create_model("local-dir:" + folder, pretrained=True, num_classes=0).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
pixels = transform(Image.open("picture.jpg").convert("RGB"))[None]
with torch.inference_mode():
    vectors = {of_pixels}.numpy()
""",
    "st": """from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer(folder).encode(["a text"])
""",
    "hf": """vectors = ...  # (n, dim), as `featurestore embed -e {spec}` makes them
""",
}
_OF_PIXELS = {
    "": "network(pixels)",
    "cls": "network.forward_features(pixels)[:, 0]",
    "mean": "(lambda x: x.mean((2, 3)) if x.ndim == 4 else "
    "x[:, network.num_prefix_tokens :].mean(1))(network.forward_features(pixels))",
}
_SCALED = """vectors = vectors - linear["shift"]
vectors *= linear["length"] / np.linalg.norm(vectors, axis=1, keepdims=True)
"""
_ANSWERS = {
    Task.MULTICLASS: "[classes[best] for best in scores.argmax(axis=1)]",
    Task.MULTILABEL: "[[name for name, one in zip(classes, row) if one > 0] for row in scores]",
    Task.REGRESSION: "scores[:, 0]",
}


def _readme(
    head: FittedHead,
    spec: EncoderSpec,
    run: int,
    linear: Mapping[str, Numbers],
    has_classifier: bool,
) -> str:
    """Say what is in the folder, and how its vectors become answers."""
    of_pixels = _OF_PIXELS[spec.option("pool", "") if spec.family == "timm" else ""]
    options = ",".join("=".join(one) for one in spec.options)
    named = f"{spec.family}:{LOCAL_DIR}FOLDER" + (f"#{options}" if options else "")
    ends = (
        ""
        if not has_classifier
        else (
            "Without `num_classes=0` timm gives the scores themselves, as its network ends in this "
            "layer.\n\n"
        )
    )
    return (
        f"# A network that featurestore retrained\n\nRun {run} of the head `{head.head_id}` "
        f"(label: {head.card.label}; encoder: `{head.card.encoder}`), written by `featurestore "
        "export-model`. The network gives vectors; the head's layer on them is in "
        f"`{LINEAR_FILE}`, with the names of the classes. {ends}"
        "These lines turn vectors into answers:\n\n"
        '```python\nimport numpy as np\nfrom safetensors import safe_open\n\nfolder = "."\n'
        + _VECTORS[spec.family].format(of_pixels=of_pixels, spec=named)
        + f'\nwith safe_open(folder + "/{LINEAR_FILE}", "numpy") as file:\n'
        "    linear = {name: file.get_tensor(name) for name in file.keys()}\n"
        '    classes = file.metadata()["classes"].split("\\n")\n'
        + ("" if "length" not in linear else _SCALED)
        + 'scores = vectors @ linear["weight"].T + linear["bias"]\n'
        f"print({_ANSWERS[head.task]})\n```\n"
    )
