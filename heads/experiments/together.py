"""Several inputs at once: of a fit, and of a comparison with the n-grams of texts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from featurestore.errors import BadName
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.specs import ALL_TOGETHER
from heads.catalogue.entry import Build, HeadEntry
from heads.catalogue.members import TEXTS, TFIDF_HEAD, with_members
from heads.catalogue.table import MIX, reads_several
from heads.estimators.mix import MixHead, MixRegressor
from heads.experiments.cells import HELD_BYTES
from heads.experiments.inputs import TFIDF, Cell, Joint, Material
from heads.experiments.ngrams import Ngrams
from heads.labels.blocks import Blocks
from heads.labels.plan import Plan
from heads.labels.tasks import Target, Task
from heads.labels.views import AnyView
from heads.measures.fits import Fit, Part, as_predictions
from heads.measures.metrics import Predictions
from heads.saved.concat import ConcatView, stored
from heads.saved.ground import Ground
from heads.saved.mixed import MixView, mix

if TYPE_CHECKING:
    from featurestore.store.view import View


def of_several(
    name: str,
    views: Sequence[AnyView],
    tables: Sequence[Embeddings],
    plan: Plan,
    ngrams: Ngrams | None,
) -> Material:
    """Return several inputs at once, each by itself: views, and the n-grams of texts, if any."""

    def read() -> tuple[Blocks, float]:
        found: dict[str, Any] = {
            str(view.spec): table.vectors[plan.rows]
            for view, table in zip(views, tables, strict=True)
        }
        if ngrams is None:
            return Blocks(found), 0.0
        counts, _, seconds = ngrams.counted
        return Blocks({**found, TEXTS: counts}), seconds

    def build(entry: HeadEntry) -> Build:
        counted = None if ngrams is None else ngrams.builder()
        return with_members(entry, views, plan.task, plan.classes, counted)

    identity = {
        "of": [[view.fingerprint, view.state] for view in views],
        **({} if ngrams is None else ngrams.identity),
    }

    def joint(entry: HeadEntry, cells: Sequence[Cell], seed: int) -> Joint | None:
        is_large = sum(table.vectors.nbytes for table in tables) > HELD_BYTES
        if entry.among or entry.members or is_large:  # those named may not say what they held out
            return None
        mixed = build(entry)(seed)
        members = _members_among(mixed.members, cells)
        return None if members is None else (members, partial(_join, mixed, plan))

    return Material(name, identity, read, build, joint)


def _members_among(
    members: Sequence[tuple[str, str, Any]], cells: Sequence[Cell]
) -> list[int] | None:
    """Return the numbers of the cells that are the members of a mix; None if one is missing."""
    place = {
        (TEXTS, TFIDF_HEAD) if material.encoder == TFIDF else (material.encoder, name): number
        for number, (material, name, entry) in enumerate(cells)
        if entry.is_known and entry.reads in ("vectors", "texts")
    }
    found = [place.get((block, name.partition(" on ")[0])) for name, block, _ in members]
    return [one for one in found if one is not None] if None not in found else None


def _join(mixed: MixHead | MixRegressor, plan: Plan, part: Part, fits: Sequence[Fit]) -> Fit:
    """Make a mix of members that were fitted on a part, as if it had fitted them."""
    begin = time.perf_counter()
    train, test = part
    head = clone(mixed)
    taught, target = plan.taught.take(train), plan.target.take(test)
    by_name = dict(zip((name for name, _, _ in mixed.members or ()), fits, strict=True))
    fitted = [one.head for one in fits]
    head.join(taught.lesson, plan.block[train], fitted, [one.said for one in fits])
    said = np.stack(
        [
            _said(by_name[name].predictions, target, getattr(head, "classes_", ()))
            for name in head.names_
        ]
    )
    predicted, proba = head.decided(head.pooled(said))
    found = as_predictions(head, predicted, proba, target)
    seconds = time.perf_counter() - begin + sum(one.seconds for one in fits)
    return Fit(test, head, found, seconds)


def _said(
    found: Predictions, target: Target, classes: NDArray[np.str_] | tuple[()]
) -> NDArray[np.float64]:
    """Return what a member predicts, in the columns of a mix that knows ``classes``."""
    if found.proba is None:
        return np.asarray(found.predicted, dtype=np.float64).reshape(len(target), -1)
    if target.task is Task.MULTILABEL:
        return found.proba
    return np.asarray(found.proba[:, np.searchsorted(target.classes, classes)])


def all_together(
    ground: Ground, mixes: Mapping[str, HeadEntry], ngrams: Ngrams | None
) -> list[Cell]:
    """Return mixes of all inputs of a comparison, if there are two or more."""
    pairs = zip(ground.views, ground.tables, strict=True)
    single = [(view, table) for view, table in pairs if not isinstance(view, ConcatView)]
    if len(single) + (ngrams is not None) < 2 or not single:
        return []
    views, tables = zip(*single, strict=True)
    material = of_several(str(ALL_TOGETHER), views, tables, ground.plan, ngrams)
    return [(material, name, entry) for name, entry in mixes.items()]


def mixes_of(ground: Ground, mixes: Mapping[str, HeadEntry], ngrams: Ngrams | None) -> list[Cell]:
    """Return mixes that are asked for, each of all inputs.

    Raises
    ------
    BadName
        If there is one input alone.
    """
    cells = all_together(ground, mixes, ngrams)
    if mixes and not cells and not any(isinstance(view, MixView) for view in ground.views):
        raise BadName(f"{', '.join(mixes)} needs two inputs: name another view")
    return cells


def several_of(entries: Mapping[str, HeadEntry]) -> dict[str, HeadEntry]:
    """Return the heads that read several inputs at once."""
    return {name: entry for name, entry in entries.items() if entry.reads == "blocks"}


def check_reads_columns(view: AnyView | Sequence[View], head: str | Any) -> None:
    """Make sure that a head which reads no columns gets none.

    Raises
    ------
    BadName
        If columns stand beside the vectors: they would be left out without a word.
    """
    if isinstance(view, ConcatView) and view.columns:
        raise BadName(
            f"head {head} does not read columns beside vectors ({', '.join(view.columns)}): take "
            "logistic, ridge, lda or best, or leave the columns out"
        )


def input_of(view: AnyView | Sequence[View], head: str | Any | None) -> tuple[AnyView, str | Any]:
    """Return what a head is to read, a view or several inputs, and the head.

    Raises
    ------
    BadName
        If several inputs are given to a head that reads one.
    BadSource
        As of `heads.mix`.
    """
    if isinstance(view, Sequence) and len(view) == 1:
        (view,) = view
    is_several = isinstance(view, (MixView, Sequence))
    head = head or (MIX if is_several else "logistic")
    if reads_several(head, is_several=is_several):
        check_reads_columns(view, head)
        views = view if isinstance(view, Sequence) else stored(view)
        return (view if isinstance(view, MixView) else mix(views)), head
    if isinstance(view, (MixView, Sequence)):
        raise BadName(
            f"head {head} reads one input, and there are several: head {MIX} weighs heads on each, "
            "and heads.concat puts vectors side by side"
        )
    return view, head
