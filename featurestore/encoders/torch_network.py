"""What encoders on torch share: device, precision, memory, uint8 pixels in, float32 out."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError

from featurestore.encoders import check_device_name
from featurestore.errors import BadName, UnknownEncoder
from featurestore.values import EncoderSpec, Modality, ResolvedEncoder

# What weights_only=True refuses; the only place where torch shows it.
_UNSAFE = torch.serialization.pickle.UnpicklingError  # type: ignore[attr-defined]
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(wanted: str) -> str:
    """Return ``wanted``, or the best device here for ``auto``."""
    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(check_device_name(wanted))
    n_here = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }[device.type]
    if (device.index or 0) >= n_here:
        raise BadName(f"no device {wanted!r} here: torch sees {n_here} of {device.type}")
    return wanted


def settle(network: torch.nn.Module, device: str, *, compile: bool = False) -> torch.nn.Module:
    """Freeze a network, put it on its device, and set what makes it fast there."""
    network.eval().requires_grad_(False).to(device)
    if _is_convolutional(network):
        # Our pixels come with channels last; MobileNetV2 on 2 cores: 9.2 ms/image against 11.9.
        network.to(memory_format=torch.channels_last)
    if device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")  # TF32: allowed by the design for fp32
        torch.backends.cudnn.allow_tf32 = True
    elif device == "cpu":
        keep_freed_memory()
    if compile:
        network.compile(dynamic=True)  # batches of texts differ in shape
    return network


def _is_convolutional(network: torch.nn.Module) -> bool:
    """Whether most parameters are those of 2-D convolutions."""
    convolutions = (one for one in network.modules() if isinstance(one, torch.nn.Conv2d))
    n_in_them = sum(one.weight.numel() for one in convolutions)
    return n_in_them * 2 > sum(one.numel() for one in network.parameters())


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep large freed blocks instead of giving them back after each forward.

    Measured here: MobileNetV2 at batch 64 runs at 34 images/s as is, at 84–90 with this.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return False  # musl has no mallopt
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    return bool(libc.mallopt(m_mmap_max, 0) and libc.mallopt(m_trim_threshold, 2**31 - 1))


def weights_hash(network: torch.nn.Module) -> str:
    """Return the SHA-256 (hex) of all parameters and buffers, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def config_of(spec: EncoderSpec) -> dict[str, str]:
    """Return a hash of a local folder's JSON files: pooling, activations, heads, prompts.

    They change vectors and are no weights. A model by name has them from its library or hub.
    """
    if spec.local_dir is None:
        return {}
    digest = hashlib.sha256()
    for path in sorted(spec.local_dir.rglob("*.json")):
        name = path.relative_to(spec.local_dir).as_posix()
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return {"config": digest.hexdigest()}


def precision_of(spec: EncoderSpec) -> torch.dtype:
    """Return the dtype of ``#precision=…``; fp32 unless the spec says otherwise."""
    name = spec.option("precision", "fp32")
    try:
        return _PRECISIONS[name]
    except KeyError:
        raise BadName(f"precision={name} in {spec}: expected {', '.join(_PRECISIONS)}") from None


