"""``random:timm:NAME#seed=0``: an architecture with the library's own random initialisation.

Comparing it with the pretrained network shows what the architecture alone contributes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from featurestore.encoders.base import Encoder, LoadOptions
from featurestore.encoders.families import BUILTIN
from featurestore.errors import BadName, UnknownEncoder
from featurestore.terms.specs import EncoderSpec, Modality


def load(specs: Sequence[EncoderSpec], load_options: LoadOptions) -> Sequence[Encoder]:
    """Make the network that the inner spec names, with weights drawn from ``seed``."""
    spec = specs[0]
    seed = spec.option("seed", "0")
    if not seed.isdecimal():
        raise BadName(f"seed={seed} in {spec}: expected a whole number")
    inner = EncoderSpec.parse(spec.model)
    if inner.family == "timm":
        from featurestore.encoders.timm_models import load_random
    elif inner.family == "open_clip":
        from featurestore.encoders.open_clip_models import load_random
    elif str(inner) == BUILTIN[Modality.IMAGE]:
        from featurestore.encoders.tiny_image import load_random
    else:
        raise UnknownEncoder(
            f"no random weights for {inner}: expected random:timm:…, random:open_clip:… or "
            f"random:{BUILTIN[Modality.IMAGE]}"
        )
    if spec.option("size", "") and inner.family != "timm":
        raise BadName(f"{inner.family} encoders have no option 'size' ({spec})")
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        torch.manual_seed(int(seed))
        return load_random(specs, inner, load_options)
