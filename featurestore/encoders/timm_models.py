"""``timm:NAME`` and ``timm:local-dir:/path``: pooled features of any timm model, at any layer."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any

import timm
import torch
from timm.data import create_transform, resolve_data_config

from featurestore.encoders import families
from featurestore.encoders.base import LoadOptions
from featurestore.encoders.depths import Depth, depths_of, pool_tokens
from featurestore.encoders.preprocessing import Preprocessing, decode_px_of
from featurestore.encoders.torch_network import Network, TorchEncoder, check_channels, encoders_of
from featurestore.encoders.torch_setup import (
    loading,
    pick_device,
    precision_of,
    settle,
    weights_hash,
)
from featurestore.errors import BadName, UnknownEncoder, nearest
from featurestore.terms.specs import LOCAL_DIR, EncoderSpec, Modality


def load(specs: Sequence[EncoderSpec], load_options: LoadOptions) -> list[TorchEncoder]:
    """Load pretrained weights by name (with timm's cache and hub) or from a folder."""
    spec = specs[0]
    hint = (
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
    with loading(spec, hint):
        module = _create(name, spec, pretrained=True)
    return assemble(specs, module, load_options)


def load_random(
    specs: Sequence[EncoderSpec], inner: EncoderSpec, load_options: LoadOptions
) -> list[TorchEncoder]:
    """Make the architecture of ``inner`` with fresh weights from torch's generator."""
    architecture = inner.model.split(".")[0]
    if not inner.model.startswith(LOCAL_DIR) and not timm.is_model(architecture):
        raise UnknownEncoder(
            f"timm has no model {inner.model!r}: {nearest(architecture, timm.list_models())}"
        )
    with loading(specs[0], "expected a timm architecture"):
        module = _create(inner.model, specs[0], pretrained=False)
    return assemble(specs, module, load_options)


def _create(name: str, spec: EncoderSpec, *, pretrained: bool) -> Any:
    size = _size_of(spec)
    try:  # a model of patches has one size, to which timm resamples its embedding of positions
        module = timm.create_model(
            name, pretrained=pretrained, num_classes=0, **({"img_size": size} if size else {})
        )
    except TypeError:  # convolutions take pictures of any size
        return timm.create_model(name, pretrained=pretrained, num_classes=0)
    patch = getattr(getattr(module, "patch_embed", None), "patch_size", (1, 1))
    if size and any(size % side for side in patch):
        raise BadName(f"size={size} in {spec}: its patches need a multiple of {max(patch)} pixels")
    return module


def _size_of(spec: EncoderSpec) -> int | None:
    text = spec.option("size", "")
    if text and not (text.isdecimal() and 16 <= int(text) <= 2048):
        raise BadName(f"size={text} in {spec}: expected whole pixels from 16 to 2048")
    return int(text) if text else None


def assemble(
    specs: Sequence[EncoderSpec], module: Any, load_options: LoadOptions
) -> list[TorchEncoder]:
    """Put a network and its own preprocessing together."""
    spec, device = specs[0], pick_device(load_options.device)
    size = _size_of(spec)
    n_channels = module.pretrained_cfg.get("input_size", (3,))[0]
    check_channels(n_channels, spec)
    sides = {"img_size": size, "in_chans": n_channels} if size else {}
    config = resolve_data_config(sides, model=module)
    preprocessing = Preprocessing.split(create_transform(**config, is_training=False))
    if n_channels == 1:  # timm's own scripts convert pictures to gray for it
        preprocessing = preprocessing.in_gray()
    chosen = {
        "family": spec.family,
        "weights": weights_hash(module),
        "architecture": module.pretrained_cfg.get("architecture", ""),
        "preprocessing": preprocessing.description,
        "precision": spec.option("precision", "fp32"),
    }
    n_layers = cache(lambda: _n_layers(module, spec, config["input_size"]))
    has_class_token = getattr(module, "num_prefix_tokens", 0) > 0
    depths = depths_of(specs, ("cls", "mean"), n_layers, has_class_token=has_class_token)
    module = settle(module, device, compile=load_options.compile)

    network = Network(
        module, device, precision_of(spec), preprocessing, _forward,
        decode_px=decode_px_of(spec, preprocessing),
    )  # fmt: skip
    try:
        return encoders_of(
            specs, network, depths, chosen, Modality.IMAGE, frozenset({Modality.IMAGE}),
            families.versions(spec),
        )  # fmt: skip
    except UnknownEncoder as error:
        if size is None:
            raise
        cause = error.__cause__ or error
        raise BadName(f"size={size} in {spec}: this network does not take it ({cause})") from error


def _n_layers(module: Any, spec: EncoderSpec, size: tuple[int, int, int]) -> int:
    if not hasattr(module, "forward_intermediates"):
        raise BadName(f"timm gives no layers of {spec.model}: leave #layer out")
    with torch.no_grad():
        module.eval()
        return len(module.forward_intermediates(torch.zeros(1, *size), intermediates_only=True))


def _forward(module: Any, pixels: torch.Tensor, asked: Sequence[Depth]) -> list[torch.Tensor]:
    """Return the pooled output of each depth that is asked for, from one pass."""
    layers = sorted({depth.layer - 1 for depth in asked if depth.layer is not None})
    wants_end = any(depth.layer is None for depth in asked)
    if not layers:
        if all(depth.pool is None for depth in asked):
            return [module(pixels)] * len(asked)
        end, found = module.forward_features(pixels), {}
    else:
        n_prefix = getattr(module, "num_prefix_tokens", 0)
        options: dict[str, Any] = {"output_fmt": "NLC" if n_prefix else "NCHW"}
        parameters = inspect.signature(module.forward_intermediates).parameters
        if n_prefix and "return_prefix_tokens" in parameters:
            options["return_prefix_tokens"] = True
        result = module.forward_intermediates(
            pixels, indices=layers, intermediates_only=not wants_end, stop_early=not wants_end,
            **options,
        )  # fmt: skip
        end, maps = result if wants_end else (None, result)
        found = dict(zip(layers, maps, strict=True))
    vectors = []
    for depth in asked:
        if depth.layer is not None:
            layer = found[depth.layer - 1]
            spatial, prefix = layer if isinstance(layer, tuple) else (layer, None)
            vectors.append(pool_tokens(spatial, prefix, depth.pool))
        elif depth.pool is not None:
            n_prefix = getattr(module, "num_prefix_tokens", 0)
            is_tokens = end.ndim == 3
            vectors.append(
                pool_tokens(
                    end[:, n_prefix:] if is_tokens else end,
                    end[:, :n_prefix] if is_tokens else None,
                    depth.pool,
                )
            )
        else:
            vectors.append(module.forward_head(end, pre_logits=True))
    return vectors
