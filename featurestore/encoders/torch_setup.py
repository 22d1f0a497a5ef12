"""A torch network before it runs: device, memory, precision, identity, and how it is loaded."""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from safetensors import SafetensorError

from featurestore.encoders.loading import check_device_name
from featurestore.encoders.trust import not_trusted
from featurestore.errors import BadName, FeatureStoreError, UnknownEncoder
from featurestore.terms.specs import EncoderSpec

# What weights_only=True raises on refusing a file; torch exports it nowhere else.
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


def n_gpus() -> int:
    """Return how many CUDA devices torch sees."""
    return int(torch.cuda.device_count())


def settle(network: torch.nn.Module, device: str, *, compile: bool = False) -> torch.nn.Module:
    """Freeze a network, put it on its device, and set what makes it fast there."""
    network.eval().requires_grad_(False).to(device)
    for one in network.modules():
        config: Any = getattr(one, "config", None)
        if getattr(config, "use_cache", False):
            config.use_cache = False  # of a decoder: nothing is generated here
    if is_convolutional(network):
        # Our pixels come with channels last; MobileNetV2 on 2 cores: 9.2 ms/image against 11.9.
        network.to(memory_format=torch.channels_last)
    if device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")  # TF32: allowed by the design for fp32
        torch.backends.cudnn.allow_tf32 = True
    elif device == "cpu":
        keep_freed_memory()
    if compile:
        for part in _compiled_parts(network):
            part.compile()
    return network


def _compiled_parts(network: torch.nn.Module) -> list[torch.nn.Module]:
    """Return a transformer's blocks, which one compilation serves; else the network's children.

    Every way through a network calls these; towers and layers do not call the network itself.
    """
    blocks: list[torch.nn.Module] = []
    for one in network.modules():
        if isinstance(one, (torch.nn.ModuleList, torch.nn.Sequential)) and len(one) > 1:
            shapes = {tuple(p.shape for p in child.parameters()) for child in one}
            if len(shapes) == 1 and shapes != {()}:
                blocks += one
    if 2 * sum(map(_n_parameters, blocks)) > _n_parameters(network):
        return blocks
    return [child for child in network.children() if _n_parameters(child)]


def _n_parameters(network: torch.nn.Module) -> int:
    return sum(one.numel() for one in network.parameters())


def is_convolutional(network: torch.nn.Module) -> bool:
    """Whether most parameters are those of 2-D convolutions."""
    convolutions = (one for one in network.modules() if isinstance(one, torch.nn.Conv2d))
    n_in_them = sum(one.weight.numel() for one in convolutions)
    return n_in_them * 2 > _n_parameters(network)


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
    """Run without gradients, in the chosen precision.

    Not in inference mode: what a network keeps of a pass is of use in training then.
    """
    with torch.no_grad():
        if dtype is torch.float32:
            yield
        else:
            with torch.autocast(torch.device(device).type, dtype=dtype):
                yield


@contextmanager
def loading(spec: EncoderSpec, hint: str) -> Iterator[None]:
    """Turn what libraries raise for absent weights into one line that says what to do."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # each retry of a hub, each random weight on purpose
    try:
        yield
    except FeatureStoreError:
        raise
    except _UNSAFE as error:
        raise UnknownEncoder(
            f"cannot load {spec}: its file holds more than tensors, and reading it could run code; "
            "convert it to safetensors on a machine where you trust it"
        ) from error
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = " ".join(str(error).split())
        if "custom code" in reason or "trust_remote_code" in reason:
            raise not_trusted(f"the model of {spec}", _code_in(spec, reason)) from error
        raise UnknownEncoder(f"cannot load {spec}: {reason[:300]}; {hint}") from error
    finally:
        logging.disable(before)


def _code_in(spec: EncoderSpec, reason: str) -> str:
    """Name the code that a model brings: as its folder says it, or the library that refused it."""
    if spec.local_dir is not None:
        try:
            config = json.loads((spec.local_dir / "config.json").read_text(encoding="utf-8"))
            return (
                f"{', '.join(sorted(set(config['auto_map'].values())))} (auto_map of config.json)"
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # it is named elsewhere
    quoted = re.search(r"module class '([\w.]+)'", reason)
    return f"the class {quoted[1]} (modules.json)" if quoted else "code of its own"


def ask_nobody() -> None:
    """Let transformers refuse code of a model at once, where it would ask on the terminal."""
    from transformers import dynamic_module_utils

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
