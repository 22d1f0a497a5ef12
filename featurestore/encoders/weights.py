"""Weights that ship with the package, checked before they are used."""

from __future__ import annotations

import hashlib
from pathlib import Path

from featurestore.errors import UnknownEncoder

FOLDER = Path(__file__).resolve().parent.parent / "weights"

# SHA-256 of each file; how they were made is in tools/ and docs/encoders/.
SHA256 = {
    "tiny-image.safetensors": "e38a92908e763046d94a9456a52890c5b6948c14fb0cf6cc1b5afce7f19a3143",
    "tiny-text.safetensors": "9225b86b82124c7ef0503269cf8e5e44d3c7636b6d3763d379aaa3f906501c8e",
    "tiny-text.tokenizer.json": "c7e73456f042b80cab1e6f8bcb80d066b5ad566bc34f02b99fc381dd42c7af77",
}


def read_weights(name: str) -> bytes:
    """Return a file of ours.

    Raises
    ------
    UnknownEncoder
        If it is absent or not the one that was shipped.
    """
    path = FOLDER / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnknownEncoder(
            f"{path} cannot be read ({error.strerror}): install featurestore again"
        ) from error
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise UnknownEncoder(f"{path} is not the file that was shipped: install featurestore again")
    return content
