"""Small encoders that give activations, and a data set of pictures and one of texts to tap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from featurestore.encoders import custom
from featurestore.encoders.base import Encoder, Tokenized
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import Store
from featurestore.terms.specs import EncoderSpec, Modality, ResolvedEncoder
from featurestore.terms.taps import TapShape

SIDE = 4


class Pictures(Encoder):
    """Gives each picture, shrunk to 4 x 4 pixels, and its mirror image."""

    def __init__(self, version: str = "1") -> None:
        tap = TapShape(2, (3, SIDE, SIDE), ("plain", "flip"))
        chosen = {"family": "python", "version": version, "tap": tap.chosen}
        spec = EncoderSpec("python", "tests:Pictures")
        self.resolved = ResolvedEncoder(spec, tap.dim, frozenset({Modality.IMAGE}), chosen)
        self.n_encoded = 0

    def encode_images(self, prepared: Sequence[NDArray[Any]]) -> Any:
        """Return (n, 2, 3, 4, 4) float16."""
        self.n_encoded += len(prepared)
        plain = np.stack([_shrunk(Image.fromarray(one)) for one in prepared])
        return np.stack([plain, plain[..., ::-1]], axis=1)


class Texts(Encoder):
    """Gives three numbers for each word of a text."""

    def __init__(self) -> None:
        tap = TapShape(1, (0, 3))
        chosen = {"family": "python", "tap": tap.chosen}
        spec = EncoderSpec("python", "tests:Texts")
        self.resolved = ResolvedEncoder(spec, 0, frozenset({Modality.TEXT}), chosen)

    def encode_texts(self, texts: Sequence[str]) -> Any:
        """Return a list of (length, 3) float16."""
        return [words(one) for one in texts]

    def tokenize(self, texts: Sequence[str]) -> Tokenized:
        """Return the texts, a token a word."""
        return Tokenized(
            list(texts), [len(one.split()) for one in texts], [False] * len(texts)
        )  # fmt: skip


def words(text: str) -> NDArray[np.float16]:
    """Return what `Texts` gives for a text."""
    return np.array([[len(one), ord(one[0]), 1] for one in text.split()], np.float16)


def picture(path: Path) -> NDArray[np.float16]:
    """Return what `Pictures` gives for a file, (2, 3, 4, 4)."""
    plain = _shrunk(Image.open(path).convert("RGB"))
    return np.stack([plain, plain[..., ::-1]])


def _shrunk(image: Image.Image) -> NDArray[np.float16]:
    pixels = np.asarray(image.resize((SIDE, SIDE)), np.float16)
    return pixels.transpose(2, 0, 1)


def take_encoders_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `Store.embed` take an `Encoder` of a test without making one of our own of it."""
    adopt = custom.adopt

    def as_it_is(inner: object, spec: EncoderSpec | None = None) -> Any:
        return inner if isinstance(inner, Encoder) else adopt(inner, spec)

    monkeypatch.setattr(custom, "adopt", as_it_is)


def embed_texts(store: Store, path: Path, n: int = 12, **how: Any) -> None:
    """Embed n texts of 1 to 5 words, every third without a label."""
    lines = ["id,words,topic"]
    for number in range(n):
        text = " ".join(f"word{'s' * (number % 3)}" for _ in range(number % 5 + 1))
        lines.append(f"t{number:02d},{text} {number},{'even' * (number % 3 > 0)}")
    path.write_text("\n".join(lines) + "\n")
    options = SourceOptions(text="words", label=("topic",), id="id")
    store.embed([path], dataset="t", encoders=[Texts()], source_options=options, **how)
