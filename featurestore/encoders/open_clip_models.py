"""``open_clip:MODEL/WEIGHTS``: both towers of a contrastive image-text model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image

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
class OpenClip:
    """Image and text towers that share one space; vectors are not normalised."""

    resolved: ResolvedEncoder
    network: Any
    preprocessing: Preprocessing
    tokenizer: Callable[[list[str]], torch.Tensor]
    dtype: torch.dtype
    device: str

    def prepare_image(self, image: Image.Image) -> NDArray[Any]:
        """Resize and crop as the model was trained; returns (height, width, 3) uint8."""
        return self.preprocessing.prepare(image)

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Return the image tower's vectors, (n, dim) float32."""
        with inference(self.device, self.dtype):
            pixels = self.preprocessing.batch(prepared, self.device)
            return to_numpy(self.network.encode_image(pixels))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the text tower's vectors, (n, dim) float32."""
        with inference(self.device, self.dtype):
            tokens = self.tokenizer(list(texts)).to(self.device)
            return to_numpy(self.network.encode_text(tokens))


def load(spec: EncoderSpec, device: str) -> OpenClip:
    """Load a model with its weights (open_clip's cache and hub) or from a folder."""
    name, weights = spec.model, None
    if spec.local_dir is None and not name.startswith("hf-hub:"):
        name, _, weights = spec.model.partition("/")
        if name not in open_clip.list_models():
            raise UnknownEncoder(
                f"open_clip has no model {name!r}: {nearest(name, open_clip.list_models())}"
            )
        tags = open_clip.list_pretrained_tags_by_model(name)
        if weights not in tags:
            raise UnknownEncoder(
                f"open_clip has no weights {weights!r} for {name}: write "
                f"open_clip:{name}/WEIGHTS with one of {', '.join(tags)}"
                if tags
                else f"open_clip has no pretrained weights for {name}"
            )
    how = (
        "expected an open_clip folder (open_clip_config.json with its weights)"
        if spec.local_dir
        else "download it once on a machine with network, or use open_clip:local-dir:/path"
    )
    with loading(spec, how):
        network, _, transform = open_clip.create_model_and_transforms(name, pretrained=weights)
        tokenizer = open_clip.get_tokenizer(name)
    return assemble(spec, network, transform, tokenizer, device)


def load_random(spec: EncoderSpec, inner: EncoderSpec, device: str) -> OpenClip:
    """Make the architecture of ``inner`` with fresh weights from torch's generator."""
    name = inner.model if inner.model.startswith(LOCAL_DIR) else inner.model.split("/")[0]
    if not name.startswith(LOCAL_DIR) and name not in open_clip.list_models():
        raise UnknownEncoder(
            f"open_clip has no model {name!r}: {nearest(name, open_clip.list_models())}"
        )
    with loading(spec, "expected an open_clip architecture"):
        network, _, transform = open_clip.create_model_and_transforms(name, load_weights=False)
        tokenizer = open_clip.get_tokenizer(name)
    return assemble(spec, network, transform, tokenizer, device)


def assemble(
    spec: EncoderSpec, network: Any, transform: Any, tokenizer: Any, device: str
) -> OpenClip:
    """Put both towers, the tokenizer and the preprocessing together."""
    device, dtype = pick_device(device), precision_of(spec)
    preprocessing = Preprocessing.split(transform)
    chosen = {
        "family": spec.family,
        "weights": weights_hash(network),
        "preprocessing": preprocessing.description,
        "context_length": getattr(network, "context_length", None),
        "precision": spec.option("precision", "fp32"),
    }
    network = settle(network, device)
    with inference(device, dtype):
        dim = int(network.encode_text(tokenizer(["a"]).to(device)).shape[1])
    modalities = frozenset({Modality.IMAGE, Modality.TEXT})
    resolved = ResolvedEncoder(spec, dim, modalities, chosen, encoders.versions(spec))
    return OpenClip(resolved, network, preprocessing, tokenizer, dtype, device)
