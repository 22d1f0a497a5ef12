"""Heads that retrain the upper blocks of a network on cached activations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from featurestore.terms.activations import Activations
from featurestore.terms.words import counted
from heads.estimators.lda import LdaHead
from heads.estimators.logistic import LogisticHead
from heads.estimators.per_label import PerLabel
from heads.estimators.regression import RidgeRegressor
from heads.estimators.softmax import softmax
from heads.labels.pace import pace

if TYPE_CHECKING:
    from heads.estimators.retrain import Answers, Linear, Network, Recipe, Run, Weights

RATES = (1e-3, 3e-4)
LEFT_OUT = " left out"  # said of runs that collapsed
CUT_SHORT = ", cut short by the time"  # ends what is said of a fit that had too little
LEAST_SCALE = 1e-3  # of a column, of the median of all: it counts less than standardised
DOUBT = 1e-3  # of the frozen members, for all classes alike
TOLD_EVERY_S = 0.5
TIMED_STEPS = 3  # tell how long the others take
SPARE = 0.9  # of the time: the rest is for what comes after the steps
Scores = NDArray[np.float64]


class _Retrained(BaseEstimator):  # type: ignore[misc]
    """What classifiers and regressors have in common.

    A frozen head learns from the vectors that the network gives as it is. Each run then begins
    from that head: the blocks above the cut are trained with it, at a rate of its own. The answer
    is the mean of what the frozen head and the runs say [1]_. (Of classes the frozen head is
    logistic regression, from which the runs begin, and LDA, the mean of both.) A run that knows
    little more than the labels' frequencies in the end has collapsed: it is left out, and
    ``note_`` says so.

    Parameters
    ----------
    upper : callable
        Returns the blocks above the cut as a torch module that may be changed
        (`featurestore.encoders.upper_part.upper_of`).
    cut : int, optional
        After how many blocks, for those who read what was learned.
    alone : bool
        Answer with the runs alone, to see what they are worth.
    rates : sequence of float
        Largest learning rate of each run.
    epochs, least_steps : int
        A run takes so many passes over the rows, and at least so many steps of 32 rows.
    random_state : int or None
        Draws batches and variants: equal numbers on one machine.

    References
    ----------
    .. [1] Kumar et al., "Fine-Tuning can Distort Pretrained Features", ICLR 2022 (the runs begin
       from a trained head); Wortsman et al., "Robust fine-tuning", CVPR 2022 (the average).
    """

    def __init__(
        self,
        upper: Callable[[], Any] | None = None,
        cut: int | None = None,
        alone: bool = False,
        rates: Sequence[float] = RATES,
        epochs: int = 12,
        least_steps: int = 96,
        random_state: int | None = 0,
    ):
        self.upper = upper
        self.cut = cut
        self.alone = alone
        self.rates = rates
        self.epochs = epochs
        self.least_steps = least_steps
        self.random_state = random_state

    @property
    def recipe(self) -> Recipe:
        """How a run learns."""
        from heads.estimators.retrain import Recipe

        return Recipe(self.epochs, self.least_steps)

    def vectors(self, X: Activations) -> NDArray[np.float32]:
        """Return what the network gives as it was pretrained, (n, dim)."""
        from heads.estimators.retrain import outputs

        return outputs(self._network(), X)

    def _network(self) -> Any:
        if self.upper is None:
            raise ValueError("this head needs the blocks above the cut: give it upper=…")
        return self.upper()

    def _learn(self, X: Activations, answers: Answers) -> None:
        """Make the runs, and keep those that did not collapse."""
        self.runs_: list[Weights] = []
        notes: list[str] = []
        chance = answers.chance()
        n_steps, rates = self._affordable(X, answers, notes)
        collapsed: list[float] = []
        steps = _Steps(n_steps * len(rates))
        for number, rate in enumerate(rates):
            try:
                run = self._run(X, answers, rate, number, n_steps, steps)
            except KeyboardInterrupt:
                if not pace().may_stop:
                    raise
                notes.append(
                    f"Stopped by Ctrl-C after {steps.n_done} of {steps.n} steps: the answer is "
                    + ("that of the frozen head." if not self.runs_ else "without the last run.")
                )
                break
            if run.has_collapsed(chance):
                collapsed.append(rate)
            else:
                self.runs_.append(run.weights)
        if collapsed:
            named = " and ".join(f"{rate:g}" for rate in collapsed)
            notes.append(
                f"Retraining at a rate of {named} collapsed (it learned little more than how "
                "frequent the labels are) and is left out"
                + (": the answer is that of the frozen head." if not self.runs_ else ".")
            )
        self.note_ = " ".join(notes)
        who = "alone" if self.alone else "and the frozen head"
        self.retrained_ = f"{counted(len(self.runs_), 'run')} of {counted(n_steps, 'step')} {who}"
        if collapsed:
            self.retrained_ += f", {len(collapsed)}{LEFT_OUT}"
        if (n_steps, rates) != (self.recipe.steps(len(X)), self.rates):
            self.retrained_ += CUT_SHORT

    def _run(
        self,
        X: Activations,
        answers: Answers,
        rate: float,
        number: int,
        n_steps: int,
        on_step: Callable[[], None] = lambda: None,
    ) -> Run:
        from heads.estimators.retrain import Top, retrain

        return retrain(
            Top(self._network(), self._layer()), X, answers, rate, self.recipe,
            seed=_seed(self.random_state, number), n_steps=n_steps, on_step=on_step,
        )  # fmt: skip

    def _affordable(
        self, X: Activations, answers: Answers, notes: list[str]
    ) -> tuple[int, Sequence[float]]:
        """Return the steps of each run, and its rates, as far as the time allows."""
        n_steps, until = self.recipe.steps(len(X)), pace().until
        if until == math.inf:
            return n_steps, self.rates
        begin = time.perf_counter()
        self._run(X, answers, min(self.rates), 0, TIMED_STEPS)
        one = (time.perf_counter() - begin) / TIMED_STEPS
        most = max(0, int(SPARE * (until - time.monotonic()) / one))
        for rates in (self.rates, self.rates[-1:]):  # one gentle run rather than two cut short
            if most >= len(rates) * min(n_steps, self.least_steps):
                n = min(n_steps, most // len(rates))
                if n < n_steps or len(rates) < len(self.rates):
                    notes.append(
                        f"In the given time {len(rates)} of {len(self.rates)} runs took {n} steps, "
                        f"where {n_steps} are usual."
                    )
                return n, rates
        notes.append(
            f"The given time was too short to retrain anything (a step takes {one:.2g} s): the "
            "answer is that of the frozen head."
        )
        return 0, ()

    def at_once(self, X: Activations) -> tuple[NDArray[Any], Scores | None, NDArray[np.float32]]:
        """Return predictions, probabilities (None of numbers) and vectors, from the same passes."""
        from heads.estimators.retrain import outputs

        network = self._network()
        vectors = outputs(network, X)
        return *self._answer(self._said(X, network, vectors)), vectors

    def _said(
        self,
        X: Activations,
        network: Network | None = None,
        vectors: NDArray[np.float32] | None = None,
    ) -> list[Scores]:
        """Return what the frozen head and each run say, (n, n_out); alone without the first."""
        from heads.estimators.retrain import Top, outputs

        check_is_fitted(self, "runs_")
        network = self._network() if network is None else network  # changed below
        said = []
        if not (self.alone and self.runs_):
            said.append(self._frozen(outputs(network, X) if vectors is None else vectors))
        top = Top(network, self._layer()) if self.runs_ else None
        for run in self.runs_:
            assert top is not None
            top.take(run)
            said.append(np.asarray(outputs(top, X), dtype=np.float64))
        return said

    def _answer(self, said: Sequence[Scores]) -> tuple[NDArray[Any], Any]:
        """Return predictions and probabilities (None of numbers) from what each member says."""
        raise NotImplementedError

    def _frozen(self, vectors: NDArray[np.float32]) -> Scores:
        """Return what the frozen head says, as a run would."""
        raise NotImplementedError

    def _layer(self) -> Linear:
        """Return the frozen head as a layer that runs begin from."""
        raise NotImplementedError

    def apart(self) -> tuple[Self, Weights]:
        """Return this head without what its runs learned, and that by name, to be kept."""
        check_is_fitted(self, "runs_")
        bare = copy(self)
        bare.upper, bare.runs_ = None, []
        found = {f"{n}/{key}": one for n, run in enumerate(self.runs_) for key, one in run.items()}
        return bare, found

    def whole(self, kept: Mapping[str, NDArray[np.float32]]) -> None:
        """Take back what the runs had learned."""
        runs: dict[int, Weights] = {}
        for name, value in kept.items():
            number, _, key = name.partition("/")  # an odd name is a ValueError
            runs.setdefault(int(number), {})[key] = value
        self.runs_ = [runs[number] for number in sorted(runs)]


class FinetuneHead(ClassifierMixin, _Retrained):  # type: ignore[misc]
    """A classifier, of one class or of several labels an item; see `_Retrained`.

    ``fit`` takes `Activations`; labels (n,), or indicators (n, n_labels).

    Parameters
    ----------
    class_weight : {"balanced"} or mapping, optional
        As of `LogisticHead`.
    """

    def __init__(
        self,
        upper: Callable[[], Any] | None = None,
        cut: int | None = None,
        alone: bool = False,
        rates: Sequence[float] = RATES,
        epochs: int = 12,
        least_steps: int = 96,
        class_weight: str | Mapping[Any, float] | None = None,
        random_state: int | None = 0,
    ):
        super().__init__(upper, cut, alone, rates, epochs, least_steps, random_state)
        self.class_weight = class_weight

    def fit(self, X: Activations, y: NDArray[Any], groups: NDArray[Any] | None = None) -> Self:
        """Learn from activations; rows of one group stay together in choices of the frozen head."""
        from heads.estimators.retrain import Answers

        y, vectors = np.asarray(y), self.vectors(X)
        kind = "auto" if y.ndim == 1 else "standardise"  # one for all labels: they share a layer
        one = LogisticHead(kind, class_weight=self.class_weight, random_state=self.random_state)
        self.head_: Any = one if y.ndim == 1 else PerLabel(one)
        self.head_.fit(vectors, y, groups=groups)
        self.classes_ = self.head_.classes_
        self.beside_: LdaHead | None = None
        if y.ndim == 1:
            codes = np.searchsorted(self.classes_, y)
            # With one row a class nothing can be held out to tell how sure it may be.
            if self.class_weight is None and np.median(np.bincount(codes)) > 1:
                self.beside_ = LdaHead(self.random_state).fit(vectors, y, groups=groups)
            weights = self.head_._weights(codes, len(self.classes_), None)
            self._learn(X, Answers("classes", codes, weights))
        else:
            self._learn(X, Answers("labels", y.astype(np.float32)))
        return self

    def _frozen(self, vectors: NDArray[np.float32]) -> Scores:
        if isinstance(self.head_, PerLabel):
            p = np.clip(self.head_.predict_proba(vectors), 1e-12, 1 - 1e-12)
            return np.asarray(np.log(p) - np.log1p(-p))
        members = [self.head_] if self.beside_ is None else [self.head_, self.beside_]
        each = [softmax(one._scores(vectors) * one.sharpness_) for one in members]
        # Where every held-out row was right they may be so sure that no other is heard.
        logs = [np.log((1 - DOUBT) * p + DOUBT / p.shape[1]) for p in each]
        return np.asarray(np.mean(logs, axis=0))

    def _layer(self) -> Linear:
        is_several = isinstance(self.head_, PerLabel)
        return _linear_of_labels(self.head_) if is_several else _linear(self.head_)

    def predict_both(self, X: Activations) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return what `predict` and `predict_proba` do, from the same passes."""
        return self._answer(self._said(X))

    def _answer(self, said: Sequence[Scores]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        p = self.together(said)
        if isinstance(self.head_, PerLabel):
            return (p > 0.5).astype(np.intp), p
        return np.asarray(self.classes_[p.argmax(axis=1)]), p

    def together(self, said: Sequence[Scores]) -> Scores:
        """Return the probabilities whose logarithms are the means of what each member says."""
        if isinstance(self.head_, PerLabel):
            return np.asarray(expit(_log_odds(said)))
        logs = np.mean([log_softmax(one, axis=1) for one in said], axis=0)
        return np.asarray(np.exp(log_softmax(logs, axis=1)))

    def predict_proba(self, X: Activations) -> NDArray[np.float64]:
        """Return probabilities, (n, n_classes) or (n, n_labels)."""
        return self.predict_both(X)[1]

    def predict(self, X: Activations) -> NDArray[Any]:
        """Return the class of each item, (n,), or its labels as 0 or 1, (n, n_labels)."""
        return self.predict_both(X)[0]


class FinetuneRegressor(RegressorMixin, _Retrained):  # type: ignore[misc]
    """A regressor: the mean of a frozen ridge head and the runs; see `_Retrained`."""

    def fit(self, X: Activations, y: NDArray[Any], groups: NDArray[Any] | None = None) -> Self:
        """Learn from activations and numbers (n,)."""
        from heads.estimators.retrain import Answers

        y, vectors = np.asarray(y, dtype=np.float64), self.vectors(X)
        self.head_ = RidgeRegressor(random_state=self.random_state).fit(vectors, y, groups=groups)
        self.mean_, self.std_ = float(y.mean()), float(y.std()) or 1.0
        values = ((y - self.mean_) / self.std_)[:, None].astype(np.float32)
        self._learn(X, Answers("numbers", values))
        return self

    def _frozen(self, vectors: NDArray[np.float32]) -> Scores:
        return np.asarray(((self.head_.predict(vectors) - self.mean_) / self.std_)[:, None])

    def _layer(self) -> Linear:
        return _linear(self.head_, self.mean_, self.std_)

    def predict(self, X: Activations) -> NDArray[np.float64]:
        """Return the number of each item, (n,)."""
        return self._answer(self._said(X))[0]

    def _answer(self, said: Sequence[Scores]) -> tuple[NDArray[np.float64], None]:
        return np.asarray(np.mean(said, axis=0)[:, 0] * self.std_ + self.mean_), None


class _Steps:
    """Counts steps, and says how far they are and how long the rest takes."""

    def __init__(self, n: int) -> None:
        self.n, self.n_done = n, 0
        self.pace = pace()
        self.began = self.told = time.monotonic()

    def __call__(self) -> None:
        self.n_done += 1
        now = time.monotonic()
        if now - self.told >= TOLD_EVERY_S or self.n_done == self.n:
            self.told = now
            left = (now - self.began) / self.n_done * (self.n - self.n_done)
            self.pace.tell(f"step {self.n_done:,} of {self.n:,}, about {left:.0f} s left")


def _seed(random_state: int | None, number: int) -> int:
    if random_state is None:
        return int(np.random.default_rng().integers(2**31))
    return int(np.random.default_rng([random_state, number]).integers(2**31))


def _linear(head: LogisticHead | RidgeRegressor, mean: float = 0.0, std: float = 1.0) -> Linear:
    """Return a fitted logistic or ridge head as a layer on vectors as they come."""
    from heads.estimators.retrain import Linear

    sharp = getattr(head, "sharpness_", 1.0) / std
    weights, bias = sharp * head.weights_[:-1], sharp * (head.weights_[-1] - mean)
    if (normaliser := head.normaliser_) is None:
        return Linear(np.zeros(len(weights)), weights, bias)
    shift, scale = normaliser.shift_, normaliser.scale_
    length = None
    if normaliser.kind == "l2":  # rows get one length: that of vectors as they come, on average
        length = float(scale[0])
    # Columns that hardly vary (1e-33 in MiniLM) would have weights whose gradients overflow.
    known = scale[np.isfinite(scale)]
    least = LEAST_SCALE * float(np.median(known)) if len(known) else 1.0
    return Linear(shift, weights / np.maximum(scale, least)[:, None], bias, length)


def _linear_of_labels(head: PerLabel) -> Linear:
    """Return one layer for heads of two classes, one for each label."""
    from heads.estimators.retrain import Linear

    layers = [None if one is None else _linear(one) for one in head.heads_]
    known = [one for one in layers if one is not None]
    if not known:
        raise ValueError("no label is there in some rows and absent in others")
    dim = len(known[0].shift)
    weights, bias = np.zeros((dim, len(layers))), np.zeros(len(layers))
    for column, (layer, always) in enumerate(zip(layers, head.always_, strict=True)):
        if layer is None:
            bias[column] = 6.0 if always > 0.5 else -6.0
        else:
            weights[:, column] = layer.weights[:, 1] - layer.weights[:, 0]
            bias[column] = layer.bias[1] - layer.bias[0]
    return Linear(known[0].shift, weights, bias)


def _log_odds(said: Sequence[Scores]) -> Scores:
    """Return the log-odds of the mean log-probabilities, label by label."""
    yes = np.mean([log_expit(one) for one in said], axis=0)
    no = np.mean([log_expit(-one) for one in said], axis=0)
    return np.asarray(yes - no)
