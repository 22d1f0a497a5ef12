"""Folds are stratified, never part what belongs together, and do not know the row order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import NotEnoughData
from featurestore.terms.labels import is_missing
from heads.labels.folds import blocks, make_folds


def ids_of(n):
    return np.array([f"id-{i:04d}" for i in range(n)], dtype=object)


def test_missing_labels_are_none_nan_and_empty():
    values = np.array([None, float("nan"), "", "a", 0, 0.0], dtype=object)
    assert is_missing(values).tolist() == [True, True, True, False, False, False]


def test_blocks_join_chains_over_groups_and_contents():
    group = np.array(["a", None, "b", "b", None, None], dtype=object)
    content = np.array(["1", "1", "1", "2", "3", None], dtype=object)
    assert blocks(group, content).tolist() == [0, 0, 0, 0, 1, 2]


def test_a_group_and_a_content_of_the_same_name_are_two_things():
    group = np.array(["x", None], dtype=object)
    content = np.array([None, "x"], dtype=object)
    assert blocks(group, content).tolist() == [0, 1]


def test_classes_are_dealt_evenly_and_every_row_is_tested_once_per_repeat():
    codes = np.repeat([0, 1, 2], [50, 23, 7])
    folds = make_folds(ids_of(80), codes, np.arange(80))
    assert folds.number.shape == (5, 80)
    for number in folds.number:
        table = np.array(
            [[np.sum((number == f) & (codes == c)) for c in range(3)] for f in range(5)]
        )
        assert (table.max(axis=0) - table.min(axis=0)).tolist() == [0, 1, 1]
    assert len({tuple(number) for number in folds.number}) == 5
    tested = np.concatenate([test for _, test in folds.parts()])
    assert np.bincount(tested).tolist() == [5] * 80


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(12, 60), st.integers(2, 4), st.integers(1, 5))
def test_folds_follow_ids_not_rows_and_keep_blocks(seed, n, n_classes, block_rows):
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % n_classes
    block = rng.permutation(n) // block_rows
    shuffle = rng.permutation(n)
    try:
        folds = make_folds(ids_of(n), codes, block, seed=seed)
    except NotEnoughData:
        with pytest.raises(NotEnoughData):
            make_folds(ids_of(n)[shuffle], codes[shuffle], block[shuffle], seed=seed)
        return
    again = make_folds(ids_of(n)[shuffle], codes[shuffle], block[shuffle] + 7, seed=seed)
    np.testing.assert_array_equal(again.number, folds.number[:, shuffle])
    for number in folds.number:
        assert all(len(set(number[block == b])) == 1 for b in set(block))
        assert set(number) == set(range(folds.n_folds))


def test_fewer_folds_where_a_class_has_fewer_groups():
    codes = np.array([0] * 20 + [1] * 3)
    assert make_folds(ids_of(23), codes, np.arange(23)).n_folds == 3


@pytest.mark.parametrize(
    ("codes", "block", "said"),
    [
        ([0, 0, 0], [0, 1, 2], "two classes"),
        ([0, 0, 0, 1], [0, 1, 2, 3], "class 'b' has 1 item in one group"),
        ([0, 0, 0, 1, 1], [0, 1, 2, 3, 3], "class 'b' has 2 items in one group"),
    ],
)
def test_too_little_is_said_clearly(codes, block, said):
    with pytest.raises(NotEnoughData, match=said):
        make_folds(ids_of(len(codes)), np.array(codes), np.array(block), classes=("a", "b"))
