"""Several inputs at once: of a fit, and of a comparison with the n-grams of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featurestore.errors import BadName
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.specs import ALL_TOGETHER, Modality
from heads.catalogue.entry import Build, HeadEntry
from heads.catalogue.members import TEXTS, with_members
from heads.catalogue.table import MIX, reads_several
from heads.experiments.inputs import Cell, Material
from heads.experiments.ngrams import Ngrams
from heads.labels.blocks import Blocks
from heads.labels.plan import Plan
from heads.labels.views import AnyView
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
    return Material(name, identity, read, build)


def ngrams_of(ground: Ground) -> Ngrams | None:
    """Return the n-grams of the texts; None of pictures."""
    if ground.views[0].dataset.modality != Modality.TEXT:
        return None
    return Ngrams(ground.tables[0], ground.plan)


def all_together(ground: Ground, mixes: Mapping[str, HeadEntry]) -> list[Cell]:
    """Return mixes of all inputs of a comparison, if there are two or more."""
    ngrams = ngrams_of(ground)
    pairs = zip(ground.views, ground.tables, strict=True)
    single = [(view, table) for view, table in pairs if not isinstance(view, ConcatView)]
    if len(single) + (ngrams is not None) < 2 or not single:
        return []
    views, tables = zip(*single, strict=True)
    material = of_several(str(ALL_TOGETHER), views, tables, ground.plan, ngrams)
    return [(material, name, entry) for name, entry in mixes.items()]


def mixes_of(ground: Ground, mixes: Mapping[str, HeadEntry]) -> list[Cell]:
    """Return mixes that are asked for, each of all inputs.

    Raises
    ------
    BadName
        If there is one input alone.
    """
    cells = all_together(ground, mixes)
    if mixes and not cells and not any(isinstance(view, MixView) for view in ground.views):
        raise BadName(f"{', '.join(mixes)} needs two inputs: name another view")
    return cells


def several_of(entries: Mapping[str, HeadEntry]) -> dict[str, HeadEntry]:
    """Return the heads that read several inputs at once."""
    return {name: entry for name, entry in entries.items() if entry.reads == "blocks"}


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
        views = view if isinstance(view, Sequence) else stored(view)
        return (view if isinstance(view, MixView) else mix(views)), head
    if isinstance(view, (MixView, Sequence)):
        raise BadName(
            f"head {head} reads one input, and there are several: head {MIX} weighs heads on each, "
            "and heads.concat puts vectors side by side"
        )
    return view, head
