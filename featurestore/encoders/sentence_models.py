"""``st:NAME`` and ``st:local-dir:/path``: sentence-transformers text models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from featurestore.encoders import families
from featurestore.encoders.base import LoadOptions
from featurestore.encoders.depths import Depth
from featurestore.encoders.prompts import Prompts, prompts_of, prompts_of_0_1, said
from featurestore.encoders.tokens import Tokens, collator, tokenizer_of, unpadded
from featurestore.encoders.torch_network import Network, TorchEncoder, cut_where_asked
from featurestore.encoders.torch_setup import (
    config_of,
    inference,
    loading,
    pick_device,
    precision_of,
    settle,
    weights_hash,
)
from featurestore.encoders.trust import not_trusted
from featurestore.errors import BadName
from featurestore.terms.specs import EncoderSpec, Modality, ResolvedEncoder

_PROBES = ["a probe", "another one, which is longer than the first; padding must not matter"]


def load(specs: Sequence[EncoderSpec], load_options: LoadOptions) -> list[TorchEncoder]:
    """Load a pipeline by name (with the hub's cache) or from a folder."""
    (spec,) = specs
    device = pick_device(load_options.device)
    hint = (
        "expected a sentence-transformers folder (modules.json)"
        if spec.local_dir
        else "download it once on a machine with network, or use st:local-dir:/path"
    )
    name = str(spec.local_dir) if spec.local_dir else spec.model
    transformers_logging.disable_progress_bar()  # our own bar counts items, not tensors
    is_trusted = load_options.runs_code_of(spec)
    if spec.local_dir is not None and not is_trusted:
        _check_activations(spec, spec.local_dir)
    with loading(spec, hint):
        pipeline = SentenceTransformer(
            name,
            device=device,
            revision=spec.revision,
            trust_remote_code=is_trusted,
            local_files_only=spec.local_dir is not None,
        )
    pipeline.float()  # a checkpoint of 16 bits as well: #precision alone says what it runs in
    _set_max_length(pipeline, spec)
    _set_truncate_dim(pipeline, spec)
    resolved, prompts, tasks = _resolve(pipeline, spec, load_options.made.get(spec))
    settle(pipeline, device, compile=load_options.compile)
    dtype = precision_of(spec)
    queries = _whole(pipeline, prompts.queries, tasks[1], device, dtype)
    split = SentenceEncoder(resolved, _split(pipeline, prompts.items, device, dtype), queries)
    whole = SentenceEncoder(
        resolved, _whole(pipeline, prompts.items, tasks[0], device, dtype), queries
    )
    encoder = split if _agree(split, whole) else whole
    cut = cut_where_asked(resolved, encoder.network, Depth(), Modality.TEXT)
    return [SentenceEncoder(*cut, queries)]


class SentenceEncoder(TorchEncoder):
    """A pipeline that may put other prompts before queries than before items."""

    def __init__(self, resolved: ResolvedEncoder, network: Network, queries: Network) -> None:
        super().__init__(resolved, network)
        self.queries = TorchEncoder(resolved, queries)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return what the library's ``encode_query`` returns, (n, dim) float32."""
        vectors: NDArray[np.float32] = self.queries.encode_texts(texts)
        return vectors


def _resolve(
    pipeline: SentenceTransformer, spec: EncoderSpec, made: str | None
) -> tuple[ResolvedEncoder, Prompts, tuple[str | None, str | None]]:
    """Return what decides the vectors, the prompts, and the tasks of items and of queries.

    ``made`` is the fingerprint of a view of this spec: one made by 0.1 keeps the prompt of then.
    """
    at_all_times = {
        "family": "st",
        "weights": weights_hash(pipeline),
        "tokenizer": _tokenizer_hash(pipeline),
        "pipeline": [f"{type(module).__name__} {_config(module)}" for module in pipeline],
        "max_length": pipeline.max_seq_length,
        "precision": spec.option("precision", "fp32"),
    } | config_of(spec)
    dim = int(pipeline.get_embedding_dimension())
    versions = families.versions(spec)
    n_parameters = sum(one.numel() for one in pipeline.parameters())
    has_tasks = "task" in pipeline.get_model_kwargs()
    cut = {} if pipeline.truncate_dim is None else {"truncate_dim": pipeline.truncate_dim}
    tasks = {"task": "document"} if has_tasks else {}

    def resolved(prompts: Prompts, chosen: dict[str, Any], told: dict[str, Any]) -> ResolvedEncoder:
        told = {"items": prompts.items, "queries": prompts.queries} | told
        chosen = at_all_times | {"prompt": prompts.items} | chosen
        text_alone = frozenset({Modality.TEXT})
        return ResolvedEncoder(spec, dim, text_alone, chosen, versions, n_parameters, told)

    then = prompts_of_0_1(spec, pipeline.prompts, pipeline.default_prompt_name)
    has_been = made is not None and resolved(then, {}, {}).fingerprint == made
    names = [name for name, text in pipeline.prompts.items() if text]
    try:
        prompts = prompts_of(spec, pipeline.prompts)
    except BadName as error:
        if not has_been:
            raise
        return resolved(then, {}, {"now": str(error)}), then, (None, None)
    now = resolved(prompts, cut | tasks, {"named": names})
    if has_been and now.fingerprint != made:
        means = f"it now means {said(prompts.items)}"
        return resolved(then, {}, {"now": means}), then, (None, None)
    return now, prompts, ("document", "query") if has_tasks else (None, None)


def _set_truncate_dim(pipeline: SentenceTransformer, spec: EncoderSpec) -> None:
    if (length := spec.option("truncate_dim", "")) == "":
        return
    most = _full_dim(pipeline)
    if not length.isdecimal() or not 1 <= int(length) <= most:
        raise BadName(f"truncate_dim={length} in {spec}: expected a whole number from 1 to {most}")
    pipeline.truncate_dim = int(length)


def _full_dim(pipeline: SentenceTransformer) -> int:
    with pipeline.truncate_embeddings(None):
        return int(pipeline.get_embedding_dimension())


def _check_activations(spec: EncoderSpec, folder: Path) -> None:
    """Refuse an activation that is code: the library would take another, without a word."""
    for path in sorted(folder.glob("**/config.json")):
        try:
            name = json.loads(path.read_text(encoding="utf-8")).get("activation_function")
        except (OSError, ValueError, RecursionError, AttributeError):
            continue  # the library says what is wrong with it
        if isinstance(name, str) and "." in name and not name.startswith("torch."):
            where = path.relative_to(folder)
            raise not_trusted(f"the model of {spec}", f"the activation {name} ({where})")


def _set_max_length(pipeline: SentenceTransformer, spec: EncoderSpec) -> None:
    if (length := spec.option("max_length", "")) == "":
        return
    if not length.isdecimal() or int(length) < 1:
        raise BadName(f"max_length={length} in {spec}: expected a number of tokens")
    config = getattr(getattr(pipeline[0], "auto_model", None), "config", None)
    most = getattr(config, "max_position_embeddings", None) or int(length)
    if int(length) > most:
        raise BadName(f"max_length={length} in {spec}: its network reads up to {most} tokens")
    pipeline.max_seq_length = int(length)


def _split(
    pipeline: SentenceTransformer, prompt: str | None, device: str, dtype: torch.dtype
) -> Network:
    """Tokenize in the workers, sort by tokens, pad each batch to its own longest text."""
    tokenizer = pipeline.tokenizer
    side = getattr(tokenizer, "padding_side", "right")

    def library(texts: list[str]) -> list[Tokens]:
        return unpadded(pipeline.preprocess(texts, prompt=prompt), side)

    tokenize = tokenizer_of(tokenizer, pipeline.max_seq_length, prompt or "", library)

    def forward(
        module: SentenceTransformer, tokens: dict[str, Any], _: Sequence[Depth]
    ) -> list[torch.Tensor]:
        vectors = module(tokens)["sentence_embedding"]
        return [vectors[:, : pipeline.truncate_dim]]

    pad = {"input_ids": getattr(tokenizer, "pad_token_id", None) or 0}
    collate = collator(pad, side)
    return Network(
        pipeline, device, dtype, tokenize=tokenize, collate=collate, forward_tokens=forward
    )


def _whole(
    pipeline: SentenceTransformer,
    prompt: str | None,
    task: str | None,
    device: str,
    dtype: torch.dtype,
) -> Network:
    """Leave all of it to the library: for queries, and pipelines that do not fit the split."""
    tasks = {} if task is None else {"task": task}

    def forward(_: object, batch: dict[str, Any], __: Sequence[Depth]) -> list[torch.Tensor]:
        texts = batch["texts"]
        return [
            pipeline.encode(
                # Not None, for which the library would take its default prompt.
                texts, batch_size=len(texts), prompt=prompt or "", show_progress_bar=False,
                convert_to_tensor=True, **tasks,
            )
        ]  # fmt: skip

    return Network(
        pipeline, device, dtype, collate=lambda texts: {"texts": list(texts)},
        forward_tokens=forward,
    )  # fmt: skip


def _agree(split: TorchEncoder, whole: TorchEncoder) -> bool:
    """Whether the split path gives what the library's own gives."""
    expected = whole.encode_texts(_PROBES)
    try:
        vectors = split.encode_texts(_PROBES)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
        return False  # inputs of another shape: static embeddings, routers
    with inference(split.device, torch.float32):
        is_close = vectors.shape == expected.shape
        return is_close and np.allclose(vectors, expected, rtol=1e-2, atol=1e-4)


def _tokenizer_hash(pipeline: SentenceTransformer) -> str | None:
    """Return the SHA-256 of a fast tokenizer: vocabulary, rules and special tokens."""
    fast = getattr(pipeline.tokenizer, "backend_tokenizer", None)
    return None if fast is None else hashlib.sha256(fast.to_str().encode()).hexdigest()


def _config(module: torch.nn.Module) -> str:
    """Return what a pooling or normalising module was set to; networks are in the weights."""
    config: dict[str, Any] = getattr(module, "get_config_dict", dict)()
    return json.dumps(config, sort_keys=True, default=str)
