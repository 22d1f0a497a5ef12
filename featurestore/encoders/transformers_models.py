"""``hf:NAME`` and ``hf:local-dir:/path``: image and text models of Hugging Face transformers.

Two-tower models (CLIP, SigLIP) give their projected features. Of others, images are pooled by
the class token where there is one, then by a trained pooler, else by the mean; texts by the
mean over their tokens. ``#pool=cls|mean|pooler`` and ``#layer=…`` choose; layer 0 is what the
first block gets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from featurestore.encoders import families
from featurestore.encoders.base import LoadOptions, Tokenized
from featurestore.encoders.depths import Depth, Depths, depths_of, pool_tokens
from featurestore.encoders.preprocessing import Preprocessing, decode_px_of
from featurestore.encoders.tokens import Tokens, collator, tokenizer_of
from featurestore.encoders.torch_network import Network, TorchEncoder, check_channels, encoders_of
from featurestore.encoders.torch_setup import (
    loading,
    pick_device,
    precision_of,
    settle,
    weights_hash,
)
from featurestore.errors import BadName, UnknownEncoder
from featurestore.terms.specs import EncoderSpec, Modality

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase
    from transformers.utils import ModelOutput

_POOLS = ("cls", "mean", "pooler")
_CLASS_TOKENS = ("cls_token", "class_embedding")
_POSITIONS_BEHIND_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer")
_NO_POOLER = "pool=pooler: this network has no pooler; use pool=cls or pool=mean"
_POOLERS = ("pooler", "head")  # how the names of their weights begin


@dataclass(frozen=True, eq=False)
class _Model:
    """A loaded network, what comes with it, and what decides how it is read."""

    module: PreTrainedModel
    processor: BaseImageProcessor | None  # None: it reads no images
    tokenizer: PreTrainedTokenizerBase | None  # None: it reads no texts
    is_two_tower: bool
    n_prefix: int  # class, distillation and register tokens of an image
    has_pooler: bool  # no weight of it was absent, and drawn at random

    @property
    def modalities(self) -> frozenset[Modality]:
        """What it reads."""
        image = {Modality.IMAGE} if self.processor is not None else set()
        return frozenset(image | ({Modality.TEXT} if self.tokenizer is not None else set()))


def load(specs: Sequence[EncoderSpec], load_options: LoadOptions) -> list[TorchEncoder]:
    """Load a model by name (with the hub's cache) or from a folder."""
    spec, device = specs[0], pick_device(load_options.device)
    model = _read(spec, load_options)
    module = settle(model.module, device, compile=load_options.compile)
    chosen: dict[str, Any] = {
        "family": "hf",
        "architecture": type(module).__name__,
        "weights": weights_hash(module),
        "precision": spec.option("precision", "fp32"),
    }
    preprocessing = None
    if model.processor is not None:
        vision = getattr(module.config, "vision_config", module.config)
        n_channels = getattr(vision, "num_channels", 3)
        check_channels(n_channels, spec)
        preprocessing = _preprocessing(model.processor, spec, "L" if n_channels == 1 else "RGB")
        chosen["preprocessing"] = preprocessing.description
    depths = _depths(specs, model, preprocessing, device)
    tokenize = collate = knows_none = None
    if (tokenizer := model.tokenizer) is not None:
        limit = _max_length(spec, model.module, tokenizer)
        chosen |= {"tokenizer": _tokenizer_hash(tokenizer), "max_length": limit}
        tokenize = _tokenize(tokenizer, limit, fixed=model.is_two_tower)
        knows_none = partial(_knows_none, tokenizer)
        collate = collator({"input_ids": tokenizer.pad_token_id or 0}, tokenizer.padding_side)

    def forward_images(
        module: PreTrainedModel, pixels: torch.Tensor, asked: Sequence[Depth]
    ) -> list[torch.Tensor]:
        return _forward_images(replace(model, module=module), pixels, asked)

    def forward_tokens(
        module: PreTrainedModel, tokens: dict[str, Any], asked: Sequence[Depth]
    ) -> list[torch.Tensor]:
        return _forward_tokens(replace(model, module=module), tokens, asked)

    network = Network(
        module,
        device,
        precision_of(spec),
        preprocessing,
        forward_images,
        tokenize,
        collate,
        forward_tokens,
        None if preprocessing is None else decode_px_of(spec, preprocessing),
        knows_none,
    )
    reads = model.modalities
    first = Modality.IMAGE if Modality.IMAGE in reads else Modality.TEXT
    encoders = encoders_of(specs, network, depths, chosen, first, reads, families.versions(spec))
    # A layer inside one tower shares no space with the other: it is for images alone.
    return [one.for_images() if model.is_two_tower and one.is_inside else one for one in encoders]


def _read(spec: EncoderSpec, load_options: LoadOptions) -> _Model:
    """Read the weights, and the processor or tokenizer that belongs to them."""
    hint = (
        "expected a transformers folder (config.json, model.safetensors, and "
        "preprocessor_config.json or a tokenizer)"
        if spec.local_dir
        else "download it once on a machine with network, or use hf:local-dir:/path"
    )
    name = str(spec.local_dir) if spec.local_dir else spec.model
    common: dict[str, Any] = {
        "revision": spec.revision or "main",
        "trust_remote_code": load_options.runs_code_of(spec),
        "local_files_only": spec.local_dir is not None,
    }
    transformers_logging.disable_progress_bar()  # our own bar counts items, not tensors
    with loading(spec, hint):
        module, info = AutoModel.from_pretrained(
            name, output_loading_info=True, dtype=torch.float32, weights_only=True, **common
        )
        if module.config.is_encoder_decoder:
            module = module.get_encoder()  # T5 and its kin: what reads the text
        is_two_tower = hasattr(module, "get_image_features") and hasattr(
            module, "get_text_features"
        )
        reads_images = is_two_tower or module.main_input_name == "pixel_values"
        reads_texts = is_two_tower or module.main_input_name == "input_ids"
        processor = AutoImageProcessor.from_pretrained(name, **common) if reads_images else None
        tokenizer = AutoTokenizer.from_pretrained(name, **common) if reads_texts else None
        if tokenizer is not None and spec.local_dir is not None:
            _check_tokenizer_files(spec)
    if module.config.model_type == "vit_mae":
        raise UnknownEncoder(f"{spec} hides random parts of its input: no vector twice the same")
    if not reads_images and not reads_texts:
        raise UnknownEncoder(
            f"{spec} reads {module.main_input_name}: expected an image or a text model"
        )
    has_pooler = not any(one.startswith(_POOLERS) for one in info["missing_keys"])
    return _Model(module, processor, tokenizer, is_two_tower, _n_prefix(module), has_pooler)


def _n_prefix(module: PreTrainedModel) -> int:
    """Count the tokens that stand before those of the positions of an image."""
    names = [name.rpartition(".")[2] for name, _ in module.named_parameters()]
    vision = getattr(module.config, "vision_config", module.config)
    n_registers = getattr(vision, "num_register_tokens", 0) or 0
    return sum(name in names for name in (*_CLASS_TOKENS, "distillation_token")) + n_registers


def _depths(
    specs: Sequence[EncoderSpec], model: _Model, preprocessing: Preprocessing | None, device: str
) -> list[Depths]:
    """Read layers and pooling of the specs, and check that the model has them."""
    tokenizer = model.tokenizer
    has_class_token = model.n_prefix > 0
    if tokenizer is not None and not model.is_two_tower:
        has_class_token = tokenizer.cls_token is not None
    n_layers = cache(partial(_n_layers, model, preprocessing, device))
    found = depths_of(specs, _POOLS, n_layers, first=0, has_class_token=has_class_token)
    for depths, one in zip(found, specs, strict=True):
        for depth in depths:
            _check_pool(depth, one, model)
    return found


def _check_tokenizer_files(spec: EncoderSpec) -> None:
    """Refuse a folder without a tokenizer: for some models transformers makes an empty one."""
    assert spec.local_dir is not None
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt")
    if not any((spec.local_dir / name).exists() for name in (*names, "spiece.model")):
        raise OSError(f"no tokenizer in {spec.local_dir}")


def _check_pool(depth: Depth, spec: EncoderSpec, model: _Model) -> None:
    if depth.pool is None:
        return
    lacks_cls = model.tokenizer is not None and model.tokenizer.cls_token is None
    if depth.pool == "cls" and lacks_cls and not model.is_two_tower:
        raise BadName(f"pool=cls in {spec}: its texts begin with no class token; use pool=mean")
    if model.is_two_tower and depth.layer is None:
        raise BadName(
            f"pool={depth.pool} in {spec}: a two-tower model pools by itself; add layer=…"
        )
    if depth.pool == "pooler" and depth.layer is not None:
        raise BadName(
            f"pool=pooler in {spec}: the pooler belongs to the last layer; use cls or mean"
        )
    if depth.pool == "pooler" and not model.has_pooler:
        raise BadName(
            f"pool=pooler in {spec}: these weights have no trained pooler; use cls or mean"
        )


def _vision(model: _Model) -> Any:
    return model.module.vision_model if model.is_two_tower else model.module


def _n_layers(model: _Model, preprocessing: Preprocessing | None, device: str) -> int:
    """Count layers: of texts from the configuration, of images from what a probe gives."""
    if preprocessing is None:
        config = getattr(model.module.config, "text_config", model.module.config)
        return int(config.num_hidden_layers)
    probe = preprocessing.prepare(Image.new("RGB", (64, 64)))
    pixels = preprocessing.normalize(torch.from_numpy(probe)[None].to(device))
    with torch.no_grad():
        out = _vision(model)(pixel_values=pixels, output_hidden_states=True)
    return len(out.hidden_states) - 1


def _forward_images(
    model: _Model, pixels: torch.Tensor, asked: Sequence[Depth]
) -> list[torch.Tensor]:
    wants_layers = any(depth.layer is not None for depth in asked)
    projected: torch.Tensor | None = None
    out: Any = None
    if model.is_two_tower and any(depth.layer is None for depth in asked):
        more = {"output_hidden_states": True} if wants_layers else {}
        out = model.module.get_image_features(pixel_values=pixels, **more)
        projected = _features(out)
    # Older models give the projected vectors alone: then layers take a pass of their own.
    if projected is None or (wants_layers and getattr(out, "hidden_states", None) is None):
        out = _vision(model)(pixel_values=pixels, output_hidden_states=wants_layers)
    vectors = []
    for depth in asked:
        if depth.layer is None and projected is not None:
            vectors.append(projected)
        elif depth.layer is None:
            vectors.append(_pool_image(model, out, depth.pool))
        else:
            vectors.append(_pool_map(model, out.hidden_states[depth.layer], depth.pool))
    return vectors


def _features(out: torch.Tensor | ModelOutput) -> torch.Tensor:
    return out if isinstance(out, torch.Tensor) else out.pooler_output


def _pool_image(model: _Model, out: ModelOutput, pool: str | None) -> torch.Tensor:
    pooled = getattr(out, "pooler_output", None)
    use_pooler = pool == "pooler" or (pool is None and not model.n_prefix and model.has_pooler)
    if use_pooler and pooled is not None:
        return torch.flatten(pooled, 1)  # convolutional poolers keep two sides of length 1
    if pool == "pooler":
        raise BadName(_NO_POOLER)
    return _pool_map(model, out.last_hidden_state, pool)


def _pool_map(model: _Model, hidden: torch.Tensor, pool: str | None) -> torch.Tensor:
    if hidden.ndim == 4:
        return pool_tokens(hidden, None, pool)
    n = model.n_prefix
    return pool_tokens(hidden[:, n:], hidden[:, :n] if n else None, pool)


def _forward_tokens(
    model: _Model, tokens: dict[str, Any], asked: Sequence[Depth]
) -> list[torch.Tensor]:
    if model.is_two_tower:
        return [_features(model.module.get_text_features(**tokens))] * len(asked)
    wants_layers = any(depth.layer is not None for depth in asked)
    out = model.module(**tokens, output_hidden_states=wants_layers)
    mask = tokens["attention_mask"].unsqueeze(-1).to(out.last_hidden_state.dtype)
    vectors = []
    for depth in asked:
        if depth.pool == "pooler":
            if getattr(out, "pooler_output", None) is None:
                raise BadName(_NO_POOLER)
            vectors.append(out.pooler_output)
            continue
        hidden = out.last_hidden_state if depth.layer is None else out.hidden_states[depth.layer]
        if depth.pool == "cls":
            vectors.append(hidden[:, 0])
        else:
            vectors.append((hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1))
    return vectors


def _preprocessing(processor: BaseImageProcessor, spec: EncoderSpec, mode: str) -> Preprocessing:
    """Cut the processor: its geometry in the workers, its numbers on the device.

    Where that does not give what the whole processor gives (one that resizes after scaling),
    all of it runs in the workers. ``mode`` is L for a network of one channel.
    """
    facts = {
        name: value
        for name, value in processor.to_dict().items()
        if not name.startswith(("_", "processor_class"))
    }
    description = json.dumps(facts, sort_keys=True, default=str)

    def whole(image: Image.Image) -> NDArray[Any]:
        image = image if image.mode == mode else image.convert(mode)
        pixels = processor(images=image, return_tensors="np")["pixel_values"][0]
        if pixels.ndim != 3:
            raise UnknownEncoder(
                f"{spec} takes inputs of shape {pixels.shape}: expected (3, height, width)"
            )
        return np.asarray(pixels, np.float32)

    def geometry(image: Image.Image) -> NDArray[Any]:
        image = image if image.mode == mode else image.convert(mode)
        batch = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="np")
        return np.ascontiguousarray(np.transpose(batch["pixel_values"][0], (1, 2, 0)))

    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    probe = Image.fromarray(pixels).resize((280, 340))
    try:
        expected = whole(probe)
    except (RuntimeError, ValueError) as error:
        kind = "a gray picture" if mode == "L" else "an RGB picture"
        reason = " ".join(str(error).split())[:300]
        raise UnknownEncoder(
            f"preprocessor_config.json of {spec} does not fit {kind}: {reason}"
        ) from error
    if whole(probe.resize((400, 260))).shape != expected.shape:
        raise UnknownEncoder(
            f"{spec} gives inputs of the picture's own shape, which make no batch: its "
            "preprocessor_config.json needs a crop or a size of two sides"
        )
    size = facts.get("size") or {}
    sides = [n for n in dict(size).values() if isinstance(n, int)]
    resize_px = max(sides) if sides else None
    mean = tuple(getattr(processor, "image_mean", None) or (0.0, 0.0, 0.0))
    std = tuple(getattr(processor, "image_std", None) or (1.0, 1.0, 1.0))
    if not getattr(processor, "do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    # Ours divides by 255; another factor is put into mean and std.
    factor = 255.0 * getattr(processor, "rescale_factor", 1 / 255)
    cut = Preprocessing(
        geometry,
        tuple(m / factor for m in mean),
        tuple(s / factor for s in std),
        description,
        resize_px,
    )
    found = geometry(probe)
    if found.dtype == np.uint8 and found.shape[2] == len(cut.mean):
        ours = cut.normalize(torch.from_numpy(found)[None])[0].numpy()
        if ours.shape == expected.shape and np.abs(ours - expected).max() < 0.02:
            return cut
    return Preprocessing(whole, (), (), description, resize_px)


def _max_length(
    spec: EncoderSpec, module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> int:
    text = spec.option("max_length", "")
    if text and (not text.isdecimal() or int(text) < 1):
        raise BadName(f"max_length={text} in {spec}: expected a number of tokens")
    config = getattr(module.config, "text_config", module.config)
    positions = getattr(config, "max_position_embeddings", None) or 512
    if getattr(config, "model_type", "") in _POSITIONS_BEHIND_PADDING:
        positions -= config.pad_token_id + 1
    limit = min(positions, tokenizer.model_max_length)
    return min(limit, int(text)) if text else int(limit)


def _tokenize(
    tokenizer: PreTrainedTokenizerBase, limit: int, *, fixed: bool
) -> Callable[[Sequence[str]], Tokenized]:
    """Return what gives a text its tokens; ``fixed`` pads all to the length of training."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not fixed:
        tokenizer.padding_side = "right"  # our mean leaves padding out wherever it stands

    def library(texts: list[str]) -> list[Tokens]:
        batch = tokenizer(
            texts, padding="max_length" if fixed else False, truncation=True, max_length=limit
        )
        names = [name for name in tokenizer.model_input_names if name in batch]
        return [
            {name: np.array(batch[name][i], np.int64) for name in names} for i in range(len(texts))
        ]

    return tokenizer_of(tokenizer, limit, "", library)


def _knows_none(tokenizer: PreTrainedTokenizerBase, tokens: dict[str, NDArray[Any]]) -> bool:
    """Whether a text has no token but such as stand for unknown ones."""
    unknown, ids = tokenizer.unk_token_id, tokens["input_ids"]
    if unknown is None or unknown not in ids:
        return False
    return set(ids.tolist()) <= {unknown, *tokenizer.all_special_ids}


def _tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    fast = getattr(tokenizer, "backend_tokenizer", None)
    text = json.dumps(tokenizer.get_vocab(), sort_keys=True) if fast is None else fast.to_str()
    return hashlib.sha256(text.encode()).hexdigest()
