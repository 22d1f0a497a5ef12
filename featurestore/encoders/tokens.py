"""Tokens of texts: one text each, so that batches can be sorted, cut and padded anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

# Token ids and masks of one text, each of shape (n_tokens,), by the names the network knows.
Tokens = dict[str, NDArray[np.int64]]

_TOGETHER = 256  # texts that a library tokenizes in one call


def unpadded(batch: BatchEncoding, side: str) -> list[Tokens]:
    """Cut a batch that is padded on a side into the tokens of each text, without padding.

    Raises
    ------
    KeyError
        If the batch has no attention mask, and so is not one of padded texts.
    """
    mask = batch["attention_mask"]
    arrays = {
        name: value.numpy()
        for name, value in batch.items()
        if isinstance(value, torch.Tensor) and value.shape == mask.shape
    }
    width = mask.shape[1]
    ends = [(width - n, width) if side == "left" else (0, n) for n in mask.sum(dim=1).tolist()]
    return [
        {name: rows[i, start:end] for name, rows in arrays.items()}
        for i, (start, end) in enumerate(ends)
    ]


def of_like_length(
    texts: Sequence[str], tokenize: Callable[[list[str]], list[Tokens]]
) -> list[Tokens]:
    """Tokenize texts of like length together, for a tokenizer that pads what it is given.

    Short texts then carry little padding through Python: half the time on banking77.
    """
    order = np.argsort([len(text) for text in texts], kind="stable").tolist()
    tokens_of: list[Tokens] = [{}] * len(texts)
    for start in range(0, len(order), _TOGETHER):
        rows = order[start : start + _TOGETHER]
        for row, tokens in zip(rows, tokenize([texts[row] for row in rows]), strict=True):
            tokens_of[row] = tokens
    return tokens_of


def n_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Return how many tokens a text has when nothing is cut."""
    return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])


def collator(pad: dict[str, int], side: str) -> Callable[[Sequence[Tokens]], dict[str, Any]]:
    """Return what pads the tokens of several texts to the longest and stacks them."""

    def collate(tokens: Sequence[Tokens]) -> dict[str, Any]:
        lengths = np.array([len(one["input_ids"]) for one in tokens])
        n_before = (lengths.max() - lengths) if side == "left" else np.zeros_like(lengths)
        at = np.arange(lengths.max()) - n_before[:, None]
        is_token = (at >= 0) & (at < lengths[:, None])
        batch: dict[str, Any] = {}
        for name in tokens[0]:
            rows = np.full(is_token.shape, pad.get(name, 0), np.int64)
            rows[is_token] = np.concatenate([one[name] for one in tokens])
            batch[name] = torch.from_numpy(rows)
        return batch

    return collate
