"""Several depths of one network from one forward pass, in three steps that keep a GPU busy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from featurestore.encoders.base import Encoder, Steps, Tokenized
from featurestore.encoders.blocks import N_PROBES
from featurestore.encoders.depths import OWN, Depth, Depths
from featurestore.encoders.device_copies import Staged, download, upload
from featurestore.encoders.families import has_no_blocks
from featurestore.encoders.geometry import Gray, ResizeAndCrop
from featurestore.encoders.preprocessing import Preprocessing
from featurestore.encoders.side_by_side import beside_each_other
from featurestore.encoders.taps import Tap, cut_at
from featurestore.encoders.tokens import Tokens
from featurestore.encoders.torch_setup import config_of, inference
from featurestore.encoders.upper_part import Given
from featurestore.errors import FeatureStoreError, UnknownEncoder
from featurestore.terms.specs import EncoderSpec, Modality, ResolvedEncoder

Forward = Callable[[Any, Any, Sequence[Depth]], list[torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Network:
    """A frozen network with what goes into it; the encoders of its layers share it.

    ``forward_images`` and ``forward_tokens`` take the module (or a copy of it), a batch and the
    depths that are asked for, and give one (n, dim) tensor for each from a single pass.
    """

    module: torch.nn.Module
    device: str
    dtype: torch.dtype
    preprocessing: Preprocessing | None = None
    forward_images: Forward | None = None
    tokenize: Callable[[Sequence[str]], Tokenized] | None = None
    collate: Callable[[Sequence[Any]], dict[str, Any]] | None = None
    forward_tokens: Forward | None = None
    decode_px: int | None = None  # with #decode=fast: JPEGs may shrink to this while decoding
    knows_none: Callable[[Any], bool] | None = None  # see `Encoder.knows_none`
    tap: Tap | None = None  # it gives activations at a cut, not vectors

    def forward(
        self, modality: Modality, module: torch.nn.Module, given: Given, depths: Sequence[Depth]
    ) -> list[torch.Tensor]:
        """Run pixels or tokens through the module, or through a copy of it."""
        forward = self.forward_images if modality is Modality.IMAGE else self.forward_tokens
        assert forward is not None
        return forward(module, given, depths)

    @property
    def pass_per_core(self) -> bool:
        """Whether each core of a CPU runs a pass on its part of a batch of texts."""
        return self.device == "cpu" and self.tokenize is not None


class TorchEncoder(Encoder):
    """One depth of a network, or several side by side: as its library returns them."""

    def __init__(self, resolved: ResolvedEncoder, network: Network, depths: Depths = OWN) -> None:
        self.resolved = resolved
        self.network = network
        self.depths = depths
        self.device = network.device
        self.decode_px = network.decode_px
        self.pass_per_core = network.pass_per_core
        if (preprocessing := network.preprocessing) is not None:
            self.shrink_px = preprocessing.resize_px
            # Free of torch, which takes a process seconds to load.
            geometry = preprocessing.geometry
            inner = geometry.geometry if isinstance(geometry, Gray) else geometry
            is_light = isinstance(inner, ResizeAndCrop)
            self.preparer = geometry if is_light else preprocessing.prepare

    @property
    def network_id(self) -> int:
        """Equal for the depths of one network."""
        return id(self.network)

    @property
    def is_inside(self) -> bool:
        """Whether a layer inside the network, or a cut through it, is among its depths."""
        return self.network.tap is not None or any(depth.layer is not None for depth in self.depths)

    def in_half_precision(self) -> TorchEncoder | None:
        """Return this in bfloat16, on the same weights; None where it has a precision already."""
        if self.network.dtype is not torch.float32:
            return None
        network = replace(self.network, dtype=torch.bfloat16)
        return TorchEncoder(self.resolved, network, self.depths)

    def for_images(self) -> TorchEncoder:
        """Return this for images alone: a layer inside one tower shares no space with the other."""
        only = replace(self.resolved, modalities=frozenset({Modality.IMAGE}))
        return TorchEncoder(only, self.network, self.depths)

    def prepare_image(self, image: Image.Image) -> NDArray[Any]:
        """Resize and crop as the model was trained; see `Preprocessing.prepare` for the shape."""
        assert self.network.preprocessing is not None
        return self.network.preprocessing.prepare(image)

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> Any:
        """Return (n, dim) float32 of what `prepare_image` gave.

        Of a tap (n, variants, *shape) float16, see `TapShape`.
        """
        return self._run(Modality.IMAGE, prepared)

    def encode_texts(self, texts: Sequence[str]) -> Any:
        """Return (n, dim) float32; of a tap a list of (length, width) float16."""
        return self._run(Modality.TEXT, self.tokenize(texts).tokens)

    def _run(self, modality: Modality, contents: Sequence[Any]) -> Any:
        stage, launch, fetch = self.runner([self], modality)
        return fetch(launch(stage(contents)))[0]

    def tokenize(self, texts: Sequence[str]) -> Tokenized:
        """Return the network's tokens; the texts themselves where its library tokenizes."""
        if self.network.tokenize is None:
            return super().tokenize(texts)
        return self.network.tokenize(list(texts))

    def knows_none(self, tokens: Any) -> bool:
        """Whether no token of a text is one that the tokenizer knows."""
        return self.network.knows_none is not None and self.network.knows_none(tokens)

    def runner(self, encoders: Sequence[Self], modality: Modality) -> Steps:
        """Return the steps that give the vectors of several depths from one pass."""
        return _steps(self.network, [one.depths for one in encoders], modality)


