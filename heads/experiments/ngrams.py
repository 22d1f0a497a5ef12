"""The n-grams of texts, counted once for all heads and folds."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.terms.embeddings import Embeddings
from heads.catalogue.entry import Build
from heads.catalogue.table import counts_builder
from heads.labels.plan import Plan
from heads.labels.tasks import texts_of


@dataclass(frozen=True, eq=False)
class Ngrams:
    """The n-grams of the texts of a plan's rows, counted once for all folds and heads."""

    table: Embeddings
    plan: Plan

    @cached_property
    def counted(self) -> tuple[Any, int, float]:
        """Counts (n, n_terms), how many terms are words, and the seconds that a fit would add."""
        from heads.estimators.tfidf import count_ngrams

        begin = time.perf_counter()
        counts, n_words = count_ngrams(self.texts.tolist())
        # A head of its own would count the n-grams of its training rows.
        share = np.mean([len(train) for train, _ in self.plan.parts]) / len(self.plan.ids)
        return counts, n_words, float((time.perf_counter() - begin) * share)

    @property
    def texts(self) -> NDArray[Any]:
        """The texts of the plan's rows, (n,)."""
        return texts_of(self.table)[self.plan.rows]

    @cached_property
    def identity(self) -> dict[str, str]:
        """What tells these texts from others."""
        texts = "\0".join(map(str, self.texts))
        return {"texts": hashlib.sha256(texts.encode("utf-8", "surrogatepass")).hexdigest()}

    def builder(self) -> Build:
        """Return what builds ``tfidf`` for these counts."""
        return counts_builder(self.counted[1], self.plan.task)
