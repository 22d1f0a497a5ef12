"""TF-IDF of words and characters: the texts' baseline without pretraining.

It is fitted, so each training fold has its own. Counting n-grams is most of the work and
learns nothing, so evaluation counts once and weighs per fold: `count_ngrams` with
`CountsTfidf` gives what `text_features` gives when fitted on the fold's texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.pipeline import FeatureUnion
from sklearn.utils.validation import check_is_fitted, validate_data

from featurestore.errors import NotEnoughData
from heads.estimators.logistic import DENSE_ROWS, inner_products
from heads.labels.matrix import Matrix

# Words one and two long, and characters within words.
NGRAMS: dict[str, dict[str, Any]] = {
    "words": {"analyzer": "word", "ngram_range": (1, 2)},
    "characters": {"analyzer": "char_wb", "ngram_range": (3, 5)},
}


def text_features() -> FeatureUnion:
    """Return the transformer of texts: one block of unit rows for each kind of n-gram."""
    return FeatureUnion(
        [
            (name, TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **options))
            for name, options in NGRAMS.items()
        ]
    )


def count_ngrams(texts: Sequence[str]) -> tuple[csr_array, int]:
    """Count the n-grams of all texts.

    Returns
    -------
    counts : csr_array of shape (n_texts, n_terms), float32
    n_words : int
        Columns that belong to words; characters follow.
    """
    try:
        words, characters = (
            csr_array(CountVectorizer(dtype=np.float32, **options).fit_transform(texts))
            for options in NGRAMS.values()
        )
    except ValueError as error:
        raise NotEnoughData(f"TF-IDF finds no word in these texts: {error}") from None
    return csr_array(hstack([words, characters], format="csr")), words.shape[1]


class CountsTfidf(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Weigh counts by sublinear TF-IDF, each block of columns to rows of length 1.

    Terms that no training row has weigh nothing, as if they were unknown.

    Parameters
    ----------
    n_first : int
        Columns of the first block; the others are the second. 0 means one block.
    """

    def __init__(self, n_first: int = 0):
        self.n_first = n_first

    def fit(self, X: Matrix, y: object = None) -> Self:
        """Learn how rare terms are from counts of shape (n, n_terms)."""
        X = self._validated(X, reset=True)
        n, n_terms = X.shape
        in_rows = np.bincount(X.indices[X.data > 0], minlength=n_terms)
        # The smooth idf of scikit-learn: as if one more row had every term.
        self.idf_ = np.where(in_rows > 0, np.log((1 + n) / (1 + in_rows)) + 1, 0)
        return self

    def transform(self, X: Matrix) -> csr_array:
        """Return weights, CSR of shape (n, n_terms)."""
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        n, n_terms = X.shape
        row = np.repeat(np.arange(n), np.diff(X.indptr))
        term_weight = np.log(X.data, out=np.zeros_like(X.data), where=X.data > 0) + (X.data > 0)
        data = term_weight * self.idf_.astype(X.dtype)[X.indices]
        block = 2 * row + (X.indices >= self.n_first)
        squares = np.bincount(block, weights=data.astype(np.float64) ** 2, minlength=2 * n)
        length = np.sqrt(np.where(squares > 0, squares, 1)).astype(X.dtype)
        return csr_array((data / length[block], X.indices, X.indptr), shape=(n, n_terms))

    def _validated(self, X: Matrix, *, reset: bool) -> csr_array:
        X = validate_data(
            self,
            X,
            dtype=[np.float64, np.float32],
            accept_sparse="csr",
            reset=reset,
            ensure_non_negative=True,
        )
        return csr_array(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        return tags


class Lsa(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Sparse rows in their first principal directions, uncentred: latent semantic analysis [1]_.

    Exact, from the inner products of the rows, which for some thousand texts is several times
    faster than an SVD of their terms; with more than 3,000 rows from that many of them.

    Parameters
    ----------
    n_components : int
        Fewer come out of fewer rows.
    random_state : int or None
        Draws the rows that are looked at.

    References
    ----------
    .. [1] Deerwester et al., JASIS 41, 1990, 391-407.
    """

    def __init__(self, n_components: int = 256, random_state: int | None = 0):
        self.n_components = n_components
        self.random_state = random_state

    def fit(self, X: Matrix, y: object = None) -> Self:
        """Learn the directions of X, CSR of shape (n, n_terms)."""
        X = csr_array(validate_data(self, X, dtype=[np.float64, np.float32], accept_sparse="csr"))
        rng = np.random.default_rng(self.random_state)
        rows = X[np.sort(rng.permutation(X.shape[0])[:DENSE_ROWS])]
        squares, U = np.linalg.eigh(inner_products(rows).astype(np.float64))
        kept = np.flatnonzero(squares > max(squares[-1], 0) * 1e-9)[-self.n_components :]
        # The directions are Xᵀ U / s, (n_terms, n_components).
        self.directions_ = rows.T @ (U[:, kept] / np.sqrt(squares[kept])).astype(X.dtype)
        return self

    def transform(self, X: Matrix) -> NDArray[Any]:
        """Return coordinates, shape (n, at most n_components)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], accept_sparse="csr", reset=False)
        return np.asarray(X @ self.directions_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
