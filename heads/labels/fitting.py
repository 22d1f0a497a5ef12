"""How one head is fitted, and how it tells what it says of training rows that it held out.

Most heads hold training rows out to choose their settings. Who needs held-out predictions of a
head asks for them before the fit (`asking`), and the head answers with those that it has made
anyway. A head that does not answer is fitted again without the rows (`held_out`).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heads.labels.folds import N_FOLDS, deal
from heads.labels.matrix import Matrix

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

Part = tuple[NDArray[np.intp], NDArray[np.intp]]  # rows that teach, rows that are held out
TEACHES, IDLE = -1, -2  # in place of a fold: never held out; takes no part in choices
ENOUGH_ROWS, ENOUGH_BLOCKS = 200, 20  # held out, in as few of the five folds as have them
MOST_ROWS, ROWS_A_CLASS = 2000, 25  # that choices look at, at most

# Steps of a pipeline that look at no label.
_WITHOUT_LABELS = (
    "heads.", "sklearn.feature_extraction", "sklearn.preprocessing", "sklearn.decomposition",
)  # fmt: skip

_here = threading.local()


@dataclass(eq=False)
class Request:
    """The wish to know what one head says of rows that it held out."""

    head: Any
    fold: NDArray[np.intp]  # (n,): which rows are held out together; TEACHES or IDLE
    said: NDArray[np.float64] | None = None  # (n, n_classes) or (n,); NaN: not held out

    def folds_of(self, source: NDArray[np.intp] | None, n: int) -> NDArray[np.intp]:
        """Return the fold of each of the n rows of a fit, which may be one of exact copies.

        ``source`` says, for each row that was given, which it became, and -1 where it was dropped.
        """
        if source is None:
            return self.fold
        kept = source >= 0
        found = np.full(n, IDLE)
        np.maximum.at(found, source[kept], self.fold[kept])
        return found

    def first(
        self, order: NDArray[np.intp], source: NDArray[np.intp] | None = None
    ) -> NDArray[np.intp]:
        """Put all rows of a fit, given in some order, in one that begins with those held out."""
        is_held = self.folds_of(source, len(order))[order] >= 0
        return order[np.argsort(~is_held, kind="stable")]

    def parts(self, source: NDArray[np.intp] | None, n: int) -> tuple[NDArray[np.intp], list[Part]]:
        """Return rows of a fit to choose on, and what of *those* teaches and is held out."""
        fold = self.folds_of(source, n)
        rows = np.flatnonzero(fold != IDLE)
        fold = fold[rows]
        return rows, [
            (np.flatnonzero(fold != number), np.flatnonzero(fold == number))
            for number in np.unique(fold[fold >= 0])
        ]

    def answer(
        self,
        rows: NDArray[np.intp],
        said: NDArray[np.float64],
        source: NDArray[np.intp] | None,
        n: int,
    ) -> None:
        """Take what the head says of some rows of a fit of n rows, while it had not seen them."""
        found = np.full((n, *said.shape[1:]), np.nan)
        found[rows] = said
        if source is not None:
            found = np.append(found, np.full((1, *said.shape[1:]), np.nan), axis=0)[source]
        self.said = found


@contextmanager
def asking(head: BaseEstimator, fold: NDArray[np.intp]) -> Iterator[Request]:
    """Ask a head, or the last step of a pipeline, for held-out predictions while it is fitted.

    Nobody answers where a step before it may learn from labels: those of held-out rows, too.
    """
    outer = getattr(_here, "request", None)
    is_asked = all(map(_reads_no_labels, _steps_before(head)))
    _here.request = request = Request(last_step(head) if is_asked else None, fold)
    try:
        yield request
    finally:
        _here.request = outer


def asked(head: BaseEstimator) -> Request | None:
    """Return the request to just this head, if there is one."""
    request: Request | None = getattr(_here, "request", None)
    return request if request is not None and request.head is head else None


def _steps_before(head: BaseEstimator) -> list[Any]:
    """Return the steps of a pipeline before the last one."""
    before: list[Any] = []
    while hasattr(head, "steps"):
        before += [step for _, step in head.steps[:-1]]
        head = head.steps[-1][1]
    return before


def _reads_no_labels(step: Any) -> bool:
    """Whether a step is known to learn from inputs alone."""
    from sklearn.utils import get_tags

    if hasattr(step, "transformer_list"):
        return all(_reads_no_labels(one) for _, one in step.transformer_list)
    module = type(step).__module__
    return module.startswith(_WITHOUT_LABELS) and not get_tags(step).target_tags.required


def last_step(head: BaseEstimator) -> Any:
    """Return the last step of a pipeline, or the estimator that is given."""
    while hasattr(head, "steps"):
        head = head.steps[-1][1]
    return head


def fit_head(head: BaseEstimator, X: Matrix, y: NDArray[Any], groups: NDArray[Any] | None) -> Any:
    """Fit a head or pipeline to X (n, dim), with groups (n,) where its last step takes them."""
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import has_fit_parameter

    last = head.steps[-1][1] if isinstance(head, Pipeline) else head
    if groups is None or not has_fit_parameter(last, "groups"):
        return head.fit(X, y)
    prefix = f"{head.steps[-1][0]}__" if isinstance(head, Pipeline) else ""
    return head.fit(X, y, **{f"{prefix}groups": groups})


def deal_folds(
    strata: NDArray[np.bool_], block: NDArray[Any], *, are_classes: bool, seed: int | None = 0
) -> NDArray[np.intp]:
    """Deal rows to inner folds, (n,): whole blocks, strata spread evenly.

    All five folds where there are few rows; as rows grow in number fewer of them are dealt, since
    a few hundred held-out rows decide as well. A class that lies in one block always teaches, and
    one with few blocks is held out in few folds: each class has a row that teaches.

    Parameters
    ----------
    strata : ndarray of shape (n, n_strata)
        Which class or stratum each row is in.
    block : ndarray of shape (n,)
        Rows of one block stay together.
    are_classes : bool
        Each row is in one of the strata, which heads learn to tell apart.
    """
    rng = np.random.default_rng(seed)
    n, n_strata = strata.shape
    fold = np.full(n, IDLE)
    most = max(MOST_ROWS, ROWS_A_CLASS * n_strata)
    rows = np.sort(rng.permutation(n)[:most])
    _, number = np.unique(block[rows], return_inverse=True)
    counts = np.zeros((number.max() + 1, n_strata))  # (n_blocks, n_strata)
    np.add.at(counts, number, strata[rows].astype(float))
    is_dealt: NDArray[np.bool_] = np.ones(len(counts), dtype=bool)
    if are_classes:
        is_dealt[number[is_alone(strata[rows], number)]] = False
    part = np.full(len(counts), TEACHES)
    if is_dealt.sum() > 1:
        dealt = deal(counts[is_dealt], np.ones(N_FOLDS), rng)
        n_parts = max(
            1,
            round(N_FOLDS * ENOUGH_ROWS / len(rows)),
            math.ceil(N_FOLDS * ENOUGH_BLOCKS / len(counts)),
        )
        place = rng.permutation(N_FOLDS)[dealt]  # the largest block is not always in the first
        part[is_dealt] = np.where(place < n_parts, place, TEACHES)
    fold[rows] = part[number]
    return fold


def inner_parts(
    codes: NDArray[np.intp],
    n_classes: int,
    groups: NDArray[Any] | None,
    request: Request | None,
    source: NDArray[np.intp] | None = None,
    *,
    seed: int | None = 0,
    n_rows: int = 0,
) -> tuple[NDArray[np.intp], list[Part]]:
    """Return rows to make choices on, and what of *those* teaches and is held out.

    The folds are those of ``request``, else dealt by `deal_folds`.

    Parameters
    ----------
    codes, groups : ndarray of shape (n,)
        Of the rows of a fit, which ``source`` says what given ones became.
    seed : int or None
        None: drawn anew each time.
    n_rows : int
        Look at so many rows, if there are; those that are added teach.
    """
    block = np.arange(len(codes)) if groups is None else np.unique(groups, return_inverse=True)[1]
    if request is not None:
        fold = request.folds_of(source, len(codes))
    else:
        strata = codes[:, None] == np.arange(n_classes)
        fold = deal_folds(strata, block, are_classes=True, seed=seed)
    if (n_more := n_rows - int((fold != IDLE).sum())) > 0:
        is_free = (fold == IDLE) & ~np.isin(block, block[fold >= 0])
        fold = fold.copy()
        fold[np.random.default_rng(seed).permutation(np.flatnonzero(is_free))[:n_more]] = TEACHES
    return Request(None, fold).parts(None, len(codes))


def is_alone(strata: NDArray[np.bool_], block: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows, (n,), are of a class that lies in one block: they cannot be held out."""
    number = np.unique(block, return_inverse=True)[1]
    has_other = (strata & (number[:, None] != number[strata.argmax(axis=0)])).any(axis=0)
    return np.asarray((strata & ~has_other).any(axis=1))


def held_out(
    fold: NDArray[np.intp],
    n_columns: int,
    predict: Callable[[NDArray[np.intp], NDArray[np.intp]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Predict each fold from the rows of the others, (n, n_columns); NaN where none was held out.

    ``predict`` gets the rows that teach and those that are held out.
    """
    said = np.full((len(fold), n_columns), np.nan)
    rows, parts = Request(None, fold).parts(None, len(fold))
    for train, test in parts:
        said[rows[test]] = predict(rows[train], rows[test])
    return said
