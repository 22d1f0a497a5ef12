"""The family ``baseline:``: encoders without pretraining, by name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from featurestore.errors import UnknownEncoder, nearest
from featurestore.values import EncoderSpec

_MODULES = {"pixels": "pixels", "hashing": "hashing"}


def load(spec: EncoderSpec, device: str) -> Any:
    """Make the baseline that the spec names."""
    try:
        module = _MODULES[spec.model]
    except KeyError:
        raise UnknownEncoder(f"no encoder {spec}: {nearest(spec.model, _MODULES)}") from None
    return import_module(f"featurestore.encoders.{module}").load(spec, device)
