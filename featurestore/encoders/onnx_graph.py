"""An encoder and what a head makes of its vectors, as one ONNX graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featurestore.encoders.base import Encoder
from featurestore.encoders.geometry import Gray, ResizeAndCrop
from featurestore.encoders.tiny_image import SIZE_PX, TinyImage
from featurestore.encoders.tiny_text import TinyText
from featurestore.encoders.torch_network import TorchEncoder
from featurestore.terms.specs import Modality

Numbers = NDArray[np.float32]
_PIXELS, _VECTORS = "pixels", "vectors"


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of vectors that are shifted, scaled and, if wanted, made of length 1."""

    shift: Numbers  # (dim,)
    scale: Numbers  # (dim,), by which is multiplied
    is_unit: bool
    weight: Numbers  # (dim, k)
    bias: Numbers  # (k,)


@dataclass(frozen=True, eq=False)
class HeadGraph:
    """What a head makes of vectors."""

    block_scale: float  # of the encoder's vectors, before anything else
    parts: Sequence[Scores]  # side by side
    end: str  # softmax | sigmoid: probabilities; none: values


@dataclass(frozen=True)
class GraphInput:
    """What a graph takes, and how it is made of an item."""

    reads: str  # image | text | vectors
    preprocessing: dict[str, Any]
    tokenizer: str | None = None  # tokenizer.json


class _Head(nn.Module):
    def __init__(self, head: HeadGraph) -> None:
        super().__init__()
        self.head = head
        for n, part in enumerate(head.parts):
            for name in ("shift", "scale", "weight", "bias"):
                value = np.ascontiguousarray(getattr(part, name), np.float32)
                self.register_buffer(f"{name}_{n}", torch.from_numpy(value.copy()))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        found = []
        for n, part in enumerate(self.head.parts):
            shift, scale, weight, bias = (
                getattr(self, f"{name}_{n}") for name in ("shift", "scale", "weight", "bias")
            )
            z = (vectors * self.head.block_scale - shift) * scale
            if part.is_unit:
                z = z / z.pow(2).sum(1, keepdim=True).sqrt().clamp_min(1e-30)
            found.append(z @ weight + bias)
        scores = torch.cat(found, 1)
        if self.head.end == "softmax":
            return scores.softmax(1)
        return scores.sigmoid() if self.head.end == "sigmoid" else scores


class _Whole(nn.Module):
    """An encoder's function with the head behind it; gives the head's answer and the vectors."""

    def __init__(
        self, module: nn.Module, encode: Callable[..., torch.Tensor], head: HeadGraph
    ) -> None:
        super().__init__()
        self.module, self.encode, self.head = module, encode, _Head(head)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        vectors = self.encode(self.module, *inputs).float()
        return self.head(vectors), vectors


class _Table(nn.Module):
    """The sums of tokens' vectors that `TinyText` makes."""

    def __init__(self, encoder: TinyText) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.from_numpy(encoder.vectors.copy()))
        self.unknown = encoder.unknown

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = self.vectors  # type: ignore[assignment]
        sums = (vectors[ids] * mask[..., None].float()).sum(1)
        is_empty = (mask.sum(1, keepdim=True) == 0).float()
        sums = sums + is_empty * vectors[self.unknown]
        return sums / sums.pow(2).sum(1, keepdim=True).sqrt().clamp_min(1e-30)


@dataclass(frozen=True, eq=False)
class _Graph:
    module: nn.Module
    encode: Callable[..., torch.Tensor]
    names: Sequence[str]  # of the inputs
    example: Sequence[torch.Tensor]  # a batch of two
    about: GraphInput


def export_graph(
    encoder: Encoder | None, modality: Modality, head: HeadGraph, file: Path
) -> GraphInput:
    """Write a graph: of an encoder and a head, or of the head on vectors where there is none.

    Raises
    ------
    ValueError
        If the encoder cannot be written as a graph; its text says why.
    """
    graph = _graph_of(encoder, modality, head)
    is_text = graph.about.reads == Modality.TEXT
    sizes = {0: "n", 1: "length"} if is_text else {0: "n"}
    whole = _Whole(graph.module, graph.encode, head).eval()
    axes: dict[str, dict[int, str]] = dict.fromkeys(graph.names, sizes)
    outputs = ["values" if head.end == "none" else "probabilities", "vector"]
    axes |= {name: {0: "n"} for name in outputs}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            # By tracing: a tenth of the time of torch.export, and one package less.
            torch.onnx.export(
                whole, tuple(graph.example), file, dynamo=False, opset_version=17,
                dynamic_axes=axes,
                input_names=list(graph.names), output_names=outputs,
            )  # fmt: skip
    except Exception as error:  # torch's own, of any kind
        raise ValueError(" ".join(str(error).split())[:300]) from error
    return graph.about


