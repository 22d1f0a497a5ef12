"""The family ``baseline:``: encoders without pretraining, by name."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from featurestore.encoders.base import Encoder, LoadOptions
from featurestore.errors import UnknownEncoder, nearest
from featurestore.terms.specs import EncoderSpec

_MODULES = {"pixels": "pixels", "hashing": "hashing"}


def load(specs: Sequence[EncoderSpec], load_options: LoadOptions) -> list[Encoder]:
    """Make the baseline that the spec names; it runs on the CPU whatever the device."""
    (spec,) = specs
    try:
        module = _MODULES[spec.model]
    except KeyError:
        raise UnknownEncoder(f"no encoder {spec}: {nearest(spec.model, _MODULES)}") from None
    return [import_module(f"featurestore.encoders.{module}").load(spec)]
