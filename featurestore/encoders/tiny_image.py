"""``builtin:tiny-image``: a small network for pictures, its weights shipped with the package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load as load_tensors
from torch import nn
from torch.nn import functional

from featurestore.encoders import families
from featurestore.encoders.base import LoadOptions
from featurestore.encoders.depths import Depth, depths_of
from featurestore.encoders.preprocessing import Preprocessing, decode_px_of
from featurestore.encoders.torch_network import Network, TorchEncoder, encoders_of
from featurestore.encoders.torch_setup import pick_device, precision_of, settle, weights_hash
from featurestore.encoders.weights import read_weights
from featurestore.terms.specs import EncoderSpec, Modality

WEIGHTS = "tiny-image.safetensors"

SIZE_PX = 128  # of the side: every stage halves an even number, as its padding expects

# MobileNetV2 up to its last block but one (Sandler et al., 2018, table 2): expansion, channels,
# blocks, stride. Batch normalisation is folded into the convolutions.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
)
EMBEDDED = (3, 4, 5)  # of the stages


class TinyImage(nn.Module):
    """Pooled features of three stages, each standardised.

    The middle stages see texture, the last one objects; a head picks what its labels need.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(3, 32, 3, stride=2)
        self.stages = nn.ModuleList()
        n_in = 32
        for expansion, n_out, n_blocks, stride in _STAGES:
            blocks = []
            for i in range(n_blocks):
                blocks.append(_Block(n_in, n_out, expansion, stride if i == 0 else 1))
                n_in = n_out
            self.stages.append(nn.Sequential(*blocks))
        self.register_buffer("mean", torch.zeros(sum(self._embedded_widths())))
        self.register_buffer("std", torch.ones(sum(self._embedded_widths())))

    def _embedded_widths(self) -> list[int]:
        return [_STAGES[i][1] for i in EMBEDDED]

    def embed(self, pools: Sequence[torch.Tensor]) -> torch.Tensor:
        """Join and standardise what makes the vector."""
        return (torch.cat([pools[i] for i in EMBEDDED], dim=1) - self.mean) / self.std

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Return the mean over space of each stage, (n, channels) each.

        ``pixels`` is (n, 3, 128, 128) in [-1, 1].
        """
        x = functional.relu6(_convolve(self.stem, pixels), inplace=True)
        pools = []
        for stage in self.stages:
            x = stage(x)
            pools.append(x.mean((2, 3)))
        return pools


class _Block(nn.Module):
    """An inverted residual: widen, convolve each channel, narrow."""

    def __init__(self, n_in: int, n_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        n_wide = n_in * expansion
        self.widen = _convolution(n_in, n_wide, 1) if expansion > 1 else None
        self.depthwise = _convolution(n_wide, n_wide, 3, stride=stride, groups=n_wide)
        self.narrow = _convolution(n_wide, n_out, 1)
        self.is_residual = stride == 1 and n_in == n_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, n_out, height, width)."""
        wide = x if self.widen is None else functional.relu6(self.widen(x), inplace=True)
        wide = functional.relu6(_convolve(self.depthwise, wide), inplace=True)
        narrow: torch.Tensor = self.narrow(wide)
        return x + narrow if self.is_residual else narrow


def _convolution(
    n_in: int, n_out: int, size: int, *, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    padding = size // 2 if stride == 1 else 0
    return nn.Conv2d(n_in, n_out, size, stride, padding, groups=groups)


def _convolve(convolution: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Pad as TensorFlow does, below and to the right, where a stride halves an even side."""
    if convolution.stride == (2, 2):
        x = functional.pad(x, (0, 1, 0, 1))
    result: torch.Tensor = convolution(x)
    return result


def load(specs: Sequence[EncoderSpec], load_options: LoadOptions) -> list[TorchEncoder]:
    """Load the weights that ship with the package."""
    network = TinyImage()
    tensors = load_tensors(read_weights(WEIGHTS))
    network.load_state_dict({name: one.to(torch.float32) for name, one in tensors.items()})
    return assemble(specs, network, load_options)


def load_random(
    specs: Sequence[EncoderSpec], inner: EncoderSpec, load_options: LoadOptions
) -> list[TorchEncoder]:
    """Draw weights from torch's generator, as timm does for MobileNetV2 (He et al., 2015)."""
    assert inner.model in WEIGHTS, "one architecture so far"
    network = TinyImage()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            n_out = module.kernel_size[0] ** 2 * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0, (2 / n_out) ** 0.5)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return assemble(specs, network, load_options)


def assemble(
    specs: Sequence[EncoderSpec], network: TinyImage, load_options: LoadOptions
) -> list[TorchEncoder]:
    """Put the network and its preprocessing together."""
    spec, device = specs[0], pick_device(load_options.device)
    preprocessing = Preprocessing(
        _squeeze, (0.5,) * 3, (0.5,) * 3, f"squash-bilinear {SIZE_PX}", resize_px=SIZE_PX
    )
    depths = depths_of(specs, ("mean",), lambda: len(_STAGES))
    chosen = {
        "family": spec.family,
        "weights": weights_hash(network),
        "preprocessing": preprocessing.description,
        "precision": spec.option("precision", "fp32"),
    }
    settle(network, device, compile=load_options.compile)

    def forward(
        network: TinyImage, pixels: torch.Tensor, asked: Sequence[Depth]
    ) -> list[torch.Tensor]:
        pools = network(pixels)
        return [
            network.embed(pools) if depth.layer is None else pools[depth.layer - 1]
            for depth in asked
        ]

    shared = Network(
        network, device, precision_of(spec), preprocessing, forward,
        decode_px=decode_px_of(spec, preprocessing),
    )  # fmt: skip
    return encoders_of(
        specs, shared, depths, chosen, Modality.IMAGE, frozenset({Modality.IMAGE}),
        families.versions(spec),
    )  # fmt: skip


def _squeeze(image: Image.Image) -> Any:
    """Resize without keeping the proportions: nothing is cut off."""
    return image.resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR)
