"""``open_clip:MODEL/WEIGHTS``: both towers of a contrastive image-text model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import open_clip
import torch

from featurestore.encoders import families
from featurestore.encoders.base import LoadOptions, Tokenized
from featurestore.encoders.depths import Depth, depths_of, pool_tokens
from featurestore.encoders.preprocessing import Preprocessing, decode_px_of
from featurestore.encoders.torch_network import Network, TorchEncoder, encoders_of
from featurestore.encoders.torch_setup import (
    ask_nobody,
    loading,
    pick_device,
    precision_of,
    settle,
    weights_hash,
)
from featurestore.errors import BadName, UnknownEncoder, nearest
from featurestore.terms.specs import LOCAL_DIR, EncoderSpec, Modality

if TYPE_CHECKING:
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
    from torchvision.transforms import Compose


def load(specs: Sequence[EncoderSpec], load_options: LoadOptions) -> list[TorchEncoder]:
    """Load a model with its weights: open_clip's cache and hub, a checkpoint, a folder."""
    spec = specs[0]
    name, weights = spec.model, None
    if spec.local_dir is None and not name.startswith("hf-hub:"):
        name, _, weights = spec.model.partition("/")
        _check_name(name)
        tags = open_clip.list_pretrained_tags_by_model(name)
        if weights not in tags and spec.local_file is None:
            raise UnknownEncoder(
                f"open_clip has no weights {weights!r} for {name}: write "
                f"open_clip:{name}/WEIGHTS with one of {', '.join(tags)}, "
                "or with the path of a checkpoint"
                if tags
                else f"open_clip has no pretrained weights for {name}: write "
                f"open_clip:{name}//path/of/a/checkpoint"
            )
    hint = "download it once on a machine with network, or use open_clip:local-dir:/path"
    if spec.local_dir:
        hint = "expected an open_clip folder (open_clip_config.json with its weights)"
    elif spec.local_file:
        hint = f"expected a checkpoint of {name}: safetensors, or what torch.save wrote of tensors"
    ask_nobody()  # the text tower may be one of transformers
    with loading(spec, hint):
        quick = _needs_quick_gelu(name, weights)
        module, _, transform = open_clip.create_model_and_transforms(
            name, pretrained=weights, weights_only=True, force_quick_gelu=quick
        )
        tokenizer = open_clip.get_tokenizer(name)
    return assemble(
        specs, module, transform, tokenizer, load_options, {"quick_gelu": True} if quick else {}
    )


def _needs_quick_gelu(name: str, weights: str | None) -> bool:
    """Whether weights were trained with another activation than the model is configured with.

    OpenAI's, MetaCLIP's and DFN's were; open_clip warns of it and computes with the wrong one.
    """
    tag = open_clip.get_pretrained_cfg(name, weights) if weights else {}
    config = open_clip.get_model_config(name) or {}
    return bool(tag.get("quick_gelu")) and not config.get("quick_gelu")


def load_random(
    specs: Sequence[EncoderSpec], inner: EncoderSpec, load_options: LoadOptions
) -> list[TorchEncoder]:
    """Make the architecture of ``inner`` with fresh weights from torch's generator."""
    name = inner.model if inner.model.startswith(LOCAL_DIR) else inner.model.split("/")[0]
    if not name.startswith(LOCAL_DIR):
        _check_name(name)
    ask_nobody()
    with loading(specs[0], "expected an open_clip architecture"):
        module, _, transform = open_clip.create_model_and_transforms(name, load_weights=False)
        tokenizer = open_clip.get_tokenizer(name)
    return assemble(specs, module, transform, tokenizer, load_options)


def _check_name(name: str) -> None:
    known = open_clip.list_models()
    if name not in known:
        raise UnknownEncoder(f"open_clip has no model {name!r}: {nearest(name, known)}")


