"""Texts are tokenized in one call, and the tokens are those of the library's own."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from featurestore.encoders.tokens import tokenizer_of, unpadded

TEXTS = [
    "  Card  payment\n", "", "日本語 Ünïcode 🙂 \u200b", "[SEP] [CLS] </s>",
    "one two three four five six seven eight", "one two three", "UPPER lower", "don't",
]  # fmt: skip


@pytest.fixture(scope="module")
def pipeline(minilm):
    return SentenceTransformer(minilm.removeprefix("st:local-dir:"), device="cpu")


@pytest.mark.parametrize("prompt", ["", "query: "])
@pytest.mark.parametrize("limit", [8, 128])
@pytest.mark.parametrize("side", ["right", "left"])
def test_tokens_are_those_of_the_library(pipeline, prompt, limit, side):
    tokenizer = pipeline.tokenizer
    tokenizer.truncation_side = side
    pipeline.max_seq_length = limit
    calls = []

    def library(texts):
        calls.append(texts)
        return unpadded(pipeline.preprocess(texts, prompt=prompt), "right")

    tokenize = tokenizer_of(tokenizer, limit, prompt, library)
    n_calls = len(calls)
    tokens, lengths, is_cut = tokenize(TEXTS)
    assert len(calls) == n_calls == 1, "texts went through the library"
    for text, given, n, cut in zip(TEXTS, tokens, lengths, is_cut, strict=True):
        (expected,) = library([text])
        assert given.keys() == expected.keys() == {"input_ids", "token_type_ids", "attention_mask"}
        for name, values in expected.items():
            assert given[name].dtype == np.int64
            np.testing.assert_array_equal(given[name], values)
        whole = len(tokenizer(prompt + text, truncation=False)["input_ids"])
        assert n == min(whole, limit)
        assert cut == (whole > limit)
    assert any(is_cut) == (limit == 8)
    tokenizer.truncation_side = "right"


def test_a_library_that_does_more_than_its_tokenizer_is_asked_itself(pipeline):
    pipeline.max_seq_length = 16

    def library(texts):
        return unpadded(pipeline.preprocess([text[::-1] for text in texts], prompt=None), "right")

    tokenize = tokenizer_of(pipeline.tokenizer, 16, "", library)
    tokens, lengths, is_cut = tokenize(["abc def", "x " * 15, "x " * 14])
    for given, expected in zip(tokens, library(["abc def", "x " * 15, "x " * 14]), strict=True):
        np.testing.assert_array_equal(given["input_ids"], expected["input_ids"])
    assert lengths[1:] == [16, 16]
    assert is_cut == [False, True, False]
