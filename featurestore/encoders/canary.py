"""Vectors of a few fixed inputs, kept with each view to check that its encoder still gives them.

Library versions and devices are not part of a fingerprint; their effect is measured here.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.encoders.base import Encoder
from featurestore.encoders.images import decode_image
from featurestore.errors import EncoderDrift
from featurestore.terms.specs import Modality

LEAST_COSINE = 0.999
N_PROBES = 2  # of each modality
Canary = dict[str, list[list[float]]]  # modality → (n_probes, dim) vectors of the probes

_IMAGES = ("probe-0.jpg", "probe-1.png")
PROBE_TEXTS = (
    "The patient was given 20 mg twice a day; no adverse events were seen.",
    "Überprüfung: order no. 4711 wasn't delivered — please refund €39.90 to my card!",
)


def canary_vectors(encoder: Encoder) -> Canary:
    """Embed the probes through the whole path, for each modality of the encoder."""
    canary = {}
    if Modality.IMAGE in encoder.resolved.modalities:
        pictures = [decode_image(one, at_least_px=encoder.decode_px) for one in probe_pictures()]
        vectors = encoder.encode_images([encoder.prepare_image(one) for one in pictures])
        canary[str(Modality.IMAGE)] = _short(vectors, encoder)
    if Modality.TEXT in encoder.resolved.modalities:
        canary[str(Modality.TEXT)] = _short(encoder.encode_texts(PROBE_TEXTS), encoder)
    return canary


def probe_pictures() -> list[bytes]:
    """Return the files of the pictures that are embedded as probes."""
    folder = files("featurestore") / "probes"
    return [(folder / name).read_bytes() for name in _IMAGES]


def _short(vectors: NDArray[Any] | list[NDArray[Any]], encoder: Encoder) -> list[list[float]]:
    """Return vectors as they are; of activations the mean over positions, all variants."""
    if encoder.tap is None:
        each: list[list[float]] = np.asarray(vectors).tolist()
        return each
    maps_at, tokens_at = (2, 3), -2  # (variants, channels, height, width); (…, length, width)
    return [
        one.mean(axis=maps_at if one.ndim == 4 else tokens_at, dtype=np.float32).ravel().tolist()
        for one in vectors
    ]


def check_canary(encoder: Encoder, stored: Canary) -> None:
    """Raise if the encoder no longer gives the vectors that its view was made with.

    Raises
    ------
    EncoderDrift
        If a probe's cosine to its stored vector is below 0.999.
    """
    check_probes(canary_vectors(encoder), stored, str(encoder.resolved.spec))


def check_probes(now: Canary, stored: Canary, spec: str) -> None:
    """Raise if the vectors of the probes differ from the stored ones.

    Raises
    ------
    EncoderDrift
        If a probe's cosine to its stored vector is below 0.999, or their number is another.
    """
    for modality, vectors in now.items():
        if modality not in stored:
            continue
        a, b = np.asarray(vectors), np.asarray(stored[modality])
        if a.shape != b.shape:
            raise EncoderDrift(
                f"{spec} gives vectors of shape {a.shape} for the probes, where its view was made "
                f"with {b.shape}: embed again with --overwrite"
            )
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosine = float(((a * b).sum(axis=1) / np.maximum(norms, 1e-30)).min())
        if not cosine >= LEAST_COSINE:
            raise EncoderDrift(
                f"{spec} gives other vectors than when the view was made: "
                f"cosine {cosine:.4f} on a probe {modality}, expected at least {LEAST_COSINE}; "
                "run with the library versions that encoder.json records, or embed again with "
                "--overwrite"
            )
