"""What encoders on torch share: device, precision, memory, uint8 pixels in, float32 out."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from featurestore.encoders import check_device_name
from featurestore.errors import BadName, UnknownEncoder
from featurestore.values import EncoderSpec

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


def settle(network: torch.nn.Module, device: str) -> torch.nn.Module:
    """Freeze a network, put it on its device, and set what makes it fast there."""
    network.eval().requires_grad_(False).to(device)
    if device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")  # TF32: allowed by the design for fp32
        torch.backends.cudnn.allow_tf32 = True
    elif device == "cpu":
        keep_freed_memory()
    return network


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
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = " ".join(str(error).split())[:300]
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
        cut = next((i for i, name in enumerate(names) if name.endswith("ToTensor")), None)
        if cut is None or names[cut + 1 :] != ["Normalize"]:
            return cls(transform, (), (), description)
        normalize = steps[cut + 1]
        mean, std = (tuple(float(x) for x in values) for values in (normalize.mean, normalize.std))
        return cls(transforms.Compose(steps[:cut]), mean, std, description)

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """Return (height, width, 3) uint8, or (3, height, width) float32 for an uncut transform."""
        ready = self.geometry(image)
        return ready.numpy() if isinstance(ready, torch.Tensor) else np.asarray(ready)

    def batch(self, prepared: Sequence[NDArray[Any]], device: str) -> torch.Tensor:
        """Return (n, 3, height, width) float32 on the device, normalised."""
        stacked = torch.from_numpy(np.stack(prepared)).to(device, non_blocking=True)
        if stacked.dtype != torch.uint8:
            return stacked
        mean = torch.tensor(self.mean, device=device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=device).view(1, -1, 1, 1)
        pixels = stacked.permute(0, 3, 1, 2).to(torch.float32).div_(255)
        return pixels.sub_(mean).div_(std)


def to_numpy(vectors: torch.Tensor) -> NDArray[np.float32]:
    """Return float32 on the host, contiguous."""
    return np.ascontiguousarray(vectors.float().cpu().numpy())
