"""``st:NAME`` and ``st:local-dir:/path``: sentence-transformers text models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from featurestore import encoders
from featurestore.encoders.torch_network import (
    inference,
    loading,
    pick_device,
    precision_of,
    settle,
    weights_hash,
)
from featurestore.errors import BadName
from featurestore.values import EncoderSpec, Modality, ResolvedEncoder


@dataclass(frozen=True)
class SentenceModel:
    """A sentence-transformers pipeline: tokenizer, network, pooling."""

    resolved: ResolvedEncoder
    network: Any
    prompt: str | None
    dtype: torch.dtype
    device: str

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector a text, (n, dim) float32, as the pipeline returns it."""
        with inference(self.device, self.dtype):
            vectors = self.network.encode(
                list(texts),
                batch_size=len(texts),
                prompt=self.prompt,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        return np.ascontiguousarray(vectors, dtype=np.float32)


def load(spec: EncoderSpec, device: str) -> SentenceModel:
    """Load a pipeline by name (with the hub's cache) or from a folder."""
    device, dtype = pick_device(device), precision_of(spec)
    how = (
        "expected a sentence-transformers folder (modules.json)"
        if spec.local_dir
        else "download it once on a machine with network, or use st:local-dir:/path"
    )
    name = str(spec.local_dir) if spec.local_dir else spec.model
    transformers_logging.disable_progress_bar()  # our own bar counts items, not tensors
    with loading(spec, how):
        network = SentenceTransformer(
            name,
            device=device,
            revision=spec.revision,
            trust_remote_code=False,
            local_files_only=spec.local_dir is not None,
        )
    if (length := spec.option("max_length", "")) != "":
        if not length.isdecimal() or int(length) < 1:
            raise BadName(f"max_length={length} in {spec}: expected a number of tokens")
        network.max_seq_length = int(length)
    prompt = spec.option("prompt", "") or None
    chosen = {
        "family": "st",
        "weights": weights_hash(network),
        "tokenizer": _tokenizer_hash(network),
        "pipeline": [f"{type(module).__name__} {_config(module)}" for module in network],
        "max_length": network.max_seq_length,
        "prompt": prompt,
        "precision": spec.option("precision", "fp32"),
    }
    dim = network.get_embedding_dimension()
    resolved = ResolvedEncoder(
        spec, int(dim), frozenset({Modality.TEXT}), chosen, encoders.versions(spec)
    )
    return SentenceModel(resolved, settle(network, device), prompt, dtype, device)


def _tokenizer_hash(network: Any) -> str | None:
    """Return the SHA-256 of a fast tokenizer: vocabulary, rules and special tokens."""
    fast = getattr(network.tokenizer, "backend_tokenizer", None)
    return None if fast is None else hashlib.sha256(fast.to_str().encode()).hexdigest()


def _config(module: Any) -> str:
    """Return what a pooling or normalising module was set to; networks are in the weights."""
    config: dict[str, Any] = getattr(module, "get_config_dict", dict)()
    return json.dumps(config, sort_keys=True, default=str)
