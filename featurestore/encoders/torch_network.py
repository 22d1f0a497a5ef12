"""Several depths of one network from one forward pass, in three steps that keep a GPU busy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from featurestore.encoders.base import Encoder, Steps, Tokenized
from featurestore.encoders.geometry import Gray, ResizeAndCrop
from featurestore.encoders.preprocessing import Preprocessing
from featurestore.encoders.side_by_side import beside_each_other
from featurestore.encoders.tokens import Tokens
from featurestore.encoders.torch_setup import config_of, inference
from featurestore.errors import BadName, FeatureStoreError, UnknownEncoder
from featurestore.terms.specs import ALL_LAYERS, EncoderSpec, Modality, ResolvedEncoder


@dataclass(frozen=True)
class Depth:
    """Which output of a network is meant: its own, or that after ``layer`` blocks, pooled."""

    layer: int | None = None  # 1 is the first block, -1 the last
    pool: str | None = None  # cls | mean | pooler; None: what the network was trained with

    @classmethod
    def of(cls, spec: EncoderSpec, pools: Sequence[str]) -> Depth:
        """Read ``#layer=…,pool=…``."""
        text, pool = spec.option("layer", ""), spec.option("pool", "") or None
        if text and not text.removeprefix("-").isdecimal():
            raise BadName(
                f"layer={text} in {spec}: expected a whole number such as 6 or -1, "
                "several such as 3+6+-1, or all"
            )
        if pool is not None and pool not in pools:
            raise BadName(f"pool={pool} in {spec}: expected one of {', '.join(pools)}")
        return cls(int(text) if text else None, pool)

    def checked(self, spec: EncoderSpec, n_layers: int, first: int = 1) -> Depth:
        """Return this depth counted from the front; ``first`` is 0 where embeddings count.

        Raises
        ------
        BadName
            If the network has fewer layers.
        """
        if self.layer is None:
            return self
        layer = self.layer + n_layers + 1 if self.layer < 0 else self.layer
        if not first <= layer <= n_layers:
            raise BadName(
                f"layer={self.layer} in {spec}: expected {first} to {n_layers}, "
                f"or -1 to {first - n_layers - 1} counted from the end"
            )
        return Depth(layer, self.pool)

    @property
    def chosen(self) -> dict[str, Any]:
        """What goes into the fingerprint: nothing for a network's own output."""
        return {k: v for k, v in (("layer", self.layer), ("pool", self.pool)) if v is not None}


Depths = tuple[Depth, ...]  # of one encoder, side by side in its vectors


def depths_of(
    specs: Sequence[EncoderSpec],
    pools: Sequence[str],
    n_layers: Callable[[], int],
    *,
    first: int = 1,
    has_class_token: bool = False,
) -> list[Depths]:
    """Read which depths each spec means, counted from the front.

    One with several layers (``#layer=3+6+-1`` or ``all``) means each of them, by its class token
    and by the mean of its positions where the network has both, and last the network's own output.

    Parameters
    ----------
    specs : sequence of EncoderSpec
        All on one network.
    pools : sequence of str
        What ``#pool=`` may be.
    n_layers : callable
        Counts the network's layers; called where a spec names one.
    first : int
        0 where what the first block gets counts as a layer.
    has_class_token : bool

    Raises
    ------
    BadName
        If a spec means something else, or the network has fewer layers.
    """
    found: list[Depths] = []
    for spec in specs:
        if not spec.has_layers:
            depth = Depth.of(spec, pools)
            is_inside = depth.layer is not None
            found.append((depth.checked(spec, n_layers(), first) if is_inside else depth,))
            continue
        n, named = n_layers(), spec.option("layer", "")
        asked = [str(i) for i in range(1, n + 1)] if named == ALL_LAYERS else named.split("+")
        pool = spec.option("pool", "")
        both = ["cls", "mean"] if has_class_token else [""]
        one_each = [
            Depth.of(one, pools).checked(spec, n, first)
            for layer in asked
            for one_pool in ([pool] if pool else both)
            for one in [
                spec.with_option("layer", layer or named).with_option("pool", one_pool or None)
            ]
        ]
        found.append((*dict.fromkeys(one_each), Depth()))
    return found


@dataclass(frozen=True, eq=False)
class Network:
    """A frozen network with what goes into it; the encoders of its layers share it.

    ``forward_images`` and ``forward_tokens`` take a batch and the depths that are asked for,
    and give one (n, dim) tensor for each from a single pass.
    """

    module: torch.nn.Module
    device: str
    dtype: torch.dtype
    preprocessing: Preprocessing | None = None
    forward_images: Callable[[torch.Tensor, Sequence[Depth]], list[torch.Tensor]] | None = None
    tokenize: Callable[[Sequence[str]], Tokenized] | None = None
    collate: Callable[[Sequence[Any]], dict[str, Any]] | None = None
    forward_tokens: Callable[[dict[str, Any], Sequence[Depth]], list[torch.Tensor]] | None = None
    decode_px: int | None = None  # with #decode=fast: JPEGs may shrink to this while decoding
    knows_none: Callable[[Any], bool] | None = None  # see `Encoder.knows_none`

    @property
    def pass_per_core(self) -> bool:
        """Whether each core of a CPU runs a pass on its part of a batch of texts."""
        return self.device == "cpu" and self.tokenize is not None


