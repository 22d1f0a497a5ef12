"""Fits of heads on the parts of a plan: several heads at a time, so that they share work."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from featurestore.terms.activations import Activations
from featurestore.terms.vectors import give_back
from heads.labels.fitting import asking, deal_folds, fit_head
from heads.labels.matrix import Matrix
from heads.labels.pace import pace, pacing
from heads.labels.reviewed import Reviewed
from heads.labels.shared import sharing
from heads.labels.tasks import Target, Task
from heads.labels.unlabelled import Pooled
from heads.measures.metrics import Predictions, score

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

Part = tuple[NDArray[np.intp], NDArray[np.intp]]  # training and test rows
_LISTS = ("scores", "as_reviewed", "seconds", "chosen")  # of a tally, one entry for each fit
_ALONE_BYTES = 256 << 20  # of rows whose parts are not fitted side by side
_LISTEN_S = 0.2  # between looks for what threads have done


@dataclass(frozen=True, eq=False)
class Fit:
    """What one fit gave."""

    test: NDArray[np.intp]  # rows
    head: Any
    predictions: Predictions
    seconds: float
    # (n_train, its columns), what it says of training rows that it held out; None: of none
    said: NDArray[np.float64] | None = None


Join = Callable[[Part, Sequence[Fit]], Fit]


@dataclass(frozen=True, eq=False)
class Joined:
    """A head that is made of others, fitted on the same part: it needs no fit of its own."""

    members: Sequence[tuple[int, int]]  # numbers of input and head
    join: Join


class Tally:
    """What is kept of all fits: heads and most probabilities would not fit into memory."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.n_tests = np.zeros(len(target), dtype=np.intp)  # of each row
        self.repeats: list[NDArray[Any]] = []  # each of the shape of the target's values
        shape = (len(target), len(target.classes))
        self.probabilities = np.zeros(shape) if target.classes else None  # of the first repeat
        self.scores: list[dict[str, float]] = []
        self.as_reviewed: list[dict[str, float]] = []
        self.seconds: list[float] = []
        self.chosen: list[dict[str, Any]] = []

    @property
    def is_tested(self) -> NDArray[np.bool_]:
        """Which rows were tested, shape (n,)."""
        return self.n_tests > 0

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` goes on from; probabilities are not in it."""
        return {
            "n_tests": self.n_tests.tolist(),
            "repeats": [predicted.tolist() for predicted in self.repeats],
            **{name: getattr(self, name) for name in _LISTS},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], target: Target) -> Self:
        """Read what `to_json` gave."""
        found = cls(target)
        found.n_tests = np.array(data["n_tests"], dtype=np.intp)
        shape, dtype = target.values.shape, target.values.dtype
        found.repeats = [np.array(one, dtype=dtype).reshape(shape) for one in data["repeats"]]
        found.probabilities = None
        for name in _LISTS:
            setattr(found, name, list(data[name]))
        return found

    def cut(self, n_parts: int, parts: Sequence[Part]) -> None:
        """Forget all but the first of the parts."""
        for _, test in parts[n_parts : len(self.scores)]:
            self.n_tests[test] -= 1
        for name in _LISTS:
            del getattr(self, name)[n_parts:]
        del self.repeats[int(self.n_tests.max(initial=0)) :]

    def add(self, fit: Fit, reviewed: Reviewed | None) -> None:
        """Score a fit, and put its predictions where their rows stand."""
        found, test = fit.predictions, fit.test
        self.scores.append(score(self.target.task, found))
        if reviewed is not None:
            self.as_reviewed.append(_scored_anew(found, reviewed, test))
        self.seconds.append(fit.seconds)
        self.chosen.append(chosen_by(fit.head))
        repeat = int(self.n_tests[test[0]])  # every row is tested once in each
        if repeat == len(self.repeats):
            self.repeats.append(np.zeros_like(self.target.values))
        self.repeats[repeat][test] = found.predicted
        if found.proba is None:
            self.probabilities = None
        elif self.probabilities is not None and repeat == 0:
            self.probabilities[test] = found.proba
        self.n_tests[test] += 1


@dataclass(frozen=True, eq=False)
class Bench:
    """Heads on one input: each part of the rows is cut out once, and fits on it share work."""

    X: Matrix  # (n, dim)
    builds: Sequence[Callable[[], Any]]  # each returns an unfitted head
    taught: Target  # what heads learn
    target: Target  # what they are tested on
    groups: NDArray[np.intp] | None  # (n,), for inner folds
    seed: int = 0  # of inner folds

    def fit(
        self, part: Part, on_fit: Callable[[int], None], done: list[Fit] | None = None
    ) -> list[Fit]:
        """Fit and try every head on one part; ``on_fit`` hears which is done.

        Fits are added to ``done``, so that those before the one that ended it are not lost.
        """
        train, test = part
        X = self.X.part(train, test) if isinstance(self.X, Pooled) else self.X[train]
        taught, target = self.taught.take(train), self.target.take(test)
        y = taught.lesson
        within = None if self.groups is None else self.groups[train]
        fold = deal_folds(
            taught.strata,
            np.arange(len(y)) if within is None else within,
            are_classes=taught.task is Task.MULTICLASS,
            seed=self.seed,
        )
        tested = self.X[test]
        if _is_copied(self.X) and getattr(self.X, "nbytes", 0) > _ALONE_BYTES:
            give_back(self.X)
        fits = [] if done is None else done
        with sharing() as kept:
            for number, build in enumerate(self.builds):
                begin, saved = time.perf_counter(), kept.saved_s
                unfitted = build()
                with asking(unfitted, fold) as request:
                    head = fit_head(unfitted, X, y, within)
                # As if it had been alone: what another head had made is counted, too.
                seconds = time.perf_counter() - begin + kept.saved_s - saved
                found = predictions(head, tested, target)
                fits.append(Fit(test, head, found, seconds, request.said))
                on_fit(number)
        return fits


def fits_of(
    benches: Sequence[Bench],
    parts: Sequence[Part],
    on_fit: Callable[[int, int], None],
    n_done: Sequence[int],
) -> Iterator[tuple[int, list[Fit]]]:
    """Fit all heads of all benches, part after part; yield the bench's number and its fits.

    Where ``on_fit`` raises and there is one part, the fits before are yielded first.

    Several parts run at once, each on one core, where there are several. BLAS threads gain little
    on folds of this size, and where other processes keep the cores busy they wait for each other:
    ten times slower was seen.

    Parameters
    ----------
    on_fit : callable
        Hears of each fit, in the thread of the caller: the numbers of bench and head. What it
        raises ends the fits.
    n_done : sequence of int
        How many of the parts each bench has behind it.
    """
    from threadpoolctl import threadpool_limits

    if len(parts) == 1:
        for number, bench in enumerate(benches):
            fits: list[Fit] = []
            try:
                with pacing(pace().share(len(benches) - number)):
                    bench.fit(parts[0], partial(on_fit, number), fits)
            finally:
                if fits:
                    yield number, fits
        return
    tasks = [
        (number, part)
        for at, part in enumerate(parts)
        for number in range(len(benches))
        if at >= n_done[number]
    ]
    heard: SimpleQueue[Callable[[], None]] = SimpleQueue()
    is_over = False
    outer, n_threads = pace(), n_at_once(len(tasks))
    if any(_is_copied(one.X) and getattr(one.X, "nbytes", 0) > _ALONE_BYTES for one in benches):
        n_threads = 1  # a part is a copy of most rows, and large products gain from more cores
    n_left = len(tasks)

    def run(number: int, part: Part) -> list[Fit]:
        nonlocal n_left

        def put(call: Callable[[], None]) -> None:
            if is_over:
                raise InterruptedError("nobody waits for this fit any more")
            heard.put(call)

        own = outer.share(math.ceil(n_left / n_threads))
        n_left -= 1
        with pacing(replace(own, tell=lambda what: put(partial(outer.tell, what)))):
            return benches[number].fit(part, lambda head: put(partial(on_fit, number, head)))

    n_blas = 1 if n_threads > 1 else None
    with threadpool_limits(limits=n_blas, user_api="blas"), ThreadPoolExecutor(n_threads) as pool:
        try:
            futures = [pool.submit(run, *task) for task in tasks]
            for future in futures:  # its end wakes who listens
                future.add_done_callback(lambda _: heard.put(lambda: None))
            for (number, _), future in zip(tasks, futures, strict=True):
                _listen(future, heard)
                yield number, future.result()
                while not heard.empty():  # behind the result: who stops here has all that is done
                    heard.get()()
        finally:
            is_over = True
            pool.shutdown(wait=False, cancel_futures=True)


def n_at_once(n_fits: int) -> int:
    """Return how many of some fits run side by side."""
    return max(1, min(n_fits, os.cpu_count() or 1, 8))


def _is_copied(X: object) -> bool:
    """Whether rows of it are a copy in memory; those of a tap are read batch by batch."""
    return hasattr(X, "nbytes") and not isinstance(X, Activations)


def with_joined(
    each: Iterator[tuple[int, list[Fit]]],
    joined: Sequence[Joined],
    parts: Sequence[Part],
    on_fit: Callable[[int, int], None],
    n_done: Sequence[int],
) -> Iterator[tuple[int, list[Fit]]]:
    """Pass on what `fits_of` yields; behind the last member's fits of a part, heads made of them.

    Their number is the one behind those of the benches. A part that was left before all members
    were fitted has none.
    """
    wanted = {bench for one in joined for bench, _ in one.members}
    held: dict[int, dict[int, list[Fit]]] = {}  # by part, of those that not all have done
    at = list(n_done)
    for number, fits in each:
        yield number, fits
        at[number] += 1
        if number not in wanted:
            continue
        of_part = held.setdefault(at[number], {})
        of_part[number] = fits
        if len(of_part) < len(wanted):
            continue
        del held[at[number]]
        if all(place < len(of_part[bench]) for one in joined for bench, place in one.members):
            made = [[of_part[bench][place] for bench, place in one.members] for one in joined]
            part = parts[at[number] - 1]
            yield len(n_done), [one.join(part, of) for one, of in zip(joined, made, strict=True)]
            for head in range(len(joined)):
                on_fit(len(n_done), head)


def _listen(future: Future[Any], heard: SimpleQueue[Callable[[], None]]) -> None:
    """Pass on what is heard of fits, until a task is done."""
    while not future.done():
        with suppress(Empty):
            heard.get(timeout=_LISTEN_S)()


def chosen_by(head: BaseEstimator) -> dict[str, Any]:
    """Return the settings that a fitted head chose for itself."""
    last = head[-1] if hasattr(head, "steps") else head
    names = ("chosen_", "normalisation_", "C_", "alpha_", "k_", "temperature_", "retrained_")
    found = {name.rstrip("_"): getattr(last, name) for name in names if hasattr(last, name)}
    plain = {name: v.item() if isinstance(v, np.generic) else v for name, v in found.items()}
    return {name: v for name, v in plain.items() if isinstance(v, (str, int, float, bool))}


def predictions(head: BaseEstimator, X: Matrix, target: Target) -> Predictions:
    """Predict rows X, (n, dim), as class numbers, indicators or numbers, like their target."""
    if target.task is not Task.REGRESSION and hasattr(head, "predict_both"):
        said, proba = head.predict_both(X)
    else:
        said = head.predict(X)
        proba = head.predict_proba(X) if hasattr(head, "predict_proba") else None
    return as_predictions(head, said, proba, target)


def as_predictions(
    head: BaseEstimator, said: NDArray[Any], proba: NDArray[np.float64] | None, target: Target
) -> Predictions:
    """Put what a head says of rows, (n,) or (n, n_labels), in the terms of their target."""
    if target.task is Task.REGRESSION:
        return Predictions(target.values, np.asarray(said, dtype=np.float64).reshape(len(target)))
    if target.task is Task.MULTILABEL:
        return Predictions(target.values, np.asarray(said).astype(bool), proba)
    names = np.array(target.classes)
    if proba is not None:
        found = np.zeros((len(target), len(names)))
        found[:, np.searchsorted(names, head.classes_)] = proba
        proba = found
    return Predictions(target.values, np.searchsorted(names, said), proba)


def _scored_anew(
    found: Predictions, reviewed: Reviewed, test: NDArray[np.intp]
) -> dict[str, float]:
    """Score against what reviewers say, without the rows that they left out."""
    kept = reviewed.teaches[test]
    if not kept.any():
        return {}
    proba = None if found.proba is None else found.proba[kept]
    truth = reviewed.taught.values[test][kept]
    return score(reviewed.taught.task, Predictions(truth, found.predicted[kept], proba))
