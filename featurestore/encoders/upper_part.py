"""What lies above a cut of a network, as a network of its own that can be trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

from featurestore.encoders.blocks import Slot
from featurestore.encoders.torch_setup import is_convolutional
from featurestore.errors import BadName

if TYPE_CHECKING:
    from featurestore.encoders.torch_network import TorchEncoder

Given = torch.Tensor | dict[str, torch.Tensor]  # what a network reads: pixels, or tokens by name
Vectors = Callable[[nn.Module, Given], torch.Tensor]  # from a network and what it reads
# From activations (n, …), and lengths where they are texts, to what the network reads.
Inputs = Callable[[torch.Tensor, torch.Tensor | None], Given]


class Upper(nn.Module):
    """The blocks above a cut, the pooling, and whatever a network does last.

    Given the activations of a tap, it gives the vectors of the encoder itself. Dropout is off and
    batch normalisation keeps its statistics, in training too; `parameters` that play no part
    above the cut ask for no gradient.
    """

    def __init__(self, network: nn.Module, slot: Slot, vectors: Vectors, inputs: Inputs) -> None:
        super().__init__()
        self.network = network
        self.slot = slot
        self.vectors = vectors
        self.inputs = inputs
        self.dim = 0
        self.has_convolutions = is_convolutional(network)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay as in use, whatever is asked for."""
        return super().train(False)

    def forward(self, batch: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Return (n, dim) float32.

        Parameters
        ----------
        batch : Tensor of shape (n, *shape)
            Activations, of any precision; of texts (n, longest, width), padded at their ends.
        lengths : Tensor of shape (n,), optional
            Of texts: how many tokens each has.
        """
        # A copy, since a network may work in place; maps as convolutions like them.
        likes_last = batch.ndim == 4 and self.has_convolutions
        order = torch.channels_last if likes_last else torch.preserve_format
        batch = batch.to(torch.float32, copy=True, memory_format=order)
        self.slot.batch = batch
        try:
            return self.vectors(self.network, self.inputs(batch, lengths)).float()
        finally:
            self.slot.batch = None

    def settle(self, batch: torch.Tensor, lengths: torch.Tensor | None = None) -> Self:
        """Learn from a batch how wide the vectors are, and which parameters make them."""
        self.requires_grad_(True)
        parameters = list(self.parameters())
        with torch.enable_grad():
            vectors = self(batch, lengths)
            found = torch.autograd.grad(vectors.sum(), parameters, allow_unused=True)
        for one, gradient in zip(parameters, found, strict=True):
            one.requires_grad_(gradient is not None)
        self.dim = vectors.shape[1]
        return self


def upper_of(encoder: TorchEncoder) -> Upper:
    """Return what lies above the cut of a ``#tap=`` encoder: a copy, the encoder stays as it is.

    Raises
    ------
    BadName
        If the encoder has no tap.
    """
    tap = encoder.network.tap
    if tap is None:
        spec = encoder.resolved.spec
        raise BadName(f"{spec} has no tap: expected a spec such as {spec.with_option('tap', 5)}")
    return tap.upper()
