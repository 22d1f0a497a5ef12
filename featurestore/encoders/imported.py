"""The family ``import:``: vectors that came from a file. There is no encoder to load."""

from __future__ import annotations

from collections.abc import Sequence

from featurestore.encoders.base import Encoder, LoadOptions
from featurestore.errors import UnknownEncoder
from featurestore.terms.specs import EncoderSpec


def load(specs: Sequence[EncoderSpec], load_options: LoadOptions) -> list[Encoder]:
    """Refuse, since the encoder of these vectors is not available.

    Raises
    ------
    UnknownEncoder
    """
    raise UnknownEncoder(
        f"the vectors of {specs[0]} came from a file, so nothing new can be embedded by it: "
        "search by item, or embed with the encoder that made them"
    )
