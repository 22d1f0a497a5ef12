"""Frozen encoders: what the pipeline asks of one, and one file per family.

A family of another package derives its encoders from `Encoder`; see docs/encoders.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurestore.encoders.base import Encoder, LoadOptions
    from featurestore.encoders.families import Family
    from featurestore.encoders.loading import load_encoder, load_encoders

_HOMES = {
    "Encoder": "base",
    "Family": "families",
    "LoadOptions": "base",
    "load_encoder": "loading",
    "load_encoders": "loading",
}

__all__ = ["Encoder", "Family", "LoadOptions", "load_encoder", "load_encoders"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
