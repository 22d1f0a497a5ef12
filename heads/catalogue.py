"""The table of heads: name → how to build it, and where it looks for its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline

from featurestore.errors import UnknownHead, nearest
from heads.estimators.knn import KnnHead
from heads.estimators.logistic import LogisticHead
from heads.estimators.prototype import PrototypeHead
from heads.estimators.ridge import RidgeHead
from heads.estimators.tfidf import CountsTfidf, text_features

TFIDF_CS = (1.0, 10.0, 100.0)  # rows of two unit blocks; each C costs seconds on long texts


@dataclass(frozen=True)
class HeadEntry:
    """One head that can be asked for by name."""

    build: Callable[[int], Any]  # seed → unfitted classifier
    search_space: str  # in words, for cards
    reads: str = "vectors"  # or "texts"
    is_baseline: bool = False  # rows of it are named baseline:… in tables


HEADS: dict[str, HeadEntry] = {
    "logistic": HeadEntry(
        lambda seed: LogisticHead(random_state=seed),
        "normalisation centre, l2 or standardise by ridge leave-one-out; "
        "C from 0.1 to 1e5 in half decades by held-out log loss",
    ),
    "ridge": HeadEntry(
        lambda seed: RidgeHead(random_state=seed),
        "normalisation centre, l2 or standardise, and alpha from 1e-3 to 1e3 in half decades, "
        "by exact leave-one-out squared error",
    ),
    "prototype": HeadEntry(
        lambda seed: PrototypeHead(),
        "none: centred vectors of length 1; temperature by leave-one-out log loss",
    ),
    "knn": HeadEntry(
        lambda seed: KnnHead(random_state=seed),
        "k of 1, 3, 5, 10, 20 or 50 by leave-one-out balanced accuracy; "
        "centred cosine, votes at temperature 0.07",
    ),
    "majority": HeadEntry(
        lambda seed: DummyClassifier(strategy="prior"),
        "none: the most frequent class",
        "vectors",
        True,
    ),
    "tfidf": HeadEntry(
        lambda seed: Pipeline([("features", text_features()), ("logistic", _text_logistic(seed))]),
        "TF-IDF of words (1-2) and characters (3-5), then logistic with C of 1, 10 or 100 "
        "by held-out log loss",
        "texts",
        True,
    ),
}


def head_entry(name: str) -> HeadEntry:
    """Look up a head by its name.

    Raises
    ------
    UnknownHead
        With the nearest names.
    """
    try:
        return HEADS[name]
    except KeyError:
        raise UnknownHead(f"no head {name!r}: {nearest(name, HEADS, n=len(HEADS))}") from None


def counts_head(n_words: int, seed: int) -> Pipeline:
    """Return ``tfidf`` for n-grams that are already counted (`estimators.tfidf`)."""
    return Pipeline([("features", CountsTfidf(n_words)), ("logistic", _text_logistic(seed))])


def _text_logistic(seed: int) -> LogisticHead:
    return LogisticHead(normalisation="none", Cs=TFIDF_CS, random_state=seed)