class TorchEncoder(Encoder):
    """One depth of a network, or several side by side: as its library returns them."""

    def __init__(
        self, resolved: ResolvedEncoder, network: Network, depths: Depths = (Depth(),)
    ) -> None:
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
        """Whether a layer inside the network is among its depths."""
        return any(depth.layer is not None for depth in self.depths)

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

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Return (n, dim) float32 of what `prepare_image` gave."""
        return self._run(Modality.IMAGE, prepared)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (n, dim) float32."""
        return self._run(Modality.TEXT, self.tokenize(texts).tokens)

    def _run(self, modality: Modality, contents: Sequence[Any]) -> NDArray[np.float32]:
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
    depths = [depth for one in asked for depth in one]

    def joined(vectors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        each = iter(vectors)
        return [
            torch.cat([next(each).float() for _ in one], dim=1) if len(one) > 1 else next(each)
            for one in asked
        ]

    if modality is Modality.TEXT and network.pass_per_core:
        return beside_each_other(lambda tokens: _texts_forward(network, tokens, depths, joined))

    def stage(contents: Sequence[Any]) -> _Staged:
        if modality is Modality.IMAGE:
            return _upload({"pixels": torch.from_numpy(np.stack(contents))}, network.device)
        assert network.collate is not None
        return _upload(network.collate(contents), network.device)

    def launch(staged: _Staged) -> list[tuple[torch.Tensor, Any]]:
        staged.wait()
        with inference(network.device, network.dtype):
            if modality is Modality.IMAGE:
                assert network.preprocessing is not None
                assert network.forward_images is not None
                pixels = network.preprocessing.normalize(staged.tensors["pixels"])
                vectors = network.forward_images(pixels, depths)
            else:
                assert network.forward_tokens is not None
                vectors = network.forward_tokens(staged.tensors, depths)
            return [_download(one) for one in joined(vectors)]

    def fetch(launched: list[tuple[torch.Tensor, Any]]) -> list[NDArray[np.float32]]:
        vectors = []
        for tensor, event in launched:  # (n, dim) each
            if event is not None:
                event.synchronize()
            vectors.append(np.ascontiguousarray(tensor.numpy()))
        return vectors

    return Steps(stage, launch, fetch)


def _texts_forward(
    network: Network,
    tokens: Sequence[Tokens],
    depths: Sequence[Depth],
    joined: Callable[[Sequence[torch.Tensor]], list[torch.Tensor]],
) -> list[NDArray[np.float32]]:
    assert network.collate is not None
    assert network.forward_tokens is not None
    with inference(network.device, network.dtype):
        vectors = network.forward_tokens(network.collate(tokens), depths)
        return [one.float().numpy() for one in joined(vectors)]


@dataclass(frozen=True, eq=False)
class _Staged:
    tensors: dict[str, Any]
    event: Any = None  # of the copy, on a GPU

    def wait(self) -> None:
        """Let the computing stream wait for the copy; the host does not."""
        if self.event is None:
            return
        stream = torch.cuda.current_stream(self.event.device)
        stream.wait_event(self.event)
        for one in self.tensors.values():
            if isinstance(one, torch.Tensor):
                one.record_stream(stream)


def _upload(tensors: dict[str, Any], device: str) -> _Staged:
    """Copy to the device; to a GPU from pinned memory, on a stream beside the computing one."""
    if device == "cpu":
        return _Staged(tensors)

    def copy(value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return value
        if device.startswith("cuda"):
            value = value.pin_memory()
        return value.to(device, non_blocking=True)

    if not device.startswith("cuda"):
        return _Staged({name: copy(one) for name, one in tensors.items()})
    with torch.cuda.stream(_copy_stream(device)):
        staged = {name: copy(one) for name, one in tensors.items()}
        return _Staged(staged, _copy_stream(device).record_event())


@cache
def _copy_stream(device: str) -> Any:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _download(vectors: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Start the copy to the host; returns the float32 tensor and, on a GPU, its event."""
    vectors = vectors.float()
    if vectors.device.type != "cuda":
        return vectors.cpu(), None
    host = torch.empty(vectors.shape, dtype=torch.float32, pin_memory=True)
    host.copy_(vectors, non_blocking=True)
    return host, torch.cuda.current_stream(vectors.device).record_event()


def pool_tokens(
    spatial: torch.Tensor, prefix: torch.Tensor | None, pool: str | None
) -> torch.Tensor:
    """Pool one layer: (n, length, dim) tokens or (n, dim, height, width) maps to (n, dim).

    ``cls`` takes the first prefix token, ``mean`` the mean over the others; by default the
    class token where there is one.
    """
    has_cls = prefix is not None and prefix.shape[1] > 0
    if pool == "cls" or (pool is None and has_cls):
        if not has_cls:
            raise BadName("pool=cls: this network has no class token; use pool=mean")
        assert prefix is not None
        return prefix[:, 0]
    return spatial.mean(dim=(2, 3)) if spatial.ndim == 4 else spatial.mean(dim=1)


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
        return TorchEncoder(
            ResolvedEncoder(
                spec, sum(dims), modalities, chosen | decode | at, versions, n_parameters
            ),
            network,
            depths,
        )

    return [encoder(spec, one) for spec, one in zip(specs, depths, strict=True)]