@contextmanager
def inference(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Run without gradients, in the chosen precision."""
    with torch.inference_mode():
        if dtype is torch.float32:
            yield
        else:
            with torch.autocast(torch.device(device).type, dtype=dtype):
                yield


@contextmanager
def loading(spec: EncoderSpec, how: str) -> Iterator[None]:
    """Turn what libraries raise for absent weights into one line that says what to do."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # each retry of a hub, each random weight on purpose
    try:
        yield
    except _UNSAFE as error:
        raise UnknownEncoder(
            f"cannot load {spec}: its file holds more than tensors, and reading it could run code; "
            "convert it to safetensors on a machine where you trust it"
        ) from error
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = " ".join(str(error).split())[:300]
        if "custom code" in reason or "trust_remote_code" in reason:
            reason = "it comes with code of its own, which --trust-remote-code would run"
        raise UnknownEncoder(f"cannot load {spec}: {reason}; {how}") from error
    finally:
        logging.disable(before)


@dataclass(frozen=True)
class Preprocessing:
    """The encoder's own transform, cut in two: geometry on the CPU, numbers on the device.

    ``geometry`` gives an RGB picture or, for a transform that we cannot cut, a float tensor.
    """

    geometry: Callable[[Image.Image], Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    description: str  # for the fingerprint
    resize_px: int | None = None  # what the shorter side is resized to

    @classmethod
    def split(cls, transform: Any) -> Preprocessing:
        """Cut a torchvision ``Compose`` at its ToTensor.

        What stands behind it must be one Normalize, which is done on the device instead;
        the arithmetic is the same. Otherwise the whole transform runs in the workers.
        """
        from torchvision import transforms

        steps = list(transform.transforms)
        names = [type(step).__name__ for step in steps]
        description = " | ".join(map(repr, steps))
        size = getattr(steps[0], "size", None) if names[0] == "Resize" else None
        resize_px = size if isinstance(size, int) else max(size) if size else None
        cut = next((i for i, name in enumerate(names) if name.endswith("ToTensor")), None)
        if cut is None or names[cut + 1 :] != ["Normalize"]:
            return cls(transform, (), (), description, resize_px)
        normalize = steps[cut + 1]
        mean, std = (tuple(float(x) for x in values) for values in (normalize.mean, normalize.std))
        return cls(transforms.Compose(steps[:cut]), mean, std, description, resize_px)

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """Return (height, width, 3) uint8, or (3, height, width) float32 for an uncut transform."""
        ready = self.geometry(image)
        return ready.numpy() if isinstance(ready, torch.Tensor) else np.asarray(ready)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (n, 3, height, width) float32 of what `prepare` gave, stacked on the device."""
        if pixels.dtype != torch.uint8:
            return pixels
        mean, std = (_on(values, str(pixels.device)) for values in (self.mean, self.std))
        return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255).sub_(mean).div_(std)


@cache
def _on(values: tuple[float, ...], device: str) -> torch.Tensor:
    return torch.tensor(values, device=device).view(1, -1, 1, 1)


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
            raise BadName(f"layer={text} in {spec}: expected a whole number such as 6 or -1")
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


# Token ids and masks of one text, 1-D tensors by the names that the network knows.
Tokens = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Network:
    """A frozen network with what goes into it; the encoders of its layers share it.

    ``forward_images`` and ``forward_tokens`` take a batch and the depths that are asked for,
    and give one (n, dim) tensor for each from a single pass.
    """

    module: Any
    device: str
    dtype: torch.dtype
    preprocessing: Preprocessing | None = None
    forward_images: Callable[[torch.Tensor, Sequence[Depth]], list[torch.Tensor]] | None = None
    tokenize: Callable[[Sequence[str]], tuple[list[Tokens], list[int], list[bool]]] | None = None
    collate: Callable[[Sequence[Any]], dict[str, Any]] | None = None
    forward_tokens: Callable[[dict[str, Any], Sequence[Depth]], list[torch.Tensor]] | None = None
    decode_px: int | None = None  # with #decode=fast: JPEGs may shrink to this while decoding


@dataclass(frozen=True, eq=False)
class TorchEncoder:
    """One depth of a network: vectors as its library returns them, not normalised."""

    resolved: ResolvedEncoder
    network: Network
    depth: Depth = field(default_factory=Depth)

    @property
    def device(self) -> str:
        """Where it runs."""
        return self.network.device

    @property
    def decode_px(self) -> int | None:
        """The side in pixels below which a JPEG must not be shrunk while decoding; None: whole."""
        return self.network.decode_px

    def for_images(self) -> TorchEncoder:
        """Return this for images alone: a layer inside one tower shares no space with the other."""
        only = replace(self.resolved, modalities=frozenset({Modality.IMAGE}))
        return TorchEncoder(only, self.network, self.depth)

    def prepare_image(self, image: Image.Image) -> NDArray[Any]:
        """Resize and crop as the model was trained; returns (height, width, 3) uint8."""
        assert self.network.preprocessing is not None
        return self.network.preprocessing.prepare(image)

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Return (n, dim) float32 of what `prepare_image` gave."""
        return self._run(Modality.IMAGE, prepared)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (n, dim) float32."""
        if self.network.tokenize is None:
            return self._run(Modality.TEXT, texts)
        return self._run(Modality.TEXT, self.network.tokenize(list(texts))[0])

    def _run(self, modality: Modality, contents: Sequence[Any]) -> NDArray[np.float32]:
        stage, launch, fetch = self.runner([self], modality)
        vectors: NDArray[np.float32] = fetch(launch(stage(contents)))[0]
        return vectors

    @property
    def tokenize(self) -> Callable[..., Any] | None:
        """Texts in, (tokens, lengths, which were cut) out; None where the network tokenizes."""
        return self.network.tokenize

    @staticmethod
    def runner(
        encoders: Sequence[TorchEncoder], modality: Modality
    ) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
        """Return the three steps that give the vectors of several depths of one network.

        ``stage`` takes prepared contents to the device, ``launch`` starts the pass (on a GPU it
        does not wait), ``fetch`` waits and gives a list of (n, dim) float32, one an encoder.
        """
        network = encoders[0].network
        depths = [one.depth for one in encoders]

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
                    found = network.forward_images(pixels, depths)
                else:
                    assert network.forward_tokens is not None
                    found = network.forward_tokens(staged.tensors, depths)
                return [_download(one) for one in found]

        def fetch(launched: list[tuple[torch.Tensor, Any]]) -> list[NDArray[np.float32]]:
            vectors = []
            for tensor, event in launched:
                if event is not None:
                    event.synchronize()
                vectors.append(np.ascontiguousarray(tensor.numpy()))
            return vectors

        return stage, launch, fetch


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

    def copy(value: Any) -> Any:
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


def rows_of(batch: Any, side: str) -> list[Tokens]:
    """Cut a batch, padded on a side, into the tokens of each text, padding left out.

    Raises
    ------
    KeyError
        If the batch has no attention mask: it is no batch of padded texts.
    """
    mask = batch["attention_mask"]
    names = [
        name
        for name, value in batch.items()
        if isinstance(value, torch.Tensor) and value.shape == mask.shape
    ]
    width = mask.shape[1]
    ends = [(width - n, width) if side == "left" else (0, n) for n in mask.sum(dim=1).tolist()]
    return [
        {name: batch[name][i, start:end] for name in names} for i, (start, end) in enumerate(ends)
    ]


def n_tokens(tokenizer: Any, text: str) -> int:
    """Return how many tokens a text has when nothing is cut."""
    return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])


def collator(pad: dict[str, int], side: str) -> Callable[[Sequence[Tokens]], dict[str, Any]]:
    """Return what pads the tokens of several texts to the longest and stacks them."""

    def collate(tokens: Sequence[Tokens]) -> dict[str, Any]:
        longest = max(len(one["input_ids"]) for one in tokens)
        batch: dict[str, Any] = {}
        for name in tokens[0]:
            rows = torch.full((len(tokens), longest), pad.get(name, 0), dtype=torch.long)
            for row, one in zip(rows, tokens, strict=True):
                n = len(one[name])
                row[slice(longest - n, None) if side == "left" else slice(n)] = one[name]
            batch[name] = rows
        return batch

    return collate


def decode_px_of(spec: EncoderSpec, preprocessing: Preprocessing) -> int | None:
    """Read ``#decode=…``: ``full`` (None), or ``fast``, the side a JPEG may shrink to."""
    how = spec.option("decode", "full")
    if how not in ("full", "fast"):
        raise BadName(f"decode={how} in {spec}: expected full or fast")
    if how == "fast" and preprocessing.resize_px is None:
        raise BadName(
            f"decode=fast in {spec}: this encoder does not resize, so it needs all pixels"
        )
    return preprocessing.resize_px if how == "fast" else None


def encoders_of(
    specs: Sequence[EncoderSpec],
    network: Network,
    depths: Sequence[Depth],
    chosen: dict[str, Any],
    modality: Modality,
    modalities: frozenset[Modality],
    versions: dict[str, str],
) -> list[TorchEncoder]:
    """Return one encoder for each depth; dims are those of a probe of ``modality``."""
    probes = [TorchEncoder(None, network, depth) for depth in depths]  # type: ignore[arg-type]
    stage, launch, fetch = TorchEncoder.runner(probes, modality)
    if modality is Modality.IMAGE:
        assert network.preprocessing is not None
        contents: list[Any] = [network.preprocessing.prepare(Image.new("RGB", (64, 64)))]
    else:
        assert network.tokenize is not None
        contents = network.tokenize(["a"])[0]
    dims = [one.shape[1] for one in fetch(launch(stage(contents)))]
    chosen = chosen | config_of(spec=specs[0])
    decode = {"decode": "fast"} if network.decode_px is not None else {}
    return [
        TorchEncoder(
            ResolvedEncoder(spec, dim, modalities, chosen | decode | depth.chosen, versions),
            network,
            depth,
        )
        for spec, depth, dim in zip(specs, depths, dims, strict=True)
    ]


def n_gpus() -> int:
    """Return how many CUDA devices torch sees."""
    return int(torch.cuda.device_count())
