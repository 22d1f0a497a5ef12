"""``baseline:hashing``: words and word pairs of a text, hashed. No pretraining, no state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import HashingVectorizer

from featurestore.encoders import families
from featurestore.encoders.base import Encoder
from featurestore.errors import BadName
from featurestore.terms.specs import EncoderSpec, Modality, ResolvedEncoder

_DEFAULT_SIZE = 1024


@dataclass(frozen=True)
class Hashing(Encoder):
    """The signed hashing trick (Weinberger et al., 2009), L2-normalised.

    It embeds texts where no model is at hand. The baseline to beat is TF-IDF, which is fitted
    inside each training fold and therefore is not an encoder.
    """

    resolved: ResolvedEncoder
    vectorizer: HashingVectorizer

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return hashed counts, (n, size) float32."""
        counts = self.vectorizer.transform(texts)
        return np.asarray(counts.toarray(), np.float32)


def load(spec: EncoderSpec) -> Hashing:
    """Make the baseline that the spec names."""
    text = spec.option("size", str(_DEFAULT_SIZE))
    if not text.isdecimal() or not 16 <= int(text) <= 65_536:
        raise BadName(f"size={text} in {spec}: expected a number of features from 16 to 65536")
    settings = {
        "n_features": int(text),
        "ngram_range": [1, 2],
        "alternate_sign": True,
        "norm": "l2",
    }
    chosen = {"family": "baseline", "model": "hashing", **settings}
    resolved = ResolvedEncoder(
        spec, int(text), frozenset({Modality.TEXT}), chosen, families.versions(spec), 0
    )
    vectorizer = HashingVectorizer(**(settings | {"ngram_range": (1, 2)}))
    return Hashing(resolved, vectorizer)
