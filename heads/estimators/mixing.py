"""What mixes of classes and of numbers share: their members, fitted and held out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_array, column_or_1d, get_tags
from sklearn.utils.validation import check_is_fitted, validate_data

from featurestore.errors import BadName, ShapeMismatch
from heads.labels.blocks import Blocks
from heads.labels.fitting import asking, deal_folds, fit_head, held_out, is_alone
from heads.labels.matrix import Matrix
from heads.labels.shared import sharing
from heads.labels.tasks import Target, Task

_log = logging.getLogger(__name__)
FLOATS = [np.float64, np.float32]
FEW_ROWS = 100  # below, one head a block: to tell several apart takes more rows
Member = tuple[str, str, Any]  # its name, the block that it reads, an unfitted estimator
Inputs: TypeAlias = "Blocks | Matrix"


class Mixing(BaseEstimator):  # type: ignore[misc]
    """Members that are fitted side by side; subclasses say how they are made one."""

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
        members = self._enough(members, len(blocks))
        return blocks, [clone(estimator) for _, _, estimator in members]

    def _enough(self, members: Sequence[Member], n_rows: int) -> list[Member]:
        """Return the members that so many rows can tell apart, and note what they are called."""
        if n_rows < self.few_rows:
            firsts = {block: name for name, block, _ in reversed(members)}
            members = [one for one in members if firsts[one[1]] == one[0]]
        self.names_ = [str(name) for name, _, _ in members]
        self.blocks_ = [str(block) for _, block, _ in members]
        return list(members)

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
        fold = deal_folds(
            target.strata,
            np.arange(len(y)) if groups is None else groups,
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
        return self._held_out(said, groups, target)

    def _held_out(
        self, said: Sequence[NDArray[np.float64]], groups: NDArray[Any] | None, target: Target
    ) -> NDArray[np.float64]:
        """Stack what members say, (n, n_columns) each; nobody knows a class without its group."""
        known = np.stack(said)
        if target.task is Task.MULTICLASS:
            block = np.arange(len(target)) if groups is None else groups
            known[:, is_alone(target.strata, block)] = np.nan
        return known

    def join(
        self,
        y: NDArray[Any],
        groups: NDArray[Any] | None,
        fitted: Sequence[Any],
        said: Sequence[NDArray[np.float64] | None],
    ) -> Self:
        """Learn weights alone, of members that are fitted on these rows.

        Parameters
        ----------
        y, groups : ndarray
            As of ``fit``.
        fitted : sequence
            The members' estimators, in the order of ``members``.
        said : sequence of ndarray
            What each says of rows that it held out, (n, its columns), as `asking` gives it for
            the folds of `deal_folds`; None: of none.
        """
        members = list(self.members or ())
        kept = [members.index(one) for one in self._enough(members, len(y))]
        self.members_, self.failed_ = [fitted[place] for place in kept], {}
        target = self._target(y)
        empty = np.full((len(y), self._n_columns(target)), np.nan)
        found = [
            empty if (own := said[place]) is None else self._aligned(fitted[place], own)
            for place in kept
        ]
        groups = None if groups is None else np.asarray(groups)
        self._weigh(self._held_out(found, groups, target), target.values)
        return self

    def pooled(self, said: NDArray[np.float64]) -> NDArray[np.float64]:
        """Make one of what the working members say, (n_working, n, n_columns)."""
        raise NotImplementedError

    def _target(self, y: NDArray[Any]) -> Target:
        """Return what is to be learned, and note its classes."""
        raise NotImplementedError

    def _weigh(self, said: NDArray[np.float64], values: NDArray[Any]) -> None:
        """Learn from held-out words, (n_working, n, n_columns), and the target's values."""
        raise NotImplementedError

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


def checked(
    mix: Mixing, X: Inputs, y: ArrayLike, *, is_number: bool = False
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
