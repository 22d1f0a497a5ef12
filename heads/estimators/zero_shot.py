"""Heads that know their classes by name: a vector of words for each, beside the training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurestore.terms.vectors import unit_rows
from heads.estimators.base import ScoreHead
from heads.estimators.logistic import CS, LogisticHead
from heads.estimators.softmax import fit_sharpness, softmax
from heads.labels.fitting import asked
from heads.labels.matrix import Matrix

Prompts = str | Sequence[str] | Mapping[str, str | Sequence[str]]
SHARPNESS = 10.0  # of cosines, where rows are too few to say: what text encoders here have
NEAR_WORDS = (1e-3, 1e-2)  # penalties that hardly let the training rows speak


class ZeroShotHead(ScoreHead):
    """The class whose words are closest by cosine, as CLIP does it [1]_.

    Training rows are not looked at but for the sharpness of the probabilities. Classes without
    a training row are predicted like the others.

    Parameters
    ----------
    prompts : str, sequence of str, or mapping, optional
        Templates with ``{}`` for the class, or label → what to call it; see
        `heads.catalogue.words`.
    class_names : sequence of str
        Labels, sorted; given with ``class_vectors`` by whoever knows the encoder.
    class_vectors : ndarray of shape (n_classes, dim)
        Vectors of their words, of length 1.

    References
    ----------
    .. [1] Radford et al., Learning Transferable Visual Models, 2021, arXiv:2103.00020.
    """

    def __init__(
        self,
        prompts: Prompts | None = None,
        class_names: Sequence[str] | None = None,
        class_vectors: NDArray[np.float32] | None = None,
    ):
        self.prompts = prompts
        self.class_names = class_names
        self.class_vectors = class_vectors

    def fit(self, X: Matrix, y: NDArray[Any], sample_weight: ArrayLike | None = None) -> Self:
        """Take X of shape (n, dim), labels y and weights (n,) for the sharpness alone."""
        if self.class_vectors is None or self.class_names is None:
            raise ValueError("expected class_names and class_vectors: the words of each class")
        rows = self._begin_weighted_fit(X, y, None, sample_weight)
        place = _place(self.classes_, self.class_names)
        self.classes_ = np.asarray(self.class_names)
        self.words_ = np.asarray(self.class_vectors)
        scores = self._scores(rows.X)
        self.sharpness_ = fit_sharpness(scores, place[rows.y], near=SHARPNESS, weights=rows.weights)
        if request := asked(self):  # no row is learned from
            n = len(scores)
            said = softmax(self.sharpness_ * scores)
            request.answer(np.arange(n), said, rows.source, n)
        return self

    def _scores(self, X: Matrix) -> NDArray[np.float64]:
        return _cosines(X, self.words_)


class ZeroShotProbe(LogisticHead):
    """Logistic regression that begins from the words of the classes, not from nothing.

    To its scores those of the zero-shot head are added, as sharp as makes the training rows
    likeliest, and the penalty draws the weights of the rest to zero (not its intercepts). How
    much the rows may say, C decides, chosen by held-out log loss as ever; with one label a class
    nothing can be held out, and it is 10. Words that are much better than so few rows may then
    be better alone: compare with `ZeroShotHead`. Without class vectors it is `LogisticHead`, with
    smaller Cs as well.

    Parameters
    ----------
    prompts, class_names, class_vectors
        As of `ZeroShotHead`.
    normalisation, Cs, class_weight, random_state
        As of `LogisticHead`.

    References
    ----------
    .. [1] Silva-Rodriguez et al., CLAP, CVPR 2024, arXiv:2312.12730 (the same idea, with
       penalties of their own).
    """

    _accept_sparse = False

    def __init__(
        self,
        prompts: Prompts | None = None,
        class_names: Sequence[str] | None = None,
        class_vectors: NDArray[np.float32] | None = None,
        normalisation: str = "auto",
        Cs: Sequence[float] = NEAR_WORDS + CS,
        class_weight: str | Mapping[Any, float] | None = None,
        random_state: int | None = 0,
        device: str = "auto",
    ):
        super().__init__(normalisation, Cs, class_weight, random_state, device)
        self.prompts = prompts
        self.class_names = class_names
        self.class_vectors = class_vectors

    def _prior(
        self,
        X: Matrix,
        codes: NDArray[np.intp] | None = None,
        counts: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64] | None:
        if self.class_vectors is None:
            return None
        if codes is not None:
            names = self.classes_ if self.class_names is None else self.class_names
            self.words_ = self.class_vectors[_place(self.classes_, names)]
            self.word_sharpness_ = fit_sharpness(
                _cosines(X, self.words_), codes, near=SHARPNESS, weights=counts
            )
        return self.word_sharpness_ * _cosines(X, self.words_)


def _place(seen: NDArray[Any], names: Sequence[str] | NDArray[Any]) -> NDArray[np.intp]:
    """Return the position of each class among the named ones, (n_classes,)."""
    named = np.asarray(names)
    place = np.searchsorted(named, seen).clip(max=len(named) - 1)
    if (unknown := named[place] != seen).any():
        raise ValueError(f"no words for the classes {seen[unknown].tolist()}")
    return np.asarray(place)


def _cosines(X: Matrix, words: NDArray[np.float32]) -> NDArray[np.float64]:
    X = np.asarray(X, dtype=np.float64)
    return np.asarray(unit_rows(X) @ words.T.astype(np.float64))
