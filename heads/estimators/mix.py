"""Several heads on several inputs, mixed as held-out rows say."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array, column_or_1d, get_tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from featurestore.errors import BadName, ShapeMismatch
from heads.estimators.lda import LdaHead
from heads.estimators.logistic import LogisticHead
from heads.estimators.opinions import in_columns, probabilities
from heads.estimators.per_label import PerLabel
from heads.estimators.pool import fit_floor, fit_linear_pool, fit_pool, left_out, log_floored
from heads.estimators.regression import RidgeRegressor
from heads.estimators.ridge import RidgeHead
from heads.estimators.softmax import softmax
from heads.estimators.tfidf import text_features
from heads.labels.blocks import Blocks
from heads.labels.fitting import asking, deal_folds, fit_head, held_out, is_alone
from heads.labels.matrix import Matrix
from heads.labels.shared import sharing
from heads.labels.tasks import Target, Task

_log = logging.getLogger(__name__)
FLOATS = [np.float64, np.float32]
FEW_ROWS = 100  # below, one head a block: to tell several apart takes more rows
WIDE = 2048  # columns from which on a block has no head but logistic: raw pixels
Member = tuple[str, str, Any]  # its name, the block that it reads, an unfitted estimator
Inputs: TypeAlias = "Blocks | Matrix"


class _Mix(BaseEstimator):  # type: ignore[misc]
    """What mixes of classes and of numbers share: their members, fitted and held out."""

    members_: list[Any]  # fitted; None where the fit failed
    names_: list[str]
    blocks_: list[str]
    failed_: dict[str, str]
    n_held_out_: int

    def __init__(
        self,
        members: Sequence[Member] | None = None,
        random_state: int | None = 0,
        few_rows: int = FEW_ROWS,
    ):
        self.members = members
        self.random_state = random_state
        self.few_rows = few_rows

    def _default(self, block: Matrix, n_columns: int | None) -> dict[str, Any]:
        """Return the estimators by name for a block where no members are given."""
        raise NotImplementedError

    def _begin(self, X: Inputs, n_columns: int | None) -> tuple[Blocks, list[Any]]:
        """Return the inputs as blocks, and the unfitted members."""
        blocks = X if isinstance(X, Blocks) else Blocks({"": X})
        members = self.members
        if members is None:
            members = [
                (f"{kind} on {name}" if name else kind, name, head)
                for name, block in blocks.items()
                for kind, head in self._default(block, n_columns).items()
            ]
        if not len(members):
            raise BadName("members=[]: expected one member or more")
        names = [str(name) for name, _, _ in members]
        if len(set(names)) < len(names):
            raise BadName(f"members need names of their own, got {', '.join(names)}")
        for _, block, _ in members:
            blocks.block(block)  # says which there are
        if len(blocks) < self.few_rows:
            firsts = {block: name for name, block, _ in reversed(members)}
            members = [one for one in members if firsts[one[1]] == one[0]]
        self.names_ = [str(name) for name, _, _ in members]
        self.blocks_ = [str(block) for _, block, _ in members]
        return blocks, [clone(estimator) for _, _, estimator in members]

    def _fit_members(
        self,
        blocks: Blocks,
        heads: list[Any],
        y: NDArray[Any],
        groups: NDArray[Any] | None,
        target: Target,
    ) -> NDArray[np.float64]:
        """Fit the members; return what they say of rows held out, (n_working, n, n_columns).

        NaN where a row was not held out. A member whose fit fails is left out, and named.
        """
        groups = None if groups is None else np.asarray(groups)
        block = np.arange(len(y)) if groups is None else groups
        fold = deal_folds(
            target.strata,
            block,
            are_classes=target.task is Task.MULTICLASS,
            seed=self.random_state or 0,
        )
        self.members_, self.failed_, said = [], {}, []
        last: Exception | None = None
        with sharing():
            for name, where, head in zip(self.names_, self.blocks_, heads, strict=True):
                X = blocks.block(where)
                try:
                    with asking(head, fold) as request:
                        fitted = fit_head(head, X, y, groups)
                    if request.said is None:
                        found = self._refitted(head, X, y, groups, fold, target)
                    else:
                        found = self._aligned(fitted, request.said)
                except Exception as error:
                    last = error
                    self.failed_[name] = f"{type(error).__name__}: {error}"
                    _log.warning("member %r of the mix is left out: %s", name, error)
                    self.members_.append(None)
                    continue
                self.members_.append(fitted)
                said.append(found)
        if last is not None and not said:
            raise last
        known = np.stack(said)
        if target.task is Task.MULTICLASS:
            known[:, is_alone(target.strata, block)] = np.nan
        return known

    def _refitted(
        self,
        head: BaseEstimator,
        X: Matrix,
        y: NDArray[Any],
        groups: NDArray[Any] | None,
        fold: NDArray[np.intp],
        target: Target,
    ) -> NDArray[np.float64]:
        """Fit a member again without each fold; return what it says of the fold's rows."""

        def predict(train: NDArray[np.intp], test: NDArray[np.intp]) -> NDArray[np.float64]:
            within = None if groups is None else groups[train]
            fitted = fit_head(clone(head), X[train], y[train], within)
            return self._said(fitted, X[test])

        return held_out(fold, self._n_columns(target), predict)

    def _n_columns(self, target: Target) -> int:
        raise NotImplementedError

    def _aligned(self, fitted: BaseEstimator, said: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what a member answered, (n, its columns), in our columns."""
        return said

    def _said(self, fitted: BaseEstimator, X: Matrix) -> NDArray[np.float64]:
        """Return what a fitted member says of rows X (n, dim): shape (n, n_columns)."""
        raise NotImplementedError

    def _all_said(self, X: Inputs) -> NDArray[np.float64]:
        """Return what the working members say, (n_working, n, n_columns)."""
        check_is_fitted(self, "members_")
        if isinstance(X, Blocks):
            blocks = X
        else:
            if set(self.blocks_) != {""}:
                raise BadName(f"expected blocks {', '.join(map(repr, self.blocks_))}")
            X = validate_data(self, X, dtype=FLOATS, accept_sparse=self._sparse, reset=False)
            blocks = Blocks({"": X})
        return np.stack(
            [
                self._said(member, blocks.block(block))
                for member, block in zip(self.members_, self.blocks_, strict=True)
                if member is not None
            ]
        )

    def _spread(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values of working members at the places of all, 0 for those that failed."""
        found: NDArray[np.float64] = np.zeros((len(self.members_), *values.shape[1:]))
        found[[member is not None for member in self.members_]] = values
        return found

    @property
    def _sparse(self) -> str | bool:
        """Which sparse matrices all members take, as validation wants it."""
        members = self.members or ()
        return "csr" if all(get_tags(one).input_tags.sparse for _, _, one in members) else False

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = bool(self._sparse)
        return tags


class MixHead(ClassifierMixin, _Mix):  # type: ignore[misc]
    """A logarithmic pool [1]_ of classifiers: probabilities multiplied, each to a power.

    ``p(class)`` is proportional to ``prod(p_i(class) ** (sharpness * w_i))``; the weights are
    those that make training rows likeliest that no member had learned from (whole groups held
    out). Members that are alike in strength count alike, and a weak one counts little, so that a
    mix with an input that needs no pretraining does next to no harm [2]_ (measured against
    logistic regression on the better input: docs/benchmarks.md).

    Parameters
    ----------
    members : sequence of (name, block, estimator), optional
        What each is called, the block of the input that it reads, and an unfitted classifier with
        ``predict_proba`` or ``decision_function``. Default: logistic regression, lda and ridge on
        each block of fewer than 2,048 columns, on others logistic regression alone, behind TF-IDF
        where the block holds texts. A plain matrix is one block of the name ``""``.
    random_state : int or None
        Draws the rows that are held out.
    few_rows : int
        With fewer rows, the first of the members on each block is the only one.

    Attributes
    ----------
    names_, blocks_ : list of n_members str
    members_ : list of n_members fitted estimators
        None for one whose fit failed: ``failed_`` has the reasons by name.
    weights_ : ndarray of shape (n_members,)
        Their sum is 1. With several labels at once the mean of ``label_weights_``,
        (n_labels, n_members).
    left_out_loss_ : ndarray of shape (n_members,)
        By how much the held-out log loss (nats a row) grows without each member, on the rows
        that the weights were learned from; NaN where there
        is no other, or nothing could be held out.
    held_out_loss_ : float
        The held-out log loss of the mix; NaN where nothing could be held out.
    n_held_out_ : int
        Rows that weights were learned from. 0: no class has two groups, so that nothing can be
        held out, and the mix is the plain average.

    References
    ----------
    .. [1] Genest and Zidek, "Combining Probability Distributions", Statistical Science 1, 1986.
    .. [2] "Residual Feature Integration is Sufficient to Prevent Negative Transfer", 2025,
       arXiv:2505.11771 (the same end by other means).
    """

    classes_: NDArray[Any]

    def _default(self, block: Matrix, n_columns: int | None) -> dict[str, Any]:
        seed = self.random_state
        if block.ndim == 1:
            head = LogisticHead("none", random_state=seed)
            last = head if n_columns is None else PerLabel(head)
            return {"tfidf": Pipeline([("features", text_features()), ("logistic", last)])}
        found: dict[str, Any] = {"logistic": LogisticHead(random_state=seed)}
        if block.shape[1] < WIDE and not issparse(block):
            found |= {"lda": LdaHead(random_state=seed), "ridge": RidgeHead(random_state=seed)}
        if n_columns is not None:
            found = {name: PerLabel(head) for name, head in found.items()}
        return found

    def fit(self, X: Inputs, y: NDArray[Any], groups: NDArray[Any] | None = None) -> Self:
        """Learn from n rows: X is `Blocks` or a matrix (n, dim); labels y, groups are (n,).

        With y of shape (n, n_labels), indicators, several labels at once.
        """
        X, y = _checked(self, X, y)
        check_classification_targets(y)
        self.multilabel_ = y.ndim == 2
        if self.multilabel_:
            self.classes_ = np.arange(y.shape[1])
            target = Target(Task.MULTILABEL, y.astype(bool), tuple(map(str, self.classes_)))
        else:
            self.classes_, codes = np.unique(y, return_inverse=True)
            if len(self.classes_) < 2:
                raise ValueError(f"a head needs two classes or more, found 1 class: {y[0]!r}")
            target = Target(Task.MULTICLASS, codes, tuple(map(str, self.classes_)))
        blocks, heads = self._begin(X, y.shape[1] if self.multilabel_ else None)
        self._weigh(self._fit_members(blocks, heads, y, groups, target), target.values)
        return self

    def _weigh(self, said: NDArray[np.float64], values: NDArray[Any]) -> None:
        """Learn from held-out probabilities, (n_working, n, n_columns), and the target's values."""
        is_known = np.isfinite(said).all(axis=(0, 2))
        said, values = said[:, is_known], values[is_known]
        self.n_held_out_ = len(values)
        floors, powers, losses, without = [], [], [], []
        for p, codes in self._questions(said, values):
            floor = np.array([fit_floor(of_one, codes) for of_one in p])
            logs = log_floored(p, floor)
            pool = fit_pool(logs, codes)
            floors.append(floor)
            powers.append(pool.weights * pool.sharpness)
            losses.append(pool.loss)
            without.append(left_out(pool, lambda kept: fit_pool(logs[kept], codes).loss))  # noqa: B023
        self.floors_, self.powers_ = np.stack(floors), np.stack(powers)
        shares = self.powers_ / self.powers_.sum(axis=1, keepdims=True)
        self.weights_ = self._spread(shares.mean(axis=0))
        self.held_out_loss_ = float(np.mean(losses))
        self.left_out_loss_ = self._spread(np.mean(without, axis=0))
        if self.multilabel_:
            self.label_weights_ = self._spread(shares.T).T

    def _questions(
        self, said: NDArray[np.float64], values: NDArray[Any]
    ) -> list[tuple[NDArray[np.float64], NDArray[np.intp]]]:
        """Return probabilities (n_working, n, n_options) and answers (n,) of each label, or once.

        One question of all classes; of several labels one for each: whether it is there.
        """
        if not self.multilabel_:
            return [(said, values)]
        return [
            (np.stack([1 - said[:, :, label], said[:, :, label]], axis=2), values[:, label] * 1)
            for label in range(said.shape[2])
        ]

    def _n_columns(self, target: Target) -> int:
        return len(target.classes)

    def _aligned(self, fitted: BaseEstimator, said: NDArray[np.float64]) -> NDArray[np.float64]:
        return said if self.multilabel_ else in_columns(said, fitted.classes_, self.classes_)

    def _said(self, fitted: BaseEstimator, X: Matrix) -> NDArray[np.float64]:
        return self._aligned(fitted, probabilities(fitted, X, is_multilabel=self.multilabel_))

    def predict_proba(self, X: Inputs) -> NDArray[np.float64]:
        """Return probabilities, (n, n_classes) or (n, n_labels), in the order of ``classes_``."""
        said = self._all_said(X)
        nothing = np.zeros((said.shape[1], said.shape[2]), dtype=np.intp)
        found = [
            softmax(np.einsum("i,irk->rk", power, log_floored(p, floor)))
            for (p, _), floor, power in zip(
                self._questions(said, nothing), self.floors_, self.powers_, strict=True
            )
        ]
        return np.stack([p[:, 1] for p in found], axis=1) if self.multilabel_ else found[0]

    def predict(self, X: Inputs) -> NDArray[Any]:
        """Return the class of each row, (n,), or which labels it has, (n, n_labels), 0 or 1."""
        return self.predict_both(X)[0]

    def predict_both(self, X: Inputs) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return what `predict` and `predict_proba` do, from the same probabilities."""
        p = self.predict_proba(X)
        if self.multilabel_:
            return (p > 0.5).astype(np.intp), p
        return np.asarray(self.classes_[p.argmax(axis=1)]), p


class MixRegressor(RegressorMixin, _Mix):  # type: ignore[misc]
    """A linear pool of regressors: a weighted mean, weights by held-out squared error.

    Parameters and attributes are those of `MixHead`, losses mean squared errors; the default for
    each block is ridge regression, behind TF-IDF where it holds texts.
    """

    def _default(self, block: Matrix, n_columns: int | None) -> dict[str, Any]:
        ridge = RidgeRegressor(random_state=self.random_state)
        if block.ndim == 2:
            return {"ridge": ridge}
        return {"tfidf": Pipeline([("features", text_features()), ("ridge", ridge)])}

    def fit(self, X: Inputs, y: NDArray[Any], groups: NDArray[Any] | None = None) -> Self:
        """Learn from n rows: X is `Blocks` or a matrix (n, dim); numbers y and groups are (n,)."""
        X, y = _checked(self, X, y, is_number=True)
        blocks, heads = self._begin(X, None)
        said = self._fit_members(blocks, heads, y, groups, Target(Task.REGRESSION, y))[:, :, 0]
        is_known = np.isfinite(said).all(axis=0)
        said, y = said[:, is_known], y[is_known]
        self.n_held_out_ = len(y)
        pool = fit_linear_pool(said, y)
        self.powers_ = pool.weights
        self.weights_ = self._spread(pool.weights)
        self.held_out_loss_ = pool.loss
        self.left_out_loss_ = self._spread(
            left_out(pool, lambda kept: fit_linear_pool(said[kept], y).loss)
        )
        return self

    def _n_columns(self, target: Target) -> int:
        return 1

    def _said(self, fitted: BaseEstimator, X: Matrix) -> NDArray[np.float64]:
        return np.asarray(fitted.predict(X), dtype=np.float64).reshape(-1, 1)

    def predict(self, X: Inputs) -> NDArray[np.float64]:
        """Return the number of each row, shape (n,)."""
        said = self._all_said(X)[:, :, 0]
        return np.asarray(self.powers_ @ said)


def _checked(
    mix: _Mix, X: Inputs, y: ArrayLike, *, is_number: bool = False
) -> tuple[Inputs, NDArray[Any]]:
    """Validate rows and what they teach; columns are counted of a plain matrix alone."""
    if isinstance(X, Blocks):
        labels = np.asarray(check_array(y, ensure_2d=False, dtype=None))
        if len(labels) != len(X):
            raise ShapeMismatch(f"{len(X):,} rows and {len(labels):,} labels: expected as many")
    else:
        options = {"multi_output": not is_number, "y_numeric": is_number, "dtype": FLOATS}
        X, labels = validate_data(mix, X, y, accept_sparse=mix._sparse, **options)
    is_column = labels.ndim == 2 and labels.shape[1] == 1
    if is_column and (is_number or not np.isin(labels, [0, 1]).all()):
        labels = column_or_1d(labels, warn=True)
    return X, labels.astype(np.float64) if is_number else labels
