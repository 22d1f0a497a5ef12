"""A retrained network as a folder of its own library: timm, sentence-transformers, transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from featurestore.encoders.canary import canary_vectors, probe_pictures
from featurestore.encoders.images import decode_image
from featurestore.encoders.loading import load_encoder
from featurestore.encoders.torch_network import TorchEncoder
from featurestore.errors import BadName, EncoderMismatch
from featurestore.terms.specs import LOCAL_DIR, EncoderSpec

if TYPE_CHECKING:
    import timm
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel

MOST_OFF = 1e-4  # of the largest number of a vector


@dataclass(frozen=True, eq=False)
class Classifier:
    """A linear layer on vectors: ``vectors @ weight.T + bias`` are the scores of the classes."""

    names: Sequence[str]
    weight: NDArray[np.float32]  # (n_classes, dim)
    bias: NDArray[np.float32]  # (n_classes,)


def export_network(
    encoder: TorchEncoder,
    learned: Mapping[str, NDArray[np.float32]],
    folder: Path,
    classifier: Classifier | None = None,
) -> tuple[EncoderSpec, float, bool]:
    """Write a network whose upper part was retrained, as its own library writes it.

    Parameters
    ----------
    encoder : TorchEncoder
        One with a tap: the network as it was pretrained.
    learned : mapping
        What was learned, by the names that parameters have in the network.
    folder : Path
        Empty, or not there.
    classifier : Classifier, optional
        For timm, whose networks may end in one. It is left out where the network would not give
        its scores: with ``#pool=`` the classifier comes after another pooling.

    Returns
    -------
    spec : EncoderSpec
        The folder, as an encoder of ours.
    off : float
        How far its vectors of the probes are from those of the network that was written, in
        parts of the largest number.
    has_classifier : bool
        Whether the network that was written ends in the classifier.

    Raises
    ------
    BadName
        If no library has such a network.
    EncoderMismatch
        If parameters do not fit, or the folder gives other vectors.
    """
    spec = encoder.resolved.spec.untapped
    inner = EncoderSpec.parse(spec.model) if spec.family == "random" else spec
    if inner.family not in _WRITERS:
        able = ", ".join(sorted(_WRITERS))
        raise BadName(
            f"{spec} is no network of another library: those of {able} can be exported. What was "
            "retrained stays in the bundle, which `featurestore predict` and heads.load_bundle "
            "use; for a network to hand on, retrain an encoder of one of these families"
        )
    network = _retrained(encoder, learned)
    write, network = _WRITERS[inner.family], network.cpu()
    if inner.family != "timm" or inner.option("pool", "") != "":
        classifier = None
    write(network, inner, folder, classifier)
    if classifier is not None and not _gives_scores(encoder, network, folder, classifier):
        classifier = None
        write(network, inner, folder, None)
    network.to(encoder.device)
    chosen = {name: value for name, value in encoder.resolved.chosen.items() if name != "tap"}
    own = TorchEncoder(
        replace(encoder.resolved, spec=spec, chosen=chosen),
        replace(encoder.network, module=network, tap=None),
        encoder.depths,
    )
    options = tuple(one for one in spec.options if one[0] != "seed")
    there = EncoderSpec(inner.family, f"{LOCAL_DIR}{folder.absolute()}", None, options)
    off = _apart(own, there)
    if off > MOST_OFF:
        raise EncoderMismatch(
            f"{there} gives other vectors than the retrained network: off by {off:.1g} of the "
            f"largest number, {MOST_OFF:g} at most is expected"
        )
    return there, off, classifier is not None


def _retrained(
    encoder: TorchEncoder, learned: Mapping[str, NDArray[np.float32]]
) -> torch.nn.Module:
    """Return a copy of the whole network with what was learned."""
    network = deepcopy(encoder.network.module).to(memory_format=torch.contiguous_format)
    own = dict(network.named_parameters())
    for name, value in learned.items():
        if name not in own or own[name].shape != value.shape:
            raise EncoderMismatch(f"{encoder.resolved.spec} has no {name} of shape {value.shape}")
        own[name].data.copy_(torch.from_numpy(np.array(value)))
    return network


def _apart(own: TorchEncoder, there: EncoderSpec) -> float:
    expected, found = canary_vectors(own), canary_vectors(load_encoder(there, device=own.device))
    off = 0.0
    for modality, rows in expected.items():
        a, b = np.asarray(rows), np.asarray(found[modality])
        off = max(off, float(np.abs(a - b).max() / np.abs(a).max()) if a.shape == b.shape else 1.0)
    return off


def _gives_scores(
    encoder: TorchEncoder, network: torch.nn.Module, folder: Path, classes: Classifier
) -> bool:
    """Whether timm, from the folder, gives the scores of the probes that the vectors give."""
    import timm

    pictures = [decode_image(one, at_least_px=encoder.decode_px) for one in probe_pictures()]
    prepared = np.stack([encoder.prepare_image(one) for one in pictures])
    assert encoder.network.preprocessing is not None, "timm's networks read pictures"
    pixels = encoder.network.preprocessing.normalize(torch.from_numpy(prepared))
    there = timm.create_model(f"{LOCAL_DIR}{folder.absolute()}", pretrained=True).eval()
    assert encoder.network.tap is not None, "an encoder with a tap"
    with torch.inference_mode():
        vectors = encoder.network.tap.vectors(network, pixels).float().numpy()
        scores = there(pixels).numpy()
    expected = vectors @ classes.weight.T + classes.bias
    summed = np.abs(vectors) @ np.abs(classes.weight.T) + np.abs(classes.bias)
    return scores.shape == expected.shape and bool(
        (np.abs(scores - expected) <= MOST_OFF * summed.max()).all()
    )


def _write_timm(
    network: timm.models.EfficientNet, spec: EncoderSpec, folder: Path, classes: Classifier | None
) -> None:
    from timm.models import save_for_hf

    arguments: dict[str, Any] = {}
    if spec.local_dir is not None:  # such as pad_type, which the network does not know any more
        written = json.loads((spec.local_dir / "config.json").read_text(encoding="utf-8"))
        arguments = written.get("model_args", {})
    more: dict[str, Any] = {}
    if (size := spec.option("size", "")) != "":
        sides = [network.pretrained_cfg["input_size"][0], int(size), int(size)]
        more["pretrained_cfg"] = {"input_size": sides, "test_input_size": None}
    if classes is not None:
        network.reset_classifier(len(classes.names))
        layer = network.get_classifier()
        if isinstance(layer, torch.nn.Linear) and layer.weight.shape == classes.weight.shape:
            layer.weight.data = torch.from_numpy(classes.weight)
            layer.bias.data = torch.from_numpy(classes.bias)
            more["label_names"] = list(classes.names)
        else:
            network.reset_classifier(0)
    save_for_hf(
        network, str(folder), model_config=more, model_args=arguments, safe_serialization=True
    )
    network.reset_classifier(0)


def _write_st(
    pipeline: SentenceTransformer, spec: EncoderSpec, folder: Path, _: Classifier | None
) -> None:
    pipeline.save_pretrained(str(folder), create_model_card=False)


def _write_hf(
    network: PreTrainedModel, spec: EncoderSpec, folder: Path, _: Classifier | None
) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer

    network.save_pretrained(folder)
    name = str(spec.local_dir or spec.model)
    revision = spec.revision or "main"
    for kind in (AutoImageProcessor, AutoTokenizer):
        try:
            kind.from_pretrained(name, revision=revision).save_pretrained(folder)
        except (OSError, ValueError):  # of a model that reads no texts, or no pictures
            continue


_WRITERS: dict[str, Callable[[Any, EncoderSpec, Path, Classifier | None], None]] = {
    "timm": _write_timm,
    "st": _write_st,
    "hf": _write_hf,
}
