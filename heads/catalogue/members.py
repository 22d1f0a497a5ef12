"""Members of a mix: heads by name, each on one of several inputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from featurestore.errors import BadName, ModalityMismatch
from featurestore.terms.specs import Modality, encoder_label
from heads.catalogue.best_of import ChosenHead
from heads.catalogue.entry import Build, HeadEntry
from heads.catalogue.layers import build_for, layers_of
from heads.catalogue.table import HEADS, MIX, head_entries
from heads.catalogue.words import reads_words
from heads.estimators.mix import WIDE
from heads.labels.tasks import Task
from heads.measures.metrics import METRICS

if TYPE_CHECKING:
    from featurestore.store.view import View
    from heads.labels.views import AnyView

Member = tuple[str, str, Build]  # its name, the block that it reads, what builds its head
TEXTS = "texts"  # name of the block of the items' texts
TFIDF_HEAD = "tfidf"  # what reads it


def with_members(
    entry: HeadEntry,
    views: Sequence[AnyView],
    task: Task,
    classes: Sequence[str],
    counted: Build | None = None,
) -> Build:
    """Return what builds a mix, or the best of heads and a mix, on several inputs.

    Each head is on each input that it reads; a view's block is named by its spec. Without names
    in the entry a mix has the members that `MixHead` has by default, and for texts TF-IDF.

    Parameters
    ----------
    counted : callable, optional
        What builds ``tfidf`` for a block of n-grams that are counted already.

    Raises
    ------
    ModalityMismatch
        If a head reads no input here.
    BadName
        If there is one member alone.
    """
    of_texts = (TFIDF_HEAD,) if views[0].dataset.modality == Modality.TEXT else ()
    names = entry.members or (*_usual(task), *of_texts)
    members = _on_inputs(names, views, task, classes, counted)
    if not entry.members and task is not Task.REGRESSION:
        wide = {str(one.spec) for one in views if cast("View", one).info["dim"] >= WIDE}
        members = [one for one in members if one[1] not in wide or one[0].startswith("logistic ")]
    if len(members) < 2:
        found = ", ".join(name for name, _, _ in members)
        raise BadName(f"a mix needs two members or more, and has one here: {found}")
    mix = HEADS[MIX].builder(task)
    assert mix is not None, "a mix does each task"

    def mixed(members: Sequence[Member], seed: int) -> Any:
        made = [(name, block, build(seed)) for name, block, build in members]
        how = {"few_rows": 0} if entry.members else {}  # those that are named are wanted
        return mix(seed).set_params(members=made, **how)

    if not entry.among:
        return partial(mixed, members)
    able = [name for name in entry.among if HEADS[name].builder(task) is not None]
    single = _on_inputs((*able, *of_texts), views, task, classes, counted)
    metric = next(iter(METRICS[task]))

    def best(seed: int) -> ChosenHead:
        candidates = [(one[0], mixed([one], seed)) for one in single]
        candidates.append((MIX, mixed(members, seed)))
        return ChosenHead(candidates, str(task), metric, random_state=seed)

    return best


def _usual(task: Task) -> tuple[str, ...]:
    """Return the heads that `MixHead` has on vectors by default; one on those that are wide."""
    return ("ridge",) if task is Task.REGRESSION else ("logistic", "lda", "ridge")


def _on_inputs(
    names: Sequence[str],
    views: Sequence[AnyView],
    task: Task,
    classes: Sequence[str],
    counted: Build | None,
) -> list[Member]:
    """Return each head on each input that it reads."""
    called = {str(view.spec): encoder_label(str(view.spec)) for view in views}
    if len(set(called.values())) < len(called):  # two folders of one name
        called = {spec: spec for spec in called}
    members: list[Member] = []
    for name, head in head_entries(names, task).items():
        if head.reads == "texts":
            if views[0].dataset.modality != Modality.TEXT:
                raise ModalityMismatch(f"{name} reads texts, but these items are pictures")
            members.append((name, TEXTS, counted or build_for(head, task, None, classes)))
            continue
        able = [view for view in views if _reads(head, view)]
        if not able:
            specs = ", ".join(str(view.spec) for view in views)
            lacks = "encoder reads words" if head.reads == "words" else "view holds several layers"
            raise ModalityMismatch(f"{name}: no {lacks} among {specs}")
        for view in able:
            spec = str(view.spec)
            build = build_for(head, task, view, classes)
            members.append((f"{name} on {called[spec]}", spec, build))
    return members


def _reads(head: HeadEntry, view: AnyView) -> bool:
    if head.reads == "words":
        return reads_words(view)
    return head.reads != "layers" or bool(layers_of(view))