def _steps(network: Network, asked: Sequence[Depths], modality: Modality) -> Steps:
    """Return the three steps of a pass, which gives (n, dim) float32 for each encoder."""

    def items(arrays: list[NDArray[Any]]) -> list[Any]:
        return arrays if network.tap is None else [network.tap.items(arrays)] * len(asked)

    if modality is Modality.TEXT and network.pass_per_core:

        def forward(tokens: Sequence[Tokens]) -> list[Any]:
            assert network.collate is not None
            with inference(network.device, network.dtype):
                given = network.collate(tokens)
                return items([one.numpy() for one in _pass(network, modality, given, asked)])

        return beside_each_other(forward)

    def stage(contents: Sequence[Any]) -> Staged:
        if modality is Modality.IMAGE:
            return upload({"pixels": torch.from_numpy(np.stack(contents))}, network.device)
        assert network.collate is not None
        return upload(network.collate(contents), network.device)

    def launch(staged: Staged) -> list[tuple[torch.Tensor, Any]]:
        staged.wait()
        with inference(network.device, network.dtype):
            given: Given = staged.tensors
            if modality is Modality.IMAGE:
                assert network.preprocessing is not None
                given = network.preprocessing.normalize(staged.tensors["pixels"])
            return [download(one) for one in _pass(network, modality, given, asked)]

    def fetch(launched: list[tuple[torch.Tensor, Any]]) -> list[Any]:
        arrays = []
        for tensor, event in launched:  # (n, dim) each
            if event is not None:
                event.synchronize()
            arrays.append(np.ascontiguousarray(tensor.numpy()))
        return items(arrays)

    return Steps(stage, launch, fetch)


def _pass(
    network: Network, modality: Modality, given: Given, asked: Sequence[Depths]
) -> list[torch.Tensor]:
    """Return the vectors of each encoder, (n, dim) float32; of a tap what it holds."""
    depths = [depth for one in asked for depth in one]

    def run(given: Given) -> list[torch.Tensor]:
        return network.forward(modality, network.module, given, depths)

    if network.tap is not None:
        return network.tap.held(run, given)
    each = iter(run(given))
    return [
        torch.cat([next(each).float() for _ in one], dim=1) if len(one) > 1 else next(each).float()
        for one in asked
    ]


def check_channels(n: int, spec: EncoderSpec) -> None:
    """Refuse a network of other channels than color or gray.

    Raises
    ------
    UnknownEncoder
        Since what the channels are to hold is not known here.
    """
    if n not in (1, 3):
        raise UnknownEncoder(
            f"{spec} takes pictures of {n} channels, and pictures are read as RGB here: expected a "
            "network of 3 channels, or of 1 for gray; a python: encoder can give it what it takes"
        )


