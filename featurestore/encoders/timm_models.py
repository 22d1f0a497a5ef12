"""``timm:NAME`` and ``timm:local-dir:/path``: pooled features of any timm model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from featurestore import encoders
from featurestore.encoders.torch_network import (
    Preprocessing,
    inference,
    loading,
    pick_device,
    precision_of,
    settle,
    to_numpy,
    weights_hash,
)
from featurestore.errors import UnknownEncoder, nearest
from featurestore.values import LOCAL_DIR, EncoderSpec, Modality, ResolvedEncoder


@dataclass(frozen=True)
class TimmImages:
    """A timm network without its classifier."""

    resolved: ResolvedEncoder
    network: Any
    preprocessing: Preprocessing
    dtype: torch.dtype
    device: str

    def prepare_image(self, image: Image.Image) -> NDArray[Any]:
        """Resize and crop as the model was trained; returns (height, width, 3) uint8."""
        return self.preprocessing.prepare(image)

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Return the pooled features, (n, dim) float32."""
        with inference(self.device, self.dtype):
            return to_numpy(self.network(self.preprocessing.batch(prepared, self.device)))


def load(spec: EncoderSpec, device: str) -> TimmImages:
    """Load pretrained weights by name (with timm's cache and hub) or from a folder."""
    how = (
        "expected a timm model folder (config.json with 'architecture', model.safetensors)"
        if spec.local_dir
        else "download it once on a machine with network, or use timm:local-dir:/path"
    )
    name = spec.model
    if spec.local_dir is None:
        architecture = name.removeprefix("hf-hub:").split(".")[0]
        if "/" not in name and not timm.is_model(architecture):
            known = timm.list_models(pretrained=True)
            raise UnknownEncoder(f"timm has no model {name!r}: {nearest(name, known)}")
        if spec.revision:
            name = f"hf-hub:{name if '/' in name else f'timm/{name}'}@{spec.revision}"
    with loading(spec, how):
        network = timm.create_model(name, pretrained=True, num_classes=0)
    return assemble(spec, network, device)


def load_random(spec: EncoderSpec, inner: EncoderSpec, device: str) -> TimmImages:
    """Make the architecture of ``inner`` with fresh weights from torch's generator."""
    architecture = inner.model.split(".")[0]
    if not inner.model.startswith(LOCAL_DIR) and not timm.is_model(architecture):
        raise UnknownEncoder(
            f"timm has no model {inner.model!r}: {nearest(architecture, timm.list_models())}"
        )
    with loading(spec, "expected a timm architecture"):
        network = timm.create_model(inner.model, pretrained=False, num_classes=0)
    return assemble(spec, network, device)


def assemble(spec: EncoderSpec, network: Any, device: str) -> TimmImages:
    """Put a network and its own preprocessing together."""
    device, dtype = pick_device(device), precision_of(spec)
    config = resolve_model_data_config(network)
    preprocessing = Preprocessing.split(create_transform(**config, is_training=False))
    chosen = {
        "family": spec.family,
        "weights": weights_hash(network),
        "architecture": network.pretrained_cfg.get("architecture", ""),
        "preprocessing": preprocessing.description,
        "precision": spec.option("precision", "fp32"),
    }
    resolved = ResolvedEncoder(
        spec, network.num_features, frozenset({Modality.IMAGE}), chosen, encoders.versions(spec)
    )
    network = settle(network, device)
    # Some models widen features behind num_features (MobileNetV3's head): ask the network.
    blank = np.zeros((config["input_size"][1], config["input_size"][2], 3), np.uint8)
    probe = TimmImages(resolved, network, preprocessing, dtype, device)
    prepared = probe.prepare_image(Image.fromarray(blank))
    dim = probe.encode_images([prepared]).shape[1]
    exact = ResolvedEncoder(spec, dim, resolved.modalities, chosen, resolved.versions)
    return TimmImages(exact, network, preprocessing, dtype, device)
