"""The family ``builtin:``: small pretrained encoders whose weights ship with the package."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from featurestore.encoders.base import Encoder, LoadOptions
from featurestore.errors import UnknownEncoder, nearest
from featurestore.terms.specs import EncoderSpec

_MODULES = {"tiny-image": "tiny_image", "tiny-text": "tiny_text"}


def load(specs: Sequence[EncoderSpec], load_options: LoadOptions) -> list[Encoder]:
    """Load the encoder that the specs name."""
    name = specs[0].model
    if name not in _MODULES:
        raise UnknownEncoder(f"no encoder {specs[0]}: {nearest(name, _MODULES)}")
    module = import_module(f"featurestore.encoders.{_MODULES[name]}")
    encoders: list[Encoder] = module.load(specs, load_options)
    return encoders
