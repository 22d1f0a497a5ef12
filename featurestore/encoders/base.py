"""What the pipeline asks of an encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from featurestore.encoders.trust import Trust, is_trusted
from featurestore.errors import ModalityMismatch
from featurestore.terms.specs import EncoderSpec, Modality, ResolvedEncoder
from featurestore.terms.taps import TapShape

if TYPE_CHECKING:
    from PIL import Image

Prepare = Callable[["Image.Image"], NDArray[Any]]  # from an RGB picture to an encoder's input


class Tokenized(NamedTuple):
    """Texts as an encoder takes them, one entry for each text."""

    tokens: list[Any]
    lengths: list[int]  # in tokens: what a text costs
    is_cut: list[bool]  # longer than the encoder reads


class Steps(NamedTuple):
    """A forward pass in three steps, so that a GPU computes one batch while the next is copied."""

    stage: Callable[[Sequence[Any]], Any]  # prepared contents → the same on the device
    launch: Callable[[Any], Any]  # starts the pass; on a GPU it does not wait
    fetch: Callable[[Any], list[Any]]  # waits; of each encoder (n, dim) float32, see `TapShape`


class Encoder:
    """What the pipeline asks of a frozen encoder; those of each family derive from this class.

    An encoder sets ``resolved`` and writes `encode_images`, `encode_texts` or both, as its
    modalities say. All else has a default.
    """

    resolved: ResolvedEncoder  # what it is and what decides its vectors
    device: str = "cpu"  # where it runs: cpu, cuda:0, mps
    # To this side in pixels a JPEG may shrink while it is decoded; None: decoded whole.
    decode_px: int | None = None
    shrink_px: int | None = None  # what decode=fast would make of it; None: no such choice
    # `prepare_image` as a value that another process can be handed; None: threads prepare.
    preparer: Prepare | None = None
    pass_per_core: bool = False  # texts on a CPU: each core runs a pass on a part of the batch

    @property
    def tap(self) -> TapShape | None:
        """What it gives of an item where it gives activations (``#tap=``); None: a vector."""
        return self.resolved.tap

    @property
    def network_id(self) -> int:
        """Equal for encoders that one forward pass serves: layers of one network."""
        return id(self)

    def prepare_image(self, image: Image.Image) -> NDArray[Any]:
        """Turn an RGB picture into what `encode_images` takes; called in decode workers.

        By default its pixels, (height, width, 3) uint8.
        """
        return np.asarray(image)

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Encode what `prepare_image` gave; returns (n, dim) float32, not normalised."""
        raise ModalityMismatch(f"{self.resolved.spec} cannot read images")

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts; returns (n, dim) float32, not normalised."""
        raise ModalityMismatch(f"{self.resolved.spec} cannot read texts")

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts that items are looked for with; returns (n, dim) float32.

        By default as items are: only models with a prompt for queries tell them apart.
        """
        return self.encode_texts(texts)

    def tokenize(self, texts: Sequence[str]) -> Tokenized:
        """Turn texts into what the first step of `runner` takes; called ahead of the encoder.

        By default the texts themselves, four letters counted as a token.
        """
        return Tokenized(list(texts), [1 + len(text) // 4 for text in texts], [False] * len(texts))

    def knows_none(self, tokens: Any) -> bool:
        """Whether a text, as `tokenize` gave it, has no token that the encoder knows.

        Such texts have one vector. By default not.
        """
        return False

    def runner(self, encoders: Sequence[Self], modality: Modality) -> Steps:
        """Return the steps that encode batches for ``encoders``, all on this one's network.

        By default this encoder alone, in one step.
        """
        encode = self.encode_texts if modality is Modality.TEXT else self.encode_images
        return Steps(lambda contents: contents, encode, lambda vectors: [vectors])

    def in_half_precision(self) -> Encoder | None:
        """Return this encoder in bfloat16; None where it has no such choice, or has made it."""
        return None


@dataclass(frozen=True)
class LoadOptions:
    """How to load an encoder; none of it is part of its name."""

    device: str = "auto"  # a GPU where there is one; cpu, cuda, cuda:1, mps
    trust: Trust = False  # code that a store, a bundle or a model's folder names
    compile: bool = False  # torch.compile: slow to start, faster on long runs
    # The fingerprints of views or heads made with a spec: where it has come to mean another
    # prompt since, that of then is loaded.
    made: Mapping[EncoderSpec, str] = field(default_factory=dict, hash=False)

    def runs_code_of(self, spec: EncoderSpec) -> bool:
        """Whether code that an encoder's name or its model brings may run."""
        return is_trusted(str(spec), self.trust)
