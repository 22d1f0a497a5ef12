"""Tokens of texts: one text each, so that batches can be sorted, cut and padded anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

# Token ids and masks of one text, 1-D tensors by the names that the network knows.
Tokens = dict[str, torch.Tensor]


def rows_of(batch: Any, side: str) -> list[Tokens]:
    """Cut a batch, padded on a side, into the tokens of each text, padding left out.

    Raises
    ------
    KeyError
        If the batch has no attention mask: it is no batch of padded texts.
    """
    mask = batch["attention_mask"]
    names = [
        name
        for name, value in batch.items()
        if isinstance(value, torch.Tensor) and value.shape == mask.shape
    ]
    width = mask.shape[1]
    ends = [(width - n, width) if side == "left" else (0, n) for n in mask.sum(dim=1).tolist()]
    return [
        {name: batch[name][i, start:end] for name in names} for i, (start, end) in enumerate(ends)
    ]


def n_tokens(tokenizer: Any, text: str) -> int:
    """Return how many tokens a text has when nothing is cut."""
    return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])


def collator(pad: dict[str, int], side: str) -> Callable[[Sequence[Tokens]], dict[str, Any]]:
    """Return what pads the tokens of several texts to the longest and stacks them."""

    def collate(tokens: Sequence[Tokens]) -> dict[str, Any]:
        longest = max(len(one["input_ids"]) for one in tokens)
        batch: dict[str, Any] = {}
        for name in tokens[0]:
            rows = torch.full((len(tokens), longest), pad.get(name, 0), dtype=torch.long)
            for row, one in zip(rows, tokens, strict=True):
                n = len(one[name])
                row[slice(longest - n, None) if side == "left" else slice(n)] = one[name]
            batch[name] = rows
        return batch

    return collate
