"""``#tap=5``: whole activations after 5 blocks of a network, in float16, instead of vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featurestore.encoders.blocks import Blocks, Stop, watch
from featurestore.encoders.families import has_no_blocks
from featurestore.encoders.upper_part import Given, Inputs, Upper, Vectors
from featurestore.errors import BadName
from featurestore.terms.specs import EncoderSpec
from featurestore.terms.taps import AUTO, PLAIN, TapShape

_MOST_ABOVE = 0.4  # of the computation
_TIMES_THE_LEAST = 3  # bytes
_MOST_OFF = 1e-3  # of the largest number of a vector: another path is off by far more


def _flip(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.flip(-1)


def _shift(pixels: torch.Tensor) -> torch.Tensor:
    """Move a picture right and down by a twentieth of its side; its edges are reflected."""
    rows, columns = (max(1, side // 20) for side in pixels.shape[-2:])
    padded = torch.nn.functional.pad(pixels, (columns, 0, rows, 0), mode="reflect")
    return padded[..., : pixels.shape[-2], : pixels.shape[-1]]


VARIANTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"flip": _flip, "shift": _shift}


def asked_tap(spec: EncoderSpec) -> tuple[int | None, tuple[str, ...]]:
    """Read ``#tap=…,variants=…``: the cut, None for ``auto``, and the variants.

    Raises
    ------
    BadName
    """
    text, named = spec.option("tap", ""), spec.option("variants", "")
    if named and not text:
        raise BadName(f"variants={named} in {spec}: they are those of a tap; add tap=auto")
    if text != AUTO and not text.removeprefix("-").isdecimal():
        raise BadName(
            f"tap={text} in {spec}: expected a number of blocks such as 5, such as -2 counted "
            "from the end, or auto"
        )
    if layer := spec.option("layer", ""):
        raise BadName(
            f"layer={layer} and tap={text} in {spec}: a tap leads to the network's own output; "
            "leave layer out"
        )
    asked = named.split("+") if named else []
    if any(one not in VARIANTS for one in asked):
        raise BadName(f"variants={named} in {spec}: expected flip, shift or flip+shift")
    variants = (PLAIN, *(one for one in VARIANTS if one in asked))
    return None if text == AUTO else int(text), variants


@dataclass(frozen=True, eq=False)
class Tap:
    """A cut through a network: what comes up to it, and what follows."""

    shape: TapShape
    blocks: Blocks
    stop: Stop
    vectors: Vectors
    inputs: Inputs
    probe: tuple[torch.Tensor, torch.Tensor | None]  # activations, and lengths of texts
    all_below: bool  # see `Blocks.above`

    def upper(self) -> Upper:
        """Return a copy of what follows."""
        return self._copy().settle(*self.probe)

    def gives(self, own: torch.Tensor) -> bool:
        """Whether what follows gives the network's own vectors of the probe, (n, dim)."""
        try:
            with torch.no_grad():
                vectors = self._copy()(*self.probe)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
            return False
        most = _MOST_OFF * float(own.abs().max())
        return vectors.shape == own.shape and float((vectors - own).abs().max()) <= most

    def _copy(self) -> Upper:
        above = self.blocks.above(self.shape.cut, all_below=self.all_below)
        return Upper(*above, self.vectors, self.inputs)

    def held(self, run: Callable[[Given], object], given: Given) -> list[torch.Tensor]:
        """Return what lies at the cut, for `items`."""
        return self._tokens(run, given) if isinstance(given, dict) else self._images(run, given)

    def _images(
        self, run: Callable[[torch.Tensor], object], pixels: torch.Tensor
    ) -> list[torch.Tensor]:
        """Return the activations of pictures: [(n, variants, *shape)]."""
        each = [pixels, *(VARIANTS[name](pixels) for name in self.shape.variants[1:])]
        held = [self.stop(lambda one=one: run(one)) for one in each]  # type: ignore[misc]
        return [torch.stack(held, dim=1).half().contiguous()]

    def _tokens(
        self, run: Callable[[dict[str, torch.Tensor]], object], tokens: dict[str, torch.Tensor]
    ) -> list[torch.Tensor]:
        """Return the activations of texts without padding, one after another, and lengths."""
        held = self.stop(lambda: run(tokens))
        mask = tokens["attention_mask"].bool()
        return [held[mask].half(), mask.sum(dim=1)]

    def items(self, arrays: Sequence[NDArray[Any]]) -> Any:
        """Return what `held` gave, an array an item."""
        if not self.shape.is_ragged:
            return arrays[0]
        flat, lengths = arrays
        return np.split(flat, np.cumsum(lengths)[:-1])


