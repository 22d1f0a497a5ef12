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

from featurestore.errors import TimeIsUp
from featurestore.terms.activations import Activations
from featurestore.terms.words import counted
from heads.estimators.kept_runs import KeptRuns
from heads.estimators.layer_of_head import layer_of_head, layer_of_labels
from heads.estimators.lda import LdaHead
from heads.estimators.logistic import LogisticHead
from heads.estimators.per_label import PerLabel
from heads.estimators.regression import RidgeRegressor
from heads.estimators.softmax import softmax
from heads.labels.pace import Work, pace

if TYPE_CHECKING:
    from heads.estimators.retrain import Answers, Linear, Network, Recipe, Run, Weights

RATES = (1e-3, 3e-4)
LEFT_OUT = " left out"  # said of runs that collapsed
CUT_SHORT = ", cut short by the time"  # ends what is said of a fit that had too little
DOUBT = 1e-3  # of the frozen members, for all classes alike
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

    keep: KeptRuns | None = None  # where runs that are done are kept, and read from

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

    def n_steps(self, n_rows: int) -> int:
        """Return how many steps all runs take on so many rows."""
        return len(self.rates) * self.recipe.steps(n_rows)

    def least(self, n_rows: int) -> int:
        """Return how many steps the shortest run takes that is worth making."""
        return min(self.recipe.steps(n_rows), self.least_steps)

    def seconds_a_step(self, X: Activations, n_out: int) -> float:
        """Time some steps of the blocks on rows of a tap; nothing of it is kept."""
        from heads.estimators.retrain import seconds_a_step

        some = X[np.linspace(0, len(X) - 1, min(len(X), 4 * self.recipe.batch)).astype(np.intp)]
        return seconds_a_step(self._network(), some, n_out, min(self.rates), self.recipe)

    def _learn(self, X: Activations, answers: Answers, groups: NDArray[Any] | None) -> None:
        """Make the runs, and keep those that did not collapse."""
        self.runs_: list[Weights] = []
        notes: list[str] = []
        chance = answers.chance()
        n_steps, rates = self._affordable(X, answers, notes)
        collapsed: list[float] = []
        steps = _Steps(n_steps * len(rates), self.n_steps(len(X)))
        for number, rate in enumerate(rates):
            try:
                run = self._kept_run(X, answers, groups, rate, number, n_steps, steps)
            except KeyboardInterrupt:
                if not pace().may_stop:
                    raise
                if self.keep is not None:
                    self.keep.is_stopped = True
                notes.append(
                    f"Stopped by Ctrl-C after {steps.n_done} of {steps.n} steps: the answer is "
                    + ("that of the frozen head." if not self.runs_ else "without the last run.")
                )
                break
            steps.reach((number + 1) * n_steps)
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

    def _kept_run(
        self,
        X: Activations,
        answers: Answers,
        groups: NDArray[Any] | None,
        rate: float,
        number: int,
        n_steps: int,
        on_step: Callable[[], None],
    ) -> Run:
        """Make a run, or read it where an equal one was made before."""
        if self.keep is None or self.random_state is None:
            return self._run(X, answers, rate, number, n_steps, on_step)
        decides = {
            "rate": rate, "number": number, "steps": n_steps, "recipe": str(self.recipe),
            "seed": self.random_state, "params": repr(getattr(self, "class_weight", None)),
        }  # fmt: skip
        file = self.keep.file(decides, X, answers, groups)
        run = self.keep.read(file)
        if run is None:
            run = self._run(X, answers, rate, number, n_steps, on_step)
            self.keep.write(file, run)
        return run

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
        if until == math.inf or not pace().may_shorten:
            return n_steps, self.rates
        begin = time.perf_counter()
        self._run(X, answers, min(self.rates), 0, TIMED_STEPS)
        one = (time.perf_counter() - begin) / TIMED_STEPS
        most = max(0, int(SPARE * (until - time.monotonic()) / one))
        for rates in (self.rates, self.rates[-1:]):  # one gentle run rather than two cut short
            if most >= len(rates) * self.least(len(X)):
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
        bare.__dict__.pop("keep", None)
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
            self._learn(X, Answers("classes", codes, weights), groups)
        else:
            self._learn(X, Answers("labels", y.astype(np.float32)), groups)
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
        return layer_of_labels(self.head_) if is_several else layer_of_head(self.head_)

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
        self._learn(X, Answers("numbers", values), groups)
        return self

    def _frozen(self, vectors: NDArray[np.float32]) -> Scores:
        return np.asarray(((self.head_.predict(vectors) - self.mean_) / self.std_)[:, None])

    def _layer(self) -> Linear:
        return layer_of_head(self.head_, self.mean_, self.std_)

    def predict(self, X: Activations) -> NDArray[np.float64]:
        """Return the number of each item, (n,)."""
        return self._answer(self._said(X))[0]

    def _answer(self, said: Sequence[Scores]) -> tuple[NDArray[np.float64], None]:
        return np.asarray(np.mean(said, axis=0)[:, 0] * self.std_ + self.mean_), None


class _Steps:
    """Counts the steps of a fit, and stops it where the time is up."""

    def __init__(self, n: int, n_usual: int) -> None:
        self.n, self.n_done = n, 0
        self.pace = pace()
        if self.pace.work is None:
            self.work = Work(n)
        else:
            self.work = self.pace.work
            self.work.drop(n_usual - n)
        self.work.begin()

    def __call__(self) -> None:
        self.n_done += 1
        self.work.step(self.pace.tell)
        if not self.pace.may_shorten and time.monotonic() > self.pace.until:
            raise TimeIsUp("the time was over before a fit was done")

    def reach(self, n: int) -> None:
        """Leave out the steps of a run that was read, or broke off."""
        self.work.drop(n - self.n_done)
        self.n_done = n


def _seed(random_state: int | None, number: int) -> int:
    if random_state is None:
        return int(np.random.default_rng().integers(2**31))
    return int(np.random.default_rng([random_state, number]).integers(2**31))


def _log_odds(said: Sequence[Scores]) -> Scores:
    """Return the log-odds of the mean log-probabilities, label by label."""
    yes = np.mean([log_expit(one) for one in said], axis=0)
    no = np.mean([log_expit(-one) for one in said], axis=0)
    return np.asarray(yes - no)