def _graph_of(encoder: Encoder | None, modality: Modality, head: HeadGraph) -> _Graph:
    if encoder is None:
        dim = len(head.parts[0].shift)
        example = torch.zeros(2, dim)
        about = GraphInput(_VECTORS, {"dim": dim})
        return _Graph(nn.Identity(), lambda module, v: v, [_VECTORS], [example], about)
    if isinstance(encoder, TinyText):
        ids = torch.zeros(2, 3, dtype=torch.int64)
        about = GraphInput(
            Modality.TEXT, {"prompt": "", "special_tokens": False}, encoder.tokenizer.to_str()
        )
        names = ["input_ids", "attention_mask"]
        return _Graph(_Table(encoder), lambda table, *given: table(*given), names,
                      [ids, torch.ones_like(ids)], about)  # fmt: skip
    if not isinstance(encoder, TorchEncoder):
        raise ValueError("it is not a network of torch")
    if encoder.network.dtype is not torch.float32:
        raise ValueError("it runs in 16 bits: a graph of 32 bits would give other vectors")
    return _of_pictures(encoder) if modality is Modality.IMAGE else _of_texts(encoder)


def _of_pictures(encoder: TorchEncoder) -> _Graph:
    network, how = encoder.network, encoder.network.preprocessing
    assert how is not None
    assert network.forward_images is not None
    from PIL import Image

    prepared = how.prepare(Image.new("RGB", (64, 64)))
    example = torch.from_numpy(np.stack([prepared, prepared]))
    mean, std = (torch.tensor(one).view(1, -1, 1, 1) for one in (how.mean, how.std))
    is_uint8, forward = example.dtype is torch.uint8, network.forward_images

    def encode(module: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        if is_uint8:
            pixels = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
        return torch.cat([one.float() for one in forward(module, pixels, encoder.depths)], 1)

    about = GraphInput(Modality.IMAGE, _geometry(encoder, example))
    return _Graph(network.module, encode, [_PIXELS], [example], about)


def _geometry(encoder: TorchEncoder, example: torch.Tensor) -> dict[str, Any]:
    """Return how a picture becomes pixels: in numbers, where we know them, and in words."""
    how = encoder.network.preprocessing
    assert how is not None
    is_uint8 = example.dtype is torch.uint8
    found: dict[str, Any] = {
        "description": how.description,
        "layout": "height, width, channels; uint8" if is_uint8 else "channels, height, width",
        "mode": "L" if isinstance(how.geometry, Gray) else "RGB",
        "size": list(example.shape[1:3] if is_uint8 else example.shape[2:4]),
    }
    inner = how.geometry.geometry if isinstance(how.geometry, Gray) else how.geometry
    if isinstance(inner, ResizeAndCrop):
        found |= {"shorter_side": inner.resize_px, "interpolation": inner.resample.name}
    elif isinstance(encoder.network.module, TinyImage):
        found |= {"squash": [SIZE_PX, SIZE_PX], "interpolation": "BILINEAR"}
    elif (steps := list(getattr(inner, "transforms", ()))) and _is_squash(steps, found["size"]):
        height, width = found["size"]
        found |= {"squash": [width, height], "interpolation": steps[0].interpolation.name}
    return found


def _is_squash(steps: Sequence[Any], size: Sequence[int]) -> bool:
    """Whether torchvision's steps resize to one size whatever the proportions, and cut nothing."""
    names = [getattr(one, "__name__", type(one).__name__) for one in steps]
    if names[:1] != ["Resize"] or not {*names[1:]} <= {"CenterCrop", "MaybeConvertMode"}:
        return False
    sizes = [
        list(one.size) for one in steps if hasattr(one, "size") and not isinstance(one.size, int)
    ]
    return len(sizes) == sum(hasattr(one, "size") for one in steps) and all(
        one == list(size) for one in sizes
    )


def _of_texts(encoder: TorchEncoder) -> _Graph:
    network = encoder.network
    collate, forward = network.collate, network.forward_tokens
    pipeline: Any = network.module
    tokenizer = getattr(getattr(pipeline, "tokenizer", None), "backend_tokenizer", None)
    if collate is None or forward is None or tokenizer is None:
        raise ValueError("its tokens are made by its library")
    given = collate(encoder.tokenize(["a text", "another text, and longer"]).tokens)
    names = sorted(given)

    def encode(module: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
        tokens = dict(zip(names, inputs, strict=True))
        return torch.cat([one.float() for one in forward(module, tokens, encoder.depths)], 1)

    prompt = encoder.resolved.chosen.get("prompt") or ""
    pad = getattr(pipeline.tokenizer, "pad_token_id", None) or 0
    tokenizer.enable_truncation(int(pipeline.max_seq_length))
    tokenizer.enable_padding(pad_id=pad)
    written = str(tokenizer.to_str())
    about = GraphInput(Modality.TEXT, {"prompt": prompt, "special_tokens": True}, written)
    return _Graph(pipeline, encode, names, [given[name] for name in names], about)