def assemble(
    specs: Sequence[EncoderSpec],
    module: open_clip.CLIP,
    transform: Compose,
    tokenizer: HFTokenizer | SimpleTokenizer,
    load_options: LoadOptions,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> list[TorchEncoder]:
    """Put both towers, the tokenizer and the preprocessing together.

    ``more`` names further choices that change vectors, for the fingerprint.
    """
    spec, device = specs[0], pick_device(load_options.device)
    preprocessing = Preprocessing.split(transform)
    chosen = {
        "family": spec.family,
        "weights": weights_hash(module),
        "preprocessing": preprocessing.description,
        "context_length": getattr(module, "context_length", None),
        "precision": spec.option("precision", "fp32"),
        **more,
    }
    for one in specs:
        pool = one.option("pool", "")
        if pool and not one.option("layer", ""):
            raise BadName(f"pool={pool} in {one}: open_clip pools layers alone; add layer=…")
    module = settle(module, device, compile=load_options.compile)
    n_layers = cache(partial(_n_layers, module, device))
    has_class_token = _has_tokens(module.visual)
    depths = depths_of(specs, ("cls", "mean"), n_layers, has_class_token=has_class_token)

    def forward_tokens(
        module: open_clip.CLIP, tokens: dict[str, Any], asked: Sequence[Depth]
    ) -> list[torch.Tensor]:
        return [module.encode_text(tokens["input_ids"], normalize=False)] * len(asked)

    network = Network(
        module,
        device,
        precision_of(spec),
        preprocessing,
        _forward,
        _tokenize(tokenizer),
        lambda tokens: {"input_ids": torch.from_numpy(np.stack([t["input_ids"] for t in tokens]))},
        forward_tokens,
        decode_px_of(spec, preprocessing),
    )
    both = frozenset({Modality.IMAGE, Modality.TEXT})
    versions = families.versions(spec)
    encoders = encoders_of(specs, network, depths, chosen, Modality.IMAGE, both, versions)
    return [one.for_images() if one.is_inside else one for one in encoders]


def _tokenize(tokenizer: HFTokenizer | SimpleTokenizer) -> Callable[[Sequence[str]], Tokenized]:
    """Return what gives a text its ids, always as many as the text tower reads."""
    encode = getattr(tokenizer, "encode", None)

    def tokenize(texts: Sequence[str]) -> Tokenized:
        ids = tokenizer(list(texts))
        width = ids.shape[1]
        # Two more: the marks of beginning and end. A text of fewer letters cannot be cut.
        is_cut = [
            encode is not None and len(text) > width - 2 and len(encode(text)) > width - 2
            for text in texts
        ]
        return Tokenized([{"input_ids": one} for one in ids.numpy()], [width] * len(texts), is_cut)

    return tokenize


def _n_layers(module: open_clip.CLIP, device: str) -> int:
    """Count the layers of the image tower from a pass over an empty picture."""
    size = module.visual.image_size
    shape = size if isinstance(size, tuple) else (size, size)
    with torch.no_grad():
        output = module.visual.forward_intermediates(
            torch.zeros(1, 3, *shape, device=device), intermediates_only=True
        )
    return len(output["image_intermediates"])


def _forward(
    module: open_clip.CLIP, pixels: torch.Tensor, asked: Sequence[Depth]
) -> list[torch.Tensor]:
    """Return the projected output or pooled layers of the image tower, (n, dim) each."""
    layers = sorted({depth.layer - 1 for depth in asked if depth.layer is not None})
    if not layers:
        return [module.encode_image(pixels, normalize=False)] * len(asked)
    wants_end = any(depth.layer is None for depth in asked)
    has_tokens = _has_tokens(module.visual)
    output = module.visual.forward_intermediates(
        pixels,
        indices=layers,
        intermediates_only=not wants_end,
        stop_early=not wants_end,
        output_fmt="NLC" if has_tokens else "NCHW",
        output_extra_tokens=has_tokens,
    )
    maps = output["image_intermediates"]
    prefixes = output.get("image_intermediates_prefix") or [None] * len(maps)
    by_layer = dict(zip(layers, zip(maps, prefixes, strict=True), strict=True))
    return [
        output["image_features"]
        if depth.layer is None
        else pool_tokens(*by_layer[depth.layer - 1], depth.pool)
        for depth in asked
    ]


def _has_tokens(visual: torch.nn.Module) -> bool:
    """Whether layers are sequences of tokens (transformers) or maps (convolutions)."""
    trunk = getattr(visual, "trunk", None)
    if trunk is not None:
        return bool(getattr(trunk, "num_prefix_tokens", 0))
    return hasattr(visual, "transformer")