def cut_at(spec: EncoderSpec, network: torch.nn.Module, vectors: Vectors, given: Given) -> Tap:
    """Cut a network where its spec says; for ``auto``, where a tap costs least for what it gives.

    The rule of ``auto``: at most two fifths of the computation are left above the cut, so that
    training there is cheap; an item takes at most three times the bytes of the smallest such
    cut; among these cuts the lowest, which leaves most to be trained. MobileNetV2 is cut after
    5 of its 7 blocks, a transformer after two thirds of them.

    Parameters
    ----------
    spec : EncoderSpec
    network : Module
    vectors : callable
        From the network and its inputs to its vectors.
    given : Tensor or dict of Tensors
        Pixels or tokens of `N_PROBES` items.

    Raises
    ------
    BadName
        If the network has no blocks, fewer of them, or paths around the cut.
    """
    asked, variants = asked_tap(spec)
    mask = given["attention_mask"] if isinstance(given, dict) else None
    if mask is not None and len(variants) > 1:
        raise BadName(f"variants={'+'.join(variants[1:])} in {spec}: only pictures have variants")
    trial = _Trial(variants, vectors, given, mask)
    for blocks in watch(network, lambda: vectors(network, given)):
        if tap := next(filter(None, (trial.cut(blocks, cut) for cut in _by_cost(blocks))), None):
            break
    else:
        raise has_no_blocks(spec)
    if asked is not None:
        n = len(blocks)
        cut = asked + n if asked < 0 else asked
        if not 1 <= cut < n:
            raise BadName(
                f"tap={asked} in {spec}: its network has {n} blocks, and one at least lies above "
                f"the cut: expected 1 to {n - 1}, or -1 to {1 - n} counted from the end"
            )
        if cut != tap.shape.cut:
            lower = tap.shape.cut
            if (tap := trial.cut(blocks, cut)) is None:
                raise BadName(
                    f"tap={asked} in {spec}: what follows there needs more than the activations, "
                    f"as paths lead around the cut; tap={lower} can be had"
                )
    return tap


@dataclass(frozen=True, eq=False)
class _Trial:
    """Cuts a network, and sees whether what follows gives its own vectors."""

    variants: tuple[str, ...]
    vectors: Vectors
    given: Given
    mask: torch.Tensor | None  # of texts: which tokens are no padding

    def cut(self, blocks: Blocks, cut: int) -> Tap | None:
        """Return the tap after some blocks; None where paths lead around it."""
        stop, mask = Stop(blocks.modules[cut - 1]), self.mask
        with torch.no_grad():
            held = stop(lambda: self.vectors(blocks.network, self.given))
            own = self.vectors(blocks.network, self.given).float()
        probe = (held, None) if mask is None else (_at_the_front(held, mask), mask.sum(dim=1))
        shape = blocks.shape(cut) if mask is None else (0, held.shape[2])
        tap = Tap(
            TapShape(cut, shape, self.variants), blocks, stop, self.vectors, _inputs(self.given),
            probe, all_below=True,
        )  # fmt: skip
        able = (one for one in (tap, replace(tap, all_below=False)) if one.gives(own))
        return next(able, None)


def _inputs(given: Given) -> Inputs:
    """Return what makes the network's inputs where activations come in above.

    Nothing of them is seen but how many and how long they are.
    """
    if not isinstance(given, dict):
        shape = given.shape[1:]
        return lambda batch, _: batch.new_zeros(()).expand(len(batch), *shape)

    def tokens(batch: torch.Tensor, lengths: torch.Tensor | None) -> dict[str, torch.Tensor]:
        assert lengths is not None, "texts come with their lengths"
        mask = torch.arange(batch.shape[1], device=batch.device) < lengths[:, None]
        return dict.fromkeys(given, torch.zeros_like(mask, dtype=torch.long)) | {
            "attention_mask": mask.long()
        }

    return tokens


def _by_cost(blocks: Blocks) -> Iterable[int]:
    """Return cuts in the order in which ``auto`` tries them: its own, then lower ones."""
    n = len(blocks)
    able = [cut for cut in range(1, n) if blocks.share_above(cut) <= _MOST_ABOVE] or [n - 1]
    n_bytes = {cut: TapShape(cut, blocks.shape(cut)).nbytes for cut in able}
    most = _TIMES_THE_LEAST * min(n_bytes.values())
    return range(next(cut for cut in able if n_bytes[cut] <= most), 0, -1)


def _at_the_front(held: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Move the tokens of each text before its padding, on whichever side that stands."""
    order = mask.argsort(dim=1, descending=True, stable=True)
    return held.gather(1, order[..., None].expand_as(held))
