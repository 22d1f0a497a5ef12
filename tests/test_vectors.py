"""Unit rows and class sums, once for search and heads."""

import numpy as np

from featurestore.terms.vectors import class_sums, unit_rows


def test_unit_rows_have_length_1_keep_their_dtype_and_zeros_stay():
    for dtype in (np.float32, np.float64):
        rows = unit_rows(np.array([[3, 4], [0, 0], [0, -2]], dtype))
        np.testing.assert_array_equal(rows, np.array([[0.6, 0.8], [0, 0], [0, -1]], dtype))
        assert rows.dtype == dtype


def test_class_sums_count_an_absent_class_as_none():
    vectors = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    sums, counts = class_sums(vectors, np.array([2, 0, 2]), 3)
    np.testing.assert_array_equal(sums, [[3, 4], [0, 0], [6, 8]])
    assert counts.tolist() == [1, 0, 2]
    assert sums.dtype == np.float64
