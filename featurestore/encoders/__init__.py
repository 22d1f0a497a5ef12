"""Frozen encoders: what the pipeline asks of one, and one file per family.

Another package's encoder family needs the names below; see docs/encoders.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurestore.encoders.base import LoadOptions
    from featurestore.encoders.families import Family
    from featurestore.encoders.loading import load_encoder, load_encoders

_HOMES = {
    "Family": "families",
    "LoadOptions": "base",
    "load_encoder": "loading",
    "load_encoders": "loading",
}

__all__ = ["Family", "LoadOptions", "load_encoder", "load_encoders"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
