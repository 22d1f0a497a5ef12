"""The table of heads: how each is built, and which settings it chooses from."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.pipeline import Pipeline

from featurestore.encoders.trust import PYTHON, find_in_working_folder
from featurestore.errors import BadName, UnknownHead, nearest
from heads.catalogue.best_of import ChosenHead
from heads.catalogue.entry import Build, HeadEntry, per_label_of_texts
from heads.catalogue.retraining import FINETUNE, TAP, finetune_entry, retrains
from heads.catalogue.words import read_prompts
from heads.estimators.knn import KnnHead
from heads.estimators.layers import LayersHead, LayersRegressor
from heads.estimators.lda import LdaHead
from heads.estimators.logistic import LogisticHead
from heads.estimators.mix import MixHead, MixRegressor
from heads.estimators.propagate import PropagateHead
from heads.estimators.prototype import PrototypeHead
from heads.estimators.regression import KnnRegressor, RidgeRegressor
from heads.estimators.ridge import RidgeHead
from heads.estimators.tfidf import CountsTfidf, Lsa, text_features
from heads.estimators.zero_shot import ZeroShotHead, ZeroShotProbe
from heads.labels.tasks import Task
from heads.measures.metrics import METRICS


def _of_words(estimator: ZeroShotHead | ZeroShotProbe, *, is_known: bool = True) -> HeadEntry:
    """Make an entry of a head that knows its classes by name; `heads.catalogue.words` tells it."""

    def build(seed: int) -> Any:
        copy = clone(estimator)
        if isinstance(copy, ZeroShotProbe) and copy.random_state is None:
            copy.set_params(random_state=seed)
        return copy

    about = "none: cosine to the words of each class; temperature by log loss"
    if isinstance(estimator, ZeroShotProbe):
        about = (
            "as logistic, with C from 1e-3, beginning from the cosine to the words of each class"
        )
    if not is_known:
        about = f"as given: {estimator!r}"
    elif estimator.prompts is not None:
        about += f"; prompts {json.dumps(estimator.prompts, sort_keys=True)}"
    return HeadEntry(
        about,
        per_task=lambda task: build if task is Task.MULTICLASS else None,
        reads="words",
        is_known=is_known,
    )


def _of_unlabelled(*, strict: bool) -> HeadEntry:
    """Make an entry of the head that unlabelled items teach as well."""

    def build(seed: int) -> PropagateHead:
        return PropagateHead(strict=strict, random_state=seed)

    return HeadEntry(
        "logistic, ridge and lda together, and students taught by unlabelled items to which "
        "labels spread" + (", if another encoder agrees with them" if strict else ""),
        per_task=lambda task: build if task is Task.MULTICLASS else None,
        reads="witnessed pool" if strict else "pool",
    )


def _mix_of(*names: str) -> HeadEntry:
    """Make an entry of a mix of heads; `heads.catalogue.members` puts them on their inputs."""

    def build(seed: int, task: Task) -> Any:
        return (MixRegressor if task is Task.REGRESSION else MixHead)(random_state=seed)

    members = {name: head_entry(name) for name in names}
    several = [
        n for n, e in members.items() if e.reads in ("blocks", TAP) or e.reads.endswith("pool")
    ]
    if several:
        raise BadName(
            f"{several[0]} cannot be a member of a mix: name heads on one input that learn from "
            "labelled items"
        )
    spaces = "; ".join(f"{name}: {entry.search_space}" for name, entry in members.items())
    of = spaces or "logistic, lda and ridge (of numbers ridge) on each input, and TF-IDF of texts"
    return HeadEntry(
        f"weight of each member, and sharpness, by held-out log loss (of numbers squared error): "
        f"{of}",
        per_task=lambda task: partial(build, task=task),
        reads="blocks",
        members=names,
        is_known=all(entry.is_known for entry in members.values()),
    )


MIX = "mix"  # or mix:HEAD,HEAD
ZERO_SHOT: Mapping[str, Callable[..., ZeroShotHead | ZeroShotProbe]] = {
    "zero-shot": ZeroShotHead,
    "zero-shot+probe": partial(ZeroShotProbe, random_state=None),
}  # NAME or NAME:PROMPTS
HEADS: dict[str, HeadEntry] = {
    "logistic": HeadEntry(
        "normalisation centre, l2 or standardise by ridge leave-one-out; "
        "C from 0.1 to 1e5 in half decades, and sharpness, by held-out log loss",
        lambda seed: LogisticHead(random_state=seed),
    ),
    "logistic-balanced": HeadEntry(
        "as logistic, each class counting as much as any other",
        lambda seed: LogisticHead(class_weight="balanced", random_state=seed),
    ),
    "ridge": HeadEntry(
        "normalisation centre, l2 or standardise, and alpha from 1e-3 to 1e3 in half decades, "
        "by exact leave-one-out squared error",
        lambda seed: RidgeHead(random_state=seed),
        lambda seed: RidgeRegressor(random_state=seed),
    ),
    "lda": HeadEntry(
        "Ledoit-Wolf shrinkage of the covariance within classes, of all together, class by class "
        "or half of each, and temperature by held-out log loss",
        lambda seed: LdaHead(random_state=seed),
    ),
    "layers": HeadEntry(
        "how much each layer counts by leave-one-out log loss, for numbers squared error; then two "
        "heads, their scores averaged: on the network's output as logistic, for numbers ridge, "
        "and on all layers side by side, each of length 1 times the root of its weight",
        lambda seed: LayersHead(random_state=seed),
        lambda seed: LayersRegressor(random_state=seed),
        reads="layers",
    ),
    "prototype": HeadEntry(
        "none: centred vectors of length 1; temperature by leave-one-out log loss",
        lambda seed: PrototypeHead(),
    ),
    "knn": HeadEntry(
        "k of 1, 3, 5, 10, 20 or 50 by leave-one-out balanced accuracy, then votes at temperature "
        "0.02, 0.07 or 0.2 by Brier score; for numbers both by squared error; centred cosine",
        lambda seed: KnnHead(random_state=seed),
        lambda seed: KnnRegressor(random_state=seed),
    ),
    "majority": HeadEntry(
        "none: the most frequent class; for numbers, their mean",
        lambda seed: DummyClassifier(strategy="prior"),
        lambda seed: DummyRegressor(),
        is_baseline=True,
    ),
    "tfidf": HeadEntry(
        "TF-IDF of words (1-2) and characters (3-5), then logistic with C as that of vectors; "
        "for numbers, ridge with alpha by leave-one-out",
        lambda seed: Pipeline([("features", text_features()), ("logistic", _text_logistic(seed))]),
        lambda seed: Pipeline([("features", text_features()), ("ridge", _text_ridge(seed))]),
        reads="texts",
        is_baseline=True,
    ),
    **{name: _of_words(make()) for name, make in ZERO_SHOT.items()},
    "propagate": _of_unlabelled(strict=False),
    "propagate:strict": _of_unlabelled(strict=True),
    FINETUNE: finetune_entry(FINETUNE),
    MIX: _mix_of(),
}
POOL_HEAD = "propagate"
BEST = "best"  # of the default heads, chosen within the training rows
DEFAULT_HEADS = ("logistic", "ridge", "lda", "prototype", "knn")


def default_heads(task: Task) -> tuple[str, ...]:
    """Return the heads that are compared by default."""
    return tuple(name for name in DEFAULT_HEADS if HEADS[name].builder(task) is not None)


def head_entry(name: str) -> HeadEntry:
    """Look up a head by its name; ``python:module:object`` is a scikit-learn estimator.

    ``zero-shot:TEMPLATE`` and ``zero-shot:@FILE`` say what classes are called
    (`heads.catalogue.words`); ``mix:HEAD,HEAD`` names the members of a mix; ``finetune:blocks=2``
    is told in `heads.catalogue.retraining`.

    Raises
    ------
    UnknownHead
        With the nearest names.
    """
    if name.startswith(PYTHON):
        return entry_of(_imported(name))
    stem, colon, rest = name.partition(":")
    if colon and stem in ZERO_SHOT:
        return _of_words(ZERO_SHOT[stem](read_prompts(rest)))
    if colon and stem == MIX:
        return _mix_of(*filter(None, rest.split(",")))
    if retrains(name):
        return finetune_entry(name)
    if name == BEST:
        return best_of({name: HEADS[name] for name in DEFAULT_HEADS})
    try:
        return HEADS[name]
    except KeyError:
        raise UnknownHead(
            f"no head {name!r}: {nearest(name, [*HEADS, BEST], n=len(HEADS) + 1)}; an estimator of "
            "your own is python:module:object"
        ) from None


def reads_several(head: str | Any, *, is_several: bool) -> bool:
    """Whether a head, given by name, reads several inputs, where there are several.

    A mix always does; the best may be a mix.
    """
    if not isinstance(head, str):
        return False
    entry = head_entry(head)
    return entry.reads == "blocks" or (is_several and bool(entry.among))


def head_entries(heads: Sequence[str | Any], task: Task) -> dict[str, HeadEntry]:
    """Look up heads for a task by name; an estimator gets that of its class.

    Raises
    ------
    UnknownHead
        If there is no such head, or it does not do the task.
    BadName
        If something is neither a name nor an estimator.
    """
    found: dict[str, HeadEntry] = {}
    for one in heads:
        name, entry = (one, head_entry(one)) if isinstance(one, str) else _named(one, found)
        if entry.builder(task) is None:
            able = [n for n, known in HEADS.items() if known.builder(task) is not None]
            raise UnknownHead(f"head {name!r} cannot do {task}; these can: {', '.join(able)}")
        found[name] = entry
    return found


def _named(estimator: BaseEstimator, taken: Mapping[str, HeadEntry]) -> tuple[str, HeadEntry]:
    entry = entry_of(estimator)
    stem = name = type(estimator).__name__
    n = 1
    while name in taken or name in HEADS:
        n += 1
        name = f"{stem}-{n}"
    return name, entry


def best_of(entries: Mapping[str, HeadEntry], metric: str | None = None) -> HeadEntry:
    """Make an entry of the best of several heads, chosen on held-out training rows.

    Parameters
    ----------
    entries : mapping
        Name → head.
    metric : str, optional
        What the choice looks at; default the main metric of the task.
    """

    def build(task: Task) -> Build:
        builders = [(name, entry.builder(task)) for name, entry in entries.items()]

        def make(seed: int) -> ChosenHead:
            candidates = [(name, one(seed)) for name, one in builders if one is not None]
            by = metric or next(iter(METRICS[task]))
            return ChosenHead(candidates, str(task), by, random_state=seed)

        return make

    spaces = "; ".join(f"{name}: {entry.search_space}" for name, entry in entries.items())
    return HeadEntry(
        f"the best on a held-out fifth of the training rows (by {metric or 'the main metric'}; "
        f"with fewer than 300 of them on five inner folds) of {spaces}",
        per_task=build,
        is_known=all(entry.is_known for entry in entries.values()),
        among=tuple(entries),
    )


def entry_of(estimator: BaseEstimator) -> HeadEntry:
    """Make an entry of an unfitted scikit-learn estimator.

    Raises
    ------
    BadName
        If it is neither a classifier nor a regressor.
    """

    def build(seed: int) -> Any:
        copy = clone(estimator)
        unset = [
            name
            for name, value in copy.get_params(deep=True).items()
            if value is None and name.rpartition("__")[2] == "random_state"
        ]
        return copy.set_params(**dict.fromkeys(unset, seed))

    if isinstance(estimator, (ZeroShotHead, ZeroShotProbe)) and estimator.class_vectors is None:
        return _of_words(estimator, is_known=False)
    about = f"as given: {estimator!r}"
    if is_classifier(estimator):
        return HeadEntry(about, classifier=build, is_known=False)
    if is_regressor(estimator):
        return HeadEntry(about, regressor=build, is_known=False)
    raise BadName(f"{estimator!r} is not a classifier or regressor of scikit-learn")


def _imported(name: str) -> Any:
    module, colon, attribute = name.removeprefix(PYTHON).partition(":")
    find_in_working_folder()
    try:
        found = getattr(import_module(module), attribute) if colon else None
    except (ImportError, AttributeError) as error:
        raise UnknownHead(f"{name} cannot be imported: {error}") from error
    if inspect.isclass(found) or (callable(found) and not isinstance(found, BaseEstimator)):
        try:
            found = found()
        except TypeError as error:
            raise UnknownHead(f"{name} needs arguments: {error}") from error
    if not isinstance(found, BaseEstimator):
        raise UnknownHead(f"{name} is {found!r}: expected python:module:object of an estimator")
    return found


def counts_builder(n_words: int, task: Task) -> Build:
    """Return what builds ``tfidf`` for n-grams that are already counted (`estimators.tfidf`)."""

    def build(seed: int) -> Pipeline:
        features = ("features", CountsTfidf(n_words))
        if task is Task.REGRESSION:
            return Pipeline([features, ("ridge", _text_ridge(seed))])
        head = Pipeline([features, ("logistic", _text_logistic(seed))])
        return per_label_of_texts(head) if task is Task.MULTILABEL else head

    return build


def best_on_counts(
    entries: Mapping[str, HeadEntry], n_words: int, task: Task, metric: str
) -> Build:
    """Return what builds the best head on TF-IDF, or the majority.

    The head that reads all terms competes with the others of ``entries`` on their first 256
    principal directions, which is as many columns as an encoder's vectors have.
    """

    def build(seed: int) -> ChosenHead:
        sparse = "ridge" if task is Task.REGRESSION else "logistic"
        dense = {name: entry for name, entry in entries.items() if name != sparse}
        candidates: list[tuple[str, Any]] = []
        if sparse in entries or not dense:
            candidates.append((f"{sparse} on tfidf", counts_builder(n_words, task)(seed)))
        if dense:
            chosen = best_of(dense, metric).builder(task)
            assert chosen is not None
            steps = [
                ("features", CountsTfidf(n_words)),
                ("lsa", Lsa(random_state=seed)),
                ("head", chosen(seed)),
            ]
            candidates.append((f"best of {', '.join(dense)} on lsa", Pipeline(steps)))
        majority = HEADS["majority"].builder(task)
        assert majority is not None
        candidates.append(("majority", majority(seed)))
        return ChosenHead(candidates, str(task), metric, random_state=seed)

    return build


def _text_ridge(seed: int) -> RidgeRegressor:
    return RidgeRegressor(random_state=seed)


def _text_logistic(seed: int) -> LogisticHead:
    return LogisticHead(normalisation="none", random_state=seed)  # rows of two unit blocks