def _probed(
    network: Network, asked: Sequence[Depths], modality: Modality
) -> dict[Depth, NDArray[np.float32]]:
    """Return the vector of a probe at each depth, (dim,)."""
    depths = list(dict.fromkeys(depth for one in asked for depth in one))
    stage, launch, fetch = _steps(network, [(depth,) for depth in depths], modality)
    if modality is Modality.IMAGE:
        assert network.preprocessing is not None
        contents: list[Any] = [network.preprocessing.prepare(Image.new("RGB", (64, 64)))]
    else:
        assert network.tokenize is not None
        contents = network.tokenize(["a"]).tokens
    vectors = fetch(launch(stage(contents)))
    return {depth: one[0] for depth, one in zip(depths, vectors, strict=True)}


def _without_copy(depths: Depths, probed: dict[Depth, NDArray[np.float32]]) -> Depths:
    """Leave out a layer that is what the network gives at its end, which stands last."""
    *layers, own = depths
    vector = probed[own]
    kept = (
        one
        for one in layers
        if probed[one].shape != vector.shape
        or not np.allclose(probed[one], vector, rtol=1e-4, atol=1e-6)
    )
    return (*kept, own)


def cut_where_asked(
    resolved: ResolvedEncoder, network: Network, depth: Depth, modality: Modality
) -> tuple[ResolvedEncoder, Network]:
    """Return an encoder's network with its tap (``#tap=``), and what it is then.

    Raises
    ------
    BadName
        If it cannot be cut there.
    """
    spec = resolved.spec
    if not spec.has_tap and not spec.option("variants", ""):
        return resolved, network
    if modality is Modality.IMAGE:
        assert network.preprocessing is not None
        rng = np.random.default_rng(0)  # of one color, a picture tells less
        pictures = rng.integers(0, 256, (N_PROBES, 64, 64, 3), np.uint8)
        ready = [network.preprocessing.prepare(Image.fromarray(one)) for one in pictures]
        staged = upload({"pixels": torch.from_numpy(np.stack(ready))}, network.device)
    else:
        if network.tokenize is None or network.collate is None:
            raise has_no_blocks(spec)
        texts = ["a", "Two texts, and not of one length."]
        staged = upload(network.collate(network.tokenize(texts).tokens), network.device)
    staged.wait()
    given: Given = staged.tensors
    if network.preprocessing is not None and modality is Modality.IMAGE:
        given = network.preprocessing.normalize(staged.tensors["pixels"])

    def vectors(module: torch.nn.Module, given: Given) -> torch.Tensor:
        return network.forward(modality, module, given, [depth])[0]

    tap = cut_at(spec, network.module, vectors, given)
    shape = tap.shape
    resolved = replace(
        resolved, spec=spec.with_option("tap", shape.cut), dim=shape.dim,
        chosen={**resolved.chosen, "tap": shape.chosen},
    )  # fmt: skip
    return resolved, replace(network, tap=tap)


def encoders_of(
    specs: Sequence[EncoderSpec],
    network: Network,
    depths: Sequence[Depths],
    chosen: dict[str, Any],
    modality: Modality,
    modalities: frozenset[Modality],
    versions: dict[str, str],
) -> list[TorchEncoder]:
    """Return one encoder for each spec; dims are those of a probe of ``modality``.

    Raises
    ------
    UnknownEncoder
        If the network does not take the probe.
    """
    try:
        probed = _probed(network, depths, modality)
    except (AssertionError, RuntimeError, ValueError) as error:
        if isinstance(error, (torch.OutOfMemoryError, FeatureStoreError)):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UnknownEncoder(
            f"{specs[0]} does not take what its own preprocessing makes of an RGB picture or a "
            f"text: {reason}"
        ) from error
    chosen = chosen | config_of(spec=specs[0])
    decode = {"decode": "fast"} if network.decode_px is not None else {}
    n_parameters = sum(one.numel() for one in network.module.parameters())

    def encoder(spec: EncoderSpec, depths: Depths) -> TorchEncoder:
        is_several = len(depths) > 1
        depths = _without_copy(depths, probed) if is_several else depths
        dims = [len(probed[depth]) for depth in depths]
        layers = [{**one.chosen, "dim": dim} for one, dim in zip(depths, dims, strict=True)]
        at = {"layers": layers} if is_several else depths[0].chosen
        resolved = ResolvedEncoder(
            spec, sum(dims), modalities, chosen | decode | at, versions, n_parameters
        )
        return TorchEncoder(*cut_where_asked(resolved, network, depths[0], modality), depths)

    return [encoder(spec, one) for spec, one in zip(specs, depths, strict=True)]
