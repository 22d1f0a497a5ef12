"""``builtin:tiny-text``: a vector for each token, summed. No network runs, no torch is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from scipy.sparse import csr_array
from tokenizers import Tokenizer

from featurestore.encoders import families
from featurestore.encoders.base import Encoder, LoadOptions, Steps, Tokenized
from featurestore.encoders.weights import SHA256, read_weights
from featurestore.errors import BadName
from featurestore.terms.specs import EncoderSpec, Modality, ResolvedEncoder
from featurestore.terms.vectors import unit_rows

WEIGHTS, TOKENIZER = "tiny-text.safetensors", "tiny-text.tokenizer.json"
UNKNOWN = "[UNK]"  # stands for a text without a token


@dataclass(frozen=True)
class TinyText(Encoder):
    """Sums of static token vectors, scaled to length 1; the order of words does not count."""

    resolved: ResolvedEncoder
    tokenizer: Tokenizer
    vectors: NDArray[np.float32]  # (n_tokens, dim), weighted by how common each token is

    @cached_property
    def unknown(self) -> int:
        """The number of the token that stands for unknown ones."""
        number = self.tokenizer.token_to_id(UNKNOWN)
        assert number is not None, "the tokenizer has it"
        return int(number)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (n, dim) float32 of length 1. Texts of any length are read whole."""
        return self._summed(self.tokenize(texts).tokens)

    def tokenize(self, texts: Sequence[str]) -> Tokenized:
        """Return the numbers of each text's tokens; `UNKNOWN` where there is none."""
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [one.ids or [self.unknown] for one in encodings]
        return super().tokenize(texts)._replace(tokens=ids)

    def knows_none(self, tokens: list[int]) -> bool:
        """Whether all of a text's tokens are `UNKNOWN`."""
        return tokens.count(self.unknown) == len(tokens)

    def runner(self, encoders: Sequence[TinyText], modality: Modality) -> Steps:
        """Return the steps that sum the vectors of tokens."""
        return Steps(lambda ids: ids, self._summed, lambda vectors: [vectors])

    def _summed(self, ids: Sequence[list[int]]) -> NDArray[np.float32]:
        ends = np.cumsum([0, *map(len, ids)])
        flat = np.fromiter(chain.from_iterable(ids), np.int32, ends[-1])
        counts = csr_array(
            (np.ones(len(flat), np.float32), flat, ends), shape=(len(ids), len(self.vectors))
        )
        sums = counts @ self.vectors
        return unit_rows(sums)


def load(specs: Sequence[EncoderSpec], load_options: LoadOptions) -> list[TinyText]:
    """Read the token vectors; they stay on the CPU whatever the device."""
    (spec,) = specs
    if spec.has_tap:
        raise families.has_no_blocks(spec)
    if spec.options:
        raise BadName(f"{spec}: builtin:tiny-text has no options")
    tensors = load_tensors(read_weights(WEIGHTS))
    tokenizer = Tokenizer.from_str(read_weights(TOKENIZER).decode())
    vectors = tensors["vectors"].astype(np.float32) * tensors["scales"].astype(np.float32)[:, None]
    chosen = {"family": "builtin", "weights": SHA256[WEIGHTS], "tokenizer": SHA256[TOKENIZER]}
    resolved = ResolvedEncoder(
        spec, vectors.shape[1], frozenset({Modality.TEXT}), chosen, families.versions(spec),
        vectors.size,
    )  # fmt: skip
    return [TinyText(resolved, tokenizer, vectors)]
