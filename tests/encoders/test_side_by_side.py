"""Texts on a CPU go through the network in parts, one for each core, and come back in order."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featurestore.encoders.side_by_side import _LEAST_TOKENS, _parts, beside_each_other


def tokens_of(lengths):
    return [{"input_ids": np.full(n, i)} for i, n in enumerate(lengths)]


@given(st.lists(st.integers(1, 600), min_size=1, max_size=80), st.integers(1, 16))
def test_parts_hold_every_text_once_in_order_and_alike_many_tokens(lengths, n):
    parts = _parts(tokens_of(lengths), n)
    sizes = [sum(len(one["input_ids"]) for one in part) for part in parts]
    assert [one["input_ids"][0] for part in parts for one in part] == list(range(len(lengths)))
    assert 1 <= len(parts) <= min(n, max(1, sum(lengths) // _LEAST_TOKENS))
    assert max(sizes) <= sum(lengths) / len(parts) + max(lengths) or len(parts) < n


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_each_part_runs_with_one_core_and_the_vectors_are_those_of_one_pass(four_threads):
    seen = []

    def forward(tokens):
        seen.append((len(tokens), torch.get_num_threads()))
        lengths = np.array([[len(one["input_ids"]), one["input_ids"][0]] for one in tokens])
        return [lengths.astype(np.float32), -lengths.astype(np.float32)]

    stage, launch, fetch = beside_each_other(forward)
    contents = tokens_of([300] * 40)
    found = fetch(launch(stage(contents)))
    assert sorted(seen) == [(10, 1)] * 4
    for one, expected in zip(found, forward(contents), strict=True):
        np.testing.assert_array_equal(one, expected)
    assert torch.get_num_threads() == 4
    assert fetch(launch(stage(contents[:1])))[0].tolist() == [[300, 0]]


def test_what_a_part_raises_reaches_the_caller(four_threads):
    def forward(tokens):
        raise RuntimeError("can't allocate memory")

    stage, launch, _ = beside_each_other(forward)
    with pytest.raises(RuntimeError, match="can't allocate"):
        launch(stage(tokens_of([300] * 40)))
