"""Labels that spread to unlabelled items: few labels teach more where items lie in clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data

from heads.estimators.base import ScoreHead
from heads.estimators.lda import LdaHead
from heads.estimators.logistic import LogisticHead
from heads.estimators.ridge import RidgeHead
from heads.estimators.softmax import softmax
from heads.labels.fitting import fit_head
from heads.labels.matrix import Matrix
from heads.labels.shared import sharing
from heads.labels.unlabelled import Pooled

K = 15  # neighbors of each item in the graph
ALPHA = 0.9  # how much of what an item says comes from its neighbors
N_STEPS = 40
PRIOR = 2.0  # at the start, all guesses together weigh so much more than all labels
EVEN = 4.0  # labels a class with which shares of classes lie half way from equal to guessed
ENTROPY = 0.4  # of the most there can be: the mean entropy at which members are put together
MOST_TAUGHT = 3_000  # unlabelled items that teach the students, of all classes
LEAST_A_CLASS = 5  # unlabelled items: fewer say too little of where the classes lie
STUDENTS = 8.0  # labels a class with which heads and students count the same
MANY_CLASSES = 20  # from which on ridge loses classes between others
LOOKED_AT = 2_000  # rows that a sharpness is chosen on

Scores = NDArray[np.float64]  # (n, n_classes)


class PropagateHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Heads that learn from labelled rows, and students that learn from unlabelled items too.

    The average of the heads guesses softly what each unlabelled item is. Labels and guesses
    spread along the graph of nearest neighbors (Zhou et al. [1]_; guesses at the start: Huang
    et al. [2]_). Each class gets its share of the whole: an equal one with few labels, that of
    the guesses with many. The surer half of the items of each class teaches the students. The
    answer is the weighted mean of log-probabilities of heads and students: the students count as
    much as the heads with 8 labels a class, more with fewer. Members are brought to one mean
    entropy first: none outvotes the others by being too sure.

    Of a plain matrix, or with fewer than 5 unlabelled items a class, it is the average of the
    heads. ``used_`` says which, and ``note_`` why. New items are answered by heads and students;
    no item is kept.

    Parameters
    ----------
    heads : sequence of ScoreHead, optional
        Default logistic, ridge and lda: few labels cannot tell which is best. Ridge only with 20
        classes or fewer: with many it loses those that lie between others.
    students : sequence of ScoreHead, optional
        Default ridge and lda; with more than 20 classes logistic.
    strict : bool
        Use the students only if the labels that spread agree with the witness, on the unlabelled
        items, more than the heads do.
    witness : estimator, optional
        A head for what another encoder says of the items (`Pooled.other`); default ridge.
    random_state : int or None

    References
    ----------
    .. [1] Zhou et al., Learning with Local and Global Consistency, NeurIPS 2003.
    .. [2] Huang et al., Combining Label Propagation and Simple Models, ICLR 2021,
       arXiv:2010.13993.
    """

    def __init__(
        self,
        heads: Sequence[ScoreHead] | None = None,
        students: Sequence[ScoreHead] | None = None,
        strict: bool = False,
        witness: BaseEstimator | None = None,
        random_state: int | None = 0,
    ):
        self.heads = heads
        self.students = students
        self.strict = strict
        self.witness = witness
        self.random_state = random_state

    def fit(self, X: Pooled | Matrix, y: NDArray[Any], groups: NDArray[Any] | None = None) -> Self:
        """Learn from rows X, (n, dim), and the items seen beside them; y and groups are (n,)."""
        pooled = X if isinstance(X, Pooled) else None
        rows, y = validate_data(self, _rows(X), y, dtype=[np.float64, np.float32])
        heads = self.heads or self._default(len(np.unique(y)), of_students=False)
        if len(np.unique(y)) == len(y):  # no spread within classes for lda to learn
            heads = [head for head in heads if not isinstance(head, LdaHead)] or heads
        with sharing():
            self.heads_ = [fit_head(clone(head), rows, y, groups) for head in heads]
        self.classes_ = self.heads_[0].classes_
        pool = rows[:0] if pooled is None else pooled.pool_vectors
        self.note_ = self._why_not(len(pool))
        pool = rows[:0] if self.note_ else pool  # too few are as good as none
        shown = np.concatenate([rows, pool]) if len(pool) else rows
        said = [_scores(head, shown) for head in self.heads_]
        self.head_sharpness_ = [_sharpness(one) for one in said]
        self.students_: list[Any] = []
        self.student_sharpness_: list[float] = []
        self.weight_ = 0.0
        guesses = _together(said, self.head_sharpness_)
        answer = guesses
        if pooled is not None and not self.note_:
            spread = spread_labels(pooled, np.searchsorted(self.classes_, y), np.exp(guesses))
            self.note_ = self._doubt(pooled, y, spread, guesses[len(y) :])
            if not self.note_:
                answer = self._teach(pooled, shown, y, spread, groups, guesses)
        self.used_ = bool(self.students_)
        # As sure as the first head, which chose that on rows it had not learned from.
        self.sharpness_ = _sharpness(answer, _entropy(self.heads_[0].predict_proba(shown)))
        return self

    def _default(self, n_classes: int, *, of_students: bool) -> Sequence[ScoreHead]:
        logistic, lda = LogisticHead(random_state=self.random_state), LdaHead(self.random_state)
        if n_classes > MANY_CLASSES:
            return (logistic,) if of_students else (logistic, lda)
        return (RidgeHead(), lda) if of_students else (logistic, RidgeHead(), lda)

    def _why_not(self, n_pool: int) -> str:
        """Say why unlabelled items cannot teach; nothing where they can."""
        n_classes = len(self.classes_)
        if n_pool >= LEAST_A_CLASS * n_classes:
            return ""
        few = f"the {n_pool:,} unlabelled items here are" if n_pool > 1 else "1 unlabelled item is"
        return (
            f"Unlabelled items were not used: {few} too few for {n_classes} classes."
            if n_pool
            else "Unlabelled items were not used: there are none."
        )

    def _doubt(self, X: Pooled, y: NDArray[Any], spread: Scores, guesses: Scores) -> str:
        """Say why the labels that spread are not trusted; nothing where they are."""
        if not self.strict:
            return ""
        if X.other is None:
            return (
                "Unlabelled items were not used: no other encoder is there to agree with the "
                "labels that spread to them."
            )
        of_rows, of_pool = X.other
        witness = clone(self.witness) if self.witness is not None else RidgeHead()
        said = np.searchsorted(self.classes_, witness.fit(of_rows, y).predict(of_pool))
        ours, theirs = (float(np.mean(one.argmax(axis=1) == said)) for one in (spread, guesses))
        if ours > theirs:
            return ""
        return (
            f"Unlabelled items were not used: another encoder agrees with {ours:.0%} of the labels "
            f"that spread to them, and with {theirs:.0%} of what the heads say."
        )

    def _teach(
        self,
        X: Pooled,
        shown: NDArray[Any],
        y: NDArray[Any],
        spread: Scores,
        groups: NDArray[Any] | None,
        guesses: Scores,
    ) -> Scores:
        """Fit the students; return what all members say of the items shown, (n + m, ·)."""
        n = len(y)
        chosen = surer_half(spread)
        taught = np.concatenate([np.arange(n), n + chosen])
        names = np.concatenate([y, self.classes_[spread[chosen].argmax(axis=1)]])
        Z, within = shown[taught], None if groups is None else X.blocks[taught]
        with sharing():
            students = self.students or self._default(len(self.classes_), of_students=True)
            self.students_ = [fit_head(clone(one), Z, names, within) for one in students]
        said = [_scores(one, shown) for one in self.students_]
        self.student_sharpness_ = [_sharpness(one) for one in said]
        self.weight_ = STUDENTS / (STUDENTS + n / len(self.classes_))
        self.note_ = (
            f"{len(spread):,} unlabelled items were looked at; {len(chosen):,} of them taught, "
            f"with the labels that spread to them from {n:,} labelled items."
        )
        return (1 - self.weight_) * guesses + self.weight_ * _together(
            said, self.student_sharpness_
        )

    @property
    def chosen_(self) -> str:
        """Whether unlabelled items taught, for tables of settings."""
        return "taught by unlabelled items" if self.used_ else "by labelled items alone"

    def _answers(self, X: Pooled | Matrix) -> Scores:
        check_is_fitted(self, "classes_")
        X = validate_data(self, _rows(X), dtype=[np.float64, np.float32], reset=False)
        found = _together([_scores(one, X) for one in self.heads_], self.head_sharpness_)
        if self.students_:
            said = _together([_scores(one, X) for one in self.students_], self.student_sharpness_)
            found = (1 - self.weight_) * found + self.weight_ * said
        return self.sharpness_ * found

    def predict_proba(self, X: Matrix) -> NDArray[np.float64]:
        """Return probabilities, shape (n, n_classes), columns in the order of ``classes_``."""
        return softmax(self._answers(X))

    def predict(self, X: Matrix) -> NDArray[Any]:
        """Return the class of each row, shape (n,)."""
        return self.predict_both(X)[0]

    def predict_both(self, X: Matrix) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return what `predict` and `predict_proba` do, from the same scores."""
        answers = self._answers(X)
        return np.asarray(self.classes_[answers.argmax(axis=1)]), softmax(answers)


def spread_labels(X: Pooled, codes: NDArray[np.intp], guesses: Scores) -> Scores:
    """Spread labels and guesses along the graph; return shares of classes, (m, n_classes).

    Parameters
    ----------
    codes : ndarray of shape (n,)
        Class numbers of the rows.
    guesses : ndarray of shape (n + m, n_classes)
        Probabilities; those of the labelled rows are not looked at.
    """
    n, n_all, n_classes = len(codes), len(guesses), guesses.shape[1]
    start = (guesses * (PRIOR * n / max(1, n_all - n))).astype(np.float32)
    start[:n] = 0
    start[np.arange(n), codes] = 1
    graph = _graph(X)
    found = start
    for _ in range(N_STEPS):
        found = ALPHA * (graph @ found) + (1 - ALPHA) * start
    found = found[n:].astype(np.float64)
    trust = n / (n + EVEN * n_classes)
    shares = (1.0 + np.bincount(guesses[n:].argmax(axis=1), minlength=n_classes)) ** trust
    found *= shares / np.maximum(found.sum(axis=0), 1e-12)
    return np.asarray(found / np.maximum(found.sum(axis=1, keepdims=True), 1e-300))


def _graph(X: Pooled) -> csr_array:
    """Return the graph of nearest neighbors: cosine³, both ways, normalised by degrees."""
    near, cosines = X.neighbors(K)
    n, k = near.shape
    weights = np.maximum(cosines, 0).astype(np.float32) ** 3
    begins = np.arange(0, n * k + 1, k)
    graph = csr_array((weights.ravel(), near.ravel(), begins), shape=(n, n))
    graph = csr_array(graph.maximum(graph.T))
    degrees = np.maximum(np.asarray(graph.sum(axis=1)).ravel(), 1e-12) ** -0.5
    graph.data *= np.repeat(degrees, np.diff(graph.indptr)) * degrees[graph.indices]
    return graph


def surer_half(spread: Scores) -> NDArray[np.intp]:
    """Return the items of each class, by its share of them, whose class is surer than the rest's.

    At most `MOST_TAUGHT` of all; spread is (m, n_classes).
    """
    codes, sure = spread.argmax(axis=1), spread.max(axis=1)
    n_classes = spread.shape[1]
    most = max(LEAST_A_CLASS, MOST_TAUGHT // n_classes)
    order = np.lexsort((-sure, codes))
    sizes = np.bincount(codes, minlength=n_classes)
    rank = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    is_kept = rank < np.minimum((sizes + 1) // 2, most)[codes[order]]
    return np.asarray(np.sort(order[is_kept]))


def _rows(X: Pooled | Matrix) -> Matrix:
    """Return the labelled rows of what may have unlabelled items beside them."""
    return np.asarray(X) if isinstance(X, Pooled) else X


def _scores(head: ScoreHead, X: NDArray[Any]) -> Scores:
    """Return a score for each class, (n, n_classes)."""
    said = np.asarray(head.decision_function(X), dtype=np.float64)
    return said if said.ndim == 2 else np.stack([-said / 2, said / 2], axis=1)


def _together(said: Sequence[Scores], sharpness: Sequence[float]) -> Scores:
    """Return the mean of log-probabilities, normalised."""
    logs = [log_softmax(s * one, axis=1) for one, s in zip(said, sharpness, strict=True)]
    return np.asarray(log_softmax(np.mean(logs, axis=0), axis=1))


def _entropy(p: NDArray[np.float64]) -> float:
    """Return the mean entropy of rows of probabilities, as a share of the most there can be."""
    return float(-(p * np.log(np.maximum(p, 1e-300))).sum(axis=1).mean() / math.log(p.shape[1]))


def _sharpness(scores: Scores, entropy: float = ENTROPY) -> float:
    """Return the factor on scores that gives their softmax this mean entropy."""
    some = scores[:: max(1, len(scores) // LOOKED_AT)]
    spread = float(np.ptp(some, axis=1).mean())
    if spread < 1e-12:
        return 1.0
    low, high = 1e-3 / spread, 1e4 / spread
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _entropy(softmax(some * middle)) > entropy else (low, middle)
    return math.sqrt(low * high)
